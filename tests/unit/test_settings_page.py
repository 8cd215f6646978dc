"""docs/settings.md is the table of settings."""

from __future__ import annotations

import os
import re
from pathlib import Path

from startup.settings.reader import FILES, SHELL
from startup.settings.settings import SECRETS, TABLE

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "settings.md"
HEAD = """# Settings
All in the environment. Times are seconds, fractions allowed, 0 is no limit; empty means unset; `none` empties a list.
A value that cannot be read ends the boot with 78, and all faults are told at once. Dotenv files (`STARTUP_DOTENV`)
reach tasks, not the app, and cannot set what is marked with *: that is read before any of them.

This page is made from the table in `startup/settings/settings.py`:
`STARTUP_TEST_WRITE_DOCS=1 make test PYTEST_ARGS='tests/unit/test_settings_page.py'`.

| name | default | meaning |
|---|---|---|
"""
TAIL = """| `STARTUP_TASK_<NAME>` | | defines the task `<name>`, or overrides it: `module:function`, or a command line |

`entrypoint.sh` itself reads {}; the dotenv files are found by {}.
"""


def page() -> str:
    """The whole page."""
    rows = []
    for name, (_, entry) in TABLE.items():
        default = entry.shown or (f"`{entry.default}`" if entry.default else "")
        names, meaning = f"`{name}`", entry.meaning
        if entry.reader in (SHELL, FILES):
            names += "*"
        if name in SECRETS:
            names, meaning = f"{names}, `{name}_FILE`", f"{meaning}; `_FILE`: a file that holds it"
        rows.append(f"| {names} | {default} | {meaning} |\n")
    by_reader = [
        ", ".join(f"`{name}`" for name, (_, entry) in TABLE.items() if entry.reader == reader)
        for reader in (SHELL, FILES)
    ]
    return HEAD + "".join(rows) + TAIL.format(*by_reader)


def test_the_page_is_what_the_table_says() -> None:
    if os.environ.get("STARTUP_TEST_WRITE_DOCS"):
        PAGE.write_text(page())
    assert PAGE.read_text() == page()


def test_the_entrypoint_reads_what_the_table_says_before_any_file() -> None:
    script = (ROOT / "entrypoint.sh").read_text()
    told_by_the_module = {"STARTUP_PRE_STOP", "STARTUP_POST_STOP", "STARTUP_STOP_TIMEOUT", "STARTUP_NODE"}
    told_by_the_module |= {"STARTUP_FAILED", "STARTUP_METRICS_FILE"}
    told_by_the_module |= {"STARTUP_LOG_FORMAT", "STARTUP_LOG_LEVEL"}  # by files in the state directory
    told_by_the_module |= {"STARTUP_WAIT_FOR", "STARTUP_ENV", "STARTUP_DOTENV"}  # is anything to be waited for at all?
    read = set(re.findall(r"\$\{?(STARTUP_[A-Z_]+)", script)) - told_by_the_module
    assert read == {name for name, (_, entry) in TABLE.items() if entry.reader == SHELL}
