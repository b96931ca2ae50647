"""Nested values in a safetensors file: tensors as they are, all else as JSON beside them. Nothing is pickled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from lrpet.planning.plain import read_json

#: Where the JSON is in a file's metadata.
_TREE = "tree"


def save_tree(value: Any, path: Path) -> None:
    """Write dictionaries, lists and tuples of tensors, numbers, strings and None, nested in any way.

    Tensors that are one and the same are written once. Raises TypeError for any other value.
    """
    tensors: dict[str, Tensor] = {}
    names: dict[Any, str] = {}

    def plain(value: Any) -> Any:
        if isinstance(value, Tensor):
            key = (value.data_ptr(), value.shape, value.stride(), value.dtype) if value.numel() else object()
            if key not in names:
                names[key] = str(len(tensors))
                tensors[names[key]] = value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            return {"tensor": names[key]}
        if isinstance(value, dict):
            return {"dict": [[plain(key), plain(each)] for key, each in value.items()]}
        if isinstance(value, list | tuple):
            return {"tuple" if isinstance(value, tuple) else "list": [plain(each) for each in value]}
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise TypeError(f"a {type(value).__name__} cannot be stored: only tensors and plain values can")

    tree = json.dumps(plain(value))
    save_file(tensors, path, metadata={_TREE: tree})


def load_tree(path: Path) -> Any:
    """Read what `save_tree` wrote; tensors are on the CPU.

    Raises FileNotFoundError, or SafetensorError, KeyError, TypeError or ValueError if the file is damaged.
    """
    with safe_open(path, framework="pt") as file:
        tree = read_json((file.metadata() or {})[_TREE])
        tensors: dict[str, Tensor] = {}

        def value(node: Any) -> Any:
            if not isinstance(node, dict):
                return node
            ((kind, content),) = node.items()
            if kind == "tensor":
                if content not in tensors:
                    tensors[content] = file.get_tensor(content)
                return tensors[content]
            if kind == "dict":
                return {value(key): value(each) for key, each in content}
            if kind in ("list", "tuple"):
                return [value(each) for each in content] if kind == "list" else tuple(value(each) for each in content)
            raise ValueError(f"{path} holds a {kind}, which nothing here has written")

        return value(tree)
