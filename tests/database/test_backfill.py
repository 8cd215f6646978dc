"""Section 4 of the contract: a generator is a backfill in batches, each of which happens exactly once."""

from __future__ import annotations

import json
import random
import re
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.database.homes import BOTH
from tests.database.test_tasks import App

POSTGRES = pytest.mark.parametrize("url", ["postgresql"], indirect=True)
#: Ten rows, two in a batch; the cursor is the last row's number.
FILL = """
@task(policy={policy!r}{more})
def fill(context):
    for first in range(context.cursor or 0, 10, 2):
        {before}
        context.connection.execute(f"UPDATE numbers SET times = times + 1 WHERE n > {{first}} AND n <= {{first + 2}}")
        {after}
        yield first + 2
"""


class Filled(App):
    """An app whose table ``numbers`` has a column ``times``: how often a row was filled in."""

    def __init__(self, startup: Any, query: Any, url: str) -> None:
        super().__init__(startup, query, url)
        rows = ", ".join(f"({n}, 0)" for n in range(1, 11))
        startup.write(
            "migrations/0001.numbers.sql",
            f"CREATE TABLE numbers (n integer, times integer); INSERT INTO numbers VALUES {rows};",
        )
        self.ok("migrate")

    def fill(self, before: str = "pass", after: str = "pass", policy: str = "once", more: str = "") -> None:
        self.tasks(FILL.format(before=before, after=after, policy=policy, more=more))

    def body(self, *lines: str, policy: str = "once") -> None:
        """A backfill of these lines."""
        self.tasks(f"@task(policy={policy!r})\ndef fill(context):\n" + "".join(f"    {line}\n" for line in lines))

    @property
    def times(self) -> list[int]:
        return [times for (times,) in self.query("SELECT times FROM numbers ORDER BY n")]

    @property
    def row(self) -> Any:
        """State, cursor and number of batches in the ledger."""
        rows = self.query("SELECT state, cursor, batches FROM startup_ledger WHERE task = 'fill'")
        return tuple(rows[0]) if rows else ()

    def until(self, file: str) -> None:
        deadline = time.monotonic() + 30
        while not (self.directory / file).exists():
            assert time.monotonic() < deadline, file
            time.sleep(0.02)


@pytest.fixture
def app(startup: Any, query: Any, url: str) -> Filled:
    return Filled(startup, query, url)


@BOTH
def test_each_batch_commits_with_its_cursor_and_the_end_clears_it(app: Filled) -> None:
    app.fill(before="open('seen', 'a').write(f'{context.cursor}\\n')")
    assert re.search(r"fill, is done after .*: 5 batches", app.ok("fill"))
    assert app.times == [1] * 10 and app.row == ("done", None, 5)
    assert "done already" in app.ok("fill") and app.times == [1] * 10
    assert set((app.directory / "seen").read_text().split()) == {"None"}


@BOTH
def test_a_batch_that_fails_is_rolled_back_and_the_next_boot_goes_on_after_the_one_before(app: Filled) -> None:
    app.fill(after="if first == 6 and not os.path.exists('mended'): raise ValueError('no more')")
    assert "task fill failed: ValueError: no more" in app.fails("fill")
    assert app.times == [1] * 6 + [0] * 4 and app.row == ("failed", "6", 3)
    app.startup.write("mended", "")
    assert "goes on after 3 batches, at 6" in app.ok("fill")
    assert app.times == [1] * 10 and app.row == ("done", None, 5)


@BOTH
def test_what_is_written_after_the_last_yield_commits_with_the_end(app: Filled) -> None:
    app.body(
        "yield 1",
        "context.connection.execute('UPDATE numbers SET times = 1')",
    )
    app.ok("fill")
    assert app.times == [1] * 10 and app.row[0] == "done"


@BOTH
def test_a_killed_node_is_followed_by_one_that_begins_at_its_cursor(app: Filled) -> None:
    app.fill(after="if first == 4 and not os.path.exists('there'): open('there', 'w').close(); time.sleep(60)")
    process = app.startup.start("init", **app.settings, STARTUP_TASKS="fill")
    app.until("there")
    child = psutil.Process(process.pid).children()[0] if psutil.Process(process.pid).children() else process
    child.send_signal(signal.SIGKILL)
    process.wait(30)
    deadline = time.monotonic() + 30
    while app.row != ("partial", "4", 2):
        assert time.monotonic() < deadline, app.row
        time.sleep(0.05)
    assert "goes on after 2 batches, at 4" in app.ok("fill")
    assert app.times == [1] * 10


@BOTH
def test_status_tells_how_far_it_is_and_how_fast(app: Filled) -> None:
    app.fill(after="if first == 6: raise ValueError('no more')")
    app.fails("fill")
    shown = app.startup("status", **app.settings).stdout
    assert re.search(r"3 batches, at 6, [\d.]+ a second", shown), shown
    (entry,) = json.loads(app.startup("status", "--json", **app.settings).stdout)["ledger"]
    assert (entry["cursor"], entry["batches"], entry["rate"] > 0) == ("6", 3, True)


# ------------------------------------------------------------------------------------------------- what a cursor may be

WRONG = {
    "nothing": ("", "it yielded nothing"),
    "none": ("None", "it yielded nothing"),
    "tuple": ("(1, 2)", "not the same"),
    "nested tuple": ("{'at': [(1, 2)]}", "not the same"),
    "number as a key": ("{1: 2}", "not the same"),
    "nan": ("float('nan')", "cannot be JSON"),
    "nested infinity": ("[float('inf')]", "cannot be JSON"),
    "bytes": ("b'1'", "of type bytes"),
    "date": ("__import__('datetime').date(2026, 1, 1)", "of type date"),
    "set": ("{1}", "of type set"),
    "itself": ("(lambda a: a.append(a) or a)([])", "cannot be JSON"),
}


@BOTH
@pytest.mark.parametrize("name", WRONG)
def test_a_cursor_that_would_not_be_the_same_again_fails_the_batch_before_it_commits(app: Filled, name: str) -> None:
    cursor, word = WRONG[name]
    app.body("context.connection.execute('UPDATE numbers SET times = times + 1')", f"yield {cursor}")
    assert word in app.fails("fill")
    assert app.times == [0] * 10
    assert app.row == ("failed", None, None)


@BOTH
@pytest.mark.parametrize(
    "cursor", ["0", "''", "False", "[]", "{}", "1.5", "{'a': [1, None, 'x']}", "'\\x00\\ud800'", "10 ** 30", "'%s'"]
)
def test_any_other_json_comes_back_as_it_was(app: Filled, cursor: str) -> None:
    app.body(
        "if context.cursor is not None:",
        f"    assert context.cursor == {cursor} and type(context.cursor) is type({cursor})",
        "    return",
        f"yield {cursor}",
        "raise ValueError('here')",
    )
    assert "ValueError: here" in app.fails("fill")
    app.ok("fill")
    assert app.row == ("done", None, 1)


@BOTH
def test_a_cursor_is_redacted_and_cut_in_lines(app: Filled) -> None:
    app.body("yield 'x' * 500", "raise ValueError('here')")
    app.fails("fill")
    said = app.fails("fill")
    (line,) = [line for line in said.splitlines() if "goes on after" in line]
    assert "xxx..." in line and len(line) < 200


# ------------------------------------------------------------------------------------------------- to whom it belongs


@BOTH
def test_new_content_starts_anew(app: Filled) -> None:
    app.fill(after="if first == 6: raise ValueError('no more')", policy="change")
    app.fails("fill")
    app.fill(policy="change")
    assert "goes on" not in app.ok("fill")
    assert app.times == [2] * 6 + [1] * 4


@BOTH
def test_a_new_release_starts_anew_and_the_same_one_goes_on(app: Filled) -> None:
    app.fill(after="if first == 6 and not os.path.exists('mended'): raise ValueError('no more')", policy="release")
    app.fails("fill", STARTUP_RELEASE="1")
    app.startup.write("mended", "")
    app.ok("fill", STARTUP_RELEASE="2")
    assert app.times == [2] * 6 + [1] * 4
    assert "goes on after 3 batches" in app.ok("fill", STARTUP_RELEASE="1")
    assert app.times == [2] * 10


@BOTH
def test_a_retry_goes_on_at_the_cursor(app: Filled) -> None:
    app.fill(
        after="""if first == 6 and not os.path.exists('tried'):
            open('tried', 'w').close()
            raise OSError('away')""",
        more=", retries=1",
    )
    said = app.ok("fill")
    assert "try 1 of 2" in said and "goes on after 3 batches, at 6" in said
    assert app.times == [1] * 10 and app.row == ("done", None, 5)


@BOTH
def test_forget_clears_the_cursor(app: Filled) -> None:
    app.fill(after="if first == 6 and not os.path.exists('mended'): raise ValueError('no more')")
    app.fails("fill")
    app.startup.write("mended", "")
    assert app.startup("forget", "fill", **app.settings).returncode == 0
    assert "goes on" not in app.ok("fill")
    assert app.times == [2] * 6 + [1] * 4


@BOTH
def test_an_always_task_begins_anew_when_it_was_done(app: Filled) -> None:
    app.fill(policy="always")
    app.ok("fill")
    assert "goes on" not in app.ok("fill")
    assert app.times == [2] * 10 and app.row == ("done", None, 5)


@BOTH
@pytest.mark.parametrize(
    ("listed", "more", "word"),
    [("fill@local", "", "policy local"), ("fill", ", transaction=False", "transaction=False")],
)
def test_neither_local_nor_without_a_transaction(app: Filled, listed: str, more: str, word: str) -> None:
    app.fill(more=more)
    said = app.fails(listed, 78)
    assert "task fill yields" in said and word in said


@BOTH
def test_not_in_a_stop_phase(app: Filled) -> None:
    app.fill(policy="always")
    said = app.startup("plan", **app.settings, STARTUP_POST_STOP="fill", STARTUP_TASKS="nope")
    assert said.returncode == 78 and "task fill yields" in said.stderr and "STARTUP_POST_STOP" in said.stderr


@BOTH
def test_a_function_that_returns_a_generator_is_told_that_nobody_runs_it(app: Filled) -> None:
    app.tasks("def steps(): yield 1\n@task(policy='once')\ndef fill(context):\n    return steps()\n")
    assert "it returned a generator, which nobody runs" in app.fails("fill")
    assert app.row[0] == "failed"


# ------------------------------------------------------------------------------------------------- what ends a batch


@BOTH
def test_what_a_finally_writes_is_rolled_back_with_its_batch(app: Filled) -> None:
    app.body(
        "write = context.connection.execute",
        "try:",
        "    write('UPDATE numbers SET times = times + 1 WHERE n = 1')",
        "    yield 1",
        "    write('UPDATE numbers SET times = times + 1 WHERE n = 2')",
        "    raise ValueError('here')",
        "finally:",
        "    write('UPDATE numbers SET times = times + 1 WHERE n = 3')",
    )
    assert "ValueError: here" in app.fails("fill")
    assert app.times[:3] == [1, 0, 0] and app.row[1:] == ("1", 1)


LEAVES = (
    "write = context.connection.execute",
    "try:",
    "    write('UPDATE numbers SET times = times + 1 WHERE n = 1')",
    "    yield 1",
    "    write('UPDATE numbers SET times = times + 1 WHERE n = 2')",
    "    yield (1, 2)",
    "finally:",
    "    write('UPDATE numbers SET times = times + 1 WHERE n = 3')",
)


@BOTH
def test_what_a_finally_writes_for_a_batch_that_must_not_commit_is_rolled_back_too(app: Filled) -> None:
    app.body(*LEAVES)
    assert "not the same" in app.fails("fill")
    assert app.times[:3] == [1, 0, 0] and app.row[1:] == ("1", 1)


@BOTH
def test_one_that_yields_when_it_is_told_to_end_writes_nothing_either(app: Filled) -> None:
    app.body(
        *LEAVES[:-1],
        "    for n in range(4, 10):",
        "        try:",
        "            yield n",
        *(
            "        finally:",
            "            write(f'UPDATE numbers SET times = times + 1 WHERE n = {n}')",
        ),
    )
    assert "not the same" in app.fails("fill")
    assert app.times == [1] + [0] * 9


@BOTH
def test_one_that_never_ends_writes_nothing_either(app: Filled) -> None:
    app.body(
        *LEAVES[:-2],
        "except GeneratorExit:",
        "    pass",
        "while True:",
        "    try:",
        "        yield 7",
        *(
            "    except GeneratorExit:",
            "        write('UPDATE numbers SET times = times + 1 WHERE n = 3')",
        ),
    )
    assert "not the same" in app.fails("fill")
    assert app.times == [1] + [0] * 9


@BOTH
@pytest.mark.parametrize("where", ["within", "swallowed", "between"])
def test_a_signal_ends_it_and_the_batch_that_it_strikes_is_rolled_back(app: Filled, where: str) -> None:
    strikes = {
        "within": "if first == 4: open('there', 'w').close(); time.sleep(60)",
        "swallowed": "if first == 4:\n            open('there', 'w').close()\n"
        "            try: time.sleep(60)\n            except BaseException: pass",
        "between": "open('there', 'w').close() if first == 4 else None; time.sleep(0.2 if first == 4 else 0)",
    }
    app.fill(after=strikes[where])
    process = app.startup.start("init", **app.settings, STARTUP_TASKS="fill")
    app.until("there")
    if where == "between":  # it may have ended its batch by then
        time.sleep(random.uniform(0, 0.3))
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == (143 if where != "between" else process.returncode)
    filled = sum(app.times)
    assert set(app.times) <= {0, 1} and filled % 2 == 0
    assert where == "between" or (filled == 4 and app.row == ("partial", "4", 2)), app.row
    app.fill()
    app.ok("fill")
    assert app.times == [1] * 10


@BOTH
@pytest.mark.parametrize("swallowed", [False, True])
def test_a_time_limit_that_strikes_within_a_batch_rolls_it_back(app: Filled, swallowed: bool) -> None:
    sleep = "if first == 4: time.sleep(60)"
    swallow = "if first == 4:\n            try: time.sleep(60)\n            except BaseException: pass"
    app.fill(after=swallow if swallowed else sleep, more=", timeout=1")
    assert "was not done within 1 s" in app.fails("fill")
    assert app.times == [1] * 4 + [0] * 6 and app.row == ("failed", "4", 2)


@BOTH
def test_a_commit_of_its_own_fails_the_batch(app: Filled) -> None:
    app.fill(after="if first == 4: context.connection.execute('COMMIT')")
    assert "task fill failed" in app.fails("fill")
    assert app.row[:2] == ("failed", "4")


@POSTGRES
def test_a_lock_that_is_lost_between_batches_ends_it(app: Filled) -> None:
    app.fill(
        before="if first == 4: context.connection.execute('SELECT pg_advisory_unlock_all()')",
    )
    app.fails("fill", 75)
    assert app.times == [1] * 4 + [0] * 6 and app.row == ("partial", "4", 2)


@POSTGRES
@pytest.mark.parametrize("hold", [False, True])
def test_a_server_side_cursor_lives_for_a_batch_unless_it_is_held(app: Filled, hold: bool) -> None:
    app.body(
        f"cursor = context.connection.cursor('numbers', withhold={hold})",
        "cursor.execute('SELECT n FROM numbers ORDER BY n')",
        "while rows := cursor.fetchmany(3):",
        "    for (n,) in rows:",
        "        context.connection.execute('UPDATE numbers SET times = times + 1 WHERE n = %s', (n,))",
        "    yield rows[-1][0]",
    )
    if hold:
        app.ok("fill")
        assert app.times == [1] * 10
    else:
        said = app.fails("fill")
        assert "withhold=True" in said and app.times == [1] * 3 + [0] * 7 and app.row[:2] == ("failed", "3")


@POSTGRES
def test_a_savepoint_that_is_held_across_a_batch_fails_it(app: Filled) -> None:
    app.body(
        "with context.connection.transaction():",
        "    context.connection.execute('UPDATE numbers SET times = times + 1')",
        "    yield 1",
    )
    app.fails("fill")
    assert app.times == [0] * 10


@POSTGRES
def test_what_a_batch_sets_on_the_session_is_gone_in_the_next(app: Filled) -> None:
    app.body(
        "context.connection.execute('SET search_path = nowhere')",
        "yield 1",
        "context.connection.execute('UPDATE numbers SET times = times + 1')",
    )
    app.ok("fill")
    assert app.times == [1] * 10


@BOTH
def test_a_ledger_of_an_older_image_gains_the_columns(app: Filled) -> None:
    app.ok("count@once", STARTUP_TASK_COUNT="true")
    for column in ("cursor", "batches", "rate"):
        app.query(f"ALTER TABLE startup_ledger DROP COLUMN {column}")
    assert app.startup("status", **app.settings).returncode == 0
    app.fill()
    app.ok("fill")
    assert app.times == [1] * 10


@BOTH
def test_a_line_every_ten_seconds_says_how_far_it_is(app: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    app.fill(after="time.sleep(2.2)")
    said = app.ok("fill")
    assert re.search(r"task 1 of 1, fill, goes on: 5 batches, at 10, 0\.\d a second", said), said


@BOTH
def test_the_example_of_the_page_fills_each_row_once(app: Filled) -> None:
    page = (Path(__file__).parents[2] / "docs" / "backfills.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    app.startup.write("tasks.py", example.replace("BATCH = 1000", "BATCH = 3"))
    app.query("CREATE TABLE orders (id integer PRIMARY KEY, net integer, tax integer, total integer)")
    app.query("INSERT INTO orders SELECT n, n, 1, NULL FROM numbers")
    assert "fill_totals, is done" in app.ok("fill_totals")
    assert app.query("SELECT count(*) FROM orders WHERE total = net + tax") == [(10,)]
    assert app.query("SELECT batches FROM startup_ledger WHERE task = 'fill_totals'") == [(4,)]


@POSTGRES
@pytest.mark.parametrize(
    ("opened", "what"),
    [
        ("context.connection.pipeline()", "a pipeline"),
        ("context.connection.cursor().copy('COPY numbers FROM STDIN')", "a COPY or stream"),
        ("context.connection.cursor().copy('COPY numbers TO STDOUT')", "a COPY or stream"),
    ],
)
def test_what_is_open_on_the_connection_where_it_yields_fails_the_batch_at_once(
    app: Filled, opened: str, what: str
) -> None:
    app.body("yield 1", f"with {opened}:", "    yield 2")
    said = app.fails("fill", STARTUP_TIMEOUT="20")
    assert f"task fill failed: {what} is open where it yields, and no batch can commit: end that before" in said
    assert "lost" not in said and app.row == ("failed", "1", 1)
