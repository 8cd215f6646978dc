"""squawk, a linter for PostgreSQL's migrations (squawkhq.com): where the program is, and what it says of a file.

It is asked for JSON, one file at a time by way of stdin: it takes paths for patterns, and passes over a file that is
not there. Its own settings (``.squawk.toml``) and its ignore comments hold, what runs in a transaction aside.
"""

from __future__ import annotations

import os
import sys

from startup.errors import TaskFailed
from startup.records import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: The rule under which squawk tells what it cannot read.
SYNTAX = "syntax-error"
#: Seconds for one file; one of 15 MB takes two.
LIMIT = 60.0
#: What the tests pass with. 1.6 answers another JSON; ignore comments of a file, and with a reason, came later.
OLDEST = "2.45"
#: A file of one statement it takes for one that is run outside a transaction, whatever it is told.
_ANOTHER = "\n;SELECT 1;"
#: How it gets there.
HOW = (
    "pip install 'startup-tasks[lint]' puts it beside this Python; in an image made FROM ours, or with the bundle, the "
    "program has to be on PATH (pip install squawk-cli, or npm install -g squawk-cli)"
)


@dataclass(frozen=True)
class Violation:
    """One of squawk's: its *rule*, where in the file (in characters, from 0), and in its words why and what instead."""

    rule: str
    offset: int
    message: str
    help: str


def program() -> str | None:
    """The path of the program: beside this Python, as pip puts it there, or on PATH; None where it is not installed."""
    import shutil

    beside = os.path.join(os.path.dirname(sys.executable), "squawk")
    return beside if os.access(beside, os.X_OK) else shutil.which("squawk")


def violations(squawk: str, path: str, text: str, in_transaction: bool) -> list[Violation]:
    """What *squawk* says of the file at *path* with the content *text*, in the order of the file.

    Raises TaskFailed where it does not answer, or not as squawk does.
    """
    if in_transaction:
        text += _ANOTHER
    lines = text.split("\n")
    starts = [0]
    for text_line in lines:
        starts.append(starts[-1] + len(text_line) + 1)
    found = []
    for one in _answer(squawk, path, text, in_transaction):
        try:
            line, column = int(one["line"]), int(one["column"])  # from 0, in bytes
            offset = starts[line] + len(lines[line].encode()[:column].decode(errors="ignore"))
            found.append(Violation(str(one["rule_name"]), offset, _line(one["message"]), _line(one["help"] or "")))
        except (LookupError, TypeError, ValueError):
            raise _unfit(squawk, path, f"one of its findings is {str(one)[:200]}") from None
    return sorted(found, key=lambda violation: violation.offset)


def _line(text: Any) -> str:
    return " ".join(str(text).split())


def _answer(squawk: str, path: str, text: str, in_transaction: bool) -> list[Any]:
    import json
    import subprocess

    assume = "--assume-in-transaction" if in_transaction else "--no-assume-in-transaction"
    try:
        done = subprocess.run(
            [squawk, "--reporter", "json", assume], input=text.encode(), capture_output=True, timeout=LIMIT
        )
    except subprocess.TimeoutExpired:
        raise _unfit(squawk, path, f"it has not answered within {LIMIT:g} s") from None
    except OSError as error:
        raise _unfit(squawk, path, f"it could not be executed: {error.strerror}") from None
    if done.returncode not in (0, 1):
        raise _unfit(squawk, path, _end(done.returncode, done.stderr))
    try:
        answer = json.loads(done.stdout)
    except (ValueError, RecursionError):
        said = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise _unfit(squawk, path, f"it answers no JSON{f', but: {_line(said)[:300]}' if said else ''}") from None
    if not isinstance(answer, list):
        raise _unfit(squawk, path, f"it answers {str(answer)[:200]}")
    return answer


def _end(code: int, said: bytes) -> str:
    import signal

    names = {number.value: number.name for number in signal.Signals}  # real-time ones have none
    how = f"was killed by {names.get(-code, f'signal {-code}')}" if code < 0 else f"ended with exit code {code}"
    words = _line(said.decode(errors="replace"))[:300]
    return f"it {how}{f': {words}' if words else ''}"


def _unfit(squawk: str, path: str, why: str) -> TaskFailed:
    return TaskFailed(
        f"{path}: squawk ({squawk}) cannot tell what is wrong with it: {why}; right would be squawk {OLDEST} or later "
        "(pip install squawk-cli), or STARTUP_LINT=off"
    )
