"""What a saved network says of the data that it was trained on, checked before anything is made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError

import lrpet

_Side = Annotated[int, Field(ge=1, le=2**14)]  # a square of it fits into memory
_Count = Annotated[int, Field(ge=1, le=2**24)]
#: {entry of the metadata: what it has to be}.
KINDS: dict[str, Any] = {
    "data": str,
    "classes": list[str],
    "mean": Annotated[list[FiniteFloat], Field(min_length=1)],
    "std": Annotated[list[Annotated[FiniteFloat, Field(gt=0)]], Field(min_length=1)],
    "in_channels": _Side,
    "image_size": _Side,
    "test_crop": Annotated[float, Field(gt=0, le=1)],
    "interpolation": Literal["bilinear", "bicubic"],
    "vocabulary": _Count,
    "tokenizer": str,
    "context": _Count,
}


def trained_on(folder: Path, *names: str) -> dict[str, Any]:
    """Return those entries of a saved network's metadata that have these names, as far as there are any.

    Raises ValueError for an entry of another kind than `lrpet train` writes, and as `lrpet.read_metadata` does.
    """
    metadata = lrpet.read_metadata(folder)
    found = {name: metadata[name] for name in names if name in metadata}
    for name, value in found.items():
        kind = TypeAdapter(KINDS[name], config=ConfigDict(strict=True))
        try:
            kind.validate_python(value)
        except ValidationError as error:
            why = error.errors()[0]["msg"]
            raise ValueError(
                f"{folder} has the metadata {name}={value!r:.50}, which lrpet train does not write: {why}. "
                "It is damaged, or was saved otherwise: save the network again"
            ) from None
    return found
