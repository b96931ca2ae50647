"""What the layers of a network give on some inputs, for a projection in the metric of the outputs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lrpet.layers.matrix import MatrixLayer
from lrpet.layers.moments import output_moments
from lrpet.planning.division import Numbers
from lrpet.projecting.outputs import output_energies
from lrpet.projecting.stack import Gathered
from lrpet.sharding.exchange import agreeing, averaged_
from lrpet.sharding.placement import Sharded
from lrpet.sharding.work import assigned, computed, device_of, together


class Outputs:
    """The second moments of layers' outputs, for the weights of one moment.

    Args:
        model: The network.
        inputs: What it is run on. Each process has inputs of its own, and all get the mean of their moments.
        alone: Whether this process does without the others.
    """

    def __init__(self, model: nn.Module, inputs: Collection[Any], *, alone: bool) -> None:
        self._model, self._inputs, self._alone = model, inputs, alone
        self._moments: dict[str, Tensor] = {}

    def see(self, layers: Mapping[str, MatrixLayer]) -> None:
        """Gather the moments of layers that have none yet. All processes have to call.

        Raises ValueError if weights are sharded, or as `lrpet.layers.moments.output_moments` does.
        """
        new = {name: layer for name, layer in layers.items() if name not in self._moments}
        if not new:
            return
        work = assigned(list(new.values()), alone=self._alone)
        if any(isinstance(each.placement, Sharded) for each in work):
            raise ValueError(
                "calibration is for weights that each process holds whole, and these are sharded: leave it out, to project "
                "in the metric of the weights"
            )
        with agreeing(device_of(work), together=(shared := together(work))):
            found = dict(output_moments(self._model, {each.layer.name: each.layer for each in work}, self._inputs))
        self._moments.update({name: averaged_(moment) for name, moment in found.items()} if shared else found)

    def kept_energies(self, layers: Mapping[str, MatrixLayer]) -> Numbers:
        """Return {layer name: the fraction of its outputs' energy kept at rank 1, 2, …}, found by all processes together."""
        self.see(layers)
        return computed(layers, self._kept)

    def into(self, gathered: Sequence[Gathered]) -> None:
        """Give every stack the moments of its layers."""
        for each in gathered:
            each.moment = torch.cat([self._moments[name] for name in each.stack.names])

    def _kept(self, layer: MatrixLayer) -> list[float]:
        values = output_energies(layer.matrices(), self._moments[layer.name], layer.row_scale()).sum(0)
        total: Tensor = values.sum()
        return [float(kept) for kept in values.cumsum(0) / total.clamp_min(torch.finfo(total.dtype).tiny)]
