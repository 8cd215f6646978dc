"""What a terminal was sent, as an SVG picture for the docs."""

from __future__ import annotations

import re
from html import escape

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
