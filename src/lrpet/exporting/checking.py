"""An exported network against the network that it was exported from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lrpet.exporting.drawing import resized
from lrpet.exporting.format import Run


@dataclass
class Check:
    """What came of running an exported network beside its original."""

    on: str
    """The kind of inputs: "random" or "given"."""
    rows: int = 0
    """Inputs in all batches together."""
    batch_sizes: list[int] = field(default_factory=list)
    """The batch sizes that were run."""
    error: float = 0.0
    """The largest difference, relative to the largest value of its output in the batch."""
    predictions: int = 0
    """Places along the last dimension of the first output of floats with more than one value there."""
    agreeing: int = 0
    """The predictions whose largest value is in one place in both."""

    @property
    def agreement(self) -> float | None:
        """Return the fraction of predictions that agree; None where nothing is predicted."""
        return self.agreeing / self.predictions if self.predictions else None

    def to_dict(self) -> dict[str, Any]:
        """Return what the manifest keeps."""
        sizes = sorted(self.batch_sizes)
        return {
            "on": self.on,
            "rows": self.rows,
            "batch_sizes": sizes,
            "error": self.error,
            "agreement": self.agreement,
        }

    def add(self, got: Sequence[Tensor], expected: Mapping[str, Tensor], *, batch: int) -> None:
        """Compare one batch. Raises ValueError if the outputs are not of one number or shape."""
        shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (got, expected.values())]
        if shapes[0] != shapes[1]:
            raise ValueError(f"the file's outputs have the shapes {shapes[0]}, the network's {shapes[1]}")
        self.rows += batch
        if batch not in self.batch_sizes:
            self.batch_sizes.append(batch)
        self.error = max([self.error, *map(difference, got, expected.values())])
        for mine, other in zip(got, expected.values(), strict=True):
            if other.is_floating_point() and other.dim() and other.shape[-1] > 1:
                same = mine.argmax(-1) == other.argmax(-1)
                self.predictions += same.numel()
                self.agreeing += int(same.sum())
                return


def difference(got: Tensor, expected: Tensor) -> float:
    """Return the largest difference relative to the largest value; infinite where only one of the two is finite."""
    if not expected.numel():
        return 0.0
    got, expected = (
        tensor.to(torch.complex128 if tensor.is_complex() else torch.float64) for tensor in (got, expected)
    )
    finite = expected.isfinite()
    if not torch.equal(got[~finite].nan_to_num(), expected[~finite].nan_to_num()) or not got[finite].isfinite().all():
        return float("inf")
    if not finite.any():
        return 0.0
    largest, apart = expected[finite].abs().max().item(), (got - expected)[finite].abs().max().item()
    return apart / largest if largest else (float("inf") if apart else 0.0)


def compared(
    run: Run,
    reference: Callable[[Sequence[Tensor]], Mapping[str, Tensor]],
    batches: Iterable[Sequence[Tensor]],
    *,
    on: str,
    batched: Sequence[bool],
) -> Check:
    """Run the batches through both and compare what comes out."""
    check = Check(on)
    with torch.no_grad():
        for tensors in batches:
            size = next((len(tensor) for tensor, each in zip(tensors, batched, strict=True) if each), 1)
            check.add(run(tensors), reference(tensors), batch=size)
    return check


def pieces(
    tensors: Sequence[Tensor], batched: Sequence[bool], *, fixed: int | None, most: int
) -> Iterable[Sequence[Tensor]]:
    """Divide a batch into what the file takes: batches of the fixed size, or of at most so many rows.

    A last batch that is too small for a fixed size is filled with its own rows again.
    """
    rows = next((len(tensor) for tensor, each in zip(tensors, batched, strict=True) if each), None)
    if rows is None:
        yield tensors
        return
    step = fixed or most
    for begin in range(0, rows, step):
        piece = [
            tensor[begin : begin + step] if each else tensor for tensor, each in zip(tensors, batched, strict=True)
        ]
        size = fixed or min(step, rows - begin)
        yield [resized(tensor, size) if each else tensor for tensor, each in zip(piece, batched, strict=True)]
