"""Distillation: the loss against the teacher, its own normalisation, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lrpet
from helpers import images, small_network
from lrpet.train.config import make_config
from lrpet.train.data.sets import load
from lrpet.train.teacher import Teacher, load_teacher
from runs import lines, quick, run

CPU = torch.device("cpu")
PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.mark.parametrize(("share", "temperature"), [(1.0, 1.0), (0.25, 3.0)])
def test_the_loss_is_that_of_hinton(share: float, temperature: float) -> None:
    """T²·KL by its definition; a network that says what the teacher says has nothing to lose, and no gradient."""
    network = small_network()
    teacher = Teacher(network, given=PLAIN, wanted=PLAIN, share=share, temperature=temperature)
    batch, label_loss = images(8, 3, 6, 6), torch.tensor(2.0)
    logits = images(8, 4, seed=2).requires_grad_()
    found = teacher.loss(label_loss, logits, batch)
    p, q = ((each / temperature).softmax(1) for each in (network(batch), logits))
    apart = (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(found, (1 - share) * 2 + share * temperature**2 * apart)
    same = network(batch).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(teacher.loss(label_loss, same, batch), same)
    assert gradient.abs().max() < 1e-6
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_a_teacher_sees_images_as_it_was_trained_on_them() -> None:
    network, pixels = nn.Sequential(nn.Flatten(), nn.Linear(108, 4)), images(5, 3, 6, 6).sigmoid()
    given, wanted = ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4)), ((0.5, 0.5, 0.5), (0.5, 0.1, 0.5))

    def normalised(by: Any) -> torch.Tensor:
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in by)
        return (pixels - mean) / std

    teacher = Teacher(network, given=given, wanted=wanted, share=1.0, temperature=1.0)
    logits = network(normalised(wanted))
    torch.testing.assert_close(
        teacher.loss(torch.tensor(0.0), logits, normalised(given)), torch.tensor(0.0), atol=1e-6, rtol=0
    )


@pytest.mark.usefixtures("untimed")
def test_a_network_learns_from_its_teacher_alone(finished: Path, tmp_path: Path) -> None:
    """With distill=1 labels say nothing. What is logged is the loss against the teacher."""
    config = quick(tmp_path / "run", model="resnet8", teacher=str(finished), distill=1, epochs=3, lr=0.3)
    assert run(config)["test_accuracy"] > 0.2
    losses = [line["train_loss"] for line in lines(config.folder) if line["kind"] == "epoch"]
    assert losses[2] < losses[1] < losses[0]
    network, teacher = lrpet.load(config.folder), lrpet.load(finished)
    dataset = load("digits")
    pixels = (dataset.test.pixels[:200] / 255 - dataset.mean[0]) / dataset.std[0]  # type: ignore[union-attr]
    with torch.no_grad():
        agree = (network(pixels).argmax(1) == teacher(pixels).argmax(1)).float().mean()
    assert agree > 0.2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": "nowhere"}, "teacher=nowhere is no folder of a run, nor timm:NAME"),
        ({"distill": 0.2}, "distill go with a teacher"),
    ],
)
def test_what_is_no_teacher_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(quick(tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_other_classes_or_images_is_refused(finished: Path, tmp_path: Path) -> None:
    config = make_config({"data": "digits", "keep": 0.5, "teacher": str(finished)})
    dataset = load("digits")
    with pytest.raises(ValueError, match=r"was trained on the classes \['0', '1', .*, not \['a'\]"):
        load_teacher(config, replace(dataset, classes=("a",)), CPU)
    with pytest.raises(ValueError, match=r"cannot take the images \(3, 8, 8\) of the data"):
        load_teacher(config, replace(dataset, in_channels=3), CPU)
    lrpet.save(lrpet.load(finished), tmp_path / "bare")
    other = config.model_copy(update={"teacher": str(tmp_path / "bare")})
    with pytest.raises(ValueError, match="does not tell the 3 classes of the data apart"):
        load_teacher(other, replace(dataset, classes=("a", "b", "c")), CPU)
