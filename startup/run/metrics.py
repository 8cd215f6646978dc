"""STARTUP_METRICS_FILE: what the startup took, and how it ended, for a collector that reads text files.

The format is Prometheus' text exposition format 0.0.4, for node-exporter's textfile collector and its like: complete
from the moment when it is there, in base units. What was measured before the app started is handed from one phase's
process to the next as JSON. Loaded only where the file is asked for.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from startup import __version__, log
from startup.ledger.journal import TASK, WAIT
from startup.records import dataclass, field
from startup.run.idle import Idle
from startup.settings.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from startup.run.runner import Runner

#: Every metric, in the order of the file, and its HELP. All are gauges: the file tells of one startup.
METRICS = {
    "startup_ready": "1 when the startup is done, 0 when it has failed",
    "startup_failed_here": "1 when this node's own work failed, 0 when that of the node which it waited for, or none",
    "startup_exit_code": "Exit code of the failed startup, 0 when there is none",
    "startup_duration_seconds": "Time from the start of the entrypoint until it was ready or had failed",
    "startup_ping_seconds": "Time until the app answered, or was given up",
    "startup_ping_attempts": "How often the app was asked",
    "startup_wait_seconds": "Time spent waiting for the database, and for the node that held the lock",
    "startup_task_seconds": "Time that a task took here; result: done, failed, skipped (done before, or not reached)",
    "startup_task_attempts": "How often a task was tried here",
    "startup_migrations_pending": "Migrations that were not applied yet, when last looked",
    "startup_migrations_applied": "Migrations that this node applied",
    "startup_info": "What started up; always 1",
}
Sample = tuple[str, Mapping[str, object], float]


@dataclass
class Measured:
    """What was measured so far. Times are in seconds; a ping is its time and the number of its tries."""

    phase: str = ""
    ping: list[float] = field(default_factory=list)
    waits: dict[str, float] = field(default_factory=dict)
    #: Phase, name, result, seconds and tries of each.
    tasks: list[list[Any]] = field(default_factory=list)
    #: Pending and applied; None where nobody has looked.
    migrations: list[int] | None = None

    @classmethod
    def from_text(cls, text: str | None) -> Measured:
        """What an earlier process has handed on, if it has."""
        try:
            return cls(**json.loads(text or "{}"))
        except (TypeError, ValueError):
            return cls()

    def text(self) -> str:
        """For the next process."""
        return json.dumps(vars(self))

    def pinged(self, seconds: float, tries: int) -> None:
        """The app has answered, or was given up."""
        self.ping = [seconds, tries]

    def add(self, phase: str, runner: Runner | Idle) -> None:
        """What *runner* has done, which is at an end."""
        self.phase, now = phase, time.monotonic()
        ran: dict[str, list[Any]] = {}
        for span in runner.spans:
            seconds = (now if span.end is None else span.end) - span.start
            if span.kind == WAIT:
                self.waits[span.name] = self.waits.get(span.name, 0.0) + seconds
            elif span.kind == TASK:
                before = ran.get(span.name, [phase, span.name, "", 0.0, 0])
                result = "failed" if span.failed or span.end is None else "done"
                ran[span.name] = [phase, span.name, result, before[3] + seconds, before[4] + 1]
        for task in runner.plan.tasks:
            self.tasks.append(ran.get(task.name) or [phase, task.name, "skipped", 0.0, 0])
            if task.builtin is not None and task.builtin.progress is not None:
                pending, applied = task.builtin.progress
                self.migrations = [pending, applied + (self.migrations or [0, 0])[1]]


def publish(settings: Settings, measured: Measured, since: str, code: int = 0, here: bool = True) -> None:
    """Write the file. What keeps it from being written is a warning, and no failure.

    *since*: the pid of the process whose start is the startup's. *code* is 0 when ready; *here*: did it fail by itself?
    """
    lines = render(_samples(settings, measured, seconds_since_start(since), code, here))
    try:
        replace(settings.metrics_file, lines)
    except OSError as error:
        path = settings.metrics_file
        why = f"it could not be written: {error.strerror or error}"
        if not os.path.isdir(directory := os.path.dirname(os.path.realpath(path))):
            why = f"there is no directory '{directory}': make it, or mount one there"
        log.warn(f"STARTUP_METRICS_FILE is '{path}': {why}")


def _samples(settings: Settings, measured: Measured, duration: float | None, code: int, here: bool) -> Iterator[Sample]:
    yield "startup_ready", {}, code == 0
    yield "startup_failed_here", {}, code != 0 and here
    yield "startup_exit_code", {}, code
    if duration is not None:
        yield "startup_duration_seconds", {}, duration
    if measured.ping:
        yield "startup_ping_seconds", {}, measured.ping[0]
        yield "startup_ping_attempts", {}, measured.ping[1]
    for what in sorted({"database", "lock", *measured.waits}):
        yield "startup_wait_seconds", {"for": what}, measured.waits.get(what, 0.0)
    for phase, task, result, seconds, tries in measured.tasks:
        yield "startup_task_seconds", {"phase": phase, "task": task, "result": result}, seconds
        yield "startup_task_attempts", {"phase": phase, "task": task}, tries
    if measured.migrations is not None:
        yield "startup_migrations_pending", {}, measured.migrations[0]
        yield "startup_migrations_applied", {}, measured.migrations[1]
    labels = {"node": settings.node, "namespace": settings.namespace, "release": settings.release}
    yield "startup_info", {**labels, "phase": measured.phase, "version": __version__}, 1


def render(samples: Iterable[Sample]) -> str:
    """The text: a metric's samples stand together, below its HELP and TYPE."""
    found: dict[str, list[str]] = {name: [] for name in METRICS}
    for name, labels, value in samples:
        inner = ",".join(f'{label}="{_escaped(str(text))}"' for label, text in labels.items())
        found[name].append(f"{name}{f'{{{inner}}}' if inner else ''} {_number(value)}\n")
    heads = {name: f"# HELP {name} {METRICS[name]}\n# TYPE {name} gauge\n" for name in METRICS}
    return "".join(heads[name] + "".join(lines) for name, lines in found.items() if lines)


def _escaped(text: str) -> str:
    shown = log.plain_lines(log.redact(text))
    return shown.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.6f}".rstrip("0").rstrip(".")


def replace(path: str, text: str) -> None:
    """Give *path* this content by rename(2): whoever reads it sees the one before, or all of this.

    A link is followed, and what is no file (/dev/stdout) never replaced. The temporary file has another ending, since
    collectors read ``*.prom``.

    :raises OSError: it cannot be written.
    """
    path = os.path.realpath(path)
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise OSError("it is there, and no file")
    descriptor, new = tempfile.mkstemp(".new", f".{os.path.basename(path)[:100]}.", os.path.dirname(path))
    try:
        with open(descriptor, "w", encoding="utf-8", errors="replace") as file:
            file.write(text)
            os.fchmod(descriptor, 0o644)
        os.rename(new, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise


def seconds_since_start(process: str) -> float | None:
    """Since *process* began (proc_pid_stat(5), field 22); None where there is no /proc."""
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
    except (OSError, IndexError, ValueError):
        return None
    return max(0.0, now - ticks / os.sysconf("SC_CLK_TCK"))
