"""Second moments of what layers give, from some batches: what their outputs vary along."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lrpet.layers.attention import attended
from lrpet.layers.inputs import Inputs
from lrpet.layers.matrix import MatrixLayer
from lrpet.layers.mode import evaluating

#: The most bytes that the moments of layers take at once. Networks with more are gone through in several passes.
MEMORY = 2**32


@torch.no_grad()
def output_moments(
    model: nn.Module, layers: Mapping[str, MatrixLayer], batches: Iterable[Any]
) -> Iterator[tuple[str, Tensor]]:
    """Yield the name of each layer with E[y·yᵀ] of y = W·x, shape (groups, rows/groups, rows/groups), in float32 or float64.

    The mean is over all positions (tokens, pixels) of all batches, in eval mode. The bias is no part of y.

    Args:
        model: The network; it runs on each batch, and is as it was afterwards.
        layers: Its layers by name.
        batches: What its forward takes, as for `lrpet.plan`; a collection that can be gone through again, where the moments
            of all layers take more than `MEMORY`.

    Raises ValueError without batches, if a layer never runs, or if an output holds NaN or Inf.
    """
    parts = list(_parts(layers))
    if len(parts) > 1 and isinstance(batches, Iterator):
        raise ValueError(
            "these layers' moments do not fit into memory at once: give batches that can be gone through again"
        )
    for part in parts:
        gathering = _Gathering(part)
        with evaluating(model), gathering.hooked():
            for batch in batches:
                Inputs.of(batch).run(model)
        yield from gathering.moments()


class _Gathering:
    """Sums of y·yᵀ while a network runs."""

    def __init__(self, layers: Mapping[str, MatrixLayer]) -> None:
        self.layers = layers
        self.sums: dict[str, Tensor] = {}
        self.counts = dict.fromkeys(layers, 0)

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Watch the layers' calls inside."""
        handles = [
            layer.host_module.register_forward_hook(self._after(name), with_kwargs=True)
            for name, layer in self.layers.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def moments(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every layer's mean of y·yᵀ."""
        for name in self.layers:
            if not self.counts[name]:
                raise ValueError(
                    f"{name!r} ran on none of the calibration batches: give more of them, or exclude it"
                    if any(self.counts.values())
                    else "there are no calibration batches: give at least one input of the network"
                )
            moment = self.sums.pop(name) / self.counts[name]
            if not bool(moment.isfinite().all()):
                raise ValueError(
                    f"NaN or Inf in the outputs of {name!r} on the calibration batches, or in their squares"
                )
            yield name, moment

    def _after(self, name: str) -> Any:
        layer = self.layers[name]

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            given = output[0] if isinstance(output, tuple) else output
            attention = isinstance(module, nn.MultiheadAttention)
            inputs = attended(args, kwargs) if attention else (*args, *kwargs.values())
            rows = layer.row_outputs(inputs, given)
            rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
            self.sums[name] = self.sums.get(name, 0) + rows.mT @ rows
            self.counts[name] += rows.shape[1]

        return hook


def _parts(layers: Mapping[str, MatrixLayer]) -> Iterator[dict[str, MatrixLayer]]:
    """Divide layers so that the moments of each part fit into `MEMORY`; a single layer may take more."""
    part: dict[str, MatrixLayer] = {}
    left = MEMORY
    for name, layer in layers.items():
        rows, groups = layer.shape.rows // layer.shape.groups, layer.shape.groups
        size = groups * rows**2 * max(4, layer.weight.element_size())
        if part and size > left:
            yield part
            part, left = {}, MEMORY
        part[name] = layer
        left -= size
    if part:
        yield part
