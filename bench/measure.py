"""Measuring side by side, the statistics, and the report: a markdown table for each group, and one plot of all."""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

#: Printed unit: factor from what is kept, and digits.
UNITS = {"ms": (1000.0, 1), "s": (1.0, 2), "MB": (1e-6, 2), "": (1.0, 1)}


@dataclass
class Series:
    """The values of one case."""

    values: list[float] = field(default_factory=list)
    ours: bool = False

    def percentile(self, percent: float) -> float:
        """Interpolated between the two nearest values."""
        ordered = sorted(self.values)
        place = (len(ordered) - 1) * percent / 100
        low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
        return low + (high - low) * (place - math.floor(place))

    @property
    def median(self) -> float:
        return statistics.median(self.values)


def minus(one: Series, other: Series) -> Series:
    """The differences, run by run."""
    return Series([a - b for a, b in zip(one.values, other.values, strict=False)], one.ours)


def interleave(
    cases: Mapping[str, Callable[[], float]], runs: int, budget: float = math.inf, least: int = 3, warm: bool = True
) -> dict[str, Series]:
    """Run the cases in turn, so that whatever else the machine does hits all alike.

    Names that begin with "startup-tasks" are ours. A case that has taken *budget* seconds stops after *least* runs.
    The first round only warms up.
    """
    series = {name: Series(ours=name.startswith("startup-tasks")) for name in cases}
    spent = dict.fromkeys(cases, 0.0)
    names = list(cases)
    patience = 90.0
    for number in range(-1 if warm else 0, runs):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            if spent[name] > budget and len(series[name].values) >= least:
                continue
            patience -= calm(min(1.5, patience))
            began = time.monotonic()
            value = cases[name]()
            spent[name] += time.monotonic() - began
            if number >= 0:
                series[name].values.append(value)
        progress(f"run {number + 1} of {runs}")
    progress("")
    return series


def calm(limit: float) -> float:
    """Wait for a moment in which nothing waits for a processor, *limit* seconds at most; how long that took."""
    began = time.monotonic()
    while time.monotonic() < began + limit:
        before = _pressure()
        time.sleep(0.03)
        if _pressure() - before < 0.001:
            break
    return time.monotonic() - began


def _pressure() -> float:
    """Seconds so far in which something waited for a processor; 0 where the kernel does not count them."""
    try:
        return int(Path("/proc/pressure/cpu").read_text().partition("total=")[2].split()[0]) / 1e6
    except OSError:
        return 0.0


def progress(text: str) -> None:
    """On a terminal, and in one place."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Verdict:
    """One goal: what was found, and whether that is enough."""

    what: str
    goal: str
    found: str
    met: bool | None


@dataclass
class Group:
    """One row of the table of goals, measured. *floor* is the case that all others are ratios of."""

    number: str
    title: str
    unit: str
    series: dict[str, Series]
    floor: str
    verdicts: list[Verdict]
    note: str = ""
    #: The date, and how busy the machine was.
    when: str = ""

    def values(self) -> dict[str, Any]:
        """Itself as JSON has it."""
        series = {
            name: [one.ours, [float(f"{value:.5g}") for value in one.values]] for name, one in self.series.items()
        }
        return {**vars(self), "series": series, "verdicts": [vars(verdict) for verdict in self.verdicts]}

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Group:
        """What :meth:`values` gave."""
        series = {name: Series(found, ours) for name, (ours, found) in values["series"].items()}
        return cls(**{**values, "series": series, "verdicts": [Verdict(**one) for one in values["verdicts"]]})

    def markdown(self) -> str:
        """Its own table."""
        lines = [
            f"### {self.number}. {self.title}",
            " ".join(text for text in (self.note, f"({self.when})" if self.when else "") if text) + "\n",
            f"| case | n | median, {self.unit or 'count'} | quartiles | times `{self.floor}` |",
            "|---|--:|--:|--:|--:|",
        ]
        base = self.series[self.floor].median
        for name, one in self.series.items():
            low, high = one.percentile(25), one.percentile(75)
            ratio = f"{one.median / base:.3g}" if base > 0 else "-"
            shown = f"**{name}**" if one.ours else name
            lines.append(
                f"| {shown} | {len(one.values)} | {self.show(one.median)} | {self.show(low)} - {self.show(high)} "
                f"| {ratio} |"
            )
        return "\n".join(lines) + "\n"

    def show(self, value: float) -> str:
        factor, digits = UNITS[self.unit]
        return f"{value * factor:.{digits}f}"


def summary(groups: Sequence[Group]) -> str:
    """All goals in one table."""
    lines = ["| # | what | goal | measured | |", "|---|---|---|---|---|"]
    for group in groups:
        for verdict in group.verdicts:
            met = {True: "met", False: "**missed**", None: "-"}[verdict.met]
            lines.append(f"| {group.number} | {verdict.what} | {verdict.goal} | {verdict.found} | {met} |")
    return "\n".join(lines) + "\n"


def plot(groups: Sequence[Group]) -> str:
    """One panel a group: median and quartiles of each case, on a logarithmic scale."""
    left, right, row, head = 330, 860, 17, 40
    top, parts = 0, []
    for group in groups:
        shown = {name: one for name, one in group.series.items() if one.median > 0}
        ends = [
            end for one in shown.values() for end in (one.percentile(25), one.median, one.percentile(75)) if end > 0
        ]
        low, high = min(ends) / 1.3, max(ends) * 1.3

        def place(value: float, low: float = low, high: float = high) -> float:
            return left + (right - left) * math.log(max(value, low) / low) / math.log(high / low)

        unit = f", {group.unit}" if group.unit else ""
        parts.append(f'<text x="8" y="{top + 24}" class="h">{group.number}. {escape(group.title)}{unit}</text>')
        for number, (name, one) in enumerate(shown.items()):
            y = top + head + row * number
            kind = "us" if one.ours else "them"
            start, end = place(one.percentile(25)), place(one.percentile(75))
            parts += [
                f'<text x="{left - 12}" y="{y + 4}" text-anchor="end" class="{kind}">{escape(name)}</text>',
                f'<line x1="{left}" x2="{right}" y1="{y}" y2="{y}" class="g"/>',
                f'<line x1="{start:.1f}" x2="{max(end, start + 1):.1f}" y1="{y}" y2="{y}" class="{kind} q"/>',
                f'<circle cx="{place(one.median):.1f}" cy="{y}" r="4" class="{kind}"/>',
                f'<text x="{right + 12}" y="{y + 4}" class="{kind}">{group.show(one.median)}</text>',
            ]
        top += head + row * len(shown) + 8
    style = (
        "text{font:12px sans-serif;fill:#444}.h{font-weight:bold;fill:#111}.g{stroke:#e4e4e4}"
        "circle.us{fill:#c2410c}text.us{fill:#c2410c;font-weight:bold}circle.them{fill:#64748b}"
        ".q{stroke-width:3;opacity:.45}line.us{stroke:#c2410c}line.them{stroke:#64748b}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="960" height="{top}" viewBox="0 0 960 {top}">'
        f'<style>{style}</style><rect width="960" height="{top}" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )
