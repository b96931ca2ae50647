"""Files of weights: their digest and header, and filling a network from one."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sort_header_(weights: Path) -> None:
    """Sort what the header of a file says beside its tensors, so that equal weights are equal files.

    safetensors writes it in an order that is drawn anew in every process. Tied weights have two entries or more.
    """
    with weights.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(size)
        assert len(text) == size
        file.seek(8)
        file.write(text)


def check_header(model: nn.Module, weights: Path) -> None:
    """Compare the names and shapes of a model, which may be on the meta device, with those in the file.

    Raises RuntimeError if they differ. Tensors that are shared need one of their names in the file.
    """
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    names: dict[int, list[str]] = defaultdict(list)
    for name, tensor in tensors:
        names[id(tensor)].append(name)
    aliases, own = {name: names[id(tensor)] for name, tensor in tensors}, model.state_dict()
    with safe_open(weights, framework="pt") as file:
        stored = set(file.keys())
        # Only what the model has is looked at: in old releases of safetensors each look goes through all names.
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in own if name in stored}
    missing = [name for name in own if stored.isdisjoint(aliases.get(name, [name]))]
    wrong = [name for name, shape in shapes.items() if tuple(own[name].shape) != shape]
    if missing or wrong:
        raise RuntimeError(f"missing: {', '.join(missing) or 'none'}; of another shape: {', '.join(wrong) or 'none'}")


def tensors_in(weights: Path) -> int:
    """Return the number of tensors in the file."""
    with safe_open(weights, framework="pt") as file:
        return len(file.keys())


@contextmanager
def at_most(count: int, weights: Path) -> Iterator[None]:
    """Raise ValueError where a network that is made in the block comes to have more parameters than this.

    So the name beside a file of a few weights cannot ask for a million layers, which take hours to make, even without memory.
    """
    made = 0

    def counted(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal made
        made += parameter is not None
        if made > count:
            raise ValueError(f"{weights} does not fit the network that is named beside it, which has far more layers")

    handle = register_module_parameter_registration_hook(counted)
    try:
        yield
    finally:
        handle.remove()


def load_weights(model: nn.Module, weights: Path) -> None:
    """Fill `model` from the file, which keeps one name of tensors that are shared.

    Raises RuntimeError if file and model do not fit.
    """
    own = model.state_dict()
    state = OrderedDict(load_file(weights))
    state._metadata = getattr(own, "_metadata", None)  # type: ignore[attr-defined]  # versions, which some modules ask for
    result = model.load_state_dict(state, strict=False)
    stored = {(own[name].data_ptr(), own[name].shape) for name in state if name in own}
    missing = [name for name in result.missing_keys if (own[name].data_ptr(), own[name].shape) not in stored]
    if missing or result.unexpected_keys:
        raise RuntimeError(
            f"missing: {', '.join(missing) or 'none'}; not asked for: {', '.join(result.unexpected_keys)}"
        )


def match_dtypes(model: nn.Module, weights: Path) -> None:
    """Give the model's tensors the dtypes they have in the file, so that loading converts nothing."""
    # Every name of tied tensors: the file keeps one of them, not always the first.
    parameters, buffers = model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)
    tensors = {**dict(parameters), **dict(buffers)}
    with safe_open(weights, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118
            tensor = tensors.get(name)
            if tensor is not None:
                tensor.data = tensor.data.to(_DTYPES.get(file.get_slice(name).get_dtype(), tensor.dtype))
