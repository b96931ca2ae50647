"""Where encoded images are read from, one by one: the files of a folder, and what else has an order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor


class Source(Protocol):
    """Encoded images by number. Processes that load data get a copy, so that it has to be picklable."""

    @property
    def shards(self) -> Tensor | None:
        """The number of the shard of each image (N,); None where any order is read with equal ease."""
        ...

    def __len__(self) -> int: ...

    def name(self, number: int) -> str:
        """Return what messages call an image."""
        ...

    def read(self, number: int) -> bytes:
        """Return an encoded image. Raises OSError if it cannot be read."""
        ...


@dataclass(frozen=True)
class Paths:
    """The image files at these paths."""

    paths: tuple[str, ...]
    shards: None = None

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, number: int) -> str:
        """Return the path of an image."""
        return self.paths[number]

    def read(self, number: int) -> bytes:
        """Return the bytes of a file. Raises OSError if it cannot be read."""
        return Path(self.paths[number]).read_bytes()
