"""What a network is made of: its layers as matrices, the observed forward pass, factor pairs."""

from lrpet.layers.mode import evaluating

__all__ = ["evaluating"]
