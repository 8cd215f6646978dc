"""docs/reference/ is what the code says: verbs, exit codes, pings, and the ledger's tables.

The first and the last are written from it, by `STARTUP_TEST_WRITE_DOCS=1`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from startup import cli, errors
from startup.database.tables import Table
from startup.ledger import journal, ledger
from startup.ping import kinds

DOCS = Path(__file__).parents[2] / "docs"
REFERENCE = DOCS / "reference"
VERBS = """# Verbs
`docker run IMAGE startup VERB`; with the bundle `docker exec CONTAINER /opt/startup/bin/startup VERB`, by `FROM` and by
pip `docker exec CONTAINER startup VERB`. Without a verb it is `init`. [Exit codes](exit-codes.md).

"""
LEDGER = """# The ledger's tables
They are made under the lock, by the first node that runs a task, in one schema of the tasks' database
([home](../cluster.md#home)). They only ever gain columns, so that images of several versions read each other's. Read
them as you like; what is written there is the entrypoint's alone. `migrate` has its own memory: yoyo's tables, and
`startup_migration` beside them.

"""
#: What each column holds; `namespace` is STARTUP_NAMESPACE in all of them.
MEANINGS = {
    ledger.LEDGER: (
        "A row for each task and what it was done for.",
        {
            "task": "its name",
            "key": "what it was done for: `always`, `once`, a release, a content's checksum",
            "policy": "its policy then",
            "state": "`running` (a command, at work), `partial` (a backfill, between batches), `done`, `failed`",
            "node": "who did it last",
            "epoch": "in which run",
            "release": "`STARTUP_RELEASE` then",
            "started_at": "by the database's clock",
            "finished_at": "by the database's clock; of a backfill that is not done: its last batch",
            "seconds": "how long it took",
            "error": "why it failed, without secrets",
            "cursor": "where a backfill's next batch begins, as JSON",
            "batches": "how many are done",
            "rate": "of them a second",
        },
    ),
    ledger.RUN: (
        "A row for each namespace: the run that is going on, or was the last.",
        {
            "epoch": "its number; each run raises it, so that an older one can say nothing there any more",
            "state": "`running`, `done`, `failed`, `stopped`",
            "node": "who runs, or ran",
            "phase": "`pre_start` or `post_start`",
            "task": "where it is",
            "position": "of that task in the list",
            "total": "tasks on the list",
            "started_at": "by the database's clock",
            "changed_at": "by the database's clock",
            "error": "why it failed, without secrets",
            "failed_epoch": "the last run that failed",
            "failure": "why that failed, and on which node",
        },
    ),
    journal.NODES: (
        "A row for each node and phase, for `status`. Nothing rests on these; the next run removes the day before's.",
        {
            "node": "`STARTUP_NODE`",
            "phase": "`pre_start` or `post_start`",
            "state": "`waiting`, `away` (waiting without a connection), `running`, `done`, `failed`, `stopped`",
            "spans": "JSON: kind, name, and how many seconds before `changed_at` it began and ended",
            "changed_at": "by the database's clock",
        },
    ),
}


def verbs() -> str:
    """The page of the verbs."""
    parts = [VERBS]
    for name, (_, text, arguments) in cli.VERBS.items():
        parts.append(f"## {name}\n`startup {' '.join([name, *_words(arguments)])}`: {text}.\n\n")
        parts += [
            f"- `{argument}`: {options['help']}\n" for argument, options in arguments.items() if "help" in options
        ]
        parts.append("\n" if any("help" in options for options in arguments.values()) else "")
    return "".join(parts).rstrip() + "\n"


def _words(arguments: Mapping[str, Mapping[str, Any]]) -> list[str]:
    words = []
    for argument, options in arguments.items():
        if argument.startswith("-"):
            words.append(f"[{argument}{' ' + options['metavar'] if 'metavar' in options else ''}]")
        else:
            words.append(options.get("metavar", argument.upper()) + ("..." if options.get("nargs") == "+" else ""))
    return words


def tables() -> str:
    """The page of the ledger's tables."""
    parts = [LEDGER]
    for table, (text, meanings) in MEANINGS.items():
        parts.append(f"## {table.name}\n{text} Its key: {', '.join(f'`{one}`' for one in table.key.split(', '))}.\n\n")
        parts.append("| column | type | |\n|---|---|---|\n")
        for column, kind in table.columns.items():
            if column != "namespace":
                shown = kind.format(time="timestamp with time zone; text in SQLite")
                parts.append(f"| `{column}` | {shown} | {meanings[column]} |\n")
        parts.append("\n")
    return "".join(parts).rstrip() + "\n"


@pytest.mark.parametrize(("name", "page"), [("verbs.md", verbs), ("ledger.md", tables)])
def test_a_page_is_what_the_code_says(name: str, page: Callable[[], str]) -> None:
    if os.environ.get("STARTUP_TEST_WRITE_DOCS"):
        (REFERENCE / name).write_text(page())
    assert (REFERENCE / name).read_text() == page()


def test_each_exit_code_has_its_row_and_no_other() -> None:
    codes = {error.code for error in vars(errors).values() if isinstance(error, type) and hasattr(error, "code")}
    ours = {code for code in codes if isinstance(code, int)}
    rows = re.findall(r"^\| (\d+) \|", (REFERENCE / "exit-codes.md").read_text(), re.MULTILINE)
    assert sorted(map(int, rows)) == sorted(ours | {1, 2})


def test_each_kind_of_ping_has_its_row() -> None:
    page = (REFERENCE / "pings.md").read_text()
    assert [scheme for scheme in kinds.KINDS if f"`{scheme}" not in page] == []


def test_no_other_table_is_the_ledgers() -> None:
    made = {one for module in (ledger, journal) for one in vars(module).values() if isinstance(one, Table)}
    assert made == set(MEANINGS)
