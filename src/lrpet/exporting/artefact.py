"""An exported file with the manifest beside it: what it is, what it takes, and what came of checking it."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lrpet.compact.write import beside, synced
from lrpet.exporting.drawing import Input
from lrpet.exporting.format import Run
from lrpet.exporting.formats import FORMATS
from lrpet.planning.plain import read_json

VERSION = 1
#: Numbers that the inputs of a file may have together, which `verify` draws: a GiB of float32.
MOST_NUMBERS = 2**28


@dataclass(frozen=True)
class Artefact:
    """A file that `lrpet.export` wrote, as its manifest describes it."""

    path: Path
    manifest: Mapping[str, Any]
    """What the JSON file beside it holds."""

    @property
    def format(self) -> str:
        """Return the name of its format."""
        return str(self.manifest["format"])

    @property
    def inputs(self) -> list[Input]:
        """Return the tensors that the network takes, in order."""
        example = self.manifest["batch"]["example"]
        return [Input.from_dict(each, batch=example) for each in self.manifest["inputs"]]

    @property
    def numbers(self) -> int:
        """Return how many numbers its inputs are, with the batch of the example."""
        batch = self.manifest["batch"]["example"]
        return sum(math.prod((batch, *each.shape[1:]) if each.batched else each.shape) for each in self.inputs)

    @property
    def error(self) -> float:
        """Return the largest error of all checks, relative to the largest output."""
        return max(float(check["error"]) for check in self.manifest["checks"])

    @property
    def size(self) -> int:
        """Return the bytes of its files."""
        return sum(int(file["bytes"]) for file in self.manifest["files"].values())

    def runner(self) -> Run:
        """Read the file, and return a function from a list of tensors, the inputs in order, to the list of outputs.

        Raises ImportError if the format's library is not installed.
        """
        FORMATS[self.format].check()
        return FORMATS[self.format].runner(self.path)


def verify(path: str | os.PathLike[str]) -> Artefact:
    """Check that a file is what `lrpet.export` wrote and that it runs here, on random inputs.

    Raises:
        FileNotFoundError: the file, a file that belongs to it, or the manifest is not there.
        ValueError: the manifest is damaged, a file is not the one that was written, or it does not run.
        ImportError: the format's library is not installed.
    """
    artefact = read(path)
    for name, file in artefact.manifest["files"].items():
        found = artefact.path.with_name(name)
        if not found.is_file():
            raise FileNotFoundError(
                f"{found} is missing, which belongs to {artefact.path.name}: export the network again"
            )
        if described(found) != file:
            raise ValueError(
                f"{found} is not the file that was exported: its checksum is not the one in {manifest_of(artefact.path)}. "
                "Do not run it; export the network again"
            )
    random = torch.Generator().manual_seed(0)
    FORMATS[artefact.format].check()
    try:
        tensors = [each.draw(artefact.manifest["batch"]["example"], random) for each in artefact.inputs]
        outputs = artefact.runner()(tensors)
    except Exception as error:
        raise ValueError(f"{artefact.path} does not run here: {error}") from error
    if len(outputs) != len(artefact.manifest["outputs"]):
        raise ValueError(f"{artefact.path} gives {len(outputs)} outputs, not those of its manifest")
    return artefact


def read(path: str | os.PathLike[str]) -> Artefact:
    """Read the manifest beside an exported file. Raises as `verify` does, but looks into no other file."""
    path = Path(path)
    source = manifest_of(path)
    if not source.is_file():
        raise FileNotFoundError(
            f"{source} is missing: only files that lrpet.export wrote, with their manifests, are known"
        )
    try:
        manifest = read_json(source.read_bytes())
        if manifest["version"] != VERSION:
            raise ValueError(f"it has version {manifest['version']!r}, this version of lrpet reads {VERSION}")
        artefact = Artefact(path, manifest)
        if artefact.format not in FORMATS or not artefact.inputs or path.name not in manifest["files"]:
            raise ValueError(f"it does not describe {path.name}")
        if any(Path(name).name != name for name in manifest["files"]):
            raise ValueError("it names files of other folders")
        if not isinstance(manifest["outputs"], list) or artefact.error < 0 or artefact.size < 0:
            raise ValueError("it has no list of outputs, or an error or a size below 0")
        if artefact.numbers > MOST_NUMBERS:
            raise ValueError(f"its inputs are {artefact.numbers:,} numbers, and at most {MOST_NUMBERS:,} are drawn")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{source} is damaged: {error}") from None
    return artefact


def manifest_of(path: Path) -> Path:
    """Return where the manifest of an exported file is: beside it, with .json after its name."""
    return path.with_name(f"{path.name}.json")


def described(path: Path) -> dict[str, Any]:
    """Return the size and the checksum of a file."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


@contextmanager
def written_beside(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield the path in a temporary folder; its files go beside `path` once the block has ended without an error.

    The manifest goes first and comes last, so that files which do not belong together are never taken for an artefact.
    Raises FileExistsError if a file is in the way and `overwrite` is not set.
    """
    _check_free([path, manifest_of(path)], overwrite=overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    with beside(path) as folder:
        yield folder / path.name
        manifest = manifest_of(path)
        files = sorted(folder.iterdir(), key=lambda file: file.name == manifest.name)
        _check_free([path.with_name(file.name) for file in files], overwrite=overwrite)
        for file in files:
            synced(file)
        manifest.unlink(missing_ok=True)
        for file in files:
            os.replace(file, path.with_name(file.name))
        synced(path.parent)


def _check_free(paths: list[Path], *, overwrite: bool) -> None:
    for path in paths:
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path} exists: choose another path, or overwrite it (overwrite=True)")
