"""One try to reach the app: what it answered, how long it may take, and the app whose end is the try's end too."""

from __future__ import annotations

import os
import select
import time

TYPE_CHECKING = False  # as mypy knows it; typing itself is a costly import
if TYPE_CHECKING:
    from collections.abc import Mapping

#: Seconds; the contract's limit for each try.
LIMIT = 5.0
#: Seconds between looks at /proc where the kernel does not tell of a process's end (no pidfd: before Linux 5.3).
_LOOK = 0.05


class AppEnded(Exception):
    """The app ended while it was being waited for."""


class Answer:
    """What one try came to.

    ``text`` is for a person: "connection refused", "status 503". ``state`` is the part of it that does not change from
    try to try (a command's output does), so that a log can tell news from noise.
    """

    __slots__ = ("ok", "state", "text")

    def __init__(self, ok: bool, text: str, state: str = "") -> None:
        self.ok = ok
        self.text = text
        self.state = state or text

    def __repr__(self) -> str:
        return f"Answer(ok={self.ok}, text={self.text!r})"


class App:
    """The app's process, by its pid; ``None`` is an app that is not known and so is never seen to end.

    A process that has ended and was not waited for yet (a zombie) has ended.
    """

    def __init__(self, pid: int | None) -> None:
        self.pid = pid
        self._pidfd: int | None = None
        self._poll = select.poll()
        self._gone = False
        if pid is None:
            return
        try:
            self._pidfd = os.pidfd_open(pid)
            self._poll.register(self._pidfd, select.POLLIN)
        except ProcessLookupError:
            self._gone = True
        except (AttributeError, OSError):
            pass  # a kernel or a seccomp profile that does not know the call: /proc tells

    def __enter__(self) -> App:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None

    def ended(self) -> bool:
        """Has the app ended by now?"""
        if self.pid is not None and not self._gone:
            self._gone = _ended(self.pid) if self._pidfd is None else bool(self._poll.poll(0))
        return self._gone

    def rest(self, seconds: float) -> None:
        """A pause.

        :raises AppEnded: as soon as the app ends.
        """
        if self._pidfd is None:
            self.wait({}, seconds)
        elif self._poll.poll(seconds * 1000):
            self._gone = True
            raise AppEnded

    def wait(self, wanted: dict[int, int], seconds: float) -> set[int]:
        """The descriptors among *wanted* (descriptor: poll events) that are ready; none after *seconds*.

        :raises AppEnded: as soon as the app ends.
        """
        end = time.monotonic() + seconds
        blind = self.pid is not None and self._pidfd is None
        for descriptor, events in wanted.items():
            self._poll.register(descriptor, events)
        try:
            while True:
                left = max(0.0, end - time.monotonic())
                ready = {number for number, _ in self._poll.poll(1000 * (min(left, _LOOK) if blind else left))}
                if self._pidfd in ready or (blind and self.ended()):
                    self._gone = True
                    raise AppEnded
                if ready or time.monotonic() >= end:
                    return ready
        finally:
            for descriptor in wanted:
                self._poll.unregister(descriptor)


class Until(App):
    """In the place of an app: a pipe, whose other end is closed when nobody wants to know any more."""

    def __init__(self, pipe: int) -> None:
        super().__init__(None)
        self._pidfd = os.dup(pipe)
        self._poll.register(self._pidfd, select.POLLIN)


class Attempt:
    """The time that one try has: *limit* seconds from now, and no longer than the app lives."""

    def __init__(self, app: App, limit: float) -> None:
        self.app = app
        self.limit = limit
        self._end = time.monotonic() + limit

    def left(self) -> float:
        """Seconds, 0 when there are none left."""
        return max(0.0, self._end - time.monotonic())

    def wait(self, descriptor: int, events: int, seconds: float | None = None) -> None:
        """Until *descriptor* is ready, for *seconds* at most (None: what is left of the try).

        :raises TimeoutError: it was not ready in time.
        :raises AppEnded: the app ended first.
        """
        left = self.left()
        if not self.app.wait({descriptor: events}, left if seconds is None else min(seconds, left)):
            raise TimeoutError

    def overdue(self) -> str:
        """What to say when the time is up."""
        return f"no answer within {self.limit:.2g} s"


class Ping:
    """One way to reach the app. The kinds are in :mod:`startup.ping.kinds`."""

    #: What follows the scheme, for a person; empty: nothing does.
    form = ""
    #: An explicit ping that is never answered ends the boot; ``auto`` does not, and ``none`` cannot.
    explicit = True
    #: Seconds between the first tries, and the most that they grow to while the boot is young.
    first_pause = 0.005
    fast_pause = 0.025

    def __init__(self, name: str) -> None:
        #: What is asked, for a person: the setting's value, never with a password.
        self.name = name

    @classmethod
    def parse(cls, scheme: str, rest: str, environ: Mapping[str, str]) -> Ping:
        """The ping that *scheme* and *rest* ask for; ValueError says what would be right."""
        return cls(scheme)

    def __str__(self) -> str:
        return self.name

    def answer(self, attempt: Attempt) -> Answer:
        """Ask once, within the time that *attempt* has.

        :raises TimeoutError: no answer in time.
        :raises OSError: another error of the network or the file system.
        :raises AppEnded: the app ended meanwhile.
        """
        raise NotImplementedError

    def unchanged(self, app: App) -> bool:
        """Would a try come to the same as the last one? For less than a try costs; False where that cannot be told."""
        return False

    def hint(self, app: App) -> str:
        """What a person could do when nothing has answered for a while; empty: nothing to say."""
        return ""

    def advice(self, app: App) -> str:
        """What a person could do when it was not answered in time."""
        return "the app's own output may say why; if it only needs longer, raise the limit"

    def attempt(self, app: App, limit: float = LIMIT) -> Answer:
        """One try, limited to *limit* seconds. Errors become answers.

        :raises AppEnded: the app ended meanwhile.
        """
        attempt = Attempt(app, limit)
        try:
            answer = self.answer(attempt)
            if answer.ok and app.ended():
                raise AppEnded  # somebody else answered, or it was the last thing that the app did
            return answer
        except TimeoutError as error:
            # The kernel's own ETIMEDOUT has an errno, ours has none: both are silence.
            return Answer(False, attempt.overdue() if error.errno is None else "no answer: the connection timed out")
        except OSError as error:
            return Answer(False, explain(error))

    def try_once(self, app: int | None) -> Answer:
        """One try of at most 5 s, which ends with the app whose pid is *app* (None: not known)."""
        with App(app) as watched:
            try:
                if not watched.ended():
                    return self.attempt(watched)
            except AppEnded:
                pass
        return Answer(False, "the app has ended")


def explain(error: OSError) -> str:
    """The system's words for *error*, without number and file name: "connection refused"."""
    text = (os.strerror(error.errno) if error.errno else error.strerror) or str(error) or type(error).__name__
    return text[:1].lower() + text[1:]


def _ended(pid: int) -> bool:
    """Has the process ended? Asked of /proc, and of kill(2) where /proc hides other users' processes (hidepid)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # proc_pid_stat(5): the state follows the name, which is in parentheses and may hold some itself.
            return file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except OSError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # it is there, and not ours
    return False
