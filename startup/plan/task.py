"""Tasks as a user writes them in Python: the ``@task`` decorator, and the context that a task is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from startup.errors import SettingError
from startup.records import dataclass
from startup.sha256 import sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal, overload

    from startup.builtin.builtin import Builtin

    Policy = Literal["always", "change", "release", "once", "local"]
else:

    def overload(function):
        """For mypy."""
        return function


class Context:
    """What a task may know and use.

    ``connection`` is the session that holds the lock: a psycopg 3 connection, or one of sqlite3. What a task writes
    there and its ledger row commit in one transaction, which the task itself must not end. ``cursor`` is what a
    backfill yielded last, None at its beginning.
    """

    def __init__(
        self,
        *,
        task: str,
        phase: str,
        node: str,
        release: str,
        environ: dict[str, str],
        connection: Any = None,
        cursor: Any = None,
    ) -> None:
        self.task = task
        self.phase = phase
        self.node = node
        self.release = release
        self.environ = environ
        self.cursor = cursor
        self._connection = connection

    @property
    def connection(self) -> Any:
        """The database; RuntimeError for a task that has none (policy ``local``, stop phases)."""
        if self._connection is None:
            raise RuntimeError(f"task {self.task} has no database connection: tasks with the policy local run without")
        return self._connection

    def log(self, message: str) -> None:
        """One line on stderr."""
        from startup import log

        log.say(f"{self.task}: {message}", task=self.task)


Function = Callable[[Context], object]
#: In place of a policy, for what STARTUP_BEFORE_MIGRATE names, and what its keys in the ledger begin with.
BEFORE_MIGRATE, PENDING = "before migrate", "pending"


#: Every @task function that has been imported.
registry: dict[str, Task] = {}


@overload
def task(function: Function, /) -> Function: ...
@overload
def task(  # noqa: F811
    *,
    name: str | None = None,
    policy: Policy = "always",
    timeout: float | None = None,
    retries: int | None = None,
    transaction: bool = True,
    files: Sequence[str] = (),
) -> Callable[[Function], Function]: ...
def task(  # noqa: F811
    function: Function | None = None,
    /,
    *,
    name: str | None = None,
    policy: Policy = "always",
    timeout: float | None = None,
    retries: int | None = None,
    transaction: bool = True,
    files: Sequence[str] = (),
) -> Function | Callable[[Function], Function]:
    """Make a function a startup task, named like the function unless *name* says otherwise.

    *timeout* is in seconds, for each try (default: STARTUP_TIMEOUT; 0: no limit). *retries* is how often it is tried
    again when it failed (default: STARTUP_RETRIES). *files* are what the policy ``change`` watches
    beside the function's own source. ``transaction=False`` gives an autocommit connection: what the task does then
    happens at least once, not exactly once. A generator is a backfill in batches: each ``yield CURSOR`` commits what
    it wrote since the last one, and a node that takes over goes on at ``context.cursor``. ValueError for a policy
    that is not known, a name that is taken, a timeout that is no number of seconds, retries that are no whole number,
    or a function that cannot be called with a Context.
    """

    def register(function: Function) -> Function:
        from startup.settings.parsers import LONGEST, POLICIES, normal

        known = normal(name or function.__name__)
        if policy not in POLICIES:
            raise ValueError(f"task {known}: policy is '{policy}': it must be one of {', '.join(POLICIES)}")
        other = registry.get(known)
        if other is not None and _place(other.function) != _place(function):
            raise ValueError(f"task {known} is defined twice: in {_place(other.function)} and {_place(function)}")
        if timeout is not None and not (isinstance(timeout, int | float) and 0 <= timeout <= LONGEST):
            raise ValueError(f"task {known}: timeout is {timeout!r}: it must be a number of seconds (0: no limit)")
        if retries is not None and not (type(retries) is int and retries >= 0):
            raise ValueError(f"task {known}: retries is {retries!r}: it must be a whole number (0: none)")
        if why := not_callable(function):
            raise ValueError(f"task {known}: {why}")
        paths = (files,) if isinstance(files, str) else tuple(files)
        source = f"@task in {function.__module__}"
        registry[known] = Task(
            known, "function", source, policy, timeout, function, transaction, paths, retries=retries
        )
        return function

    return register if function is None else register(function)


def not_callable(function: Function) -> str:
    """Why *function* is no task: what its body does would not be done, or it cannot be called so; '' when it is one."""
    import inspect

    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return "it is an async function, which would not be awaited: use def, and asyncio.run() in it"
    try:
        inspect.signature(function).bind(None)
    except TypeError as error:
        return f"it must take one argument, the Context ({error})"
    except ValueError:  # written in C, without a signature
        pass
    return ""


def _place(function: Function | None) -> str:
    code = getattr(function, "__code__", None)
    return f"{code.co_filename}, line {code.co_firstlineno}" if code else repr(function)


@dataclass
class Task:
    """One step of a plan: what runs, and how often."""

    name: str
    kind: str  # function, command, hook, or a built-in's own
    source: str  # where it was found, for a person
    policy: str = "always"
    timeout: float | None = None  # in seconds, 0: no limit; a plan puts STARTUP_TIMEOUT for None
    #: One of three: a Python function, a built-in task, a command.
    function: Function | None = None
    transaction: bool = True
    files: Sequence[str] = ()
    builtin: Builtin | None = None
    argv: Sequence[str] = ()
    definition: str = ""  # what the policy ``change`` watches, beside the files and a function's source
    description: str = ""
    retries: int | None = None  # a plan puts STARTUP_RETRIES for None
    pending: str = ""  # a checksum of the migrations before which it runs

    def __post_init__(self) -> None:
        if self.function is not None:
            self.description = (self.function.__doc__ or "").strip().partition("\n")[0]

    @property
    def clustered(self) -> bool:
        """Does it need the lock?"""
        return self.policy != "local"

    @property
    def ledgered(self) -> bool:
        """Has it a row in the ledger? The one that has none remembers by itself what is done."""
        return self.builtin is None or self.builtin.ledgered

    @property
    def transactional(self) -> bool:
        """Does it commit together with its ledger row, and so happen exactly once? No command can."""
        return self.transaction and not self.argv

    @property
    def batched(self) -> bool:
        """Is it a backfill, of which each batch commits with its cursor?"""
        if self.function is None:
            return False
        import inspect

        return inspect.isgeneratorfunction(self.function)

    @property
    def how_often(self) -> str:
        """The policy, for a person."""
        return self.policy if self.ledgered else "what is pending"

    def key(self, release: str) -> str:
        """What it has to be done for: a release, a content, or once and for all. SettingError for a missing file."""
        if self.policy == BEFORE_MIGRATE:
            return f"{PENDING} {self.pending}"
        if self.policy == "release":
            return f"release {release}"
        if self.policy != "change":
            return self.policy
        try:
            return f"content {self.content()}"
        except OSError as error:
            raise SettingError(f"task {self.name}: {error.filename} cannot be read: {error.strerror}") from None

    def content(self) -> str:
        """A checksum of what the task is: its definition and the files that it declares. OSError for a missing file."""
        digest = sha256(self.kind.encode())
        digest.update((_source(self.function) if self.function is not None else self.definition).encode())
        for path in self.files:
            with open(path, "rb") as file:
                content = file.read()
            digest.update(b"\0%d\0" % len(content) + content)
        return digest.hexdigest()


def _source(function: Any) -> str:
    """The source, the same at each boot: never a repr(), which may hold an address in memory."""
    import functools
    import inspect
    import marshal

    if isinstance(function, functools.partial):
        return f"{_source(function.func)} {function.args} {sorted(function.keywords.items())}"
    what = function if hasattr(function, "__code__") or inspect.ismethod(function) else type(function)
    try:
        return inspect.getsource(what)
    except (OSError, TypeError):  # no source at hand: compiled, or made at run time
        code = getattr(function, "__code__", None)
        return marshal.dumps(code).hex() if code else f"{what.__module__}.{what.__qualname__}"
