"""Each failure for real: the processes, the servers, the signals; and the page of the docs that is made from them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.conftest import Server
from tests.failures import page
from tests.failures.catalog import FAILURES, Failure
from tests.failures.stage import Stage


@pytest.fixture
def stage(tmp_path: Path, server: Server, database: str) -> Iterator[Stage]:
    one = Stage(tmp_path, server, database)
    yield one
    one.clean()


@pytest.mark.parametrize("failure", FAILURES, ids=[failure.name for failure in FAILURES])
def test_the_line_that_the_user_sees_is_word_for_word(failure: Failure, stage: Stage) -> None:
    stage.prepare(failure)
    lines, code = stage.run(failure)
    expected = failure.pattern(stage.known)
    told = "\n".join(lines)
    size = failure.line.count("\n") + 1
    windows = ["\n".join(lines[n : n + size]) for n in range(len(lines) - size + 1)]
    found = windows if failure.code == 0 else windows[-1:]  # what ends the run is said last
    assert any(expected.fullmatch(window) for window in found), f"expected\n{failure.line}\nbut it said\n{told}"
    assert code == failure.code, told


def test_there_are_seventy_and_more_each_with_cause_and_cure() -> None:
    assert len(FAILURES) >= 70 and len({failure.name for failure in FAILURES}) == len(FAILURES)
    assert all(failure.symptom and failure.cause and failure.cure for failure in FAILURES)


def test_the_page_of_the_docs_is_what_the_failures_are() -> None:
    if os.environ.get("STARTUP_TEST_WRITE_DOCS"):
        page.PATH.write_text(page.page())
    assert page.PATH.read_text() == page.page(), (
        "docs/troubleshooting.md is out of date: STARTUP_TEST_WRITE_DOCS=1 pytest tests/failures -k page writes it"
    )
