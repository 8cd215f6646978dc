"""The command line: the parser, ``main``, and the exit codes. How anything is done is the verbs' affair."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from types import SimpleNamespace as Arguments

from startup import __version__, log
from startup.errors import APP_ENDED, TASK_FAILED, AppEnded, Interrupted, StartupError
from startup.process.interrupts import Interrupts

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping
    from typing import Any, NoReturn

    Verbs = Mapping[str, tuple[str, str, Mapping[str, Mapping[str, Any]]]]


def _count(value: str) -> int:
    if not value.isdecimal() or int(value) < 1:
        import argparse

        raise argparse.ArgumentTypeError(f"it is '{value}', and must be a whole number from 1 on")
    return int(value)


_JSON = {"--json": {"action": "store_true"}}
_WAIT = {"--wait": {"action": "store_true", "help": "wait for it; 124 after STARTUP_PING_TIMEOUT"}}
_BASELINE = {
    "id": {"metavar": "ID", "help": "a migration's id, or its file's name"},
    "--dry-run": {"action": "store_true", "help": "show what it would take, change nothing"},
}
_CHECK = {
    "--check": {"action": "store_true", "help": "end with 1 when something is to do; always and local do not count"}
}
_COUNT = {"--count": {"type": _count, "default": 1, "metavar": "N"}}
_SINCE = {"--since": {"metavar": "ID", "default": "", "help": "only those after this one, as one run"}}
#: A verb: its module in verbs/ (and its function, where that has another name), what it does, its arguments.
VERBS: Verbs = {
    "init": ("flow.init", "run the post_start list and exit (the default)", {}),
    "run": ("flow.init", "run these tasks now, under the same lock and ledger", {"name": {"nargs": "+"}}),
    "ping": ("ping", "does the app answer? 0 yes, 1 not yet", _WAIT),
    "plan": ("plan", "what init would run, and why not the rest; changes nothing", _CHECK),
    "lint": ("lint", "what is wrong or dangerous in the migration files; opens no database", _SINCE),
    "status": ("status", "migrations, ledger, and who holds the lock", _JSON),
    "health": ("health", "the phase in one line; 0 when ready, 1 when not", {}),
    "describe": ("describe", "tasks, hooks and settings as resolved", _JSON),
    "forget": ("forget", "take a task out of the ledger", {"name": {}}),
    "baseline": ("baseline", "take all migrations up to ID for applied, without running them", _BASELINE),
    "rollback": ("rollback", "take back the newest migrations", _COUNT),
}
#: entrypoint.sh's own.
_OPTIONS, _TEXT = ("--state", "--app", "--shell", "--code"), {"default": ""}
_PHASE: Mapping[str, Mapping[str, Any]] = {"phase": {}} | dict.fromkeys(_OPTIONS, _TEXT)
HIDDEN: Verbs = {"_phase": ("flow.phase", "one phase of the flow", _PHASE)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; its exit code (see the contract's list)."""
    words = sys.argv[1:] if argv is None else argv
    for_entrypoint = bool(words) and words[0] in HIDDEN
    arguments = _of_a_boot(words) or _parser(HIDDEN if for_entrypoint else VERBS).parse_args(words, Arguments())
    log.configure(os.environ.get("STARTUP_LOG_LEVEL", "info"), os.environ.get("STARTUP_LOG_FORMAT", "text"))
    interrupts = Interrupts()
    try:
        interrupts.install()
        with interrupts.heeded():  # while a class is made, in an import too, what a signal's handler raises is wrapped
            module, _, function = arguments.verb.partition(".")
            verb = getattr(importlib.import_module(f"startup.verbs.{module}"), function or module)
            return int(verb(arguments, interrupts))
    except StartupError as error:
        for fault in error.faults:
            log.fail(fault, exit_code=error.code)
        return error.code
    except AppEnded:
        return APP_ENDED
    except Interrupted as interrupted:
        code = int(interrupted.code or 0)
        if not for_entrypoint:  # which says it by itself
            import signal

            log.fail(f"stopped by {signal.Signals(code - 128).name}" if code > 128 else "stopped")
        return code
    except BrokenPipeError:  # a reader like head(1) has seen enough; nothing is left to be flushed into the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except Exception as error:
        if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
            log.fail(f"no thread could be started: {_TOO_MANY}", exit_code=TASK_FAILED)
            return TASK_FAILED
        return _tell_of_a_defect(error)


_TOO_MANY = "the limit of processes is reached (docker's --pids-limit, a pod's, ulimit -u): right would be a higher one"


def _of_a_boot(words: Sequence[str]) -> Arguments | None:
    """What a boot is asked for, in the words that entrypoint.sh has for it: argparse takes as long as all the rest."""
    if not words or words == ["init"]:
        return Arguments(verb=VERBS["init"][0], name=[])
    if len(words) == 8 and [words[0], *words[2::2]] == ["_phase", "--state", "--app", "--shell"]:
        return Arguments(verb=HIDDEN["_phase"][0], phase=words[1], state=words[3], app=words[5], shell=words[7])
    return None


def _parser(verbs: Verbs) -> argparse.ArgumentParser:
    import argparse
    import re

    class Parser(argparse.ArgumentParser):
        """Its errors name what was meant: the nearest verb, or how a task is run."""

        def error(self, message: str) -> NoReturn:
            found = re.search(r"invalid choice: '(.*?)'", message)
            common = importlib.import_module("startup.verbs.common")
            super().error(message + (common.meant(found[1], list(VERBS)) if found else ""))

    parser = Parser(prog="startup", description="Startup tasks for a container: see the README.")
    parser.add_argument("--version", action="version", version=f"startup-tasks {__version__}")
    parser.set_defaults(verb="flow.init", name=[])
    parsers = parser.add_subparsers(metavar="VERB")
    for name, (verb, text, arguments) in verbs.items():
        one = parsers.add_parser(name, help=text, description=text)
        one.set_defaults(verb=verb)
        for argument, options in arguments.items():
            one.add_argument(argument, **options)
    return parser


def _tell_of_a_defect(error: Exception) -> int:
    """Nobody foresaw this one: it gets its place in our code, and the traceback where somebody looks for it."""
    import traceback

    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{os.path.basename(frame.filename)}, line {frame.lineno}"
    log.fail(
        f"a defect of startup-tasks: {type(error).__name__}: {error} ({where}); STARTUP_LOG_LEVEL=debug shows more"
    )
    log.debug("".join(traceback.format_exception(error)))
    return TASK_FAILED
