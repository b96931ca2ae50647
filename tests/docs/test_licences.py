"""The table of licences names every package that lrpet needs, and what the installed releases say of themselves."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from typing import Any

from pages import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LINES = re.findall(r"^\| (\S+) \| (.+) \| (.+) \|$", (ROOT / "docs" / "licences.md").read_text("utf-8"), re.MULTILINE)[
    1:
]


#: {package: the licence that older releases named}.
EARLIER = {"pillow": "HPND"}


def test_every_package_is_listed_with_what_needs_it() -> None:
    needed: dict[str, list[str]] = {}
    for extra, packages in {"lrpet itself": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}.items():
        for name in (re.split(r"[\[>]", package)[0] for package in packages):
            needed.setdefault(name, []).append(extra if extra == "lrpet itself" else f"`{extra}`")
    del needed["lrpet"]
    assert {name: extras for name, _, extras in LINES} == {name: ", ".join(extras) for name, extras in needed.items()}


def test_licences_are_those_that_the_installed_releases_name() -> None:
    unknown = []
    for name, licence, _ in LINES:
        try:
            about: Any = metadata(name)
        except PackageNotFoundError:
            unknown.append(name)
            continue
        said = [about.get("License-Expression"), (about.get("License") or "")[:60], *about.get_all("Classifier", [])]
        families = {licence.removesuffix(" 2.0").removesuffix(" 3"), EARLIER.get(name, licence)}
        assert any(family in each for each in said if each for family in families), (name, said)
    assert set(unknown) <= {"executorch"}  # it goes with the newest torch alone
