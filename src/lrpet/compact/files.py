"""Save and load compact models: a folder of safetensors and JSON, nothing pickled.

In the folder:

    model.safetensors   every parameter and persistent buffer
    lrpet.json          format version, plan, and how to make the full-size network again where it has a name
    README.md           what this is and how to read it, for people and for hubs of models
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_model
from torch import nn

from lrpet.compact.factorize import skeleton
from lrpet.compact.write import written_folder
from lrpet.models.factory import Source
from lrpet.planning.plan import Plan

FORMAT = 1
WEIGHTS, MANIFEST, CARD = "model.safetensors", "lrpet.json", "README.md"


def save(
    model: nn.Module,
    folder: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write the compact `model`, as `lrpet.factorize` made it, to `folder`, and return the folder's path.

    The folder appears whole or not at all. `metadata` is anything JSON can hold that belongs with the weights, such as
    class names or the mean and deviation of the inputs; `lrpet.read_metadata` gives it back.

    Raises:
        ValueError: `model` is not a compact model.
        FileExistsError: `folder` exists, and `overwrite` is not set or it is something else than a compact model.
    """
    plan = getattr(model, "lrpet_plan", None)
    if not isinstance(plan, Plan):
        raise ValueError(
            f"this {type(model).__name__} is not a compact model: pass what lrpet.factorize(model, plan) returned"
        )
    source = getattr(model, "lrpet_source", None)
    manifest = {
        "format": FORMAT,
        "lrpet": _version(),
        "torch": torch.__version__,
        "class": f"{type(model).__module__}.{type(model).__qualname__}",
        "model": source.to_dict() if isinstance(source, Source) else None,
        "plan": plan.to_dict(),
        "metadata": dict(metadata or {}),
    }
    if overwrite and Path(folder).exists() and not (Path(folder) / MANIFEST).is_file():
        raise FileExistsError(
            f"{folder} exists and is no compact model, so it is not overwritten: choose another folder"
        )
    with written_folder(Path(folder), overwrite=overwrite) as temporary:
        save_model(model, str(temporary / WEIGHTS), metadata={"format": "pt"})
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        (temporary / CARD).write_text(_card(model, source), encoding="utf-8")
    return Path(folder)


def load(
    folder: str | os.PathLike[str], model: nn.Module | None = None, *, device: str | torch.device = "cpu"
) -> nn.Module:
    """Read a compact model back, in eval mode, with the dtypes it was saved in.

    Args:
        folder: What `lrpet.save` wrote.
        model: A freshly made full-size network of the same architecture; left untouched. Not needed if the saved one came
            from `lrpet.models.create`: its name is in the folder.
        device: Where to put it.

    Raises:
        FileNotFoundError: `folder` is no such folder.
        ValueError: it is damaged or of a newer format, `model` is missing, or `model` is another network.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    plan = Plan.from_dict(manifest["plan"])
    if model is None:
        if manifest["model"] is None:
            raise ValueError(
                f"{folder} holds a {manifest['class']}, which lrpet cannot make by name: "
                "make the full-size network yourself and pass it as `model`"
            )
        model = Source.from_dict(manifest["model"]).build()
    compact = skeleton(model, plan)
    try:
        _match_dtypes(compact, folder / WEIGHTS)
        load_weights(compact, folder / WEIGHTS)
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(
            f"{folder / WEIGHTS} does not fit this {type(model).__name__}: the file is damaged, or `model` is not the "
            f"network it was saved from. {error}"
        ) from None
    return compact.to(device).eval()


def read_metadata(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The `metadata` a compact model was saved with. Raises as `load` does."""
    metadata = read_manifest(Path(folder)).get("metadata")
    return metadata if isinstance(metadata, dict) else {}


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a saved folder, checked for its format. Raises as `load` does."""
    path = folder / MANIFEST
    if not path.is_file() or not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(f"{folder} is no compact model: expected {MANIFEST} and {WEIGHTS} in it")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged: not JSON ({error})") from None
    if not isinstance(manifest, dict) or "format" not in manifest:
        raise ValueError(f"{path} is damaged: it names no format")
    if manifest["format"] != FORMAT:
        raise ValueError(
            f"{path} has format {manifest['format']!r}, this version of lrpet reads format {FORMAT}: update lrpet"
        )
    if missing := {"class", "model", "plan"} - manifest.keys():
        raise ValueError(f"{path} is damaged: it lacks {', '.join(sorted(missing))}")
    return manifest


def model_card(model: nn.Module, *, name: str, usage: str) -> str:
    """Text for a folder's README.md: front matter for hubs, `usage` as code, and the table of the compact model's plan."""
    plan = model.lrpet_plan
    assert isinstance(plan, Plan)
    return (
        f"---\nlibrary_name: lrpet\ntags: [low-rank, compact]\n---\n\n# {name}, compact\n\n{plan.summary()}\n\n"
        f"```python\n{usage}\n```\n\n"
        "What was decided for every layer; costs are those of the example that the plan was made with.\n\n"
        f"```\n{plan}\n```\n"
    )


def _card(model: nn.Module, source: object) -> str:
    if isinstance(source, Source):
        return model_card(model, name=source.name, usage='import lrpet\n\ncompact = lrpet.load("this folder")')
    name = type(model).__name__
    made = f"model = ...  # a full-size {name}, freshly made"
    return model_card(model, name=name, usage=f'import lrpet\n\n{made}\ncompact = lrpet.load("this folder", model)')


def _version() -> str:
    try:
        return version("lrpet")
    except PackageNotFoundError:  # run from a source tree
        return "unknown"


def load_weights(model: nn.Module, weights: Path) -> None:
    """Fill `model` from the file, which keeps one name of tensors that are shared. Raises RuntimeError if they do not fit."""
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


def _match_dtypes(model: nn.Module, weights: Path) -> None:
    """Give `model`'s tensors the dtypes they have in the file, so that loading converts nothing."""
    # Every name of tied tensors: the file keeps one of them, not always the first.
    parameters, buffers = model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)
    tensors = {**dict(parameters), **dict(buffers)}
    with safe_open(weights, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118
            tensor = tensors.get(name)
            if tensor is not None:
                tensor.data = tensor.data.to(_DTYPES.get(file.get_slice(name).get_dtype(), tensor.dtype))


_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
