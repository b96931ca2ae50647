"""Pickles that would run code, make foreign things or fill the memory, if whoever reads CIFAR-10's layout let them."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: What the pickles would call, and what a dictionary that holds the call begins and ends with.
CALLS = (
    ("os", "system"), ("posix", "system"), ("subprocess", "check_output"), ("builtins", "eval"), ("builtins", "exec"),
    ("builtins", "open"), ("builtins", "getattr"), ("importlib", "import_module"), ("runpy", "run_path"), ("shutil", "rmtree"),
    ("torch", "load"), ("numpy", "load"), ("numpy", "fromfile"), ("operator", "attrgetter"), ("pickle", "loads"),
    ("_codecs", "decode"), ("codecs", "open"), ("numpy.core.multiarray", "fromfile"), ("lrpet.train.data.pickled", "pickle"),
    ("__main__", "__builtins__"), ("numpy", "dtype.type"), ("_codecs", "encode.__self__"),
)  # fmt: skip


def pickles(trap: Path) -> Iterator[tuple[str, bytes]]:
    """Yield hostile pickles, each with its name; those that run code would make the file `trap`."""
    command = f"touch {trap}"
    for module, name in CALLS:
        for protocol in (0, 2, 4):
            yield f"{module}.{name}, protocol {protocol}", _call(module, name, command, protocol)
    for protocol in range(6):
        yield f"__reduce__, protocol {protocol}", pickle.dumps({b"data": _Evil(command), b"labels": [0]}, protocol)
    yield "INST", b"(S'" + command.encode() + b"'\nios\nsystem\n."
    yield "OBJ", b"(cos\nsystem\nS'" + command.encode() + b"'\no."
    yield "NEWOBJ", b"\x80\x02cos\nsystem\nS'" + command.encode() + b"'\n\x85\x81."
    yield "BUILD of a stand-in", b"\x80\x02cnumpy\ndtype\n)\x81}S'__class__'\ncos\nsystem\nsb."
    yield "EXT4", b"\x80\x02\x84\xff\xff\xff\x7f."
    yield "PERSID", b"Pevil\n."
    yield from _greedy()


def _greedy() -> Iterator[tuple[str, bytes]]:
    reconstruct = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    for name, shape in {"giant": (2**40, 3072), "negative": (-1, 3072), "overflowing": (2**62, 2**62)}.items():
        state = b"(K\x01" + pickle.dumps(shape, 2)[2:-1] + b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87RI00\nC\x00tb"
        whole = b"\x80\x04}(C\x04data" + reconstruct[2:] + state + b"C\x06labels]K\x00au."
        yield f"array of a {name} shape", whole
    yield "memo of a giant number", b"\x80\x02Nr\xff\xff\xff\xff."
    yield "text memo of a giant number", b"Np4294967290\n."
    yield "bytes of a giant size", b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x."
    yield "a bytearray of a giant size", b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x."
    yield "text of a giant size", b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x."
    yield "a frame of a giant size", b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N."
    yield "a number of a giant size", b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"\x01."
    yield "a number of a negative size", b"\x80\x02\x8b" + struct.pack("<i", -5) + b"\x01."
    yield "deep nesting", b"\x80\x02" + b"(" * 200_000 + b"t" * 200_000 + b"."
    yield (
        "lists of lists of lists",
        b"\x80\x02]" + b"q\x00".join(b"(h\x00" + b"h\x00" * 9 + b"l" for _ in range(60)) + b".",
    )
    yield "tuples that double", b"\x80\x02N" + b"2\x86" * 200 + b"."
    yield "a dictionary that is its own key", b"\x80\x02}q\x00h\x00h\x00s."


class _Evil:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        import os

        return os.system, (self.command,)


def _call(module: str, name: str, argument: str, protocol: int) -> bytes:
    """Write a pickle that calls a function of a text, in the words of a protocol."""
    text = argument.encode()
    if protocol == 0:
        return b"c" + module.encode() + b"\n" + name.encode() + b"\n(S'" + text + b"'\ntR."
    if protocol == 2:
        return (
            b"\x80\x02c"
            + module.encode()
            + b"\n"
            + name.encode()
            + b"\nX"
            + struct.pack("<I", len(text))
            + text
            + b"\x85R."
        )
    names = b"".join(b"\x8c" + bytes([len(each)]) + each for each in (module.encode(), name.encode()))
    return b"\x80\x04" + names + b"\x93X" + struct.pack("<I", len(text)) + text + b"\x85R."
