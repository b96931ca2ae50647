"""The card of a run's compact network: what the run measured goes into it, for people and for hubs of models."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lrpet.compact.card import LAYERS
from lrpet.compact.files import CARD
from lrpet.compact.write import written
from lrpet.train.modality import TEXT, modality_of


def add_to_card(compact: Path, summary: Mapping[str, Any]) -> None:
    """Add to the card in the folder of a compact network what a run's summary says; the card appears whole or not at all.

    With huggingface_hub, the front matter gets the scores in the form that hubs of models read.
    """
    path = compact / CARD
    front, text = path.read_text(encoding="utf-8").removeprefix("---\n").split("\n---\n", 1)
    if find_spec("huggingface_hub") is not None:
        front = _with_scores(front, summary)
    before, layers, table = text.partition(LAYERS)
    with written(path) as temporary:
        temporary.write_text(f"---\n{front}\n---\n{before}{measured(summary)}\n{layers}{table}", encoding="utf-8")


def _with_scores(front: str, summary: Mapping[str, Any]) -> str:
    """Return front matter with the scores on the test part as results of an evaluation."""
    from huggingface_hub import EvalResult, ModelCard

    text = modality_of(summary["data"]) is TEXT
    task = "text-generation" if text else "image-classification"
    kinds = ("accuracy", "perplexity", "loss") if text else ("accuracy",)
    data: Any = ModelCard(f"---\n{front}\n---\n", ignore_metadata_errors=True).data
    data.pipeline_tag = task
    data.model_name = f"{summary['model']}, compact"
    data.eval_results = [
        EvalResult(
            task_type=task,
            dataset_type=str(summary["data"]).partition(":")[0],
            dataset_name=summary["data"],
            dataset_split="test",
            metric_type=kind,
            metric_value=summary[f"test_{kind}"],
            metric_args={"seed": summary["seed"]},
        )
        for kind in kinds
    ]
    return str(data)


def measured(summary: Mapping[str, Any]) -> str:
    """Return costs, latencies, scores and origin of a run as Markdown."""
    rows = [
        ("multiply-adds, M", *_both(summary, "macs", 1e6, ".2f")),
        ("parameters, M", *_both(summary, "params", 1e6, ".3f")),
        ("size, MB", *_both(summary, "bytes", 1e6, ".2f")),
        *_latencies(summary),
        *_scores(summary),
    ]
    table = "\n".join(f"| {label} | {dense} | {compact} |" for label, dense, compact in rows)
    origin = f"`{summary['command']}`, commit {summary['commit'] or 'unknown'}, seed {summary['seed']}"
    hardware, versions = (", ".join(f"{k} {v}" for k, v in summary[key].items()) for key in ("hardware", "versions"))
    return (
        "## Measured\n\nAll scores and times are those of the compact network as read back from disk. Times have the quartiles "
        f"of all passes in brackets.\n\n|  | dense | compact |\n| --- | --- | --- |\n{table}\n\n"
        f"Trained on {summary['data']} for {summary['epochs']} epochs by {origin}.\n\nOn {hardware}; {versions}.\n"
    )


def _both(summary: Mapping[str, Any], key: str, scale: float, show: str) -> tuple[str, str]:
    return format(summary[f"{key}_dense"] / scale, show), format(summary[key] / scale, show)


def _latencies(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    modality = modality_of(summary["data"])
    rows = []
    for several, suffix in ((1, ""), (modality.timed_batch, f"_of_{modality.timed_batch}")):
        cells = []
        for end in ("_dense", ""):
            low, high = summary[f"cpu_quartiles{suffix}{end}"]
            cells.append(f"{summary[f'cpu_milliseconds{suffix}{end}']:.2f} ({low:.2f}–{high:.2f})")
        rows.append((f"CPU latency, {several} {modality.item}{'s' * (several > 1)}, ms", cells[0], cells[1]))
    return rows


def _scores(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    shows = {"accuracy": ".2%", "perplexity": ".3f", "loss": ".4f"}
    return [
        (f"{called} {kind}", "–", format(value, show))
        for part, called in (("test", "test"), ("val", "validation"))
        for kind, show in shows.items()
        if (value := summary.get(f"{part}_{kind}")) is not None
    ]
