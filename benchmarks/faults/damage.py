"""Damage to a file, drawn at random: of its bytes, of the values in it, and that of another file in its place."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import yaml

#: Values that take the place of others in JSON and YAML.
ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, 10**30, -(2**70), 0.5, -0.0, 1e308, float("nan"), float("inf"), "", "x", "0",
    "../../../etc/passwd", "\x00", "é\u2028\ud83d\ude00", "a" * 5000, [], [[]], {}, {"": ""}, [None], {"x": [1, {"y": None}]},
)  # fmt: skip


def bits(data: bytes, random: Random) -> bytes:
    """Flip one to eight bits."""
    changed = bytearray(data)
    for _ in range(random.randint(1, 8)):
        if changed:
            changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def truncated(data: bytes, random: Random) -> bytes:
    """Cut the end off."""
    return data[: random.randrange(len(data) + 1)]


def zeroed(data: bytes, random: Random) -> bytes:
    """Put zeros in the place of a block."""
    begin, size = random.randrange(len(data) + 1), random.choice((1, 8, 64, 512, 4096))
    return data[:begin] + b"\0" * len(data[begin : begin + size]) + data[begin + size :]


def scrambled(data: bytes, random: Random) -> bytes:
    """Put random bytes in the place of a block near the beginning, where headers are."""
    begin, size = random.randrange(min(len(data), 256) + 1), random.choice((1, 2, 4, 8, 32))
    return data[:begin] + random.randbytes(size) + data[begin + size :]


def inserted(data: bytes, random: Random) -> bytes:
    """Write a block a second time."""
    begin, size = random.randrange(len(data) + 1), random.choice((1, 8, 512))
    return data[:begin] + data[begin : begin + size] + data[begin:]


def emptied(data: bytes, random: Random) -> bytes:
    """Leave nothing, or white space alone."""
    return random.choice((b"", b"\n", b" \n\t", b"\0", b"\xff\xfe"))


ANY = (bits, truncated, zeroed, scrambled, inserted, emptied)


def of_json(data: bytes, random: Random) -> bytes:
    """Change one value of a JSON text."""
    return json.dumps(changed(json.loads(data), random)).encode("utf-8", "surrogatepass")


def of_json_lines(data: bytes, random: Random) -> bytes:
    """Change one value in one of several lines of JSON."""
    lines = data.splitlines()
    place = random.randrange(len(lines))
    lines[place] = of_json(lines[place], random)
    return b"\n".join(lines) + b"\n"


def of_yaml(data: bytes, random: Random) -> bytes:
    """Change one value of a YAML text."""
    return yaml.safe_dump(changed(yaml.safe_load(data), random), allow_unicode=True).encode("utf-8", "surrogatepass")


def of_header(data: bytes, random: Random) -> bytes:
    """Change one value in the header of a safetensors file, or in the JSON text that it may hold."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    texts = header.get("__metadata__", {})
    if "tree" in texts and random.random() < 0.5:
        texts["tree"] = of_json(texts["tree"].encode(), random).decode("utf-8", "replace")
    else:
        header = changed(header, random)
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return len(text).to_bytes(8, "little") + text + data[end:]


def of_compressed(data: bytes, random: Random) -> bytes:
    """Damage what a gzip file holds, so that its checksum is right."""
    return gzip.compress(random.choice(ANY)(gzip.decompress(data), random), mtime=0)


#: {ending of a file's name: damage that knows what is in it}.
KNOWING: dict[str, Callable[[bytes, Random], bytes]] = {
    ".json": of_json,
    ".jsonl": of_json_lines,
    ".journal": of_json_lines,
    ".yaml": of_yaml,
    ".safetensors": of_header,
    ".gz": of_compressed,
}


def changed(values: Any, random: Random) -> Any:
    """Change one value, anywhere in nested lists and dictionaries: it becomes odd, goes, gets another name, or is nested."""
    places = list(_places(values))
    if not places:
        return random.choice(ODD)
    container, key = random.choice(places)
    way = random.randrange(6)
    if way == 0:
        del container[key]
    elif way == 1 and isinstance(container, dict):
        container[random.choice((key + "x", "", "format", "name"))] = container.pop(key)
    elif way == 2:
        container[key] = random.choice(([container[key]], {"value": container[key]}))
    elif way == 3 and isinstance(container[key], int | float):
        container[key] *= random.choice((-1, 0.5, 2, 1000, 2**40, 0))
    elif way == 4 and isinstance(container, list):
        container.insert(key, container[key])
    else:
        container[key] = random.choice(ODD)
    return values


def _places(values: Any) -> Iterator[tuple[Any, Any]]:
    keys = list(values) if isinstance(values, dict) else range(len(values)) if isinstance(values, list) else ()
    for key in keys:
        yield values, key
        yield from _places(values[key])


def damaged(folder: Path, names: Sequence[str], random: Random) -> str:
    """Damage one of these files in `folder`, and return in words what was done."""
    name = random.choice(names)
    path = folder / name
    data, knows = path.read_bytes(), KNOWING.get(path.suffix)
    if len(names) > 1 and random.random() < 0.05:
        other = random.choice([each for each in names if each != name])
        path.write_bytes((folder / other).read_bytes())
        return f"{name} is {other}"
    if random.random() < 0.02:
        path.unlink()
        return f"{name} is missing"
    way = knows if knows is not None and random.random() < 0.6 else random.choice(ANY)
    path.write_bytes(way(data, random))
    return f"{name}, {way.__name__}"
