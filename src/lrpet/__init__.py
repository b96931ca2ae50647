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

from lrpet.descent import Descent
from lrpet.factorize import factorize
from lrpet.files import load, read_metadata, save
from lrpet.latency import LatencyTable
from lrpet.plan import LayerPlan, Plan
from lrpet.planner import plan
from lrpet.projector import Projector
from lrpet.schedule import Shrinking
from lrpet.sensitivity import sensitivity
from lrpet.statistics import LayerReport, Report

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
