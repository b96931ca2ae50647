"""What a comparison of networks came to: a table, words, a JSON file, and a picture."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lrpet.compact.reading import made
from lrpet.compact.write import written
from lrpet.latency.columns import aligned
from lrpet.latency.rows import Cost, LayerRow, Row
from lrpet.planning.plain import read_json
from lrpet.planning.text import printable

FORMAT = 1
#: Quartiles further apart than this fraction of the median are a sign of other work on the machine.
NOISY = 0.15
_NOTE = """\
time and cost: the median and the multiply-adds, over those of {first}. realised: the part of the cut in multiply-adds that
is a cut in time. memory: in PyTorch, the weights and the most that tensors of a pass take at once; in the other runtimes,
growth of a fresh process that loads and runs the file."""
_LAYERS_NOTE = "lost: milliseconds beyond the dense layer's time multiplied by the ratio of multiply-adds."


@dataclass(frozen=True, repr=False)
class Bench:
    """Networks timed against each other; printed, it is a table."""

    rows: tuple[Row, ...]
    layers: tuple[LayerRow, ...] = ()
    """Times of layers, those first where most time is lost; empty where they were not asked for."""
    machine: Mapping[str, Any] = field(default_factory=dict)
    """Processor, threads, device, versions and the conditions of the measurement."""

    @property
    def first(self) -> str:
        """The name of the network that the others are compared with."""
        return self.rows[0].network

    def __repr__(self) -> str:
        return self.table()

    def table(self) -> str:
        """Return one table of all rows, one of layers where they were measured, and what is to be said in words."""
        head = (
            "network", "runtime", "batch", "ms", "quartiles", "time", "cost", "realised", "memory MB", "saved MB",
            "M mult-adds", "M params",
        )  # fmt: skip
        parts = [self.heading(), "", *aligned(head, [_cells(row, self.first) for row in self.rows], left=(0, 1))]
        parts += ["", _NOTE.format(first=self.first)]
        if self.layers:
            parts += ["", *_layer_lines(self.layers), "", _LAYERS_NOTE]
        if said := [*self.verdicts(), *self.doubts()]:
            parts += ["", *said]
        return printable("\n".join(parts), kept="\n")

    def verdicts(self) -> list[str]:
        """Return a sentence for every network that is not faster than the first one, on a runtime at a batch size."""
        firsts = {(row.runtime, row.batch_size): row for row in self.rows if row.network == self.first}
        said = []
        for row in self.rows:
            first = firsts[row.runtime, row.batch_size]
            if row is first or row.milliseconds < first.quartiles[0]:
                continue
            how = "NOT faster" if row.time_ratio >= 1 else "not measurably faster"
            said.append(
                f"{row.network} is {how} than {first.network} in {row.runtime} at batch size {row.batch_size}: "
                f"{row.milliseconds:.3g} ms against {first.milliseconds:.3g} ms, with {row.cost_ratio:.0%} of the "
                "multiply-adds."
            )
        return said

    def doubts(self) -> list[str]:
        """Return a sentence for every race whose times spread so much that other work must have been running."""
        spread: dict[tuple[str, int], float] = {}
        for row in self.rows:
            race = row.runtime, row.batch_size
            low, high = row.quartiles
            spread[race] = max(spread.get(race, 0.0), (high - low) / row.milliseconds)
        return [
            f"The middle half of the times in {runtime} at batch size {size} spans {width:.0%} of their median: "
            "other work may have been running. Measure again when the machine is idle, or for longer."
            for (runtime, size), width in spread.items()
            if width > NOISY
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as values that JSON can hold."""
        rows = [{**asdict(row), "quartiles": list(row.quartiles), "realised": row.realised} for row in self.rows]
        layers = [{**asdict(row), "time_ratio": row.time_ratio, "lost": row.lost} for row in self.layers]
        return {
            "format": FORMAT,
            "machine": dict(self.machine),
            "rows": rows,
            "layers": layers,
            "verdicts": [*self.verdicts(), *self.doubts()],
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything as JSON; the file appears whole or not at all."""
        with written(Path(path)) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Bench:
        """Read what `save` wrote. Raises FileNotFoundError, or ValueError if the file is something else."""
        path = Path(path)
        try:
            values = read_json(path.read_bytes())
            if values["format"] != FORMAT:
                raise ValueError(f"format {values['format']!r}; this version reads format {FORMAT}")
            rows = [
                {**row, "quartiles": tuple(row["quartiles"]), "cost": made(Cost, row["cost"])} for row in values["rows"]
            ]
            read = cls(
                rows=tuple(made(Row, _without(row, "realised")) for row in rows),
                layers=tuple(made(LayerRow, _without(row, "time_ratio", "lost")) for row in values["layers"]),
                machine=values["machine"],
            )
            str(read)  # which looks at everything
            return read
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
            raise ValueError(f"{path} is no comparison of networks, as Bench.save writes it: {error}") from None

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw times as fractions of the first network's into an image file, such as bench.png.

        Raises ImportError if matplotlib is not installed, and ValueError if it does not know the file's format.
        """
        from lrpet.latency.picture import draw

        draw(self, Path(path))

    def heading(self) -> str:
        """Return the machine and the conditions in one line."""
        machine = self.machine
        where = ", ".join(str(machine[key]) for key in ("processor", "instructions") if key in machine)
        conditions = [f"{machine['threads']} threads"] if "threads" in machine else []
        conditions += [str(machine["device"])] if "device" in machine else []
        conditions += [str(each) for each in machine.get("conditions", ())]
        return "; ".join(part for part in (where, ", ".join(conditions)) if part)


def _without(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


def _cells(row: Row, first: str) -> tuple[str, ...]:
    compared = row.network != first
    low, high = row.quartiles
    return (
        row.network,
        row.runtime,
        str(row.batch_size),
        f"{row.milliseconds:.2f}",
        f"{low:.2f}–{high:.2f}",
        f"{row.time_ratio:.2f}" if compared else "",
        f"{row.cost_ratio:.2f}" if compared else "",
        f"{row.realised:.0%}" if compared and row.realised is not None else "",
        "not measured" if row.memory is None else f"{row.memory / 1e6:.1f}",
        f"{row.cost.size / 1e6:.2f}",
        f"{row.cost.macs / 1e6:,.1f}",
        f"{row.cost.params / 1e6:.3f}",
    )


def _layer_lines(layers: Sequence[LayerRow]) -> list[str]:
    head = ("layer", "network", "kind", "dense ms", "ms", "time", "cost", "lost ms")
    rows = [
        (
            row.layer,
            row.network,
            row.kind,
            f"{row.dense_milliseconds:.3f}",
            f"{row.milliseconds:.3f}",
            f"{row.time_ratio:.2f}",
            "" if row.cost_ratio is None else f"{row.cost_ratio:.2f}",
            f"{row.lost:.3f}",
        )
        for row in layers
    ]
    return aligned(head, rows, left=(0, 1, 2))
