"""What the project keeps in files of other packages: a plan in the config of transformers, and a study of Optuna."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

import lrpet
from benchmarks.faults.forks import forked
from benchmarks.faults.runs import config_of
from benchmarks.faults.specimen import Specimen, digest_of, status_of
from lrpet.cli.failures import reported

#: Trials of the search that is damaged.
TRIALS = 3


def _model(folder: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=32,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    compact: Any = lrpet.compress(
        model, {"input_ids": torch.zeros(1, 8, dtype=torch.long), "use_cache": False}, macs=0.5
    )
    compact.save_pretrained(folder / "model")
    config_file = folder / "model" / "config.json"
    values = json.loads(config_file.read_text(encoding="utf-8"))
    (folder / "plan.json").write_text(json.dumps(values["quantization_config"].pop("plan")), encoding="utf-8")
    config_file.write_text(json.dumps(values), encoding="utf-8")


def _loaded(folder: Path) -> tuple[int, str | None]:
    """Put what was damaged back into the config, and load the model."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    import lrpet.integrations.huggingface  # noqa: F401  # transformers learns of the method

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        plan = json.loads((folder / "plan.json").read_bytes())
    except (ValueError, OSError):
        print("lrpet: no JSON", file=sys.stderr)  # transformers' own reader refuses it
        return 2, None
    config_file = folder / "model" / "config.json"
    values = json.loads(config_file.read_text(encoding="utf-8"))
    values["quantization_config"]["plan"] = plan
    config_file.write_text(json.dumps(values), encoding="utf-8")
    read: list[str] = []

    def load() -> None:
        model = AutoModelForCausalLM.from_pretrained(folder / "model")
        read.append(digest_of(dict(model.state_dict())))

    return reported(load), read[0] if read else None


def _search(folder: Path) -> None:
    recipe = {**config_of("macs", folder / "run").model_dump(mode="json"), "epochs": 1}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    outcome = forked(lambda: _went_on(folder)[0])
    if outcome.result != 0:
        raise RuntimeError(f"the search does not even run undisturbed: {outcome.said}")


def _went_on(folder: Path) -> tuple[int, str | None]:
    """Go on with a search that has ended."""
    words = ("search", folder / "recipe.yaml", folder / "search", "--trials", TRIALS, "--groups", "layer*")
    return status_of(words), None


SPECIMENS = (
    Specimen("plan in transformers' config", _model, _loaded, ("plan.json",), ("plan.json",)),
    Specimen("search", _search, _went_on, ("search/study.journal", "search/recipe.yaml"), weight=0.5),
)
