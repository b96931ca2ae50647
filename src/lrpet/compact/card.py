"""The card of a saved compact model: what it is and how to read it, for people and for hubs of models."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lrpet.planning.plan import Plan
from lrpet.planning.text import fenced, markdown, printable


def folder_card(model: nn.Module, plan: Plan, source: str | None) -> str:
    """Return the text of a saved folder's README.md; `source` is the name that lrpet makes the full-size network by."""
    if source is not None:
        return model_card(plan, name=source, usage='import lrpet\n\ncompact = lrpet.load("this folder")')
    name = type(model).__name__
    made = f"model = ...  # a full-size {printable(name)}, freshly made"
    return model_card(plan, name=name, usage=f'import lrpet\n\n{made}\ncompact = lrpet.load("this folder", model)')


def model_card(
    plan: Plan, *, name: str, usage: str, library: str = "lrpet", tags: Sequence[str] = ("low-rank", "compact")
) -> str:
    """Return front matter for hubs, `usage` as code, and the table of the compact model's plan."""
    front = f"---\nlibrary_name: {library}\ntags: [{', '.join(tags)}]\n---"
    return (
        f"{front}\n\n# {markdown(name)}, compact\n\n{markdown(plan.summary())}\n\n"
        f"{fenced(usage, 'python')}\n\n"
        "What was decided for every layer; costs are those of the example that the plan was made with.\n\n"
        f"{fenced(str(plan))}\n"
    )
