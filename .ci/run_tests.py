"""The tests as CI runs them: all under the machine's Python, and those that need no container under others, too.

What has failed is run once more, alone and in one process. What passes then is named as flaky; what fails twice, or
more than five flaky tests, fail the run.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

#: So many flaky tests are borne; of more than MOST_AGAIN that have failed nothing is learnt by running them again.
MOST_FLAKY, MOST_AGAIN = 5, 30
OLDEST = (3, 10)
#: The tests that need no container wait more than they compute.
WITHOUT_CONTAINERS = "--numprocesses 3 -m 'not docker'"
#: pytest's exit codes: everything passed, some tests failed (pytest.ExitCode).
OK, TESTS_FAILED = 0, 1
COUNT = re.compile(r"(\d+) (passed|failed|error|skipped)")


def say(text: str) -> None:
    print(f".ci/run: {text}", file=sys.stderr, flush=True)


@dataclass
class Outcome:
    """What came of the runs so far."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("passed", "failed", "skipped"), 0))
    flaky: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def take(self, closing_line: str) -> None:
        for number, word in COUNT.findall(closing_line):
            self.counts["failed" if word == "error" else word] += int(number)


def run(command: list[str]) -> tuple[int, str]:
    """Its exit code, and pytest's closing line; what it prints is passed on as it comes."""
    closing_line = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace") as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            if COUNT.search(line) and re.search(r" in [\d.]+s", line):
                closing_line = line
    return process.returncode, closing_line


def last_failed() -> set[str]:
    """As pytest's cache has them, without the group that pytest-xdist puts behind a test's name."""
    try:
        names = json.loads(Path(".pytest_cache/v/cache/lastfailed").read_text())
    except (OSError, ValueError):
        return set()
    return {re.sub(r"@\w+$", "", name) for name in names}


def run_tests(outcome: Outcome, venv: str, python: str, options: str = "") -> None:
    """`make test`, and what has failed in it once more."""
    where = f"Python {version(python) or python}"
    shutil.rmtree(".pytest_cache", ignore_errors=True)
    make = ["make", "test", f"VENV={venv}", f"PYTHON={python}", f"PYTEST_ARGS={options}"]
    say(f"tests under {where}: {' '.join(make)}")
    code, closing_line = run(make)
    outcome.take(closing_line)
    failed = last_failed()
    if code == OK:
        return
    if not failed:  # make's own code is 2, whatever pytest's was
        outcome.broken.append(f"{where}: pytest ended without naming what has failed")
        return
    if len(failed) > MOST_AGAIN:
        outcome.broken += sorted(failed)
        return
    say(f"{len(failed)} failed under {where}: once more, alone")
    code, closing_line = run([f"{venv}/bin/pytest", "--numprocesses", "0", *sorted(failed)])
    again = last_failed() & failed if code == TESTS_FAILED else set() if code == OK else failed
    outcome.broken += sorted(again)
    outcome.flaky += [f"{name} ({where})" for name in sorted(failed - again)]
    outcome.counts["failed"] -= len(failed - again)
    outcome.counts["passed"] += len(failed - again)


def version(python: str) -> str:
    """'3.12', or nothing where it is no Python that can make a virtual environment."""
    code = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip()


def pythons() -> dict[tuple[int, ...], str]:
    """Every Python of the machine that the project supports, by its version: on PATH, and pyenv's."""
    found: dict[tuple[int, ...], str] = {}
    candidates = [f"python3.{minor}" for minor in range(OLDEST[1], 30)]
    if shutil.which("pyenv"):
        names = subprocess.run(["pyenv", "versions", "--bare"], capture_output=True, text=True).stdout.split()
        for name in names:
            prefix = subprocess.run(["pyenv", "prefix", name], capture_output=True, text=True).stdout.strip()
            candidates.append(f"{prefix}/bin/python")
    for candidate in candidates:
        number = tuple(int(part) for part in version(candidate).split(".") if part)
        if number >= OLDEST:
            found.setdefault(number, candidate)
    return found


def main() -> int:
    outcome = Outcome()
    run_tests(outcome, ".venv", "python3")
    others = pythons()
    usual = tuple(int(part) for part in version("python3").split("."))
    for number in sorted({min(others, default=usual), max(others, default=usual)} - {usual}):
        name = ".".join(map(str, number))
        run_tests(outcome, f".venv-{name}", others[number], WITHOUT_CONTAINERS)
    for name in outcome.broken:
        say(f"failed: {name}")
    for name in outcome.flaky:
        print(f"flaky: {name}", flush=True)
    print(f"{len(outcome.flaky)} flaky", flush=True)
    counts = outcome.counts
    print(f"tests: {counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped", flush=True)
    return 1 if outcome.broken or len(outcome.flaky) > MOST_FLAKY else 0


if __name__ == "__main__":
    sys.exit(main())
