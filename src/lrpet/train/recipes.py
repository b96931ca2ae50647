"""The recipes that come with lrpet, wherever it is installed."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parents[1]
#: Beside the package's modules in a wheel, and at the root of a checkout.
FOLDERS = (PACKAGE / "recipes", PACKAGE.parents[1] / "recipes")


def known() -> dict[str, Path]:
    """Return {name: file} of the recipes that come with lrpet, by their names without a suffix."""
    return {file.stem: file for folder in reversed(FOLDERS) for file in sorted(folder.glob("*.yaml"))}


def recipe_at(path: Path) -> Path:
    """Return the file that a path means: that file if it is there, else the recipe of lrpet with its name.

    NAME, NAME.yaml and recipes/NAME.yaml mean lrpet's recipe NAME. Raises FileNotFoundError if there is neither.
    """
    if path.is_file():
        return path
    ours = known()
    if path.parent in (Path(), Path("recipes")) and path.suffix in ("", ".yaml") and path.stem in ours:
        return ours[path.stem]
    raise FileNotFoundError(f"there is no recipe {path}, and lrpet has {', '.join(sorted(ours))}")
