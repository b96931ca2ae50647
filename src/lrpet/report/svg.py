"""Pictures as SVG text: scales, axes, lines, bars. Colours are classes, which the page's style sheet sets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup, escape

Point = tuple[float, float]


def element(name: str, content: str = "", /, **attributes: Any) -> str:
    """Return an element; `content` is SVG already. `class_` is class, and a _ in a name is a hyphen."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_short(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{written}>{content}</{name}>" if content else f"<{name}{written}/>"


def text(words: str, x: float, y: float, **attributes: Any) -> str:
    """Return words at a place."""
    return element("text", str(escape(words)), x=x, y=y, **attributes)


def tip(words: str) -> str:
    """Return what a pointer that rests on an element is told."""
    return element("title", str(escape(words)))


def power(value: float, unit: str = "") -> str:
    """Return a power of ten as text: 100, 0.1, 10⁻⁵."""
    exponent = round(math.log10(value))
    digits = str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    shown = f"{value:g}" if -3 <= exponent <= 3 else f"10{digits}"
    return f"{shown} {unit}".rstrip()


def _short(value: Any) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Scale:
    """From values to a fraction of an axis, linear or logarithmic."""

    low: float
    high: float
    log: bool = False

    @classmethod
    def of(cls, values: Iterable[float], *, log: bool = False, zero: bool = False, pad: float = 0.06) -> Scale:
        """Return a scale that holds all values, with some room; `zero` begins a linear one at 0."""
        found = [value for value in values if math.isfinite(value) and (value > 0 or not log)] or [1.0]
        low, high = min(found), max(found)
        if log:
            return cls(low / 1.5, high * 1.5, log=True) if low == high else cls(low / 1.15, high * 1.15, log=True)
        room = (high - low or abs(high) or 1.0) * pad
        return cls(0.0, (high + room) or 1.0) if zero else cls(low - room, high + room)

    def at(self, value: float) -> float:
        """Return the fraction of the axis at which a value lies, within [0, 1]."""
        if self.log:
            span = math.log(self.high / self.low)
            return min(1.0, max(0.0, math.log(max(value, self.low) / self.low) / span))
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))

    def ticks(self, most: int = 5) -> list[float]:
        """Return round values along the axis."""
        if self.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            decades = [10.0**power for power in range(first, last + 1, max(1, math.ceil((last - first + 1) / most)))]
            if len(decades) > 1:
                return decades
        rough = (self.high - self.low) / most
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * 0.999)
        begin = math.ceil(self.low / step - 1e-9)
        return [round(number * step, 12) for number in range(begin, math.floor(self.high / step + 1e-9) + 1)]


@dataclass
class Plot:
    """A picture with two axes, drawn from the back to the front."""

    x: Scale
    y: Scale
    width: int = 440
    height: int = 270
    left: int = 54
    right: int = 14
    top: int = 24
    bottom: int = 40
    parts: list[str] = field(default_factory=list)

    def px(self, value: float) -> float:
        """Return where a value lies from the left."""
        return self.left + self.x.at(value) * (self.width - self.left - self.right)

    def py(self, value: float) -> float:
        """Return where a value lies from the top."""
        return self.height - self.bottom - self.y.at(value) * (self.height - self.top - self.bottom)

    def axes(
        self,
        x_label: str,
        y_label: str,
        *,
        show_x: Any = "{:g}".format,
        show_y: Any = "{:g}".format,
        x_ticks: Sequence[float] | None = None,
    ) -> None:
        """Draw grid lines, ticks and labels."""
        floor = self.height - self.bottom
        for value in self.y.ticks():
            y = self.py(value)
            self.parts.append(element("line", class_="grid", x1=self.left, x2=self.width - self.right, y1=y, y2=y))
            self.parts.append(text(show_y(value), self.left - 6, y + 4, class_="tick", text_anchor="end"))
        for value in self.x.ticks() if x_ticks is None else x_ticks:
            x = self.px(value)
            self.parts.append(element("line", class_="axis", x1=x, x2=x, y1=floor, y2=floor + 4))
            self.parts.append(text(show_x(value), x, floor + 17, class_="tick", text_anchor="middle"))
        self.parts.append(element("line", class_="axis", x1=self.left, x2=self.width - self.right, y1=floor, y2=floor))
        middle = (self.left + self.width - self.right) / 2
        self.parts.append(text(x_label, middle, self.height - 6, class_="label", text_anchor="middle"))
        self.parts.append(text(y_label, 2, 10, class_="label"))

    def line(self, points: Sequence[Point], kind: str) -> None:
        """Draw a line through points."""
        path = " ".join(f"{self.px(x):.1f},{self.py(y):.1f}" for x, y in points)
        self.parts.append(element("polyline", class_=f"line {kind}", points=path))

    def dots(self, points: Sequence[Point], kind: str, tips: Sequence[str], radius: float = 3.5) -> None:
        """Draw points, each with words for a pointer that rests on it."""
        for (x, y), words in zip(points, tips, strict=True):
            self.parts.append(
                element("circle", tip(words), class_=f"dot {kind}", cx=self.px(x), cy=self.py(y), r=radius)
            )

    def upright(self, value: float, words: str, kind: str = "mark") -> None:
        """Draw a line across the picture at a value of the horizontal axis, with words beside it."""
        x, floor = self.px(value), self.height - self.bottom
        right_half = x > (self.left + self.width) / 2
        self.parts.append(element("line", class_=kind, x1=x, x2=x, y1=self.top, y2=floor))
        place = {"x": x - 5 if right_half else x + 5, "y": self.top + 9}
        anchor = "end" if right_half else "start"
        self.parts.append(text(words, **place, class_="note", text_anchor=anchor))

    def svg(self, title: str, **attributes: Any) -> Markup:
        """Return the picture; `title` says all of it to those who do not see it."""
        return picture("".join(self.parts), title, self.width, self.height, **attributes)


def picture(content: str, title: str, width: int, height: int, **attributes: Any) -> Markup:
    """Return an svg element that fills the width it is given."""
    return Markup(element("svg", content, viewBox=f"0 0 {width} {height}", role="img", aria_label=title, **attributes))
