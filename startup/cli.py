"""The verbs: turns what the other rooms do into lines and exit codes."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence

from startup import __version__, log, state
from startup.errors import PING_TIMEOUT, TASK_FAILED, AppEnded, Interrupted, PingTimeout, SettingError, StartupError
from startup.process.interrupts import Interrupts
from startup.settings import settings
from startup.settings.settings import Settings
from startup.state import State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from startup.plan.planner import Plan
    from startup.run.runner import Runner

#: Exit codes that only entrypoint.sh sees: the app ended while tasks were left, having answered its ping or not.
APP_ENDED, APP_ENDED_UNANSWERED = 3, 4


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; its exit code (see the contract's list)."""
    words = sys.argv[1:] if argv is None else argv
    arguments = _parser(hidden=words[:1] == ["_phase"]).parse_args(words)
    log.configure(os.environ.get("STARTUP_LOG_LEVEL", "info"), os.environ.get("STARTUP_LOG_FORMAT", "text"))
    interrupts = Interrupts()
    interrupts.install()
    try:
        code = int(arguments.verb(arguments, interrupts))
        if arguments.verb is phase:
            sys.stderr.flush()
            os._exit(code)  # the app waits for nothing, but its probe does: no time for the interpreter's tidying up
        return code
    except StartupError as error:
        _tell(error)
        return error.code
    except AppEnded:
        return APP_ENDED
    except Interrupted as interrupted:
        code = int(interrupted.code or 0)
        if arguments.verb is not phase:  # there the entrypoint says it
            log.fail(f"stopped by {signal.Signals(code - 128).name}" if code > 128 else "stopped")
        return code
    except BrokenPipeError:  # a reader like head(1) has seen enough; nothing is left to be flushed into the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except Exception as error:
        return _tell_of_a_defect(error)


def _tell(error: StartupError) -> None:
    for line in error.faults if isinstance(error, SettingError) else [str(error)]:
        log.fail(line, exit_code=error.code)


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


def _load(warn: bool = True) -> Settings:
    """The settings, the log as they want it; faults are left to the plan, so that all are told at once."""
    loaded = settings.load(os.environ)
    os.environ.update(loaded.environ)  # what dotenv files add, for Python tasks and the modules that they import
    log.configure(loaded.log_level, loaded.log_format, loaded.node)
    for warning in loaded.warnings if warn else ():
        log.warn(warning)
    return loaded


def _runner(loaded: Settings, plan: Plan, state: State, interrupts: Interrupts) -> Runner:
    from startup.database.connect import connect
    from startup.run.runner import Runner

    for warning in plan.warnings:
        log.warn(warning)
    return Runner(loaded, plan, state, interrupts, lambda: connect(loaded))


def _run(runner: Runner, state: State) -> None:
    try:
        runner.run()
    except AppEnded:
        state.write("reason", f"before the startup was done; {_undone(runner.left)}")
        raise


def _undone(tasks: Sequence[str]) -> str:
    return f"these tasks did not run: {', '.join(tasks)}; the app's own output says why it ended"


# --------------------------------------------------------------------------------------------- the verbs


def init(arguments: argparse.Namespace, interrupts: Interrupts) -> int:
    """Run the post_start list, or the named tasks, and exit."""
    from startup.plan import planner as plan

    loaded = _load()
    log.always(phase="post_start")
    resolved = plan.resolve(loaded, "post_start", arguments.name or None)
    _run(_runner(loaded, resolved, State(""), interrupts), State(""))
    if not resolved.tasks:
        log.say("nothing to run: the list of tasks is empty")
    return 0


def phase(arguments: argparse.Namespace, interrupts: Interrupts) -> int:
    """One phase of the flow, for entrypoint.sh."""
    kept = State(arguments.state)
    log.always(phase=arguments.phase)
    loaded = _load(warn=arguments.phase == "post_start")
    app = int(arguments.app) if arguments.app else None
    kept.write("log", f"{loaded.log_format} {loaded.log_level} {loaded.node}")  # a dotenv file may have set these
    try:
        if arguments.phase in ("pre_stop", "post_stop"):
            return _stop_phase(arguments.phase, loaded, interrupts)
        return _start_phase(arguments.phase, loaded, app, kept, interrupts)
    except StartupError as error:
        faults = list(error.faults) if isinstance(error, SettingError) else [str(error)]
        reason = "; ".join(faults) if isinstance(error, SettingError) else faults[0].partition("\n")[0]
        kept.write("reason", reason)
        kept.phase(f"failed: {reason}")
        stays = loaded.on_failure == "continue" and error.code != SettingError.code and arguments.phase == "post_start"
        if stays or faults != [reason] or not kept.directory:
            _tell(error)  # else the entrypoint's last line says it
        if stays:
            log.warn("the app stays up without being ready (STARTUP_ON_FAILURE is 'continue')")
            kept.write("failed")
            return 0
        return error.code


def _start_phase(name: str, loaded: Settings, app: int | None, kept: State, interrupts: Interrupts) -> int:
    from startup.plan.planner import STOP_PHASES, Planner

    planner = Planner(loaded)
    plan = planner.plan(name)
    kept.write("stop_timeout", f"{loaded.stop_timeout:g}")
    for stop_phase in STOP_PHASES:
        if planner.plan(stop_phase).tasks:
            kept.write(stop_phase)
    planner.check()
    runner = _runner(loaded, plan, kept, interrupts)
    if name == "post_start" and app is not None:
        runner.prepare()
        code = _wait_for_the_app(loaded, plan, app, kept, runner)
        if code:
            return code
        interrupts.watch_app(app)
    _run(runner, kept)
    return 0


def _wait_for_the_app(loaded: Settings, plan: Plan, app: int, kept: State, runner: Runner) -> int:
    from startup.ping import wait as ping
    from startup.ping.attempt import App

    outcome = ping.wait(
        loaded.ping,
        app=app,
        timeout=loaded.ping_timeout,
        interval=loaded.ping_interval,
        report=log.say,
        warn=log.warn,
    )
    if outcome.result == ping.DIED:
        left = [task.name for task in plan.tasks]
        explicit = loaded.ping.explicit
        before = f"before it answered its ping (last: {outcome.answer.text})" if explicit or left else ""
        kept.write("reason", f"{before}; {_undone(left)}" if left else before)
        return APP_ENDED_UNANSWERED if explicit else APP_ENDED
    if outcome.result == ping.TIMED_OUT:
        with App(app) as watched:
            advice = loaded.ping.advice(watched)
        raise PingTimeout(
            f"the app did not answer within {loaded.ping_timeout:g} s (STARTUP_PING_TIMEOUT): {loaded.ping}: "
            f"{outcome.answer.text}; {advice}"
        )
    runner.pinged(outcome.seconds)
    log.say(
        f"the app answers after {outcome.seconds:.2f} s ({loaded.ping}: {outcome.answer.text})",
        seconds=outcome.seconds,
        attempt=outcome.tries,
    )
    return 0


def _stop_phase(name: str, loaded: Settings, interrupts: Interrupts) -> int:
    """Stop tasks share one time limit, STARTUP_HOOK_TIMEOUT; one that fails keeps nothing from being stopped."""
    from startup.run.stop import run_stop_tasks

    return run_stop_tasks(name, loaded, interrupts)


def ping(arguments: argparse.Namespace, interrupts: Interrupts) -> int:
    """0 answered, 1 not yet, 124 over the time limit."""
    from startup.ping import wait as pings

    loaded = _load(warn=False)
    settings.require(loaded)
    if not arguments.wait:
        answer = loaded.ping.try_once(None)
        print(f"{loaded.ping}: {answer.text}")
        return 0 if answer.ok else 1
    outcome = pings.wait(
        loaded.ping,
        app=None,
        timeout=loaded.ping_timeout,
        interval=loaded.ping_interval,
        report=log.say,
        warn=log.warn,
    )
    print(f"{loaded.ping}: {outcome.answer.text}")
    return 0 if outcome.result == pings.ANSWERED else PING_TIMEOUT


def health(arguments: argparse.Namespace, interrupts: Interrupts) -> int:
    """One line, the phase; 0 when ready."""
    found = state.find(os.environ)
    if found is None:
        print("not running")
        return 1
    ready = found.read("ready") is not None  # written after the phase, so read before it
    print(found.read("phase") or "starting")
    return 0 if ready else 1


def _verb(module: str, function: str) -> Callable[[argparse.Namespace, Interrupts], int]:
    """A verb that lives in a module of its own, imported when it is asked for."""

    def run(arguments: argparse.Namespace, interrupts: Interrupts) -> int:
        import importlib

        loaded = _load(warn=module in ("startup.verbs.plan", "startup.verbs.describe"))
        return int(getattr(importlib.import_module(module), function)(arguments, loaded))

    return run


def _parser(hidden: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="startup", description="Startup tasks for a container: see the README.")
    parser.add_argument("--version", action="version", version=f"startup-tasks {__version__}")
    parser.set_defaults(verb=init, name=[])
    verbs = parser.add_subparsers(metavar="VERB")

    def add(name: str, verb: Callable[[argparse.Namespace, Interrupts], int], text: str) -> argparse.ArgumentParser:
        one = verbs.add_parser(name, help=text, description=text)
        one.set_defaults(verb=verb)
        return one

    add("init", init, "run the post_start list and exit (the default)")
    add("run", init, "run these tasks now, under the same lock and ledger").add_argument("name", nargs="+")
    add("ping", ping, "does the app answer? 0 yes, 1 not yet").add_argument(
        "--wait", action="store_true", help="wait for it; 124 after STARTUP_PING_TIMEOUT"
    )
    add("plan", _verb("startup.verbs.plan", "plan"), "what init would run, and why not the rest; changes nothing")
    add("status", _verb("startup.verbs.status", "status"), "migrations, ledger, and who holds the lock").add_argument(
        "--json", action="store_true"
    )
    add("health", health, "the phase in one line; 0 when ready, 1 when not")
    add("describe", _verb("startup.verbs.describe", "describe"), "tasks, hooks and settings as resolved").add_argument(
        "--json", action="store_true"
    )
    add("forget", _verb("startup.verbs.status", "forget"), "take a task out of the ledger").add_argument("name")
    add("rollback", _verb("startup.verbs.status", "rollback"), "take back the newest migrations").add_argument(
        "--count", type=_count, default=1, metavar="N"
    )
    if hidden:  # entrypoint.sh's own
        flow = add("_phase", phase, "one phase of the flow")
        flow.add_argument("phase", choices=["pre_start", "post_start", "pre_stop", "post_stop"])
        flow.add_argument("--state", default="")
        flow.add_argument("--app", default="")
    return parser


def _count(value: str) -> int:
    if not value.isdecimal() or int(value) < 1:
        raise argparse.ArgumentTypeError(f"it is '{value}', and must be a whole number from 1 on")
    return int(value)
