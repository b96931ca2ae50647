"""The accuracy harness: every method on digits, resuming, and what its report says."""

from __future__ import annotations

import copy
import json
import re
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lrpet
from benchmarks.accuracy import cell as cells
from benchmarks.accuracy import grid, report
from benchmarks.accuracy.gradients import gradient_norms, plain
from benchmarks.accuracy.methods import METHODS, ranks
from benchmarks.accuracy.methods.pruning import prune
from benchmarks.accuracy.methods.trp import subgradient
from benchmarks.accuracy.run import Cell, Run
from benchmarks.accuracy.store import Store
from lrpet import models
from lrpet.compact import files
from lrpet.train.folder import RunFolder

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


@pytest.mark.parametrize("method", METHODS)
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
    elif (
        method.startswith(("falling_by", "by_", "searched", "slorr", "svd_retrain_by", "lead_"))
        and method != "lead_uniform"
    ):
        assert 0.98 * plan.layer_macs < result["macs"] <= plan.layer_macs
        assert result["ranks"] != plan.ranks
    else:
        assert (result["macs"], result["params"]) == (plan.layer_macs, plan.layer_params)
    projecting = ("lrpet", "late", "half", "every", "falling", "by_", "searched", "no_", "neither", "trp", "lead")
    never = (
        "every_100",
        "lead_every_20",
        "lead_factors",
        "lead_factors_squares",
        "lead_factors_0.6",
    )  # there are 10 steps
    assert bool(result["pruned"]["step"]) == (method.startswith(projecting) and method not in never)
    assert str(tmp_path) not in json.dumps(result)


def test_what_is_there_is_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = compute(tmp_path, "factors", epochs=1)
    monkeypatch.setattr(cells, "compute", None)
    assert compute(tmp_path, "factors", epochs=1) == first


@pytest.mark.parametrize("method", ["lrpet", "svd_retrain"])
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


def test_methods_share_the_dense_training(tmp_path: Path) -> None:
    compute(tmp_path, "svd_retrain")
    compute(tmp_path, "pruning")
    assert [path.name for path in (tmp_path / "work-results" / "shared").glob("[!.]*")] == ["resnet20-digits-dense-1-0"]


def test_the_subgradient_is_that_of_the_nuclear_norm() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(9, 20, dtype=torch.float64, requires_grad=True)
    torch.autograd.backward(torch.linalg.matrix_norm(matrix, "nuc"))
    assert matrix.grad is not None
    torch.testing.assert_close(subgradient(matrix.detach(), 9), matrix.grad)


def test_frobenius_decay_replaces_the_optimizers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient it leaves, with the optimizer's λ·weight, is that of ½·λ·‖U·Vᵀ‖²."""
    options = {"device": "cpu", "weight_decay": 5e-4}
    run = Run(Cell("resnet20", "digits", "factors_frobenius", 0.5, 1, 0), options, tmp_path)

    def check(phase: str, network: nn.Module, *, before_step: Any) -> nn.Module:
        weights = [p for name, p in network.named_parameters() if name.startswith("layer1.0.conv1.")]
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        before_step(None, None)
        right, left = (weight.detach().clone().requires_grad_() for weight in weights)
        penalty = 0.5 * 5e-4 * (left.flatten(1) @ right.flatten(1)).square().sum()
        expected = torch.autograd.grad(penalty, (right, left))
        for weight, gradient in zip(weights, expected, strict=True):
            assert weight.grad is not None
            torch.testing.assert_close(weight.grad + 5e-4 * weight, gradient)
        return network

    monkeypatch.setattr(run, "fit", check)
    METHODS["factors_frobenius"](run)


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


# ── the results ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_adding_at_once_loses_nothing(tmp_path: Path) -> None:
    """Each opens the folder for itself, as a process of its own would, so that the lock is the one between processes."""

    def add(first: int) -> None:
        for seed in range(first, first + 12):
            Store(tmp_path).add(made_up("lrpet_late", seed, 0.9, 0.4))

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(add, (0, 6, 12)))  # half of each one's seeds are another's too
    names = [f"net-set-lrpet_late-0.4-3-{seed}" for seed in sorted(range(24), key=str)]
    assert [Cell(**{key: row[key] for key in CELL}).name for row in Store(tmp_path).read()] == names
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["accuracy-curves.jsonl", "accuracy.jsonl"]


def test_a_result_is_added_once_and_read_back(tmp_path: Path) -> None:
    store, first = Store(tmp_path), made_up("lrpet_late", 0, 0.9, 0.4)
    store.add(first)
    store.add({**first, "test_accuracy": 0.1})
    assert store.read() == [first]
    lines = (tmp_path / "accuracy.jsonl").read_text()
    assert "curve" not in json.loads(lines)
    (tmp_path / "accuracy.jsonl").write_text(lines + lines)
    with pytest.raises(ValueError, match=r"two lines for net-set-lrpet_late-0\.4-3-0"):
        store.read()


def test_a_result_whose_writing_was_cut_off_is_added_again(tmp_path: Path) -> None:
    """Curves are written first: alone they do not count, and scalars without them are refused."""
    store, first = Store(tmp_path), made_up("lrpet_late", 0, 0.9, 0.4)
    store.add(first)
    (tmp_path / "accuracy.jsonl").unlink()
    assert store.read() == []
    second = {**first, "curve": {"epoch": [1], "val_accuracy": [1 / 3]}}
    store.add(second)
    assert store.read() == [{**second, "curve": {"epoch": [1], "val_accuracy": [0.333333]}}]
    (tmp_path / "accuracy-curves.jsonl").unlink()
    with pytest.raises(ValueError, match=r"lacks the curves of net-set-lrpet_late-0\.4-3-0"):
        store.read()


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


# ── the report ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_committed_page_is_the_generated_one() -> None:
    page = (ROOT / "RESULTS.md").read_text(encoding="utf-8")
    assert page == report.page(ROOT / "benchmarks" / "results")
    shown = {line.split("(")[1].rstrip(")") for line in page.splitlines() if line.startswith("![")}
    drawn = {path.relative_to(ROOT).as_posix(): path for path in (ROOT / "benchmarks" / "figures").iterdir()}
    assert drawn.keys() == shown
    assert all(path.read_text(encoding="utf-8").startswith("<?xml") for path in drawn.values())


def made_up(method: str, seed: int, accuracy: float, keep: float | None) -> dict[str, Any]:
    projections = ([10, 20], [0.1, 0.01], [0.4, 0.02]) if method == "lrpet_late" else ([], [], [])
    return {
        **{"model": "net", "data": "set", "method": method, "keep": keep, "epochs": 3, "seed": seed},
        **{"macs": 40e6 if keep else 100e6, "macs_dense": 100e6, "params": 3000, "test_accuracy": accuracy - 0.01},
        "test_accuracy_bn_reestimated": accuracy,
        "curve": {"epoch": [1, 2, 3], "val_accuracy": [0.3, 0.6, 0.9]},
        "pruned": dict(zip(("step", "lr", "pruned"), projections, strict=True)),
    }


def test_a_report_of_made_up_results(tmp_path: Path) -> None:
    folder = tmp_path / "benchmarks" / "results"
    for result in [
        made_up("lrpet_late", 0, 0.90, 0.4),
        made_up("lrpet_late", 1, 0.92, 0.4),
        made_up("factors", 1, 0.89, 0.4),
        made_up("dense", 0, 0.95, None),
    ]:
        Store(folder).add(result)
    words = ["--results", str(folder), "--page", str(tmp_path / "RESULTS.md")]
    report.main(words)
    page = (tmp_path / "RESULTS.md").read_text()
    assert "| dense (not compact) | 1 | 100.00 M (100%) | 3 k | 94.00 | 95.00 | +5.00 |" in page
    assert (
        "| LRPET (from half on, interval shrinking) | 2 | 40.00 M (40%) | 3 k | 90.00 ± 1.41 | 91.00 ± 1.41 | – |"
        in page
    )
    assert "| factors from scratch | 1 | 40.00 M (40%) | 3 k | 88.00 | 89.00 | -3.00 |" in page  # against the same seed
    figures = sorted(path.name for path in (tmp_path / "benchmarks" / "figures").iterdir())
    assert figures == ["curves-net-set-3.svg", "methods-net-set-3.svg", "pruned-net-set-3.svg"]
    assert not [figure for figure in figures if figure not in page]
    drawn = {path: path.read_bytes() for path in (tmp_path / "benchmarks" / "figures").iterdir()}
    report.main(words)
    assert all(path.read_bytes() == content for path, content in drawn.items())  # the same results, the same bytes


def test_a_report_of_nothing(tmp_path: Path) -> None:
    assert "no results of the accuracy harness yet" in report.page(tmp_path)


def test_the_verdicts_quote_the_results() -> None:
    """Every accuracy in them is in a table of the page, or is that of one run, or of several on held-out images."""
    text = " ".join(report.VERDICTS.read_text(encoding="utf-8").split())
    verdicts = re.sub(r"keep [\d.]+\d", "", text)
    results = report.read(ROOT / "benchmarks" / "results")
    tables = "\n".join(
        line for line in report.page(ROOT / "benchmarks" / "results").splitlines() if line.startswith("|")
    )
    single = {f"{100 * result[key]:.2f}" for result in results for key in ("val_accuracy", "test_accuracy")}
    held_out = defaultdict(list)
    for result in results:
        key = tuple(result[name] for name in ("model", "data", "epochs", "keep", "method"))
        held_out[key].append(result["val_accuracy"])
    quoted = re.findall(r"[+-]?\d+\.\d\d(?: ± \d\.\d\d)?", verdicts)
    assert len(quoted) > 10
    differences = {
        report.against([r for r in results if (r["method"], r["keep"]) == (method, 0.38)], leading, "test_accuracy")
        for leading in [[r for r in results if (r["method"], r["keep"]) == (report.LEADING[0], 0.38)]]
        for method in report.TITLES
    }
    known = single | differences | {report.spread(values) for values in held_out.values()}
    assert [figure for figure in quoted if not (figure in tables or figure in known)] == []
