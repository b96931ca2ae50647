"""Write the page of one or more runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from lrpet.compact.write import written
from lrpet.planning.layer_plan import LayerPlan
from lrpet.report import compare, pictures
from lrpet.report.facts import count, facts, spread, times_of, verdict
from lrpet.report.folding import folding
from lrpet.report.runs import Run, read_runs
from lrpet.report.times import by_layer, times

#: The name of a run's page in its folder.
PAGE = "report.html"
#: What shows that a file is such a page, and may be replaced by a new one.
GENERATOR = '<meta name="generator" content="lrpet report">'


def write_report(folders: Sequence[str | os.PathLike[str]], path: str | os.PathLike[str] | None = None) -> Path:
    """Write one self-contained HTML page of the runs in `folders`, and return its path.

    The page needs no network and no other file. It appears whole or not at all, and takes the place of an earlier one.

    Args:
        folders: Folders of `lrpet train`; of runs that are under way too.
        path: Where the page goes: by default "report.html", in the folder of a single run, else in the current folder.

    Raises:
        ValueError: no folders, a run given twice, or a damaged file in a folder.
        FileNotFoundError: a folder is no run's, or the page's folder is not there.
        FileExistsError: `path` is another file than such a page.
    """
    paths = [Path(folder) for folder in folders]
    if not paths:
        raise ValueError("no run was given: name the folders of one or more runs")
    page = Path(path) if path is not None else (paths[0] if len(paths) == 1 else Path()) / PAGE
    runs = read_runs(paths)
    if not page.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {page.parent} for {page.name}")
    if page.exists() and not _is_ours(page):
        raise FileExistsError(
            f"{page} exists and is no page of lrpet report: choose another --output, or remove it first"
        )
    text = rendered(runs)
    with written(page) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return page


def rendered(runs: Sequence[Run]) -> str:
    """Return the page of runs as HTML."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    parts = [RunPart.of(run, runs, number) for number, run in enumerate(runs, start=1)]
    return environment.from_string(_file("page.html")).render(
        title=f"{runs[0].name}: {runs[0].config['model']}" if len(runs) == 1 else f"{len(runs)} runs",
        style=Markup(_file("style.css")),
        script=Markup(_file("page.js")),
        generator=Markup(GENERATOR),
        parts=parts,
        comparison=_comparison(runs) if len(runs) > 1 else None,
        count=count,
        spread=spread,
        breakable=breakable,
    )


@dataclass(frozen=True)
class RunPart:
    """What the page shows of one run."""

    number: int
    run: Run
    values: dict[str, Any]

    @classmethod
    def of(cls, run: Run, runs: Sequence[Run], number: int) -> RunPart:
        """Make everything that the template shows."""
        dead = set(run.projections[-1].get("dead", ())) if run.projections else set()
        values = {
            "verdict": verdict(run, runs),
            "facts": facts(run, runs),
            "scores": pictures.scores(run),
            "energy": pictures.energy(run),
            "ranks": pictures.ranks(run),
            "folding": folding(run, runs=len(runs)),
            "why_no_spectra": run.spectra.why_none if run.spectra else "",
            "times": times(run),
            "by_layer": by_layer(run),
            "latencies": times_of(run),
            "layers": [(layer, *status(layer, dead)) for layer in run.plan.layers],
            "usage": usage(run),
            "command": run.summary.get("command") or f"lrpet train --resume --output {run.folder}",
        }
        return cls(number, run, values)


def status(layer: LayerPlan, dead: set[str]) -> tuple[str, str]:
    """Return the kind of a layer's decision, which is a class of the style sheet, and the word for it."""
    if layer.name in dead:
        return "dead", "dead"
    if layer.rank is not None:
        return "kept", "factorised"
    reason = layer.reason
    if reason.startswith(("excluded", "not included", "not among", "not chosen", "frozen")):
        return "chosen", "left out"
    if reason.startswith(("factors of rank", "the budget", "no rank")):
        return "costly", "not worth it"
    return "unable", "not possible"


def breakable(name: str) -> Markup:
    """Return a dotted name that a line may end within, after a dot."""
    return Markup(".<wbr>").join(name.split("."))


def usage(run: Run) -> str:
    """Return the code that loads the run's compact network."""
    code = f'import lrpet\n\nmodel = lrpet.load("{run.folder}")'
    if run.is_text:
        code += (
            "\n\n# or by transformers\nimport lrpet.integrations.huggingface\nfrom transformers import AutoModelForCausalLM\n\n"
            f'model = AutoModelForCausalLM.from_pretrained("{run.folder / "compact"}")'
        )
    return code


def _comparison(runs: Sequence[Run]) -> dict[str, Any]:
    return {
        "letters": compare.letters(runs),
        "macs": compare.against_macs(runs),
        "latency": compare.against_latency(runs),
        "relative": compare.is_relative(runs),
        "figures": compare.figures(runs),
        "options": compare.options(runs),
    }


def _file(name: str) -> str:
    return (files("lrpet.report") / "page" / name).read_text(encoding="utf-8")


def _is_ours(path: Path) -> bool:
    with path.open("rb") as file:
        return GENERATOR.encode() in file.read(2000)
