"""JSON lines of both writers, the shell's and Python's: one object a line whatever the text, and the same text."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from startup import log
from tests.shell.conftest import SHELLS

SCRIPT = Path(__file__).parents[2] / "entrypoint.sh"
#: `$(...)` would take newlines away at the end: a mark keeps them.
SAY = """
script=$1 directory=$2; set -- :functions; . "$script"
for file in "$directory"/*; do text=$(cat "$file"; echo x); say info "${text%x}"; done
"""
PIECES = (
    *(
        b"a",
        b"Z9",
        b" ",
        b'"',
        b"\\",
        b"\\n",
        b"%s",
        b"$x",
        b"`",
        b"\t",
        b"\n",
        b"\r",
        b"\x01",
        b"\x1b[31m",
        b"\x7f",
        b"'",
    ),
    *(
        "é☃😀\u2028\ufeff".encode(),
        b"\xff",
        b"\xc3",
        b"\xe2\x98",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xc0\xaf",
        b"\x80",
    ),
)


def texts(rng: random.Random, count: int) -> list[bytes]:
    return [b"".join(rng.choices(PIECES, k=rng.randrange(1, 9))) for _ in range(count)]


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shells_lines_are_json_and_hold_the_text(
    rng: random.Random, cases: int, tmp_path: Path, shell: str
) -> None:
    if shutil.which(SHELLS[shell][0]) is None:
        pytest.skip(f"{shell} is not installed")
    contents = texts(rng, max(10, cases // 6))
    for number, content in enumerate(contents):
        (tmp_path / f"{number:06}").write_bytes(content)
    done = subprocess.run(
        [*SHELLS[shell], "-c", SAY, "sh", str(SCRIPT), str(tmp_path)],
        env={"PATH": os.environ["PATH"], "STARTUP_LOG_FORMAT": "json", "STARTUP_NODE": 'n"\\'},
        stderr=subprocess.PIPE,
        timeout=300,
    )
    lines = done.stderr.removesuffix(b"\n").split(b"\n")
    assert len(lines) == len(contents)
    for content, line in zip(contents, lines, strict=True):
        said = json.loads(line.decode())
        assert said["host.name"] == 'n"\\'
        assert re.sub("\ufffd+", "\ufffd", said["message"]) == as_one_line(content), content


def as_one_line(content: bytes) -> str:
    """What a line shows of it: control characters are blanks, what is no UTF-8 is U+FFFD, one for several."""
    text = re.sub(r"[\x00-\x1f\x7f]", " ", content.decode("utf-8", "replace"))
    return re.sub("\ufffd+", "\ufffd", text)


def test_pythons_lines_are_json_and_hold_the_text(rng: random.Random, cases: int) -> None:
    form = log.Json('n"\\')
    for content in texts(rng, cases):
        text = os.fsdecode(content)
        line = form.line(log.INFO, text, {"task": text, "of": [text, {"k": text}]})
        assert line.isprintable() or not re.search(log._CONTROL, line), content
        said = json.loads(line.encode())
        expected = re.sub("[\ud800-\udfff]", "\ufffd", text)
        assert said["message"] == said["startup.task"] == said["startup.of"][1]["k"] == expected, content
