"""Whose a folder and a study are: what a search trains, and how it is searched, is kept in both."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna

from lrpet.compact.write import written
from lrpet.train.yaml_text import read_yaml, write_yaml

KEY = "search"
#: Seconds that the process that makes a study has, to say in it what is searched.
PATIENCE = 10.0

Described = Mapping[str, Mapping[str, Any]]


def check_folder(folder: Path, described: Described) -> None:
    """Raise ValueError, with what differs, if a folder holds another search. An empty recipe.yaml holds none."""
    path = folder / "recipe.yaml"
    try:
        kept = read_yaml(path.read_text(encoding="utf-8")) if path.exists() else None
        if kept:
            _flat(kept)
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f"{path} does not say what is searched in its folder ({error}): choose another folder"
        ) from None
    if kept:
        _check(kept, described, f"{folder} holds another search (see {path})", "choose another folder")


def mark_folder(folder: Path, described: Described) -> None:
    """Say in a folder what is searched."""
    folder.mkdir(parents=True, exist_ok=True)
    with written(folder / "recipe.yaml") as temporary:
        temporary.write_text(write_yaml(described), encoding="utf-8")


def mark_study(study: optuna.Study, described: Described) -> None:
    """Say in a study that was made here what is searched."""
    study.set_user_attr(KEY, described)


def is_marked(study: optuna.Study) -> bool:
    """Tell whether a study says what is searched; the process that has just made it is waited for."""
    until = time.monotonic() + PATIENCE
    while KEY not in study.user_attrs:
        if time.monotonic() > until:  # whoever made it was killed
            return False
        time.sleep(0.1)
    return True


def check_study(study: optuna.Study, described: Described) -> None:
    """Raise ValueError, with what differs, if a study is that of another search."""
    where = f"the study {study.study_name!r} is that of another search"
    _check(study.user_attrs[KEY], described, where, "give this worker that recipe, or choose another study")


def _check(kept: Described, described: Described, where: str, remedy: str) -> None:
    there, here = _flat(kept), _flat(described)
    differing = [name for name in (*here, *(there.keys() - here.keys())) if there.get(name) != here.get(name)]
    if differing:
        shown = "; ".join(f"{name} is {there.get(name)}, and {here.get(name)} here" for name in differing)
        raise ValueError(f"{where}, in which {shown}: {remedy}")


def _flat(described: Described) -> dict[str, Any]:
    return {name: value for part in described.values() for name, value in part.items()}
