"""Forged options, metrics and data: of alias bombs, giant sizes, and what packs a lot into little."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.faults.hostile_case import Hostile, replaced_bytes, replaced_text

#: Recipes that may be read: what they ask for is small, or bad for their own training alone.
HARMLESS = ("aliases of aliases in an option", "a number in base sixty")


def cases(trap: Path) -> Iterator[Hostile]:
    """Yield all of these; code would make the file `trap`."""
    for name, text in _recipes(trap).items():
        forge = partial(replaced_text, name="recipe.yaml", text=text)
        yield Hostile("recipe", f"YAML: {name}", forge, harmless=name in HARMLESS)
        yield Hostile("run", f"YAML: {name}", partial(replaced_text, name="run/config.yaml", text=text))
    for name, line in _lines().items():
        yield Hostile("run", f"metrics: {name}", partial(_appended, line=line), harmless=True)
    for name, content in _idx().items():
        yield Hostile("IDX", name, partial(replaced_bytes, name="train-images-idx3-ubyte", content=content))
    for name, content in _packed().items():
        yield Hostile("IDX", name, partial(replaced_bytes, name="train-labels-idx1-ubyte.gz", content=content))
    for name, content in _pictures().items():
        yield Hostile("folders of images", name, partial(replaced_bytes, name="train/cat/0.png", content=content))
    for name, shards in _shards().items():
        yield Hostile("WebDataset shards", name, shards)


def _recipes(trap: Path) -> dict[str, str]:
    budget = "keep: 0.5\n"
    bomb = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 'x'}]\n" for i in range(12))
    merges = "m0: &m0 {x: 1}\n"
    merges += "".join(f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 9)}]}}\n" for i in range(1, 12))
    run = f"!!python/object/apply:os.system ['touch {trap}']"
    return {
        "a call": f"{budget}model_args: {run}\n",
        "a call as key": f"{budget}? {run}\n: 1\n",
        "a module": f"{budget}model: !!python/module:os\n",
        "a new object": f"{budget}model_args: !!python/object/new:os.system ['touch {trap}']\n",
        "aliases of aliases": bomb,
        "aliases of aliases in an option": f"{budget}overrides: {{x: &a [x, x], y: &b [*a, *a], z: &c [*b, *b, *b]}}\n",
        "merges of merges": merges,
        "an alias of itself": f"{budget}overrides: &a {{x: *a}}\n",
        "a list of itself": f"{budget}include: &a [*a]\n",
        "deep lists": "x: " + "[" * 20_000 + "]" * 20_000,
        "deep maps": "{a: " * 20_000 + "1" + "}" * 20_000,
        "a number of many digits": f"{budget}epochs: 1{'0' * 5000}\n",
        "a number in base sixty": f"{budget}epochs: {':'.join(['59'] * 2000)}\n",
        "a date": f"{budget}epochs: 2001-01-01\n",
        "two documents": "keep: 0.5\n---\nkeep: 0.4\n",
        "a giant batch": f"{budget}batch_size: {10**30}\nmodel_args: [1]\n",
        "not a number": f"{budget}lr: .nan\n",
    }  # fmt: skip


def _lines() -> dict[str, str]:
    return {
        "a step beyond counting": '{"kind": "epoch", "step": 1e999}',
        "a step of many digits": '{"kind": "epoch", "step": 1' + "0" * 5000 + "}",
        "a step that is a text": '{"kind": "epoch", "step": "0x10"}',
        "no kind": '{"step": 1}',
        "a corrupt image without a name": '{"kind": "corrupt", "step": 1}',
        "a list": "[1, 2, 3]",
        "deep lists": "[" * 100_000 + "]" * 100_000,
        "ranks that are none": '{"kind": "projection", "step": 1, "ranks": 7}',
    }


def _appended(folder: Path, *, line: str) -> None:
    path = folder / "run" / "metrics.jsonl"
    first, *rest = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([first, line, *rest, ""]), encoding="utf-8")


def _idx() -> dict[str, bytes]:
    def header(*sizes: int) -> bytes:
        return b"\0\0\x08" + bytes([len(sizes)]) + b"".join(struct.pack(">I", size) for size in sizes)

    return {
        "images of a giant size": header(2**32 - 1, 2**32 - 1, 2**32 - 1),
        "images in 255 dimensions": b"\0\0\x08\xff" + b"\xff" * 1020,
        "images without a size": header(0, 2**32 - 1, 2**32 - 1),
        "images that are not square": header(24, 1, 28 * 28) + bytes(24 * 28 * 28),
        "images of floats": b"\0\0\x0d\x03" + header(24, 28, 28)[4:] + bytes(4 * 24 * 28 * 28),
    }


def _packed() -> dict[str, bytes]:
    return {
        "zeros, packed a thousandfold": zeros(4 * 2**30),
        "zeros, packed twice": gzip.compress(zeros(2**30)),
        "many empty members": gzip.compress(b"") * 20_000,
        "a member that says it is empty": gzip.compress(bytes(1000))[:-4] + bytes(4),
    }


def zeros(size: int) -> bytes:
    """Return so many zeros as members of a gzip file, a thousandth as large."""
    block = 2**24
    return gzip.compress(bytes(block)) * (size // block)


def _pictures() -> dict[str, bytes]:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    def png(width: int, height: int, *chunks: bytes) -> bytes:
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")

    return {
        "a picture of a giant size": png(2**31 - 1, 2**31 - 1),
        "a picture of 10 gigapixels": png(100_000, 100_000, chunk(b"IDAT", zlib.compress(b""))),
        "a text chunk packed a thousandfold": png(8, 8, chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(2**28)))),
        "a profile packed a thousandfold": png(8, 8, chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(2**28)))),
        "a page of PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n",
        "a vector image with an entity": b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><svg>&a;</svg>',
    }  # fmt: skip


def _shards() -> dict[str, Callable[[Path], object]]:
    def shard(folder: Path, *members: tuple[str, bytes, dict[str, object]]) -> None:
        with tarfile.open(folder / "train-000.tar", "w") as file:
            for name, content, changes in members:
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                for field, value in changes.items():
                    setattr(entry, field, value)
                file.addfile(entry, io.BytesIO(content))

    def without_names(folder: Path) -> None:
        (folder / "classes.txt").unlink()
        shard(folder, picture, ("0.cls", b"40000000", {}))

    picture = ("0.png", b"x" * 100, dict[str, object]())
    link: dict[str, object] = {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}
    return {
        "a giant class": lambda folder: shard(folder, picture, ("0.cls", b"4000000000", {})),
        "a giant class without a list of names": without_names,
        "a class beyond counting": lambda folder: shard(folder, picture, ("0.cls", b"9" * 20, {})),
        "a class in digits of another script": lambda folder: shard(folder, picture, ("0.cls", "²".encode(), {})),
        "a class that is a link": lambda folder: shard(folder, picture, ("0.cls", b"", link)),
        "a name out of the folder": lambda folder: shard(
            folder, ("../../x.png", b"x", {}), ("../../x.cls", b"0", {"type": tarfile.DIRTYPE})
        ),
        "a member of a giant size": lambda folder: _resized(folder, b"77777777777\0"),
        "a member of a negative size": lambda folder: _resized(folder, b"\xff" * 12),
    }


def _resized(folder: Path, size: bytes) -> None:
    """Give the first member of a shard another size, and its header the right checksum."""
    path = folder / "train-000.tar"
    data = bytearray(path.read_bytes())
    data[124:136] = size
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    path.write_bytes(data)
