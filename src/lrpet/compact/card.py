"""The card of a saved compact model: what it is and how to read it, for people and for hubs of models."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lrpet.planning.plan import Plan
from lrpet.planning.text import fenced, markdown, printable

#: The licence that a card names where none was said.
UNKNOWN = "unknown"
#: The words that a card's table of layers begins with.
LAYERS = "What was decided for every layer"


def folder_card(model: nn.Module, plan: Plan, source: str | None, *, licence: str = UNKNOWN) -> str:
    """Return the text of a saved folder's README.md; `source` is the name that lrpet makes the full-size network by."""
    name = type(model).__name__ if source is None else source
    usage = 'import lrpet\n\ncompact = lrpet.load("this folder")'
    if source is None:
        made = f"model = ...  # a full-size {printable(name)}, freshly made"
        usage = f'import lrpet\n\n{made}\ncompact = lrpet.load("this folder", model)'
    return model_card(plan, name=name, usage=usage, licence=licence)


def model_card(
    plan: Plan,
    *,
    name: str,
    usage: str,
    library: str = "lrpet",
    tags: Sequence[str] = ("low-rank", "compact"),
    licence: str = UNKNOWN,
) -> str:
    """Return front matter for hubs, `usage` as code, and the table of the compact model's plan."""
    front = f"---\nlicense: {licence}\nlibrary_name: {library}\ntags: [{', '.join(tags)}]\n---"
    return (
        f"{front}\n\n# {markdown(name)}, compact\n\n{markdown(plan.summary())}\n\n"
        f"{fenced(usage, 'python')}\n\n"
        f"{LAYERS}; costs are those of the example that the plan was made with.\n\n"
        f"{fenced(str(plan))}\n"
    )
