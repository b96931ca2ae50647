"""A projector attached to an optimizer of a plain loop: it counts the steps, and nothing else changes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch._dynamo
from timm import optim as timm_optim
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import lrpet
from helpers import images
from helpers import small_network as network
from lrpet.integrations.optimizer import attach
from short_loops import assert_low_rank, data, planned, rank_of, train


def test_attaching_to_an_optimizer_is_the_same_as_the_line_in_the_loop() -> None:
    models = []
    for attached in (False, True):
        model = network()
        projector = planned(model, every=2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        if attached:
            attach(projector, optimizer)
            train(model, optimizer)
        else:
            for x, y in data():
                nn.functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                projector.step()
                optimizer.zero_grad()
        assert projector.steps == 6
        models.append(model)
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))
    assert_low_rank(models[1], planned(models[1], every=1).plan)


def test_detaching() -> None:
    model = network()
    projector = planned(model, every=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    attach(projector, optimizer).remove()
    train(model, optimizer)
    assert projector.steps == 0


def test_accumulated_batches_count_as_one_step() -> None:
    model = network()
    projector = planned(model, every=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    attach(projector, optimizer)
    train(model, optimizer, accumulate=2)
    assert projector.steps == 3
    assert_low_rank(model, projector.plan)


def test_steps_that_a_gradient_scaler_skips_do_not_count() -> None:
    model = network()
    projector = planned(model, every=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    attach(projector, optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126)  # overflows, until halved a few times
    train(model, optimizer, scaler=scaler)
    skipped = round(126 - torch.log2(torch.tensor(scaler.get_scale())).item())
    assert 0 < skipped < 6
    assert projector.steps == 6 - skipped


@pytest.mark.filterwarnings("ignore:.*(is deprecated|should_run_).*")
def test_projecting_compiles_nothing_again() -> None:
    model = network()
    projector = planned(model, every=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    attach(projector, optimizer)
    compiled = torch.compile(model, backend="aot_eager")
    torch._dynamo.reset()
    train(compiled, optimizer)  # type: ignore[arg-type]
    with torch._dynamo.config.patch(error_on_recompile=True):
        train(compiled, optimizer)  # type: ignore[arg-type]
    assert projector.steps == 12


def test_activation_checkpointing() -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network()

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = checkpoint(self.body, x, use_reentrant=False)
            return result

    model = Checkpointed()
    projector = planned(model, every=2)
    assert set(projector.plan.ranks) == {"body.0", "body.3"}
    assert projector.plan.layers[0].batch_norm == "body.1"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    attach(projector, optimizer)
    train(model, optimizer)
    assert_low_rank(model, projector.plan)


def test_a_moving_average_is_projected_for_evaluation_and_at_the_end() -> None:
    model = network()
    projector = planned(model, every=2, tail_scale=0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attach(projector, optimizer)
    mean: Any = torch.optim.swa_utils.get_ema_multi_avg_fn(0.7)  # type: ignore[no-untyped-call]
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=mean, use_buffers=True)
    optimizer.register_step_post_hook(lambda *_: average.update_parameters(model))
    train(model, optimizer)
    weight = average.module.get_submodule("3").weight
    assert isinstance(weight, Tensor)
    assert rank_of(weight) > 4  # a mean of matrices of rank 4
    before = copy.deepcopy(average.module.state_dict())
    steps, last = projector.steps, projector.last
    projected = projector.projected_copy(average.module).eval()
    assert_low_rank(projected, projector.plan)
    assert all(torch.equal(tensor, before[name]) for name, tensor in average.module.state_dict().items())
    assert (projector.steps, projector.last) == (steps, last)
    x = images(4, 3, 6, 6)
    torch.testing.assert_close(lrpet.factorize(projected, projector.plan)(x), projected(x))


def test_a_compact_network_is_compiled_and_trained_on() -> None:
    model = network()
    projector = planned(model, every=1)
    projector.project()
    compact = lrpet.factorize(model, projector.plan)
    state = compact.state_dict()
    again = lrpet.factorize(network(1), projector.plan)
    again.load_state_dict(state)
    optimizer = torch.optim.SGD(compact.parameters(), lr=0.05)
    torch._dynamo.reset()
    compiled = torch.compile(compact, backend="aot_eager")
    x = images(4, 3, 6, 6)
    torch.testing.assert_close(compiled(x), again(x))
    before = compact.get_submodule("0.0").weight.clone()  # type: ignore[operator]
    train(compiled, optimizer)  # type: ignore[arg-type]
    assert not torch.equal(compact.get_submodule("0.0").weight, before)  # type: ignore[arg-type]


def test_lookahead_counts_every_step() -> None:
    model = network()
    optimizer = timm_optim.create_optimizer_v2(  # type: ignore[attr-defined]
        model, opt="lookahead_adamw", lr=1e-3
    )
    projector = planned(model, every=1)
    attachment = attach(projector, optimizer)
    train(model, optimizer)
    assert projector.steps == 6
    assert_low_rank(model, projector.plan)  # after the slow weights were taken over
    assert optimizer.state_dict()["lrpet_projector"]["steps"] == 6
    attachment.remove()
    train(model, optimizer)
    assert projector.steps == 6
