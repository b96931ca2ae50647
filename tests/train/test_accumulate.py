"""Steps that are taken in parts are the steps of whole batches."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import loops
import lrpet
from helpers import images
from lrpet.train.config import make_config
from lrpet.train.preemption import PreemptedError
from processes import results
from runs import lines, quick, run, told_at

#: A network without batch norms, whose statistics would be those of parts.
OPTIONS: dict[str, Any] = {
    "model": "timm:vit_tiny_patch16_224",
    "model_args": {"img_size": 8, "patch_size": 4, "embed_dim": 32, "depth": 1, "num_heads": 2},
    "epochs": 1,
    "every": 3,
    "start": 0,
    "ema": 0.8,
}


def assert_one_run(mine: Path, other: Path) -> None:
    assert [(line["kind"], line["step"]) for line in lines(mine)] == [
        (line["kind"], line["step"]) for line in lines(other)
    ]
    batch = images(20, 1, 8, 8)
    with torch.no_grad():  # the signs of factors are any
        outputs, expected = (lrpet.load(folder)(batch) for folder in (mine, other))
    torch.testing.assert_close(outputs, expected, rtol=1e-2, atol=1e-2)
    losses = [[line["train_loss"] for line in lines(path) if line["kind"] == "epoch"] for path in (mine, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.usefixtures("untimed")
def test_parts_make_up_the_step_of_a_whole_batch(tmp_path: Path) -> None:
    """Also where a run that was stopped in the middle of an epoch goes on with other parts, and in two processes."""
    whole, parts, together = (
        quick(tmp_path / name, **OPTIONS, accumulate=number)
        for name, number in (("whole", 1), ("parts", 4), ("together", 2))
    )
    run(whole)
    with told_at(4, signal.SIGTERM), pytest.raises(PreemptedError, match="after 0 epochs and 4 steps"):
        run(parts)
    run(parts.model_copy(update={"accumulate": 2}), resume=True)
    assert_one_run(parts.folder, whole.folder)
    results(2, loops.trained, tmp_path / "2", json.dumps(together.model_dump(mode="json")), 0, joined=False)
    assert_one_run(together.folder, whole.folder)


def test_a_batch_that_cannot_be_divided_is_refused() -> None:
    options = {"data": "digits", "keep": 0.5, "batch_size": 126}
    with pytest.raises(ValueError, match="batch_size=126 cannot be divided into 4 parts in each of 1 processes"):
        make_config({**options, "accumulate": 4})
    assert make_config({**options, "accumulate": 3}).images_at_once(2) == 21
    with pytest.raises(ValueError, match="choose a multiple of 12"):
        make_config({**options, "accumulate": 3}).images_at_once(4)
