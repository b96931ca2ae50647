"""Which kind of layer a module is."""

from __future__ import annotations

from torch import nn

from lrpet.layers.attention import AttentionInput, AttentionOutput, output_name
from lrpet.layers.convolution import Convolution, SpatialConvolution, TransposedConvolution
from lrpet.layers.linear import Linear, TransformersConv1D
from lrpet.layers.matrix import MatrixLayer, Unfolding
from lrpet.layers.standardized import StandardizedConvolution


def kind_of(module: nn.Module, unfolding: Unfolding = "channel") -> type[MatrixLayer] | None:
    """Return the class for a module; None if its weight is not seen as matrices.

    An attention's output projection counts as a linear here: only `layers_of` knows who runs it.
    """
    if StandardizedConvolution.matches(module):
        return StandardizedConvolution
    if TransformersConv1D.matches(module):
        return TransformersConv1D
    if unfolding == "spatial" and isinstance(module, nn.Conv2d):
        return SpatialConvolution
    kinds: tuple[type[MatrixLayer], ...] = (TransposedConvolution, Convolution, Linear, AttentionInput)
    return next((kind for kind in kinds if isinstance(module, kind.plain)), None)


def layer_of(
    module: nn.Module, name: str = "", *, unfolding: Unfolding = "channel", batch_norm: nn.Module | None = None
) -> MatrixLayer | None:
    """Return the module as a layer; None if its weight is not seen as matrices."""
    kind = kind_of(module, unfolding)
    return None if kind is None else kind(module, name, batch_norm)


def layers_of(model: nn.Module) -> dict[str, MatrixLayer]:
    """Return {name: layer} for every module of a network whose weight is seen as matrices, channel unfolding."""
    outputs = {
        output_name(name): AttentionOutput(module.out_proj, output_name(name), module)
        for name, module in model.named_modules()
        if isinstance(module, nn.MultiheadAttention)
    }
    found: dict[str, MatrixLayer] = {}
    for name, module in model.named_modules():
        layer = outputs.get(name) or layer_of(module, name)
        if layer is not None:
            found[name] = layer
    return found


def refusal_of(module: nn.Module, layer: MatrixLayer | None) -> str | None:
    """Say why a module that holds a matrix cannot be projected and factorised; None if it can."""
    if layer is not None:
        return layer.refusal()
    if isinstance(module, nn.RNNBase):
        return f"{type(module).__name__} runs its weights in one fused kernel, which takes no factors"
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return "an embedding, whose rows are looked up and not multiplied"
    return f"{type(module).__name__} is not supported"
