"""Formats by name and by suffix."""

from __future__ import annotations

from pathlib import Path

from lrpet.exporting import executorch, onnx, openvino, pt2
from lrpet.exporting.format import Format

FORMATS: dict[str, Format] = {"onnx": onnx, "pt2": pt2, "openvino": openvino, "executorch": executorch}
SUFFIXES = {".onnx": "onnx", ".pt2": "pt2", ".xml": "openvino", ".pte": "executorch"}


def format_of(path: Path, name: str | None = None) -> str:
    """Return the name of the format: the one that is asked for, or else the one of the path's suffix.

    Raises ValueError if there is no such format.
    """
    if name is not None and name not in FORMATS:
        raise ValueError(f"there is no format {name!r}; there are {', '.join(FORMATS)}")
    if name is None and path.suffix not in SUFFIXES:
        known = ", ".join(f"{suffix} ({each})" for suffix, each in SUFFIXES.items())
        raise ValueError(f"{path.name!r} does not say the format: give a path that ends in {known}, or format=")
    return name or SUFFIXES[path.suffix]
