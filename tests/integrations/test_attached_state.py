"""The projector's state in its optimizer's: loops that save the optimizer resume, and no step counts twice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helpers import small_network as network
from lrpet.integrations.optimizer import attach
from short_loops import planned, train


def test_a_plain_loop_that_saves_its_optimizer_resumes_right(tmp_path: Path) -> None:
    """Only model and optimizer are saved, as in most scripts; nothing of lrpet is mentioned."""
    whole = network()
    optimizer = torch.optim.SGD(whole.parameters(), lr=0.05, momentum=0.9)
    attach(planned(whole, start=0.5, total_steps=6, every=2), optimizer)
    train(whole, optimizer)

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    projector = planned(model, start=0.5, total_steps=6, every=2)
    attach(projector, optimizer)
    train(model, optimizer, steps=slice(4))
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "checkpoint.pt")

    resumed = network()
    optimizer = torch.optim.SGD(resumed.parameters(), lr=0.05, momentum=0.9)
    projector = planned(resumed, start=0.5, total_steps=6, every=2)
    attach(projector, optimizer)
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    resumed.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    assert projector.steps == 4
    train(resumed, optimizer, steps=slice(4, None))
    assert projector.steps == 6
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_an_optimizer_that_is_ahead_of_its_projector_is_told() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    train(model, optimizer)
    with pytest.warns(UserWarning, match="the optimizer has taken steps already, and the projector counts from 0"):
        attach(planned(model, every=2), optimizer)
    saved = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    train(model, saved)
    fresh = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    attach(planned(model, every=2), fresh)
    with pytest.warns(
        UserWarning, match="this optimizer state was saved without a projector, which goes on counting from"
    ):
        fresh.load_state_dict(saved.state_dict())


def test_detaching_takes_the_state_away_again() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    attachment = attach(planned(model, every=2), optimizer)
    assert "lrpet_projector" in optimizer.state_dict()
    attachment.remove()
    assert "lrpet_projector" not in optimizer.state_dict()


def test_a_projector_is_attached_once_and_counts_no_step_twice() -> None:
    model = network()
    optimizer, other = (torch.optim.SGD(model.parameters(), lr=0.05) for _ in range(2))
    projector = planned(model, every=2)
    attachment = attach(projector, optimizer)
    assert attach(projector, optimizer) is attachment
    train(model, optimizer)
    assert projector.steps == 6
    with pytest.raises(ValueError, match="attached to another SGD, and would count the steps of both"):
        attach(projector, other)
    with pytest.raises(ValueError, match="the optimizer's state holds another projector"):
        attach(planned(model, every=2), optimizer)
    attachment.remove()
    attach(projector, other)
    train(model, optimizer)
    assert projector.steps == 6
    train(model, other)
    assert projector.steps == 12
    del optimizer, other  # and whatever attached it
    attach(projector, torch.optim.SGD(model.parameters(), lr=0.05))
