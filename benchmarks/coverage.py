"""Which networks of other libraries this works on: each is planned, projected, factorised, saved and loaded.

    python -m benchmarks.coverage OUT.json [--library timm torchvision transformers] [--only PATTERN] [--all] [--again]

The networks are the smallest model of every architecture family in timm (with --all, every model up to 60 M parameters), every
family of torchvision's classification, detection and segmentation networks, and transformers models made from small configs.
Weights are random, and the budget halves the multiply-adds of convolutions and linears. A network is covered if its compact
form computes what the projected network does, before saving and after loading. The largest difference may be 1e-3 of the
largest output, in float32. Each network runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

import lrpet
from benchmarks.coverage_models import Case, cases
from benchmarks.script import parser_of, read_json, write_json
from lrpet.layers.batch_norm import is_batch_norm
from lrpet.train.provenance import provenance

MACS = 0.5
TOLERANCE = 1e-3
#: The effect of projecting on the outputs, relative to them, from which a network is one that amplifies rounding errors.
AMPLIFIED = 1e3
SECONDS = 900


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--library", nargs="+", choices=["timm", "torchvision", "transformers"], default=None)
    parser.add_argument("--only", default="*", help="only models whose names match this pattern, such as 'resnet*'")
    parser.add_argument("--all", action="store_true", help="every timm model up to 60 M parameters")
    parser.add_argument("--again", action="store_true", help="try once more what OUT.json lists as not covered")
    parser.add_argument(
        "--below", type=float, default=0.0, help="with --again, also try models whose error was below this"
    )
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        (case,) = cases(options.library, options.only, every=True)
        print(json.dumps(checked(case)))
        return
    results: dict[str, Any] = {**provenance(), "seed": 0, "macs": MACS, "tolerance": TOLERANCE, "models": []}
    if options.again:
        results["models"] = read_json(options.out)["models"]
        doubtful = [
            row["model"] for row in results["models"] if row["result"] != "covered" or row["error"] < options.below
        ]
        chosen = [case for name in doubtful for case in cases(options.library, name, every=True)]
    else:
        chosen = list(cases(options.library, options.only, every=options.all))
    for case in chosen:
        row = {"library": case.library, "family": case.family, "model": case.name, **_in_a_process(case)}
        row["commit"] = results["commit"]
        others = [old["model"] for old in results["models"]]
        place = others.index(case.name) if case.name in others else len(others)
        results["models"][place : place + 1] = [row]
        print(f"{case.library:12} {case.family:26} {case.name:44} {row['result']}", flush=True)
        write_json(options.out, results)
    print(Counter(row["result"].partition(":")[0] for row in results["models"]))


def _in_a_process(case: Case) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "benchmarks.coverage",
        "-",
        "--one",
        "--library",
        case.library,
        "--only",
        case.name,
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return {"result": f"failed: took more than {SECONDS} s"}
    with suppress(IndexError, json.JSONDecodeError):
        row = json.loads(done.stdout.splitlines()[-1])
        if isinstance(row, dict):
            return row
    return {"result": "failed: " + (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]}


def checked(case: Case) -> dict[str, Any]:
    """Take one network through plan, projector, factors and files, and return what became of it.

    Where projecting random weights makes a network amplify rounding errors, float32 says nothing: it is looked at in float64.
    """
    row = _checked(case, torch.float32)
    if row["result"].startswith("failed: relative error") and row["effect_of_projecting"] > AMPLIFIED:
        return {**_checked(case, torch.float64), "precision": "float64"}
    return row


def _checked(case: Case, dtype: torch.dtype) -> dict[str, Any]:
    start = time.perf_counter()
    torch.manual_seed(0)
    model, inputs = case.make()
    model.to(dtype).eval()
    inputs = tree_map(lambda x: x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x, inputs)
    _enliven(case, model, inputs)
    dense = _outputs(case, model, inputs)
    try:
        counted = lrpet.plan(model, inputs, ranks={})
        budget = counted.macs_dense - int((1 - MACS) * counted.layer_macs_dense)
        plan = lrpet.plan(model, inputs, macs=max(2, budget))
    except ValueError:
        return {"result": "not covered: " + _why_not(model, inputs)}
    lrpet.Projector(model, plan, start=0, every=1).step()
    projected = _outputs(case, model, inputs)
    effect = _error(projected, dense)
    if not effect > TOLERANCE:
        return {
            "result": f"failed: projecting changes the outputs by {effect:.1e} only, so that nothing can be seen in them"
        }
    compact = lrpet.factorize(model, plan)
    factorised = _outputs(case, compact, inputs)
    with tempfile.TemporaryDirectory() as folder:
        lrpet.save(compact, Path(folder) / "compact")
        torch.manual_seed(1)
        fresh = case.make()[0]
        loaded = lrpet.load(Path(folder) / "compact", fresh)
    read_back = _outputs(case, loaded, inputs)
    left = [layer for layer in plan.layers if layer.rank is None and layer.macs_dense]
    errors = {"error": _error(factorised, projected), "error_loaded": _error(read_back, projected)}
    right = max(errors.values()) <= TOLERANCE
    return {
        "result": "covered" if right else f"failed: relative error {max(errors.values()):.1e}",
        **errors,
        "effect_of_projecting": effect,
        "factorised": len(plan.ranks),
        "left_dense": dict(Counter(layer.reason for layer in plan.layers if layer.rank is None)),
        "macs_dense": plan.layer_macs_dense,
        "macs": plan.layer_macs,
        "share_of_macs_left_dense": sum(layer.macs for layer in left) / max(1, plan.layer_macs_dense),
        "params_dense": plan.layer_params_dense,
        "params": plan.layer_params,
        "seconds": round(time.perf_counter() - start, 1),
    }


def _enliven(case: Case, model: nn.Module, inputs: Any) -> None:
    """Let every layer be seen in the outputs.

    Branches that start at zero, or close to it, get other weights, and batch norms the statistics of their inputs.
    """

    def calibrate(norm: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        x = arguments[0].detach().float().transpose(0, 1).flatten(1)
        if x.shape[1] > 1 and isinstance(norm.running_mean, Tensor) and isinstance(norm.running_var, Tensor):
            norm.running_mean.copy_(x.mean(1))
            norm.running_var.copy_(x.var(1).clamp_min(1e-6))

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2 and not parameter.any():
                parameter.normal_(std=0.02)
            elif parameter.dim() < 2 and not name.endswith("bias") and parameter.abs().max() < 1e-2:
                parameter.fill_(0.5)
    norms = [module for module in model.modules() if is_batch_norm(module)]
    handles = [norm.register_forward_pre_hook(calibrate) for norm in norms]
    _outputs(case, model, inputs)
    for handle in handles:
        handle.remove()


def _why_not(model: nn.Module, inputs: Any) -> str:
    """Say where the multiply-adds are in a network that cannot be halved."""
    plan = lrpet.plan(model, inputs, keep=1e-9)
    dense: Counter[str] = Counter()
    for layer in plan.layers:
        if layer.rank is None:
            dense[layer.reason] += layer.macs_dense
    reasons = [f"{macs / plan.macs_dense:.0%} {why}" for why, macs in dense.most_common(3) if macs]
    return "of the multiply-adds, left dense are " + "; ".join(reasons) if reasons else "no layer that is counted ran"


def _outputs(case: Case, model: nn.Module, inputs: Any) -> list[Tensor]:
    """Return every floating-point tensor that the network, or its parts named by `case.watch`, puts out."""
    seen: list[Any] = []
    handles = [
        model.get_submodule(name).register_forward_hook(lambda _, __, output: seen.append(output))
        for name in case.watch
    ]
    torch.manual_seed(2)
    with torch.no_grad():
        output = model(**inputs) if isinstance(inputs, dict) else model(*inputs)
    for handle in handles:
        handle.remove()
    leaves = tree_leaves(seen if case.watch else _plain(output))
    return [leaf.detach() for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _plain(output: Any) -> Any:
    return dict(output) if hasattr(output, "items") else output


def _error(got: list[Tensor], expected: list[Tensor]) -> float:
    if [leaf.shape for leaf in got] != [leaf.shape for leaf in expected]:
        return float("inf")
    return max(
        float((a - b).abs().max() / b.abs().max().clamp_min(1e-30))
        for a, b in zip(got, expected, strict=True)
        if b.numel()
    )


if __name__ == "__main__":
    main()
