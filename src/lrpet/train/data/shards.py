"""WebDataset shards: tar files in which an image and its class share a name, up to the first dot.

The shards are gone through once, for where every image lies and what its class is. That index is kept beside them, so that
the number of images is known, and each of them is read by its place. An epoch's order then follows from the seed alone, a
batch is shared by all processes, and an epoch that was interrupted goes on where it was. The library webdataset streams
shards instead, and promises none of this.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lrpet.compact.write import written

#: What the name of an image may end with.
ENDINGS = ("jpg", "jpeg", "png", "webp", "bmp", "ppm", "gif", "tif", "tiff")
#: The version of the index files.
FORMAT = "2"
#: Classes beyond this number are damage: a network has an output for each, up to the highest.
MOST_CLASSES = 2**20
_BLOCK = 512  # of a tar file


@dataclass(frozen=True, eq=False)
class Shards:
    """Images in tar files, of which `places` has the number of the file, the first byte and the size: int64 (N, 3)."""

    paths: tuple[Path, ...]
    places: Tensor
    labels: Tensor
    """The class of each image, of shape (N,)."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shards(self) -> Tensor:
        """The number of the shard of each image, of shape (N,)."""
        return self.places[:, 0]

    def name(self, number: int) -> str:
        """Return the path of a shard and the name that an image has in it."""
        shard, begin, _ = self.places[number].tolist()
        header = _read(self.paths[shard], begin - _BLOCK, _BLOCK)
        return f"{self.paths[shard]}/{tarfile.TarInfo.frombuf(header, 'utf-8', 'replace').name}"

    def read(self, number: int) -> bytes:
        """Return an encoded image. Raises OSError if it cannot be read."""
        shard, begin, size = self.places[number].tolist()
        return _read(self.paths[shard], begin, size)


def find_shards(folder: Path, part: str) -> tuple[Path, ...]:
    """Find the shards of a part: `folder/PART/*.tar`, or the tar files in `folder` with that word in their names."""
    inside = sorted((folder / part).glob("*.tar"))
    return tuple(inside or (path for path in sorted(folder.glob("*.tar")) if part in re.split(r"[^a-z]+", path.stem)))


def read_shards(paths: tuple[Path, ...], *, index: Path, keep: bool = True) -> Shards:
    """Return the images of shards, by the file `index`; with `keep` it is written if it is not there, or is of other shards.

    Raises ValueError naming the shard, and the image, if it is no tar file, or an image has no class.
    """
    described = json.dumps({"format": FORMAT, "shards": [_described(path) for path in paths]})
    if (found := _read_index(index, described, paths)) is None:
        rows = [(number, *row) for number, path in enumerate(paths) for row in _samples(path)]
        if not rows:
            raise ValueError(f"{paths[0].parent} has shards without any image")
        found = {"places": torch.tensor([row[:3] for row in rows]), "labels": torch.tensor([row[3] for row in rows])}
        if keep:
            _write_index(index, found, described)
    return Shards(paths, found["places"], found["labels"])


def _write_index(index: Path, found: dict[str, Tensor], described: str) -> None:
    """Write an index; warn where that cannot be done."""
    try:
        with written(index) as temporary:
            save_file(found, temporary, metadata={"shards": described, "sha256": _digest(found)})
    except (OSError, SafetensorError) as error:
        warnings.warn(f"{index} cannot be written, so every run goes through the shards: {error}", stacklevel=3)


def _described(path: Path) -> list[Any]:
    stat = path.stat()
    return [path.name, stat.st_size, stat.st_mtime_ns]


def _read_index(index: Path, described: str, paths: tuple[Path, ...]) -> dict[str, Tensor] | None:
    """Read an index; None if there is none, or the shards have changed since it was written. Warn if it is damaged."""
    try:
        with safe_open(index, framework="pt") as file:
            about = file.metadata() or {}
            if about.get("shards") != described:
                return None
            found = {name: file.get_tensor(name) for name in ("places", "labels")}
        damage = None if _fits(found, paths) else "it names places that the shards do not have"
        if damage is None and about.get("sha256") != _digest(found):
            damage = "its digest is not that of what was written"
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError) as error:
        damage = str(error)
    if damage is not None:
        warnings.warn(f"{index} is damaged, so the shards are gone through again: {damage}", stacklevel=3)
        return None
    return found


def _digest(found: dict[str, Tensor]) -> str:
    """Return the SHA-256 of an index, so that no damage turns one class or image into another."""
    return hashlib.sha256(found["places"].numpy().tobytes() + found["labels"].numpy().tobytes()).hexdigest()


def _fits(found: dict[str, Tensor], paths: tuple[Path, ...]) -> bool:
    """Whether an index names bytes of these shards, and classes that there can be, whoever wrote it."""
    places, labels = found["places"], found["labels"]
    if {places.dtype, labels.dtype} != {torch.int64} or labels.ndim != 1 or not labels.numel():
        return False
    if places.shape != (len(labels), 3) or int(places.min()) < 0 or int(places[:, 0].max()) >= len(paths):
        return False
    shard, begin, size = places.unbind(1)
    sizes = torch.tensor([path.stat().st_size for path in paths])
    return bool((begin <= sizes[shard] - size).all()) and int(labels.min()) >= 0 and int(labels.max()) < MOST_CLASSES


def _samples(path: Path) -> Iterator[tuple[int, int, int]]:
    """Yield the first byte, the size and the class of every image of a shard."""
    try:
        with tarfile.open(path, "r:") as file:
            members = (member for member in file if member.isfile())
            for key, group in groupby(members, lambda member: _parts(member.name)[0]):
                yield _sample(path, file, key, list(group))
    except tarfile.TarError as error:
        raise ValueError(f"{path} is no whole tar file: {error}") from None


def _sample(path: Path, file: tarfile.TarFile, key: str, members: Sequence[tarfile.TarInfo]) -> tuple[int, int, int]:
    by_ending = {_parts(member.name)[1]: member for member in members}
    images = [member for ending, member in by_ending.items() if ending in ENDINGS]
    if len(images) != 1 or "cls" not in by_ending:
        raise ValueError(
            f"{path} has {', '.join(member.name for member in members)} for {key}: it needs one image "
            f"({', '.join(ENDINGS)}) and its class as {key}.cls"
        )
    content = file.extractfile(by_ending["cls"])
    text = content.read(20).decode("ascii", "replace").strip() if content else ""
    if not text.isdecimal():
        raise ValueError(f"{path} has {text!r} in {key}.cls, not the number of a class")
    if int(text) >= MOST_CLASSES:
        raise ValueError(f"{path} has class {text} in {key}.cls: there are at most {MOST_CLASSES:,}, counted from 0")
    return images[0].offset_data, images[0].size, int(text)


def _parts(name: str) -> tuple[str, str]:
    """Return the key of a member, and what follows the first dot of its last part, in small letters."""
    folder, slash, last = name.rpartition("/")
    key, _, ending = last.partition(".")
    return folder + slash + key, ending.lower()


def _read(path: Path, begin: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(begin)
        return file.read(size)
