"""Compact neural networks trained from scratch: low-rank projection with energy transfer.

In a training loop of your own:

    plan = lrpet.plan(model, example_inputs, macs=0.45)
    projector = lrpet.Projector(model, plan, every=5, start=total_steps // 2)
    ...
    loss.backward(); optimizer.step(); projector.step()
    ...
    compact = lrpet.factorize(model, plan)
    lrpet.save(compact, "compact/")
"""

from lrpet.compact.factorize import factorize
from lrpet.compact.files import load, read_metadata, save
from lrpet.latency.table import LatencyTable
from lrpet.planning.plan import LayerPlan, Plan
from lrpet.planning.planner import plan
from lrpet.planning.sensitivity import sensitivity
from lrpet.projecting.descent import Descent
from lrpet.projecting.projector import Projector
from lrpet.projecting.report import LayerReport, Report
from lrpet.projecting.schedule import Shrinking

__all__ = [
    "Descent",
    "LatencyTable",
    "LayerPlan",
    "LayerReport",
    "Plan",
    "Projector",
    "Report",
    "Shrinking",
    "factorize",
    "load",
    "plan",
    "read_metadata",
    "save",
    "sensitivity",
]
