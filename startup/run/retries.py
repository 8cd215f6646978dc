"""A task that failed is tried again (STARTUP_RETRIES, ``@task(retries=N)``): one whole try after another."""

from __future__ import annotations

import time
from collections.abc import Callable

from startup import log
from startup.errors import EndedInside, TaskFailed
from startup.plan.task import Task

#: Seconds before the second try; twice as long before each one after that, up to the longest.
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
#: Seconds between two looks at the lock, in a pause.
LOOK = 0.5


def pause_after(tries: int) -> float:
    """Seconds until the next try, after so many that failed."""
    return float(min(FIRST_PAUSE * 2 ** min(tries - 1, 30), LONGEST_PAUSE))


def sleep(seconds: float, look: Callable[[], None]) -> None:
    """A pause; it ends with what *look*, called every now and then, raises, and with what a signal's handler does."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, LOOK))
        look()


def tried(task: Task, once: Callable[[], str], look: Callable[[], None], tell: Callable[[str], None]) -> str:
    """What *once*, a whole try, returns; again while it raises TaskFailed and *task* has retries left.

    Not what a task has committed or rolled back behind our back: that may have happened already. *tell* is given how
    things stand between two tries.
    """
    tries = (task.retries or 0) + 1
    for number in range(1, tries):
        try:
            return once()
        except EndedInside:
            raise
        except TaskFailed as error:
            pause = pause_after(number)
            after = f"try {number} of {tries}, next in {pause:g} s"
            log.warn(f"{after}: {error}", attempt=number)
        tell(after)
        sleep(pause, look)
        log.say(f"task {task.name}: try {number + 1} of {tries} starts", attempt=number + 1)
        tell(f"try {number + 1} of {tries}")
    try:
        return once()
    except TaskFailed as error:
        if tries == 1 or isinstance(error, EndedInside):
            raise
        raise TaskFailed(to_first_line(str(error), f" (try {tries} of {tries})")) from error


def to_first_line(text: str, words: str) -> str:
    """*text* with *words* at the end of its first line, which is what the entrypoint's last line says."""
    first, line_end, rest = text.partition("\n")
    return f"{first}{words}{line_end}{rest}"
