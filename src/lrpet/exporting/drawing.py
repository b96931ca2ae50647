"""What an exported network takes, and random inputs like it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from lrpet.compact.reading import made


@dataclass(frozen=True)
class Input:
    """One tensor that an exported network takes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    """The shape of the example; a free batch size is that of the example, too."""
    batched: bool
    """Whether the first dimension is the batch."""
    mean: float | None = None
    """The mean that random numbers are drawn around, for floats."""
    std: float | None = None
    """The deviation of the random numbers, for floats."""
    low: int | None = None
    """The least integer that is drawn, for integers."""
    high: int | None = None
    """The greatest integer that is drawn, for integers."""
    values: Any = None
    """The example itself, for booleans and for what is not finite: no others are drawn."""

    @classmethod
    def of(cls, name: str, example: Tensor, *, batched: bool) -> Input:
        """Describe an example."""
        draw: dict[str, Any]
        floats, integers = example.is_floating_point(), not example.is_complex() and example.dtype is not torch.bool
        if floats and example.numel() and example.isfinite().all():
            std, mean = torch.std_mean(example.double(), unbiased=False)
            draw = {"mean": mean.item(), "std": std.item() or 1.0}  # an example of zeros says nothing of the spread
        elif not floats and integers and example.numel():
            draw = {"low": int(example.min()), "high": int(example.max())}
        else:
            draw = {"values": example.tolist()}
        return cls(name, str(example.dtype).removeprefix("torch."), tuple(example.shape), batched, **draw)

    def draw(self, batch: int, random: torch.Generator) -> Tensor:
        """Return a random tensor of this kind, with a batch of this size."""
        dtype = getattr(torch, self.dtype)
        shape = (batch, *self.shape[1:]) if self.batched else self.shape
        if self.mean is not None and self.std is not None:
            return (self.mean + self.std * torch.randn(shape, generator=random)).to(dtype)
        if self.low is not None and self.high is not None:
            return torch.randint(self.low, self.high + 1, shape, generator=random).to(dtype)
        example = torch.tensor(self.values, dtype=dtype).reshape(self.shape)
        return resized(example, batch) if self.batched else example

    def to_dict(self, *, dynamic: bool) -> dict[str, Any]:
        """Return what is known as JSON holds it; a free batch size is the word "batch"."""
        known = {name: value for name, value in asdict(self).items() if value is not None}
        return {
            **known,
            "shape": ["batch" if dynamic and self.batched and i == 0 else n for i, n in enumerate(self.shape)],
        }

    @classmethod
    def from_dict(cls, data: Any, *, batch: int) -> Input:
        """Read what `to_dict` gave; `batch` is the batch size of the example.

        Raises ValueError, KeyError or TypeError if `data` is anything else.
        """
        read = made(cls, {**data, "shape": tuple(batch if n == "batch" else n for n in data["shape"])})
        if not isinstance(getattr(torch, read.dtype, None), torch.dtype):
            raise ValueError(f"an input has the dtype {read.dtype!r}, which there is none")
        if min(read.shape, default=0) < 0 or (read.batched and not read.shape):
            raise ValueError(f"an input has the shape {read.shape}")
        return read


def batch_of(tensors: Sequence[Tensor]) -> int | None:
    """Return the batch size: the first size of the first tensor that has a dimension; None if there is none."""
    return next((len(tensor) for tensor in tensors if tensor.dim()), None)


def resized(tensor: Tensor, batch: int) -> Tensor:
    """Return the rows of a tensor, again from the first where they are too few."""
    return tensor[torch.arange(batch) % len(tensor)]
