"""A backfill: a generator task. Each batch commits together with its cursor in the ledger (SPEC section 4)."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable

from startup.database.session import Session
from startup.errors import TaskFailed
from startup.ledger.ledger import DONE, PARTIAL, Entry, Ledger, progress
from startup.patience import LINE_EVERY, Stopwatch
from startup.plan.task import Task
from startup.records import replace
from startup.run.execution import Execution

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import GeneratorType
    from typing import Any

    Steps = GeneratorType[object, None, object]

#: Those that yielded instead of ending: as long as one is kept, it does not go on, and writes nothing more.
_unending: list[Steps] = []


class _Undone(Exception):
    """Rolls a transaction back."""


class Backfill:
    """Runs one such task on *session*; a node that takes over goes on where the last batch ended."""

    def __init__(
        self, execution: Execution, session: Session, ledger: Ledger, entry: Entry, say: Callable[[str], None]
    ) -> None:
        self._execution = execution
        self._session = session
        self._ledger = ledger
        self._say = say
        before = ledger.entry(entry.task, entry.key)
        self._before = before.batches or 0 if before is not None and before.cursor else 0
        self._cursor = before.cursor if before is not None else ""
        self._entry = replace(entry, state=PARTIAL, cursor=self._cursor, batches=self._before)
        self._silent = Stopwatch(running=True)

    def run(self, task: Task, started: float) -> str:
        """Run *task*, which began at *started* (``time.monotonic()``), to its end; a word on it.

        TaskFailed for what it yields, and what one transaction would raise; what it wrote in the batch is rolled back.
        """
        if self._cursor:
            self._say(f"goes on after {progress(self._cursor, self._before, None)}")
        self._started = started
        generator = self._execution.generator(task, self._session, json.loads(self._cursor or "null"))
        try:
            while self._entry.state != DONE:
                with self._session.transaction(lambda: self._ledger.mark(self._entry.epoch, self._entry)):
                    self._entry = self._next(generator)
                self._tell()
        except BaseException:
            self._abandon(generator)
            raise
        return f"{self._entry.batches:,} batches"

    def _next(self, generator: Steps) -> Entry:
        """The row that shall commit with what the generator writes until it yields, or ends."""
        try:
            with self._execution.as_a_task():
                cursor = _encoded(next(generator))
                if what := self._session.busy_with:
                    with contextlib.suppress(Exception):
                        generator.close()  # its `with` ends that, here where it was begun
                    raise TaskFailed(f"{what} is open where it yields, and no batch can commit: end that before")
        except StopIteration:
            return replace(self._entry, state=DONE, cursor="", seconds=self._seconds)
        except Exception as error:
            if getattr(error, "sqlstate", "") == "34000":  # invalid_cursor_name
                raise TaskFailed(f"{error}: {_CURSOR_GONE}") from error
            raise
        batches = (self._entry.batches or 0) + 1
        rate = (batches - self._before) / max(self._seconds, 0.001)
        return replace(self._entry, cursor=cursor, batches=batches, rate=round(rate, 3))

    def _abandon(self, generator: Steps) -> None:
        """What its ``finally`` writes is rolled back, as the batch is."""
        self._execution.settle()
        with contextlib.suppress(BaseException), self._session.transaction():
            with contextlib.suppress(BaseException):
                generator.close()
            raise _Undone
        if generator.gi_frame is not None:
            _unending.append(generator)

    def _tell(self) -> None:
        if self._silent.over(LINE_EVERY):
            self._silent = Stopwatch(running=True)
            self._say(f"goes on: {progress(self._entry.cursor, self._entry.batches, self._entry.rate)}")

    @property
    def _seconds(self) -> float:
        return round(time.monotonic() - self._started, 3)


_CURSOR_GONE = (
    "a server-side cursor ends with the batch in which it was opened; open it withhold=True, or one for each batch"
)


def _encoded(cursor: Any) -> str:
    """*cursor* as JSON; TaskFailed for one that would not be the same when it is read again."""
    if cursor is None:
        raise TaskFailed(
            "it yielded nothing: right is `yield CURSOR`, where the next batch begins, and it must not be None"
        )
    try:
        text = json.dumps(cursor, allow_nan=False)
        same = json.loads(text) == cursor
    except (TypeError, ValueError, RecursionError) as error:
        raise TaskFailed(
            f"its cursor is of type {type(cursor).__name__}, and cannot be JSON ({error}): {_RIGHT}"
        ) from error
    if not same:
        raise TaskFailed(f"its cursor is not the same after it was written as JSON and read again: {_RIGHT}")
    return text


_RIGHT = "right are numbers but NaN, text, true and false, lists (no tuples) and dicts whose keys are text"
