"""The accuracy harness: every method on digits, resuming, and what its report says."""

from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lrpet
from benchmarks.accuracy import cell as cells
from benchmarks.accuracy import grid, published
from benchmarks.accuracy.gradients import gradient_norms, plain
from benchmarks.accuracy.methods import METHODS, ranks
from benchmarks.accuracy.methods.pruning import prune
from benchmarks.accuracy.methods.trp import subgradient
from benchmarks.accuracy.run import DESCRIBED, RECIPE, Cell, Run, described
from benchmarks.accuracy.store import Store
from lrpet import models
from lrpet.compact import files
from lrpet.train.config import make_config, read_config
from lrpet.train.folder import RunFolder
from old_torch import importing_torchao

ROOT = Path(__file__).parents[2]
CELL = ("model", "data", "method", "keep", "epochs", "seed")
KEYS = {
    *CELL,
    *("macs", "macs_dense", "params", "val_accuracy"),
    *("test_accuracy", "test_accuracy_bn_reestimated", "seconds", "command", "commit", "hardware", "versions"),
}


def compute(folder: Path, method: str, *, epochs: int = 2, keep: float = 0.5, name: str = "results") -> dict[str, Any]:
    """Compute a result through the command line, and read it back."""
    budget = [] if method == "dense" else ["--keep", str(keep)]
    words = [str(folder / name), "--model", "resnet20", "--data", "digits", "--method", method, *budget]
    words += ["--epochs", str(epochs), "--work", str(folder / f"work-{name}"), "--device", "cpu"]
    cells.main(words)
    (result,) = [result for result in Store(folder / name).read() if result["method"] == method]
    return result


def test_a_network_that_a_recipe_describes_is_trained_as_it_says() -> None:
    options = described("vit")
    assert options.keys().isdisjoint(CELL[1:])
    config = make_config({**RECIPE, **options, "data": "cifar10", "epochs": 2, "method": "lrpet", "keep": 0.3})
    recipe = read_config(DESCRIBED["vit"], {})
    same = ("model", "model_args", "optimizer", "lr", "weight_decay", "schedule", "label_smoothing", "warmup_epochs")
    assert all(getattr(config, name) == getattr(recipe, name) for name in same)
    assert described("resnet20") == {}


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=importing_torchao if name == "pat" else ()) for name in METHODS]
)
def test_a_result_is_whole_and_within_its_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    monkeypatch.setattr(ranks, "TRIALS", 2)
    result = compute(tmp_path, method)
    assert result.keys() >= KEYS
    assert result["curve"]["epoch"] == [1, 2]
    assert {len(values) for values in result["curve"].values()} == {2}
    network = models.create("resnet20", in_channels=1)
    plan = lrpet.plan(network, torch.zeros(1, 1, 8, 8), keep=0.5)
    assert result["macs_dense"] == plan.layer_macs_dense
    if method == "dense":
        assert (result["macs"], result["params"]) == (plan.layer_macs_dense, plan.layer_params_dense)
    elif method == "pruning":
        assert 0.8 * plan.layer_macs < result["macs"] <= plan.layer_macs
    elif method.startswith(
        ("falling_by", "by_", "searched", "slorr", "svd_retrain_b", "factors_frobenius_b", "lead_")
    ) and not method.startswith("lead_uniform"):
        assert 0.98 * plan.layer_macs < result["macs"] <= plan.layer_macs
        assert result["ranks"] != plan.ranks or method == "searched"  # the plan is one of its trials
    else:
        assert (result["macs"], result["params"]) == (plan.layer_macs, plan.layer_params)
    projecting = ("lrpet", "late", "half", "every", "falling", "by_", "searched", "no_", "neither", "trp", "lead")
    never = (
        "every_100",
        "lead_every_20",
        "lead_factors",
        "lead_factors_frobenius",
        "lead_factors_squares",
        "lead_factors_0.6",
    )  # there are 10 steps
    assert bool(result["pruned"]["step"]) == (method.startswith(projecting) and method not in never)
    assert str(tmp_path) not in json.dumps(result)


def test_what_is_there_is_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = compute(tmp_path, "factors", epochs=1)
    monkeypatch.setattr(cells, "compute", None)
    assert compute(tmp_path, "factors", epochs=1) == first


@pytest.mark.parametrize("method", ["lrpet", "svd_retrain", pytest.param("pat", marks=importing_torchao)])
def test_a_run_that_was_cut_off_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    whole = compute(tmp_path, method, epochs=4, name="whole")
    log_epoch = RunFolder.log_epoch
    calls = 0

    def failing(*arguments: Any, **options: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        log_epoch(*arguments, **options)

    monkeypatch.setattr(RunFolder, "log_epoch", failing)
    with pytest.raises(KeyboardInterrupt):
        compute(tmp_path, method, epochs=4, name="cut")
    again = compute(tmp_path, method, epochs=4, name="cut")
    assert calls == 5  # the last epoch, and nothing else, was done again
    for key in ("test_accuracy", "val_accuracy", "test_accuracy_bn_reestimated", "curve", "pruned"):
        assert again[key] == whole[key], key
    saved = [
        {path.name: path.read_bytes() for path in (tmp_path / f"work-{name}").glob(f"*/compact/{files.WEIGHTS}")}
        for name in ("whole", "cut")
    ]
    assert saved[0]
    assert saved[0] == saved[1]


@importing_torchao
@pytest.mark.filterwarnings("error:factorize cuts energy")
def test_pat_draws_the_weights_to_their_ranks(tmp_path: Path) -> None:
    compute(tmp_path, "pat", epochs=4)


def test_methods_share_the_dense_training(tmp_path: Path) -> None:
    compute(tmp_path, "svd_retrain")
    compute(tmp_path, "pruning")
    assert [path.name for path in (tmp_path / "work-results" / "shared").glob("[!.]*")] == ["resnet20-digits-dense-1-0"]


def test_a_dense_training_goes_on_from_the_half_that_others_share(tmp_path: Path) -> None:
    compute(tmp_path, "lead_base", epochs=4)
    half = tmp_path / "work-results" / "shared" / "resnet20-digits-dense-2-of-4-0" / "metrics.jsonl"
    before = half.read_text()
    result = compute(tmp_path, "dense", epochs=4)
    assert half.read_text() == before  # with its seconds
    assert result["curve"]["epoch"] == [1, 2, 3, 4]


def test_ranks_are_divided_again_after_an_epoch_without_projections(tmp_path: Path) -> None:
    result = compute(tmp_path, "lead_best_divided_again", epochs=6)
    assert result["curve"]["epoch"] == [1, 2, 3, 4, 5, 6]
    first = compute(tmp_path, "lead_best", epochs=6)
    assert (len(first["pruned"]["step"]), len(result["pruned"]["step"])) == (6, 4)  # two in each epoch


def test_the_subgradient_is_that_of_the_nuclear_norm() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(9, 20, dtype=torch.float64, requires_grad=True)
    torch.autograd.backward(torch.linalg.matrix_norm(matrix, "nuc"))
    assert matrix.grad is not None
    torch.testing.assert_close(subgradient(matrix.detach(), 9), matrix.grad)


@pytest.mark.parametrize("method", ["factors_frobenius", "factors_frobenius_best"])
def test_frobenius_decay_replaces_the_optimizers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """The gradient it leaves, with the optimizer's λ·weight, is that of ½·λ·‖U·Vᵀ‖²."""
    options = {"device": "cpu", "weight_decay": 5e-4}
    run = Run(Cell("resnet20", "digits", method, 0.5, 1, 0), options, tmp_path)

    def check(phase: str, network: nn.Module, *, before_step: Any) -> nn.Module:
        weights = [p for name, p in network.named_parameters() if name.startswith("layer1.0.conv1.")]
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        before_step(None, None)
        right, left = (weight.detach().clone().requires_grad_() for weight in weights)
        product = torch.einsum("nryj,rcix->ncyijx", left, right)
        penalty = 0.5 * 5e-4 * product.square().sum()
        expected = torch.autograd.grad(penalty, (right, left))
        for weight, gradient in zip(weights, expected, strict=True):
            assert weight.grad is not None
            torch.testing.assert_close(weight.grad + 5e-4 * weight, gradient)
        return network

    monkeypatch.setattr(run, "fit", check)
    METHODS[method](run)


@pytest.mark.parametrize("fraction", [0.7, 0.3])
def test_pruning_keeps_to_its_budget(fraction: float) -> None:
    network, example = models.create("vgg16_bn"), torch.zeros(1, 3, 32, 32)
    dense = lrpet.plan(network, example, ranks={}).layer_macs_dense
    pruned = prune(network, example, macs=int(fraction * dense))
    assert 0.8 * fraction * dense < lrpet.plan(pruned, example, ranks={}).layer_macs_dense <= fraction * dense
    assert pruned(example.expand(2, -1, -1, -1)).shape == (2, 10)
    with pytest.raises(ValueError, match="no pruning of channels leaves 5 multiply-adds"):
        prune(network, example, macs=5)


def test_a_grid_runs_cells_and_names_failures(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = [str(tmp_path / "results"), "--work", str(tmp_path / "work"), "--model", "resnet20", "--data", "digits"]
    words += [
        "--epochs",
        "1",
        "--device",
        "cpu",
        "--keep",
        "0.5",
        "0.3",
        "--seeds",
        "0",
        "--methods",
        "dense",
        "factors",
    ]
    assert grid.main([*words, "--dry-run"]) == 0
    assert not (tmp_path / "results").exists()
    assert grid.main(words) == 0
    assert Store(tmp_path / "results").names() == {
        f"resnet20-digits-{rest}-1-0" for rest in ("dense", "factors-0.3", "factors-0.5")
    }
    assert grid.main([*words[:-2], "lrpet", "--model", "no_such_net"]) == 1
    assert "failed: no_such_net-digits-lrpet-0.5-1-0" in capfd.readouterr().out


def test_a_grid_whose_time_is_up_is_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(tmp_path / "results"), "--data", "digits", "--methods", "dense", "--minutes", "0"]
    assert grid.main(words) == 75
    assert "to go on with: resnet20-digits-dense-12-0" in capsys.readouterr().out


def test_the_published_points_are_those_of_the_paper(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = [str(tmp_path), "--epochs", "400", "--models", "resnet56", "resnet110"]
    assert published.main([*words, "--methods", "lead_base", "lrpet_published", "--dry-run"]) == 0
    listed = capsys.readouterr().out
    for method, keep in itertools.product(("lead_base", "lrpet_published"), published.POINTS["resnet56"]):
        assert f"resnet56-cifar10-{method}-{keep}-400-0" in listed
    for name, macs in (("resnet56", 56.06e6), ("resnet110", 93.78e6)):
        plan = lrpet.plan(models.create(name), torch.zeros(1, 3, 32, 32), keep=published.POINTS[name][0])
        assert plan.layer_macs == pytest.approx(macs, rel=1e-3)


# ── the first claim ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_energy_transfer_restores_what_projection_takes_from_gradients() -> None:
    """Without batch norm and biases, layers after a point scale the gradient there: each by its own transfer factor."""
    torch.manual_seed(0)
    network = plain(depth=8, width=32, inputs=16)
    plan = lrpet.plan(network, torch.zeros(1, 16), keep=0.4, factorize_all=True)
    with_it, without = copy.deepcopy(network), copy.deepcopy(network)
    report = lrpet.Projector(with_it, plan, start=0, every=1).project()
    lrpet.Projector(without, plan, start=0, every=1, energy_transfer=False).project()
    names = list(plan.ranks)
    inputs, direction = torch.randn(64, 16), torch.randn(64, 10)

    def norms(model: nn.Module) -> Tensor:
        """Return the gradient's norms for a fixed linear function of the output, so that the loss plays no part."""
        outputs: list[Tensor] = []

        def keep(module: nn.Module, given: Any, output: Tensor) -> None:
            output.retain_grad()
            outputs.append(output)

        hooks = [model.get_submodule(name).register_forward_hook(keep) for name in names]
        torch.autograd.backward((model(inputs) * direction).sum())
        for hook in hooks:
            hook.remove()
        return torch.stack([output.grad.norm() for output in outputs if output.grad is not None])

    factors = torch.tensor([(1 - report.layers[name].pruned) ** -0.5 for name in names])
    later = torch.stack([factors[i + 1 :].prod() for i in range(len(names))])
    torch.testing.assert_close(norms(with_it) / norms(without), later, rtol=1e-4, atol=0)
    assert later[0] > 1.9


def test_gradient_norms_leave_the_network_alone() -> None:
    network = models.create("resnet20", in_channels=1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    inputs, labels = torch.randn(8, 1, 8, 8), torch.arange(8)
    (norm,) = gradient_norms(network, ["fc"], inputs, labels)
    logits = network.train()(inputs).detach().requires_grad_()
    torch.autograd.backward(F.cross_entropy(logits, labels))
    assert logits.grad is not None
    assert norm == pytest.approx(logits.grad.norm().item(), rel=1e-4)
    fresh = models.create("resnet20", in_channels=1)
    gradient_norms(fresh, ["fc"], inputs, labels)
    assert all(
        torch.equal(v, before[n]) for n, v in network.state_dict().items() if "running" not in n and "num" not in n
    )
    assert all(int(v) == 0 for n, v in fresh.state_dict().items() if "num_batches" in n)
