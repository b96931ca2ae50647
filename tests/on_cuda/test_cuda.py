"""What is done on a GPU equals what is done on the CPU. Without one, these tests say that they did not run."""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lrpet
from benchmarks.accuracy import cell
from benchmarks.accuracy.store import Store
from lrpet import models
from runs import lines, quick, run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")


def trained(device: str) -> tuple[nn.Module, lrpet.Plan, torch.Tensor]:
    """Return a network whose batch norms have seen data, with its plan and images."""
    torch.manual_seed(0)
    network = models.create("resnet20")
    images = torch.randn(16, 3, 32, 32)
    network(images)
    plan = lrpet.plan(network, images[:1], keep=0.4)
    return network.to(device), plan, images.to(device)


@pytest.mark.parametrize("options", [{}, {"rectify": False}, {"energy_transfer": False}, {"tail_scale": 0.3}])
def test_projections_are_those_of_the_cpu(options: dict[str, Any]) -> None:
    """The first projection is cold and the second warm."""
    networks = {device: trained(device)[0] for device in ("cpu", "cuda")}
    plan = trained("cpu")[1]
    projectors = {device: lrpet.Projector(each, plan, start=0, every=1, **options) for device, each in networks.items()}
    for step in range(3):
        torch.manual_seed(step)
        noise = [0.003 * torch.randn_like(each) for each in networks["cpu"].parameters()]
        reports = {}
        for device, network in networks.items():
            with torch.no_grad():
                for parameter, some in zip(network.parameters(), noise, strict=True):
                    parameter.add_(some.to(device))
            reports[device] = projectors[device].project()
        assert reports["cuda"].pruned == pytest.approx(reports["cpu"].pruned, rel=1e-3)
        for one, other in zip(*(each.parameters() for each in networks.values()), strict=True):
            assert torch.dist(one, other.cpu()) < 2e-4 * one.norm()


def shaken(networks: list[nn.Module], amount: float) -> None:
    """Change the weights of equal networks by equal noise."""
    for parameters in zip(*(each.parameters() for each in networks), strict=True):
        noise = amount * torch.randn_like(parameters[0])
        for parameter in parameters:
            with torch.no_grad():
                parameter.add_(noise)


@pytest.mark.parametrize("options", [{}, {"rectify": False}, {"energy_transfer": False}, {"tail_scale": 0.3}])
def test_recorded_projections_are_those_of_single_kernels(options: dict[str, Any]) -> None:
    """At the fifth step the last bases are of no use: kernels are launched one by one, and then replayed again."""
    network, plan, _ = trained("cuda")
    networks = [network, copy.deepcopy(network).to(memory_format=torch.channels_last)]
    plain, recorded = (
        lrpet.Projector(each, plan, start=0, every=1, cuda_graphs=graphs, **options)
        for each, graphs in zip(networks, (False, True), strict=True)
    )
    for step in range(9):
        torch.manual_seed(step)
        shaken(networks, 0.3 if step == 4 else 0.003)
        reports = plain.project(), recorded.project()
        assert reports[1].pruned == pytest.approx(reports[0].pruned, rel=1e-3)
        assert reports[1].layers.keys() == reports[0].layers.keys()
        for one, other in zip(*(each.parameters() for each in networks), strict=True):
            assert torch.dist(one, other) < 2e-4 * one.norm()
    assert recorded._recorder is not None
    assert recorded._recorder.replays >= 4


def test_a_recorded_projection_changes_nothing_where_a_weight_is_not_finite() -> None:
    network, plan, _ = trained("cuda")
    projector = lrpet.Projector(network, plan, start=0, every=1)
    for _ in range(3):
        projector.project()
    layer = network.get_submodule(next(iter(plan.ranks)))
    assert isinstance(layer.weight, nn.Parameter)
    with torch.no_grad():
        layer.weight[0, 0] = torch.nan
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(ValueError, match="NaN or Inf"):
        projector.project()
    for name, value in network.state_dict().items():
        assert torch.equal(value.nan_to_num(), before[name].nan_to_num()), name


def test_seconds_leave_out_what_was_launched_before() -> None:
    network, plan, _ = trained("cuda")
    projector = lrpet.Projector(network, plan, start=0, every=1)
    matrix = torch.randn(8192, 8192, device="cuda")
    before = projector.seconds
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(40):
        matrix = matrix @ matrix / 90
    projector.project()
    torch.cuda.synchronize()
    elapsed = time.perf_counter() - begin
    assert 0 < projector.seconds - before < 0.5 * elapsed


def test_a_state_of_recorded_projections_goes_on_elsewhere() -> None:
    """The state stays what it was while the projector goes on."""
    network, plan, _ = trained("cuda")
    projector = lrpet.Projector(network, plan, start=0, every=1)
    for _ in range(3):
        shaken([network], 0.003)
        projector.step()
    state, other = copy.deepcopy(projector.state_dict()), copy.deepcopy(network)
    kept = projector.state_dict()
    resumed = lrpet.Projector(other, plan, start=0, every=1)
    resumed.load_state_dict(state)
    for _ in range(3):
        shaken([network, other], 0.003)
        assert resumed.project().pruned == pytest.approx(projector.project().pruned, rel=1e-3)
    for name, basis in state["bases"].items():
        assert torch.equal(kept["bases"][name], basis)


def test_a_copy_of_a_projector_records_for_itself() -> None:
    network, plan, _ = trained("cuda")
    projector = lrpet.Projector(network, plan, start=0, every=1)
    for _ in range(3):
        projector.project()
    copied = copy.deepcopy(projector)
    shaken([projector.model, copied.model], 0.003)
    before = copy.deepcopy(projector.model.state_dict())
    report = copied.project()
    for name, value in projector.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert projector.project().pruned == pytest.approx(report.pruned, rel=1e-3)


def test_weights_that_move_in_memory_are_not_recorded_again_and_again() -> None:
    network, plan, _ = trained("cuda")
    projector = lrpet.Projector(network, plan, start=0, every=1)
    kept = []
    for _ in range(9):
        for parameter in network.parameters():
            kept.append(parameter.data)
            parameter.data = parameter.data.clone()
        assert projector.project().pruned >= 0
    assert projector._recorder is not None
    assert 1 <= projector._recorder.replays <= 5


def test_products_of_a_projection_are_not_in_tf32() -> None:
    torch.set_float32_matmul_precision("medium")
    try:
        test_projections_are_those_of_the_cpu({})
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_networks_of_half_precision_are_projected(dtype: torch.dtype) -> None:
    network, plan, _ = trained("cuda")
    projector = lrpet.Projector(network.to(dtype), plan, start=0, every=1)
    assert projector.project().pruned > 0.1
    assert projector.project().pruned < 1e-4


def test_the_outputs_can_be_the_metric() -> None:
    network, plan, images = trained("cuda")
    other = copy.deepcopy(network).cpu()
    on_cuda = lrpet.Projector(network, plan, start=0, every=1, calibration=[images]).project()
    on_cpu = lrpet.Projector(other, plan, start=0, every=1, calibration=[images.cpu()]).project()
    assert on_cuda.pruned == pytest.approx(on_cpu.pruned, rel=1e-2)


@pytest.mark.parametrize("changes", [{}, {"precision": "bf16", "channels_last": True}, {"precision": "fp16"}])
def test_a_run_on_the_gpu_is_whole(tmp_path: Path, changes: dict[str, Any]) -> None:
    run(quick(tmp_path / "run", device="cuda", **changes))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["hardware"]["gpu"]
    network = lrpet.load(tmp_path / "run" / "compact").cuda().eval()
    assert network(torch.zeros(2, 1, 8, 8, device="cuda")).shape == (2, 10)


@pytest.mark.parametrize("changes", [{}, {"compile": True}, {"precision": "bf16", "channels_last": True}])
def test_cuda_graphs_train_as_single_kernels_do(tmp_path: Path, changes: dict[str, Any]) -> None:
    losses = {}
    for name, graphs in (("plain", False), ("graphs", True)):
        run(quick(tmp_path / name, device="cuda", cuda_graphs=graphs, **changes))
        losses[name] = [line["train_loss"] for line in lines(tmp_path / name) if line["kind"] == "epoch"]
    assert losses["graphs"] == pytest.approx(losses["plain"], rel=0.05)


@pytest.mark.parametrize("method", ["lead_base", "lead_factors", "svd_retrain_by_energy"])
def test_a_network_is_trained_in_parts(tmp_path: Path, method: str) -> None:
    """Each part moves the network to the GPU, and records it, anew."""
    options = "--device cuda --precision bf16 --channels-last --cuda-graphs --model resnet20 --data digits --keep 0.4"
    words = [str(tmp_path / "results"), "--work", str(tmp_path / "work"), "--method", method, "--epochs", "6"]
    assert cell.main([*words, *options.split()]) == 0
    (result,) = Store(tmp_path / "results").read()
    assert result["hardware"]["gpu"]
    assert result["val_accuracy"] > 0.3


def test_networks_are_timed_as_cuda_graphs() -> None:
    network, plan, images = trained("cuda")
    compact = lrpet.factorize(network, plan)
    result = lrpet.bench(
        {"dense": network, "compact": compact}, images, device="cuda", dtype=torch.bfloat16, channels_last=True,
        cuda_graphs=True, seconds=0.2,
    )  # fmt: skip
    assert all(row["milliseconds"] > 0 for row in result.to_dict()["rows"])


def test_a_group_of_nccl_projects(tmp_path: Path) -> None:
    """One process is all that one GPU takes."""
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    network, plan, images = trained("cuda")
    distributed.init_process_group("nccl", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(network, device_ids=[0])
        wrapped(images).sum().backward()
        assert lrpet.Projector(wrapped, plan, start=0, every=1).project().pruned > 0.1
    finally:
        distributed.destroy_process_group()
