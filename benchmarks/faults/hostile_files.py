"""Forged manifests, plans, weights and checkpoints, made from whole ones."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.faults.hostile_case import Hostile, replaced_bytes, replaced_text


def cases(trap: Path) -> Iterator[Hostile]:
    """Yield all of these; code would make the file `trap`."""
    for name, changes in _sources(trap).items():
        yield Hostile("compact network", f"source: {name}", partial(_with_source, changes=changes))
    for name, text in _texts().items():
        yield Hostile(
            "compact network", f"manifest: {name}", partial(replaced_text, name="compact/lrpet.json", text=text)
        )
        yield Hostile("plan", f"plan: {name}", partial(replaced_text, name="plan.json", text=text))
        yield Hostile("latency table", f"table: {name}", partial(replaced_text, name="table.json", text=text))
        yield Hostile(
            "exported network", f"manifest: {name}", partial(replaced_text, name="network.pt2.json", text=text)
        )
    for name, changes in _layers().items():
        yield Hostile("plan", f"layer: {name}", partial(_with_layer, changes=changes))
    for name, content in _weights().items():
        yield Hostile("compact network", f"weights: {name}", partial(_signed_weights, content=content))
        yield Hostile(
            "weights", f"weights: {name}", partial(replaced_bytes, name="weights.safetensors", content=content)
        )
        yield Hostile("checkpoints", f"state: {name}", partial(_signed_state, content=content))
    for name, changes in _exported().items():
        yield Hostile("exported network", name, partial(_with_export, changes=changes))


# ── manifests and plans ────────────────────────────────────────────────────────────────────────────────────────────────


def _sources(trap: Path) -> dict[str, dict[str, Any]]:
    timm = {"name": "timm:vit_tiny_patch16_224", "in_channels": 3}
    return {
        "a file to load": {**timm, "arguments": {"checkpoint_path": str(trap)}},
        "weights to fetch": {**timm, "arguments": {"pretrained": True}},
        "an overlay": {**timm, "arguments": {"pretrained_cfg": {"file": str(trap)}}},
        "a hub": {"name": "timm:hf_hub:somebody/something"},
        "a local folder": {"name": f"timm:local-dir:{trap}"},
        "a folder of transformers": {"name": f"hf:{trap.parent}"},
        "code of transformers": {"name": "hf:gpt2", "arguments": {"auto_map": {"AutoConfig": "evil.Config"}}},
        "kernels": {"name": "hf:gpt2", "arguments": {"attn_implementation": "somebody/kernel"}},
        "nested kernels": {
            "name": "hf:gpt2",
            "arguments": {"text_config": {"_attn_implementation": "somebody/kernel"}},
        },
        "many classes": {"num_classes": 2 * 10**10},
        "many channels": {"in_channels": 10**11},
        "a wide network": {**timm, "arguments": {"embed_dim": 3 * 10**6, "num_heads": 3}},
        "a deep network": {**timm, "arguments": {"depth": 10**5}},
        "large images": {**timm, "arguments": {"img_size": 10**6}},
        "a large language model": {"name": "hf:gpt2", "arguments": {"n_embd": 2**20, "n_layer": 2, "n_head": 2}},
        "a deep language model": {"name": "hf:gpt2", "arguments": {"n_layer": 10**6}},
        "no classes": {"num_classes": 0},
        "a name of nothing": {"name": ""},
        "a path as name": {"name": "../../../../etc/passwd"},
        "a foreign class": {"name": "os.system"},
        "a foreign layer": {**timm, "arguments": {"norm_layer": "os.system", "act_layer": "builtins.eval"}},
    }


def _texts() -> dict[str, str]:
    return {
        "deep lists": "[" * 100_000 + "]" * 100_000,
        "deep objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
        "a number of many digits": '{"format": 1' + "0" * 5000 + "}",
        "a list": "[]",
        "a text": '"lrpet"',
        "nothing": "null",
        "infinity": '{"format": Infinity}',
        "a format of another type": json.dumps(dict.fromkeys(("format", "version", "class", "model", "plan"), True)),
        "half of a surrogate": '{"format": "\\ud800"}',
    }


def _layers() -> dict[str, dict[str, Any]]:
    return {
        "rows beyond counting": {"rows": 10**30, "columns": 10**30, "rank": 10**20},
        "another shape": {"rows": 1, "columns": 1, "rank": 1},
        "no groups": {"groups": 0},
        "a negative rank": {"rank": -1},
        "a rank of true": {"rank": True},
        "a dunder name": {"name": "__class__"},
        "a nested dunder name": {"name": "conv1.__init__.__globals__"},
        "a path as name": {"name": "../../etc/passwd"},
        "a batch norm that is none": {"batch_norm": "__dict__"},
        "a field too many": {"evil": 1},
    }


def _with_source(folder: Path, *, changes: dict[str, Any]) -> None:
    path = folder / "compact" / "lrpet.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["model"] |= changes
    path.write_text(json.dumps(manifest), encoding="utf-8")


def _with_layer(folder: Path, *, changes: dict[str, Any]) -> None:
    path = folder / "plan.json"
    plan = json.loads(path.read_text(encoding="utf-8"))
    next(layer for layer in plan["layers"] if layer["rank"] is not None).update(changes)
    path.write_text(json.dumps(plan), encoding="utf-8")


def _exported() -> dict[str, dict[str, Any]]:
    tensor = {"name": "x", "dtype": "float32", "shape": [1, 16], "batched": True, "mean": 0.0, "std": 1.0}
    return {
        "a large batch": {"batch": {"example": 10**9, "dynamic": True}, "inputs": [tensor]},
        "a path out of the folder": {"files": {"../../etc/passwd": {}, "network.pt2": {}}},
        "no inputs": {"inputs": []},
        "a foreign dtype": {"inputs": [{**tensor, "dtype": "load"}]},
        "a large input": {"inputs": [{**tensor, "shape": [10**6, 10**6], "batched": False}]},
        "a foreign format": {"format": "pickle"},
    }


def _with_export(folder: Path, *, changes: dict[str, Any]) -> None:
    path = folder / "network.pt2.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


# ── weights and checkpoints ────────────────────────────────────────────────────────────────────────────────────────────


def _weights() -> dict[str, bytes]:
    def stored(header: Any, data: bytes = b"") -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + data

    def tensor(shape: list[int], end: int, dtype: str = "F32") -> dict[str, Any]:
        return {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}

    tree = {"__metadata__": {"tree": '{"list": [' + '{"list": [' * 50_000 + "]}" * 50_001}}
    return {
        "a header of a giant size": struct.pack("<Q", 2**60) + b"{}",
        "a header beyond the file": struct.pack("<Q", 10**6) + b"{}",
        "a header of spaces": stored(b" " * 10**6),
        "a tensor of a giant shape": stored({"x": tensor([2**40, 2**20], 4)}, b"\0" * 4),
        "a tensor whose size overflows": stored({"x": tensor([2**63, 2], 0)}),
        "a tensor beyond the file": stored({"x": tensor([4], 16)}),
        "tensors that overlap": stored({"x": tensor([1], 4), "y": tensor([1], 4)}, b"\0" * 4),
        "a tensor of an unknown kind": stored({"x": tensor([1], 4, "PICKLE")}, b"\0" * 4),
        "a header of many names": stored({str(i): tensor([0], 0) for i in range(20_000)}),
        "a deep header": stored(b'{"x":' * 10_000 + b"1" + b"}" * 10_000),
        "a deep tree": stored(tree),
        "a tree of another kind": stored({"__metadata__": {"tree": '{"module": "os.system"}'}}),
        "a tree with a key that cannot be one": stored({"__metadata__": {"tree": '{"dict": [[{"list": []}, 1]]}'}}),
        "a pickle": b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.",
    }


def _signed_weights(folder: Path, *, content: bytes) -> None:
    replaced_bytes(folder, name="compact/model.safetensors", content=content)
    path = folder / "compact" / "lrpet.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["sha256"] = {"model.safetensors": hashlib.sha256(content).hexdigest()}
    path.write_text(json.dumps(manifest), encoding="utf-8")


def _signed_state(folder: Path, *, content: bytes) -> None:
    for checkpoint in (folder / "run" / "checkpoints").iterdir():
        replaced_bytes(checkpoint, name="state.safetensors", content=content)
        sums = [line.split("  ") for line in (checkpoint / "SHA256SUMS").read_text("utf-8").splitlines()]
        lines = [f"{hashlib.sha256((checkpoint / name).read_bytes()).hexdigest()}  {name}\n" for _, name in sums]
        (checkpoint / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")
