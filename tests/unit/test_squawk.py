"""What is made of squawk's answers, and of a squawk that gives none: each a process, as squawk is."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from startup.errors import TaskFailed
from startup.migrations import squawk

Fake = Callable[[str], str]


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    """``fake(lines of sh)``: the path of a squawk that does that."""

    def make(body: str) -> str:
        path = tmp_path / "squawk"
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return str(path)

    return make


def fails(program: str) -> str:
    with pytest.raises(TaskFailed) as caught:
        squawk.violations(program, "0001.sql", "SELECT 1;\n", True)
    return str(caught.value)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("kill -KILL $$", "it was killed by SIGKILL"),
        ("echo 'stack overflow' >&2; kill -ABRT $$", "it was killed by SIGABRT: stack overflow"),
        (f"kill -{signal.SIGRTMIN + 6} $$", f"it was killed by signal {signal.SIGRTMIN + 6}"),
        ("cat >/dev/null; head -c 300000 /dev/zero | tr '\\0' '['", "it answers no JSON, but: [[["),
        ("exit 101", "it ended with exit code 101"),
        ("echo no >&2; exit 2", "it ended with exit code 2: no"),
        ("cat >/dev/null; echo garbage", "it answers no JSON, but: garbage"),
        (
            "cat >/dev/null; echo 'Configuration error: x' >&2; exit 1",
            "it answers no JSON, but: Configuration error: x",
        ),
        ("exit 0", "it answers no JSON"),
        ("echo '{}'", "it answers {}"),
        ("""echo '[{"line": 4, "messages": []}]'""", "one of its findings is {'line': 4, 'messages': []}"),
        (
            """echo '[{"line": 9, "column": 0, "rule_name": "a", "message": "b", "help": null}]'""",
            "one of its findings",
        ),
        ("echo '[7]'", "one of its findings is 7"),
    ],
)
def test_a_squawk_that_does_not_answer_as_squawk_does_is_named_with_the_file_and_what_would_be_right(
    fake: Fake, body: str, why: str
) -> None:
    program = fake(body)
    said = fails(program)
    assert said.startswith(f"0001.sql: squawk ({program}) ") and why in said
    assert f"right would be squawk {squawk.OLDEST} or later" in said


def test_a_squawk_that_hangs_is_given_up_and_ended(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wait_until: Callable[[Callable[[], object]], object]
) -> None:
    monkeypatch.setattr(squawk, "LIMIT", 0.5)
    assert "it has not answered within 0.5 s" in fails(fake(f"echo $$ >{tmp_path}/pid; exec sleep 60"))
    pid = (tmp_path / "pid").read_text().strip()
    wait_until(lambda: not Path(f"/proc/{pid}").exists())


def test_a_squawk_that_cannot_be_executed_is_told(tmp_path: Path) -> None:
    assert "could not be executed: No such file" in fails(str(tmp_path / "none"))


def test_one_that_does_not_read_what_it_is_given_is_no_error_of_ours(fake: Fake) -> None:
    assert squawk.violations(fake("echo '[]'"), "0001.sql", "SELECT 1;\n" * 100_000, True) == []


def test_lines_and_columns_are_counted_from_0_and_columns_in_bytes(fake: Fake) -> None:
    answer = '[{"line": 1, "column": 9, "rule_name": "r", "message": "one\\n  two", "help": null}]'
    (found,) = squawk.violations(fake(f"printf %s '{answer}'"), "0001.sql", "-- é\n/* é */ DROP TABLE a;\n", True)
    assert (found.rule, found.message, found.help) == ("r", "one two", "")
    assert "-- é\n/* é */ DROP TABLE a;\n"[found.offset :].startswith("DROP")


def test_the_program_beside_this_python_comes_before_the_one_on_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("beside", "path"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "squawk").write_text("#!/bin/sh\n")
        (tmp_path / name / "squawk").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "beside" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    assert squawk.program() == str(tmp_path / "beside" / "squawk")
    (tmp_path / "beside" / "squawk").unlink()
    assert squawk.program() == str(tmp_path / "path" / "squawk")
    (tmp_path / "path" / "squawk").unlink()
    assert squawk.program() is None
