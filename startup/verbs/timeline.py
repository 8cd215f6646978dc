"""Draws the last run in the terminal: a row a node, a bar for each ping, wait and task. For ``status`` alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from itertools import groupby

from startup.ledger.journal import PING, TASK, WAIT, Node, Span

#: Rows that are drawn; the others are counted.
MOST = 40


@dataclass(frozen=True)
class Style:
    """The characters of the bars, and the colours where there are any (SGR, ECMA-48)."""

    ping: str = "░"
    wait: str = "─"
    tasks: str = "█▓"
    colours: bool = False

    def paint(self, cells: list[str]) -> str:
        """The cells, each in its colour."""
        codes = {self.ping: "36", self.wait: "33", self.tasks[0]: "32", self.tasks[1]: "32", "x": "31"}
        parts = []
        for cell, run in groupby(cells):
            bar = "".join(run)
            parts.append(f"\033[{codes[cell]}m{bar}\033[0m" if self.colours and cell in codes else bar)
        return "".join(parts)


def style_for(encoding: str, colours: bool) -> Style:
    """Blocks where the terminal's *encoding* has them, ASCII where it has not."""
    blocks = Style(colours=colours)
    try:
        (blocks.ping + blocks.wait + blocks.tasks).encode(encoding)
    except (UnicodeError, LookupError):
        return Style(ping=".", wait="-", tasks="#=", colours=colours)
    return blocks


@dataclass
class Row:
    """One node: what all its phases did, and how it stands."""

    node: str
    state: str
    spans: list[Span]
    start: float
    end: float


def rows(nodes: Sequence[Node], now: float) -> list[Row]:
    """A node's phases in one row; what is still going on ends now."""
    found: dict[str, Row] = {}
    for one in nodes:
        end = now if one.live else one.changed_at
        spans = [replace(span, end=end) if span.end is None else span for span in one.spans]
        row = found.setdefault(one.node, Row(one.node, one.state, [], one.start, end))
        row.spans += spans
        row.state = one.state if end >= row.end else row.state
        row.start, row.end = min(row.start, one.start), max(row.end, end)
    return sorted(found.values(), key=lambda row: (row.start, row.node))


def draw(nodes: Sequence[Node], now: float, width: int, style: Style) -> list[str]:
    """The lines, about *width* characters wide."""
    shown = rows(nodes, now)
    if not shown:
        return []
    left, right = min(row.start for row in shown), max(row.end for row in shown)
    whole = max(right - left, 0.001)
    margin = min(max(len(row.node) for row in shown), 24)
    texts = [_in_words(row) for row in shown]
    cells = max(20, min(60, width - margin - 3 - min(max(map(len, texts)), 50)))
    lines = [
        f"from {_clock(left)} to {_clock(right)} UTC: {_seconds(whole)}; "
        f"{style.ping} ping  {style.wait} waiting  {style.tasks[0]}{style.tasks[1]} tasks by turns"
    ]
    for row, text in list(zip(shown, texts, strict=True))[:MOST]:
        bar = style.paint(_bar(row, left, whole / cells, cells, style))
        lines.append(f"{row.node[:margin]:<{margin}} {bar} {text}")
    if len(shown) > MOST:
        lines.append(f"and {len(shown) - MOST} nodes more (see --json)")
    return lines


def _bar(row: Row, left: float, unit: float, cells: int, style: Style) -> list[str]:
    bar = [" "] * cells
    tasks = [span for span in row.spans if span.kind == TASK]
    for span in [span for span in row.spans if span.kind != TASK] + tasks:
        first = min(int((span.start - left) / unit), cells - 1)
        last = min(max(int((span.start + _length(span) - left) / unit + 0.5), first + 1), cells)
        if span.kind == TASK:
            glyph = "x" if span.failed else style.tasks[tasks.index(span) % 2]
        else:
            glyph = style.ping if span.kind == PING else style.wait
        bar[first:last] = glyph * (last - first)
    return bar


def _in_words(row: Row) -> str:
    parts = []
    for kind, name, words in (
        (PING, "", "ping {}"),
        (WAIT, "database", "waited {} for the database"),
        (WAIT, "lock", "waited {} for the lock"),
    ):
        lengths = [_length(span) for span in row.spans if (span.kind, span.name) == (kind, name)]
        if lengths:
            parts.append(words.format(_seconds(sum(lengths))))
    parts += [
        f"{span.name} {_seconds(_length(span))}{' failed' if span.failed else ''}"
        for span in row.spans
        if span.kind == TASK
    ]
    return f"{row.state}: {', '.join(parts)}" if parts else row.state


def _length(span: Span) -> float:
    return (span.end or span.start) - span.start


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"


def _clock(moment: float) -> str:
    return datetime.fromtimestamp(moment, timezone.utc).strftime("%H:%M:%S")
