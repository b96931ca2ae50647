"""Arrays of bytes from a pickle, as CIFAR-10's python layout has them, read without making or calling what it names."""

from __future__ import annotations

import io
import pickle
import pickletools
from typing import Any

import numpy as np


class StoredArray:
    """Stands for a numpy array: what the pickle says of it, and nothing made from it yet."""

    def __init__(self, *_: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def read(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Make the array. Raises ValueError if it is anything else than bytes in rows."""
        match self.state:
            case (int(), tuple(shape), StoredType(name="u1"), bool(), bytes(data)) if all(
                type(size) is int and size >= 0 for size in shape
            ):
                return np.frombuffer(data, np.uint8).reshape(shape)
        raise ValueError("its arrays are not of bytes")


class StoredType:
    """Stands for a numpy dtype."""

    def __init__(self, name: Any = None, *_: Any) -> None:
        self.name = name.decode("latin1") if isinstance(name, bytes) else name

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like: bytes have none."""


def _encoded(text: str, encoding: str) -> bytes:
    """Stand for `_codecs.encode`, by which bytes are stored in protocol 2."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("it encodes something else than bytes")
    return text.encode("latin1")


_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): StoredArray,
    ("numpy._core.multiarray", "_reconstruct"): StoredArray,
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): StoredType,
    ("_codecs", "encode"): _encoded,
}


class _StandIns(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _STAND_INS[module, name]


def read_pickled(data: bytes) -> Any:
    """Return plain values, with a `StoredArray` for each numpy array. A damaged or hostile pickle can raise anything.

    Memory stays within a small multiple of the file's size.
    """
    for operation, argument, _ in pickletools.genops(data):
        if "PUT" in operation.name and int(argument or 0) > len(data):
            raise pickle.UnpicklingError("it numbers more values than it holds")
    return _StandIns(io.BytesIO(data), encoding="bytes").load()
