"""Compact neural networks trained from scratch: low-rank projection with energy transfer.

In a training loop of your own:

    plan = lrpet.plan(model, example_inputs, macs=0.45)
    projector = lrpet.Projector(model, plan, total_steps=total_steps)
    ...
    loss.backward(); optimizer.step(); projector.step()
    ...
    compact = projector.finish()
    lrpet.save(compact, "compact/")
    lrpet.bench({"dense": model, "compact": compact}, example_inputs)
    lrpet.export(compact, "compact.onnx", example_inputs)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrpet import exporting, integrations, models
    from lrpet.compact.compress import compress
    from lrpet.compact.factorize import factorize
    from lrpet.compact.files import load, read_metadata, save
    from lrpet.compact.optimize import optimize
    from lrpet.exporting.export import export
    from lrpet.latency.bench import bench
    from lrpet.latency.results import Bench
    from lrpet.latency.table import LatencyTable
    from lrpet.planning.layer_plan import LayerPlan
    from lrpet.planning.plan import Plan
    from lrpet.planning.planner import plan
    from lrpet.planning.sensitivity import sensitivity
    from lrpet.projecting.descent import Descent
    from lrpet.projecting.projector import Projector
    from lrpet.projecting.report import LayerReport, Report
    from lrpet.projecting.schedule import Shrinking

#: {public name: the module that holds it}. Each is imported when it is first asked for, so that nothing else is.
_HOMES = {
    "Bench": "lrpet.latency.results",
    "Descent": "lrpet.projecting.descent",
    "LatencyTable": "lrpet.latency.table",
    "LayerPlan": "lrpet.planning.layer_plan",
    "LayerReport": "lrpet.projecting.report",
    "Plan": "lrpet.planning.plan",
    "Projector": "lrpet.projecting.projector",
    "Report": "lrpet.projecting.report",
    "Shrinking": "lrpet.projecting.schedule",
    "bench": "lrpet.latency.bench",
    "compress": "lrpet.compact.compress",
    "export": "lrpet.exporting.export",
    "factorize": "lrpet.compact.factorize",
    "load": "lrpet.compact.files",
    "optimize": "lrpet.compact.optimize",
    "plan": "lrpet.planning.planner",
    "read_metadata": "lrpet.compact.files",
    "save": "lrpet.compact.files",
    "sensitivity": "lrpet.planning.sensitivity",
}
_ROOMS = ("exporting", "integrations", "models")

__all__ = [
    "Bench",
    "Descent",
    "LatencyTable",
    "LayerPlan",
    "LayerReport",
    "Plan",
    "Projector",
    "Report",
    "Shrinking",
    "bench",
    "compress",
    "export",
    "exporting",
    "factorize",
    "integrations",
    "load",
    "models",
    "optimize",
    "plan",
    "read_metadata",
    "save",
    "sensitivity",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    elif name in _ROOMS:
        value = importlib.import_module(f"lrpet.{name}")
    else:
        raise AttributeError(f"module 'lrpet' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
