"""Save and load compact models: a folder of safetensors and JSON, nothing pickled.

In the folder:

    model.safetensors   every parameter and persistent buffer
    lrpet.json          format version, plan, and how to make the full-size network again where it has a name
    README.md           what this is and how to read it, for people and for hubs of models
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_model
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from lrpet.compact.card import UNKNOWN, folder_card
from lrpet.compact.steady import read_steady
from lrpet.compact.structure import skeleton
from lrpet.compact.weights import at_most, check_header, digest, load_weights, match_dtypes, sort_header_, tensors_in
from lrpet.compact.write import written_folder
from lrpet.layers.factors import FactorPair
from lrpet.layers.sound import check_network
from lrpet.layers.wrapping import unwrapped
from lrpet.planning.plain import check_plain, read_json
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

    The folder appears whole or not at all; other files that were in it stay. `metadata` is anything JSON can hold that
    belongs with the weights, such as class names or the mean and deviation of the inputs; `lrpet.read_metadata` gives it back.
    Its "license", if it has one, is that of the card.

    Raises:
        ValueError: `model` is not a compact model, or is what `lrpet.optimize` made of one, or holds tensors that have no plain
            storage, such as quantised ones; a weight or a batch norm holds NaN or Inf, or a negative variance; or `metadata`
            is not what JSON can hold. Nothing is written then.
        FileExistsError: `folder` exists, and `overwrite` is not set or it is something else than a compact model. Nothing is
            lost then: the network is written beside it, to the first free name such as "compact-2".
    """
    model = unwrapped(model)
    plan = getattr(model, "lrpet_plan", None)
    if not isinstance(plan, Plan):
        raise ValueError(
            f"this {type(model).__name__} is not a compact model: pass what lrpet.factorize(model, plan) returned"
        )
    check_structure(model, plan)
    _check_plain(model)
    check_network(model, "a network that cannot be used is not saved")
    check_plain({} if metadata is None else metadata, "metadata")
    folder = Path(folder)
    known = (folder / MANIFEST).is_file()
    if not folder.exists() or (overwrite and known):
        _write(model, plan, folder, overwrite=overwrite, metadata=metadata)
        return folder
    numbered = (folder.with_name(f"{folder.name}-{i}") for i in itertools.count(2))
    beside = next(path for path in numbered if not path.exists())
    _write(model, plan, beside, overwrite=False, metadata=metadata)
    hint = "pass overwrite=True to replace it" if known else "it is no compact model, and is not overwritten"
    raise FileExistsError(
        f"{folder} exists: {hint}. The network was written to {beside} instead, so that nothing is lost"
    )


def check_structure(model: nn.Module, plan: Plan) -> None:
    """Raise ValueError for a network with other layers than its plan says, which could not be read back.

    `lrpet.optimize` folds layers together, and a network that was factorised twice has factors of both times.
    """
    if hasattr(model, "lrpet_folded"):
        raise ValueError(
            "lrpet.optimize folded layers together, so that this network could not be read back: "
            "save the compact network, and optimise what is loaded again"
        )
    planned = tuple(f"{name}." for name in plan.ranks)
    pairs = (name for name, module in model.named_modules() if name and isinstance(module, FactorPair))
    if unknown := [name for name in pairs if not f"{name}.".startswith(planned)]:
        raise ValueError(
            f"{unknown[0]!r} is a factor pair that the plan of this {type(model).__name__} does not know, so that it could not "
            "be read back: the network was factorised twice. Factorise the full-size network, once"
        )


def _check_plain(model: nn.Module) -> None:
    """Raise ValueError for quantised and sharded weights: tensors that wrap others, which safetensors cannot hold."""
    for name, tensor in model.state_dict().items():
        if is_traceable_wrapper_subclass(tensor):
            raise ValueError(
                f"{name!r} is a {type(tensor).__name__}, which safetensors cannot hold: "
                "save the compact network before it is quantised or sharded, and do that again after lrpet.load"
            )


def _write(model: nn.Module, plan: Plan, folder: Path, *, overwrite: bool, metadata: Mapping[str, Any] | None) -> None:
    source: Any = getattr(model, "lrpet_source", None)
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "lrpet": _version(),
        "torch": torch.__version__,
        "class": f"{type(model).__module__}.{type(model).__qualname__}",
        "model": None if source is None else source.to_dict(),
        "plan": plan.to_dict(),
        "metadata": dict(metadata or {}),
    }
    with written_folder(folder, overwrite=overwrite, keep_others=True) as temporary:
        save_model(model, str(temporary / WEIGHTS), metadata={"format": "pt"})
        sort_header_(temporary / WEIGHTS)
        manifest["sha256"] = {WEIGHTS: digest(temporary / WEIGHTS)}
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        licence = str((metadata or {}).get("license") or UNKNOWN)
        text = folder_card(model, plan, None if source is None else source.name, licence=licence)
        (temporary / CARD).write_text(text, encoding="utf-8")


def load(
    folder: str | os.PathLike[str], model: nn.Module | None = None, *, device: str | torch.device = "cpu"
) -> nn.Module:
    """Read a compact model back, in eval mode, with the dtypes it was saved in.

    Args:
        folder: What `lrpet.save` wrote, or the folder of a finished run, which holds one as "compact".
        model: A freshly made full-size network of the saved one's architecture; left untouched. Networks of
            `lrpet.models.create`, timm and torchvision are made by the name that is in the folder.
        device: The device that the network is put on.

    Raises:
        FileNotFoundError: `folder` is no such folder.
        ValueError: it is damaged or of a newer format, `model` is missing, or `model` is another network.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).exists() and (folder / "compact" / MANIFEST).is_file():
        folder /= "compact"
    return read_steady(folder / MANIFEST, lambda: _loaded(folder, model, device))


def _loaded(folder: Path, model: nn.Module | None, device: str | torch.device) -> nn.Module:
    manifest = read_manifest(folder)
    plan = Plan.from_dict(manifest["plan"])
    _check_digest(folder / WEIGHTS, manifest.get("sha256") or {})  # lrpet 0.1 wrote none
    if model is None:
        if manifest["model"] is None:
            raise ValueError(
                f"{folder} holds a {manifest['class']}, which lrpet cannot make by name: "
                "make the full-size network yourself and pass it as `model`"
            )
        model = _made(manifest["model"], plan, folder / WEIGHTS)
    compact = skeleton(model, plan)
    with _fitting(folder / WEIGHTS, type(model).__name__):
        match_dtypes(compact, folder / WEIGHTS)
        load_weights(compact, folder / WEIGHTS)
    return compact.to(device).eval()


def _made(source: Any, plan: Plan, weights: Path) -> nn.Module:
    """Make the full-size network that a manifest names, once its weights without memory have shown that the file fits."""
    from lrpet.models import Source

    named = Source.from_dict(source)
    with _fitting(weights, named.name):
        most = 4 * tensors_in(weights) + 1000  # some are made and replaced
    with at_most(most, weights):
        try:
            with torch.device("meta"):
                probe = named.build()
        except (NotImplementedError, RuntimeError):  # it looks at values while it is made
            return named.build()
    with _fitting(weights, type(probe).__name__):
        check_header(skeleton(probe, plan), weights)
    return named.build()


@contextmanager
def _fitting(weights: Path, network: str) -> Iterator[None]:
    """Raise ValueError where a file of weights and a network do not fit."""
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(
            f"{weights} does not fit this {network}: the file is damaged, or `model` is not the network it was saved "
            f"from. {error}"
        ) from None


def read_metadata(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the `metadata` that a compact model was saved with. Raises as `load` does."""
    metadata = read_manifest(Path(folder)).get("metadata")
    return metadata if isinstance(metadata, dict) else {}


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a saved folder, checked for its format. Raises as `load` does."""
    path = folder / MANIFEST
    if not path.is_file() or not (folder / WEIGHTS).is_file():
        hint = (
            "; a folder of transformers is loaded by its from_pretrained" if (folder / "config.json").is_file() else ""
        )
        raise FileNotFoundError(f"{folder} is no compact model: expected {MANIFEST} and {WEIGHTS} in it{hint}")
    try:
        manifest = read_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if not isinstance(manifest, dict) or "format" not in manifest:
        raise ValueError(f"{path} is damaged: it names no format")
    if manifest["format"] != FORMAT:
        raise ValueError(
            f"{path} has format {manifest['format']!r}, this version of lrpet reads format {FORMAT}: update lrpet"
        )
    if missing := {"class", "model", "plan"} - manifest.keys():
        raise ValueError(f"{path} is damaged: it lacks {', '.join(sorted(missing))}")
    return manifest


def _check_digest(weights: Path, digests: Any) -> None:
    if not isinstance(digests, dict) or digests.get(WEIGHTS, found := digest(weights)) != found:
        raise ValueError(f"{weights} is damaged: it is not what {MANIFEST} says was written. Fetch it again")


def _version() -> str:
    try:
        return version("lrpet")
    except PackageNotFoundError:  # run from a source tree
        return "unknown"
