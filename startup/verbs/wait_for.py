"""Waiting for what STARTUP_WAIT_FOR names, all of it side by side, before anything begins."""

from __future__ import annotations

import os
import threading
import time

from startup import log
from startup.errors import NotThere
from startup.patience import FIRST_PAUSE, LINE_EVERY
from startup.ping.attempt import Answer, AppEnded, Ping, Until
from startup.records import replace
from startup.settings.settings import Settings
from startup.state import State

#: The longest pause between two pings, in seconds.
_PAUSE = 0.5
#: Seconds: what is there within the first is not worth a line; after that one may follow each second.
_QUIET = 1.0
#: Seconds for a ping's thread to end when nobody waits any more: a file on a network that is gone may keep one.
_ENDING = 1.0


def until_there(settings: Settings, state: State) -> None:
    """Wait, and say for what. What was there once is not asked again; no thread and no socket is left.

    :raises NotThere: something was not there within STARTUP_WAIT_TIMEOUT.
    :raises StartupError: Unreachable or SettingError of the database, where no waiting is of use.
    """
    limit, began = settings.wait_timeout, time.monotonic()
    changed = threading.Event()
    wanted = [
        _Pinged(one, changed) if isinstance(one, Ping) else _Database(settings, changed) for one in settings.wait_for
    ]
    names = ", ".join(one.name for one in wanted)
    lines = _Lines()
    state.phase(f"waiting for {names}")
    over, end = os.pipe()
    try:
        for one in wanted:
            one.start(over)
        while missing := [one for one in wanted if not one.answer.ok]:
            for one in missing:
                if one.error is not None:
                    raise one.error
            waited = time.monotonic() - began
            if limit and waited >= limit:
                last = "; ".join(f"{one.name}: {one.answer.text}" for one in missing)
                raise NotThere(f"not there within {limit:g} s (STARTUP_WAIT_TIMEOUT): {last}")
            if text := lines.due([(one.name, one.answer.state) for one in missing], waited):
                state.phase(text)
                log.say(text)
            changed.wait(min(_QUIET, limit - waited) if limit else _QUIET)
            changed.clear()
    finally:
        os.close(end)
        for one in wanted:
            one.stopped = True
        for one in wanted:
            one.join()
        os.close(over)
    seconds = time.monotonic() - began
    log.say(f"there after {seconds:.2f} s: {names}", seconds=seconds)


class _Wanted:
    """What must be there, asked on a thread of its own."""

    def __init__(self, name: str, changed: threading.Event) -> None:
        self.name = name
        self.answer = Answer(False, "no answer yet")
        #: Why there is no use in waiting.
        self.error: BaseException | None = None
        #: Nobody waits any more.
        self.stopped = False
        self._changed = changed
        self._thread: threading.Thread | None = None

    def start(self, over: int) -> None:
        """Ask until it answers; the other end of the pipe *over* is closed when nobody waits any more."""
        self._thread = threading.Thread(target=self._run, args=(over,), name=f"wait for {self.name}", daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Until it has ended, which it does at once when it is :attr:`stopped`."""
        if self._thread is not None and self._thread.ident is not None:
            self._thread.join(_ENDING)

    def hear(self, answer: Answer) -> None:
        """What one try came to."""
        if self.stopped:
            raise AppEnded
        news, self.answer = answer.state != self.answer.state, answer
        if news:
            self._changed.set()

    def ask(self, over: int) -> None:
        """Ask until it answers, and :meth:`hear` each answer."""
        raise NotImplementedError

    def _run(self, over: int) -> None:
        try:
            self.ask(over)
        except AppEnded:
            pass
        except BaseException as error:
            self.error = error
            self._changed.set()


class _Pinged(_Wanted):
    def __init__(self, ping: Ping, changed: threading.Event) -> None:
        super().__init__(str(ping), changed)
        self._ping = ping

    def ask(self, over: int) -> None:
        pause = FIRST_PAUSE
        with Until(over) as watched:
            while not self.answer.ok:
                self.hear(self._ping.attempt(watched))
                if not self.answer.ok:
                    watched.rest(pause)
                pause = min(pause * 1.5, _PAUSE)


class _Database(_Wanted):
    """The address in force, reached as for tasks."""

    def __init__(self, settings: Settings, changed: threading.Event) -> None:
        assert settings.address is not None
        super().__init__(f"the database at {settings.address.masked}", changed)
        self._settings = replace(settings, database_timeout=0.0, lock_timeout=0.0)  # STARTUP_WAIT_TIMEOUT is the limit

    def join(self) -> None:
        """The try that is under way ends by itself, as the last one; it is in C code, where nothing reaches it."""

    def ask(self, over: int) -> None:
        from startup.database.connect import connect

        def failed(words: str, error: str) -> None:
            self.hear(Answer(False, f"{words} ({error})", words))

        connect(self._settings, looks_only=True, failed=failed).close()
        self.hear(Answer(True, "it accepts connections"))


class _Lines:
    """What is said while waiting: what is missing, at each change, and every 10 s."""

    def __init__(self) -> None:
        self._missing: list[tuple[str, str]] = []
        self._told_at = 0.0

    def due(self, missing: list[tuple[str, str]], waited: float) -> str:
        """The line, if it is time for one, after *waited* seconds; else nothing."""
        same = missing == self._missing
        if waited - self._told_at < (LINE_EVERY if same else _QUIET):
            return ""
        self._missing, self._told_at = missing, waited
        what = ", ".join(f"{name} ({state})" for name, state in missing)
        return f"still waiting after {waited:.0f} s for {what}" if same else f"waiting for {what}"
