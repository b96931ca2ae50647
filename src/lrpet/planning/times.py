"""What layers take in time, as measured, and what a plan makes of it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from lrpet.layers.matrix import Unfolding
from lrpet.planning.layer_plan import LayerPlan

#: What runs a network: PyTorch as it is, PyTorch compiled, or a runtime that reads ONNX files.
Runtime = Literal["eager", "compile", "onnxruntime", "openvino"]


class Times(Protocol):
    """What the layers of a network take in time; `lrpet.LatencyTable` is one."""

    @property
    def network(self) -> float:
        """Return the milliseconds of one pass through the dense network."""
        ...

    @property
    def conditions(self) -> str:
        """Return in words what was measured: runtime, device, inputs, threads."""
        ...

    def milliseconds(self, name: str, rank: int | None, unfolding: Unfolding = "channel") -> float:
        """Return the milliseconds of a layer at `rank`, divided as `unfolding` says, or dense (None).

        Raises KeyError for a layer that was not measured, or was not measured in this unfolding.
        """
        ...

    def mismatch(self, name: str, shape: str) -> str | None:
        """Say how a layer, of this shape in the channel unfolding, differs from the one that was measured."""
        ...


@dataclass(frozen=True)
class Timing:
    """The milliseconds of one pass through a network, dense and as planned."""

    conditions: str
    """Runtime, device, inputs and threads, in words."""
    dense: float
    predicted: float
    """The dense network's, less what every layer was measured to save."""
    measured: float | None = None
    """The compact network's, as measured in turns with the dense one; None where that was not done."""

    def __str__(self) -> str:
        time, how = (self.predicted, "predicted") if self.measured is None else (self.measured, "measured")
        return f"{self.dense:.3g} → {time:.3g} ms, {1 - time / self.dense:.1%} cut as {how} ({self.conditions})"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Any) -> Timing:
        """Read what `to_dict` gave. Raises ValueError if `data` is no such timing."""
        try:
            measured = data["measured"]
            return cls(
                conditions=str(data["conditions"]),
                dense=milliseconds(data["dense"], "dense", sign="above 0"),
                predicted=milliseconds(data["predicted"], "predicted", sign="any"),
                measured=None if measured is None else milliseconds(measured, "measured"),
            )
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"not a plan: its timing does not fit ({error})") from None


def milliseconds(value: Any, name: str, *, sign: Literal["not negative", "above 0", "any"] = "not negative") -> float:
    """Return a time as a float. Raises ValueError if it is no finite number, or of another sign."""
    time = float(value)
    wrong = {"not negative": time < 0, "above 0": time <= 0, "any": False}[sign]
    if isinstance(value, bool) or not math.isfinite(time) or wrong:
        raise ValueError(
            f"{name} takes {value!r} ms, but a time must be finite{'' if sign == 'any' else f' and {sign}'}"
        )
    return time


def predicted(times: Times, layers: Iterable[LayerPlan]) -> Timing:
    """Return the timing of a network whose layers have these ranks."""
    saved = sum(
        times.milliseconds(layer.name, None) - times.milliseconds(layer.name, layer.rank, layer.unfolding)
        for layer in layers
        if layer.rank is not None
    )
    return Timing(times.conditions, times.network, times.network - saved)
