"""Draws the last run in the terminal: a row a node, a bar for each ping, wait and task. For ``status`` alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import groupby

from startup.ledger import journal
from startup.ledger.journal import Node, Span

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


ASCII = Style(ping=".", wait="-", tasks="#=")


def style(encoding: str, colours: bool) -> Style:
    """Blocks where the terminal's *encoding* has them, ASCII where it has not."""
    plain = Style()
    try:
        (plain.ping + plain.wait + plain.tasks).encode(encoding)
    except (UnicodeError, LookupError):
        plain = ASCII
    return Style(plain.ping, plain.wait, plain.tasks, colours)


@dataclass
class Row:
    """One node: what all its phases did, and how it stands."""

    node: str
    state: str
    spans: list[Span]
    start: float
    end: float

    @property
    def live(self) -> bool:
        """Is it at work, or waiting?"""
        return self.state in (journal.WAITING, journal.RUNNING)


def rows(nodes: Sequence[Node], now: float) -> list[Row]:
    """A node's phases in one row; what is still going on ends now."""
    found: dict[str, Row] = {}
    for one in nodes:
        end = now if one.live else one.changed_at
        spans = [Span(s.kind, s.name, s.start, end if s.end is None else s.end, s.failed) for s in one.spans]
        row = found.get(one.node)
        if row is None:
            found[one.node] = Row(one.node, one.state, spans, one.start, end)
        else:
            row.spans += spans
            row.state = one.state if end >= row.end else row.state
            row.start, row.end = min(row.start, one.start), max(row.end, end)
    return sorted(found.values(), key=lambda row: (row.start, row.node))


def draw(nodes: Sequence[Node], now: float, width: int, look: Style) -> list[str]:
    """The lines, about *width* characters wide."""
    shown = rows(nodes, now)
    if not shown:
        return []
    left, right = min(row.start for row in shown), max(row.end for row in shown)
    whole = max(right - left, 0.001)
    margin = min(max(len(row.node) for row in shown), 24)
    told = [_told(row) for row in shown]
    cells = max(20, min(60, width - margin - 3 - min(max(map(len, told)), 50)))
    lines = [
        f"from {_clock(left)} to {_clock(right)} UTC: {_seconds(whole)}; "
        f"{look.ping} ping  {look.wait} waiting  {look.tasks[0]}{look.tasks[1]} tasks by turns"
    ]
    for row, words in list(zip(shown, told, strict=True))[:MOST]:
        bar = look.paint(_bar(row, left, whole / cells, cells, look))
        lines.append(f"{row.node[:margin]:<{margin}} {bar} {words}")
    if len(shown) > MOST:
        lines.append(f"and {len(shown) - MOST} nodes more (see --json)")
    return lines


def _bar(row: Row, left: float, unit: float, cells: int, look: Style) -> list[str]:
    bar = [" "] * cells
    tasks = [span for span in row.spans if span.kind == journal.TASK]
    for span in [span for span in row.spans if span.kind != journal.TASK] + tasks:
        first = min(int((span.start - left) / unit), cells - 1)
        last = min(max(int(((span.end or span.start) - left) / unit + 0.5), first + 1), cells)
        glyph = {journal.PING: look.ping, journal.WAIT: look.wait}.get(span.kind, "")
        if not glyph:
            glyph = "x" if span.failed else look.tasks[tasks.index(span) % 2]
        bar[first:last] = glyph * (last - first)
    return bar


def _told(row: Row) -> str:
    parts = []
    for kind, name, words in (
        (journal.PING, "", "ping {}"),
        (journal.WAIT, "database", "waited {} for the database"),
        (journal.WAIT, "lock", "waited {} for the lock"),
    ):
        took = [(s.end or s.start) - s.start for s in row.spans if (s.kind, s.name) == (kind, name)]
        if took:
            parts.append(words.format(_seconds(sum(took))))
    parts += [
        f"{span.name} {_seconds((span.end or span.start) - span.start)}{' failed' if span.failed else ''}"
        for span in row.spans
        if span.kind == journal.TASK
    ]
    return f"{row.state}: {', '.join(parts)}" if parts else row.state


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"


def _clock(moment: float) -> str:
    return datetime.fromtimestamp(moment, timezone.utc).strftime("%H:%M:%S")
