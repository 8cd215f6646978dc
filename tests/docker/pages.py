"""Runs a page of docs/: its blocks of commands, and whether what stands below one is what it prints.

A block that is fenced as ``sh`` is run by bash, as a person would; each line of a block of ``text`` after it must be
printed somewhere, whatever its numbers are. The last command is asked again until that is so, since a page says "a
moment later" where a test must not sleep.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


#: What is another one at each run: a container's name, and numbers.
VARIES = re.compile(r"\b[0-9a-f]{12}\b|\d[\d.]*")


def matches(expected: str, printed: str) -> bool:
    """Is this line there, whatever the numbers and names of containers are?"""
    pattern = "[0-9a-f.]+".join(re.escape(text) for text in VARIES.split(expected))
    return re.search(pattern, printed) is not None


def run(page: Path, directory: Path, environ: Mapping[str, str], timeout: float = 120) -> int:
    """Run the whole page in *directory*; how many lines were found. *timeout* is a block's, in seconds."""
    blocks, found = BLOCK.findall(page.read_text()), 0
    for number, (kind, text) in enumerate(blocks):
        if kind != "sh":
            continue
        expected = (
            blocks[number + 1][1].splitlines() if blocks[number + 1 :] and blocks[number + 1][0] == "text" else []
        )
        printed, deadline = _bash(text, directory, environ, timeout), time.monotonic() + timeout
        while missing := [line for line in expected if not matches(line, printed)]:
            assert time.monotonic() < deadline, f"{page.name}: {text}did not print {missing}, but\n{printed}"
            time.sleep(0.5)
            printed = _bash(text.splitlines()[-1], directory, environ, timeout)
        found += len(expected)
    return found


def _bash(script: str, directory: Path, environ: Mapping[str, str], timeout: float) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=directory,
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout + 180,
    )
    assert done.returncode == 0, f"{script}: {done.returncode}\n{done.stdout}"
    return done.stdout
