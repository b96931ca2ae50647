"""One network on its way into one format: prepared, traced, written, and run beside its original."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lrpet.compact.folding import fold_batch_norms_
from lrpet.exporting.artefact import VERSION
from lrpet.exporting.checking import Check, compared, pieces
from lrpet.exporting.drawing import Input, batch_of
from lrpet.exporting.format import UNBOUNDED, Outside
from lrpet.exporting.formats import FORMATS
from lrpet.exporting.portable import Portable, named_tensors, output_names, said, traced
from lrpet.layers.inputs import Inputs
from lrpet.layers.wrapping import unwrapped


@dataclass(frozen=True)
class Job:
    """One network on its way into one format."""

    format: str
    portable: Portable
    """What is exported."""
    reference: Portable
    """What it is held against."""
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    left_out: tuple[str, ...]
    """Outputs that are no tensors."""
    folded: tuple[str, ...]
    """Batch norms that became part of the layers before them."""
    batch: int
    """The example's batch size."""
    max_batch: int | None
    """The bound of a free batch size; None for the example's batch size alone."""

    @classmethod
    def of(cls, model: nn.Module, example_inputs: Any, format: str, *, dynamic: bool) -> Job:
        """Copy the network, and look at what it takes and returns. Raises ValueError where that cannot be exported."""
        example = Inputs.of(example_inputs).map(lambda tensor: tensor.detach().cpu())
        network = copy.deepcopy(unwrapped(model)).cpu().eval()
        tensors = named_tensors(network, example)
        batch = batch_of(list(tensors.values()))
        if batch is None:
            raise ValueError(
                "the example inputs hold no tensor with a batch: give one such as torch.randn(1, 3, 224, 224)"
            )
        specs = tuple(
            Input.of(name, tensor, batched=bool(tensor.dim()) and len(tensor) == batch)
            for name, tensor in tensors.items()
        )
        outputs, left_out = output_names(example.run(network))
        if not outputs:
            raise ValueError(f"{type(network).__name__} returns no tensor, so that there is nothing to export")
        if left_out:
            warnings.warn(f"these outputs are no tensors and are not exported: {', '.join(left_out)}", stacklevel=4)
        prepared = copy.deepcopy(network)
        folded = fold_batch_norms_(prepared, example)
        return cls(
            format=format,
            portable=Portable(prepared, example),
            reference=Portable(network, example),
            inputs=specs,
            outputs=outputs,
            left_out=left_out,
            folded=folded,
            batch=batch,
            max_batch=max(FORMATS[format].MAX_BATCH, batch + 2) if dynamic else None,
        )

    @property
    def batched(self) -> list[bool]:
        """Return for each input whether its first dimension is the batch."""
        return [each.batched for each in self.inputs]

    def write(self, path: Path) -> dict[str, str]:
        """Trace the network and write it. What is traced is drawn: no format gets the user's own inputs."""
        # Exporters take a batch of one for a constant. ExecuTorch sets aside memory for what is traced at least: with fewer
        # rows than the bound, and channels as many as it, the bound can get lost.
        bound = None if self.max_batch is None else min(self.max_batch + 1, UNBOUNDED)
        rows = self.batch if bound is None else bound if bound < UNBOUNDED else self.batch + 1
        program = traced(self.portable, self.drawn(rows), self.batched, max_batch=bound)
        free = frozenset(each.name for each in self.inputs if each.batched and self.max_batch is not None)
        outside = Outside({each.name: each.shape for each in self.inputs}, self.outputs, free)
        with self.explained("does not take"):
            return FORMATS[self.format].write(program, path, outside)

    def check(self, path: Path, batches: Iterable[Sequence[Tensor]], *, on: str) -> Check:
        """Run the file, read back from disk, beside the network."""
        with self.explained("does not read"):
            runner = FORMATS[self.format].runner(path)

        def run(tensors: Sequence[Tensor]) -> list[Tensor]:
            with self.explained("does not run"):
                return runner(tensors)

        return compared(run, self.reference.run, batches, on=on, batched=self.batched)

    @contextmanager
    def explained(self, what: str) -> Iterator[None]:
        """Turn what the format's library raises into a ValueError that says what failed."""
        try:
            yield
        except Exception as error:
            hint = (
                "" if self.max_batch is None else ". With dynamic_batch=False the batch size is fixed, which may help"
            )
            name = type(self.portable.network).__name__
            raise ValueError(f"{self.format} {what} this {name}: {said(error)}{hint}") from error

    def drawn(self, batch: int) -> list[Tensor]:
        """Return random inputs with a batch of this size."""
        random = torch.Generator().manual_seed(batch)
        return [each.draw(batch, random) for each in self.inputs]

    def random(self) -> list[list[Tensor]]:
        """Return random batches; where the batch size is free, of other sizes than the example and the trace.

        The largest batch is among them where memory is set aside for it.
        """
        if self.max_batch is None:
            return [self.drawn(self.batch)]
        largest = {self.max_batch} if self.max_batch < UNBOUNDED else set()
        return [self.drawn(size) for size in sorted({1, self.batch + 2} | largest, reverse=True)]

    def given(self, inputs: Iterable[Any]) -> Iterator[Sequence[Tensor]]:
        """Yield the user's inputs in batches that the file takes. Raises ValueError for inputs of another kind."""
        wanted = {each.name: (each.dtype, each.shape[each.batched :]) for each in self.inputs}
        batched = dict(zip(wanted, self.batched, strict=True))
        for given in inputs:
            tensors = named_tensors(self.reference.network, Inputs.of(given))
            kinds = {
                name: (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape[batched.get(name, True) :]))
                for name, tensor in tensors.items()
            }
            if kinds != wanted:
                raise ValueError(
                    f"inputs has a batch of {kinds} (name, type, shape of a row), the example is {wanted}: "
                    "give batches of the example's kind, without labels"
                )
            ordered = [tensors[name].detach().cpu() for name in wanted]
            fixed = self.batch if self.max_batch is None else None
            yield from pieces(ordered, self.batched, fixed=fixed, most=self.max_batch or self.batch)

    def manifest(self) -> dict[str, Any]:
        """Return what is known before the file is written, as JSON can hold it."""
        network = type(self.portable.network)
        dynamic = self.max_batch is not None
        return {
            "version": VERSION,
            "format": self.format,
            "network": f"{network.__module__}.{network.__qualname__}",
            "versions": {each: _version(each) for each in ("lrpet", "torch", *FORMATS[self.format].LIBRARIES)},
            "inputs": [each.to_dict(dynamic=dynamic) for each in self.inputs],
            "outputs": list(self.outputs),
            "left_out": list(self.left_out),
            "folded": list(self.folded),
            "batch": {"dynamic": dynamic, "example": self.batch, "largest": self.max_batch or self.batch},
        }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a source tree
        return "unknown"
