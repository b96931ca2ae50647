"""Trained model → compact model in one call, without training."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from lrpet.compact.factorize import factorize
from lrpet.layers.sound import check_network
from lrpet.layers.wrapping import leave_forwards_, unwrapped
from lrpet.planning.planner import plan
from lrpet.projecting.projector import Projector


def compress(
    model: nn.Module,
    example_inputs: Any,
    *,
    batches: Iterable[Any] | None = None,
    calibration: Iterable[Any] | None = None,
    energy_transfer: bool = True,
    **options: Any,
) -> nn.Module:
    """Return a compact form of a trained network: plan, one projection and factors, without training.

    It is what training with projections is to be compared with, and a start for training the factors on.

    Args:
        model: A trained network; untouched.
        example_inputs: What its forward takes, as for `lrpet.plan`.
        batches: Training batches, inputs or (inputs, ...) as a data loader gives them. The statistics of batch norm are
            re-estimated from them; a cut without that loses most of its accuracy. None leaves them as they are.
        calibration: Inputs of the network, each in the form of `example_inputs`, without labels: a few thousand tokens, or a
            hundred images, will do. What is kept is then what the outputs of each layer need on them, (E6) of
            `lrpet.projecting.outputs`, and not what the weights need. Ranks by energy are by that of the outputs.
        energy_transfer: Hand the energy of the pruned singular values to the kept ones.
        options: What `lrpet.plan` takes besides. `allocate` is "energy" where a budget of macs, params, bytes or latency is
            given, since the weights are trained. `rectify` is False: in cuts without training it cost accuracy (RESULTS.md).

    Raises:
        ValueError: as `lrpet.plan` does, or if a weight or batch norm holds NaN or Inf, or a negative variance. On calibration
            inputs, also if an output holds NaN or Inf, or a layer does not run.
    """
    model = unwrapped(model)
    check_network(model, "it cannot be compressed")
    network = copy.deepcopy(model)
    leave_forwards_(network)
    if options.keys() & {"macs", "params", "bytes", "latency"} and options.get("allocate", "auto") == "auto":
        options["allocate"] = "energy"
    decided = plan(network, example_inputs, **{"rectify": False, **options})
    if not decided.ranks:
        reasons = Counter(layer.reason for layer in decided.layers)
        warnings.warn(f"no layer was factorised: {', '.join(reasons) or 'there is none'}", stacklevel=2)
    if calibration is None:
        decided = decided.settled()
    elif not isinstance(calibration, Collection):
        calibration = list(calibration)
    projector = Projector(
        network, decided, start=0, every=1, energy_transfer=energy_transfer, solver="eigh", calibration=calibration
    )
    projector.project()
    compact = factorize(network, projector.plan)
    if batches is not None:
        device = next((parameter.device for parameter in compact.parameters()), torch.device("cpu"))
        update_bn(batches, compact, device=device)
    return compact
