"""Draws the last run in the terminal: a row a node, a bar for each ping, wait and task. For ``status`` alone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from itertools import groupby
from operator import itemgetter

from startup.ledger.journal import PING, TASK, WAIT, Node, Span
from startup.records import dataclass, replace

#: Rows that are drawn; the others are counted.
MOST = 40
#: SGR (ECMA-48) for what a bar is of, and for how a thing stands.
_COLOURS = {
    **dict.fromkeys(("failed", "vanished", "drifted", "interrupted"), "31"),
    **dict.fromkeys((TASK, "done"), "32"),
    **dict.fromkeys((WAIT, "pending", "unknown", "running", "stopped"), "33"),
    PING: "36",
}


@dataclass(frozen=True)
class Style:
    """The characters of the bars, and whether there are colours."""

    ping: str = "░"
    wait: str = "─"
    tasks: str = "█▓"
    coloured: bool = False

    def paint(self, text: str, meaning: str) -> str:
        """*text* in the colour of its meaning, where it has one."""
        colour = _COLOURS.get(meaning) if self.coloured else None
        return f"\033[{colour}m{text}\033[0m" if colour else text


def style_for(encoding: str, coloured: bool) -> Style:
    """Blocks where the terminal's *encoding* has them, ASCII where it has not."""
    blocks = Style(coloured=coloured)
    try:
        (blocks.ping + blocks.wait + blocks.tasks).encode(encoding)
    except (UnicodeError, LookupError):
        return Style(ping=".", wait="-", tasks="#=", coloured=coloured)
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
        bar = _bar(row, left, whole / cells, cells, style)
        lines.append(f"{row.node[:margin]:<{margin}} {bar} {text}")
    if len(shown) > MOST:
        lines.append(f"and {len(shown) - MOST} nodes more (see --json)")
    return lines


def _bar(row: Row, left: float, unit: float, width: int, style: Style) -> str:
    cells = [(" ", "")] * width
    tasks = [span for span in row.spans if span.kind == TASK]
    for span in [span for span in row.spans if span.kind != TASK] + tasks:
        first = min(int((span.start - left) / unit), width - 1)
        last = min(max(int((span.start + _length(span) - left) / unit + 0.5), first + 1), width)
        glyph = {PING: style.ping, WAIT: style.wait}.get(span.kind) or style.tasks[tasks.index(span) % 2]
        cell = ("x", "failed") if span.kind == TASK and span.failed else (glyph, span.kind)
        cells[first:last] = [cell] * (last - first)
    return "".join(style.paint("".join(glyph for glyph, _ in run), of) for of, run in groupby(cells, itemgetter(1)))


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
