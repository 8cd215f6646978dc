"""Pictures for the docs, as SVG: what a terminal was sent, and a run as the bars of its nodes."""

from __future__ import annotations

import re
from datetime import datetime
from html import escape
from typing import Any

COLOURS = {"31": "#f85149", "32": "#3fb950", "33": "#d29922", "36": "#39c5cf"}
WIDTH, HEIGHT = 8.0, 18
#: The bars fill their cells whatever the font: drawn, not written.
BLOCKS = {"█": 1.0, "▓": 0.7, "░": 0.35}


def svg(text: str) -> str:
    """The picture of *text*, which has SGR colours and no other escapes."""
    lines = text.replace("\r", "").rstrip("\n").split("\n")
    plain = [re.sub(r"\033\[\d*m", "", line) for line in lines]
    width, height = max(map(len, plain)) * WIDTH + 20, len(lines) * HEIGHT + 16
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" font-family="monospace" '
        f'font-size="13" fill="#c9d1d9"><rect width="100%" height="100%" rx="6" fill="#0d1117"/>'
    ]
    for number, line in enumerate(lines):
        column, colour = 0, ""
        for code, piece in re.findall(r"(?:\033\[(\d*)m)|([^\033]+)", line):
            if not piece:
                colour = COLOURS.get(code, "")
                continue
            for run in re.findall(r"█+|▓+|░+|─+|[^█▓░─]+", piece):
                parts.append(_run(run, column, number, f' fill="{colour}"' if colour else ""))
                column += len(run)
    return "\n".join([*filter(None, parts), "</svg>", ""])


def _run(run: str, column: int, row: int, fill: str) -> str:
    x, y, width = 10 + column * WIDTH, 8 + row * HEIGHT, len(run) * WIDTH
    if run[0] in BLOCKS:
        opacity = BLOCKS[run[0]]
        return f'<rect x="{x:g}" y="{y + 1}" width="{width:g}" height="{HEIGHT - 2}" opacity="{opacity}"{fill}/>'
    if run[0] == "─":
        return f'<rect x="{x:g}" y="{y + 8}" width="{width:g}" height="2"{fill}/>'
    if not run.strip():
        return ""
    return f'<text x="{x:g}" y="{y + 13}" textLength="{width:g}" xml:space="preserve"{fill}>{escape(run)}</text>'


#: Ink, soft ink, and the colours of a ping, of waiting and of two tasks in a row.
LIGHT = ("#1c2733", "#5d6b7a", "#7fb7d6", "#e2b84f", ("#2f9e7a", "#54b896"))
DARK = ("#dfe6ee", "#93a1b1", "#5f9fc4", "#d2a63c", ("#3bb58d", "#2c8a6b"))
NAME, BARS, ROW, TOP = 90, 620, 30, 34


def timeline(nodes: list[dict[str, Any]], palette: tuple[str, str, str, str, tuple[str, str]]) -> str:
    """The nodes of ``startup status --json``, a row each; the legend above, the seconds below."""
    ink, soft, ping, wait, tasks = palette
    starts = {id(span): datetime.fromisoformat(span["started_at"]).timestamp() for n in nodes for span in n["spans"]}
    left = min(starts.values())
    whole = max(starts[id(span)] + span["seconds"] for node in nodes for span in node["spans"]) - left
    width, height = NAME + BARS + 90, TOP + ROW * len(nodes) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="system-ui, sans-serif" font-size="13" fill="{soft}">',
        f"<title>{len(nodes)} nodes start at once: one runs each task, the others wait, all are ready</title>",
    ]
    x = NAME
    legend = (ping, "the app boots, and is pinged", 220), (wait, "waits for another node", 190), (tasks[0], "a task", 0)
    for colour, text, room in legend:
        parts.append(f'<rect x="{x}" y="6" width="12" height="12" rx="2" fill="{colour}"/>')
        parts.append(f'<text x="{x + 18}" y="16">{text}</text>')
        x += room
    for row, node in enumerate(sorted(nodes, key=lambda one: min(starts[id(span)] for span in one["spans"]))):
        y, seen = TOP + ROW * row, 0
        parts.append(f'<text x="{NAME - 12}" y="{y + 15}" text-anchor="end" fill="{ink}">node {row + 1}</text>')
        parts.append(f'<rect x="{NAME}" y="{y}" width="{BARS}" height="20" rx="3" fill="{soft}" opacity="0.12"/>')
        for span in node["spans"]:
            colour = {"ping": ping, "wait": wait}.get(span["kind"]) or tasks[seen % 2]
            seen += span["kind"] == "task"
            at, long = NAME + BARS * (starts[id(span)] - left) / whole, max(BARS * span["seconds"] / whole, 2)
            words = escape(f"{span['kind']} {span['name']}".strip())
            parts.append(f'<rect x="{at:.1f}" y="{y}" width="{long:.1f}" height="20" rx="3" fill="{colour}">')
            parts.append(f"<title>{words}, {span['seconds']:.2f} s</title></rect>")
        state = "ready" if node["state"] == "done" else node["state"]
        parts.append(f'<text x="{NAME + BARS + 12}" y="{y + 15}" fill="{tasks[0]}">{state}</text>')
    y = TOP + ROW * len(nodes) + 14
    parts.append(f'<text x="{NAME}" y="{y}">0 s</text>')
    parts.append(f'<text x="{NAME + BARS}" y="{y}" text-anchor="end">{whole:.1f} s</text>')
    return "\n".join([*parts, "</svg>", ""])
