"""The flow: ``init`` and ``run``, which do its tasks alone, and one phase of it for entrypoint.sh."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace as Arguments

from startup import log
from startup.errors import (
    APP_ENDED,
    APP_ENDED_UNANSWERED,
    AppEnded,
    AwaitedFailed,
    PingTimeout,
    SettingError,
    StartupError,
)
from startup.plan.planner import FAILED, STOP_PHASES, Plan, Planner, resolve
from startup.process import proof
from startup.process.interrupts import Interrupts
from startup.settings.reader import GIVEN_TO_TASKS
from startup.settings.settings import Settings
from startup.state import State
from startup.verbs import common

TYPE_CHECKING = False
if TYPE_CHECKING:
    from startup.run.idle import Idle
    from startup.run.metrics import Measured
    from startup.run.runner import Runner
#: What the failed tasks need to know, beside the phases' own marks: that there are some, or metrics; who has failed.
TELLS, ELSEWHERE = "failed_tasks", "elsewhere"


def init(arguments: Arguments, interrupts: Interrupts) -> int:
    """Run the post_start list, or the named tasks, and exit."""
    settings = common.load(warn=True)
    log.always(phase="post_start")
    measured, runner = _measure(settings, "post_start"), None
    try:
        plan = resolve(settings, "post_start", arguments.name or None)
        runner = _runner(settings, plan, State(""), interrupts)
        _wait_for_others(settings, State(""))
        runner.run()
    except StartupError as error:
        if measured is not None and runner is not None:
            measured.add("post_start", runner)
        here = not isinstance(error, AwaitedFailed)
        proof.note(reason=_reason(error), here=here, measured=measured.text() if measured is not None else "")
        raise
    if measured is not None:
        measured.add("post_start", runner)
        _publish(settings, measured, str(os.getppid()))
    if not plan.tasks:
        log.say("nothing to run: the list of tasks is empty")
    return 0


def phase(arguments: Arguments, interrupts: Interrupts) -> int:
    """Run one phase for entrypoint.sh; does not return, unless by an exception."""
    name, state = arguments.phase, State(arguments.state)
    if state.directory:
        proof.mark_by(lambda: state.write("proof", name))
    work = _failed if name == FAILED else _phase
    proof.leave(work(arguments, state, interrupts), tidy=False)  # the app's probe is waiting
    raise AssertionError("it does not return")


def _failed(arguments: Arguments, state: State, interrupts: Interrupts) -> int:
    """The startup has failed: in entrypoint.sh's flow, or in the child before this one of init's and run's parent."""
    from startup.run.failed import Failure, tell

    log.always(phase=FAILED)
    settings = common.load()
    told = {"since": str(os.getppid()), **proof.noted()}
    if state.directory:
        marks = {"reason": state.read("reason") or "", "measured": state.read("metrics") or ""}
        told = {**marks, "here": state.read(ELSEWHERE) is None, "since": arguments.shell}
        told["phase"] = "post_start" if arguments.app else "pre_start"
    if not _in_a_task():
        failure = Failure(code=int(arguments.code), **told)
        if tell(failure, settings, interrupts) and not state.directory:  # the last line says why it ended
            log.fail(failure.why, exit_code=failure.code)
    return 0


def _in_a_task() -> bool:
    """Is this verb a part of a startup's task? That tells of its failures then, and never of a failed task's own."""
    return os.environ.keys() >= GIVEN_TO_TASKS


def _phase(arguments: Arguments, state: State, interrupts: Interrupts) -> int:
    name, app = arguments.phase, int(arguments.app or 0)
    log.always(phase=name)
    settings = common.load(warn=name == "post_start")
    # a dotenv file may have set these
    state.write("log", f"{settings.log_format} {settings.log_level} {settings.node}")
    measured = None
    try:
        if name in STOP_PHASES:
            from startup.run.stop import run_stop_tasks

            return run_stop_tasks(name, settings, interrupts)
        measured = _measure(settings, name, state)
        with interrupts.heeded():
            code = _start_phase(name, app, settings, state, interrupts, measured)
        if measured is not None and name == "post_start" and code == 0:
            _publish(settings, measured, arguments.shell)
        return code
    except StartupError as error:
        wrong_setting, reason = isinstance(error, SettingError), _reason(error)
        state.write("reason", reason)
        if isinstance(error, AwaitedFailed):
            state.write(ELSEWHERE)
        state.phase(f"failed: {reason}")
        stays = settings.on_failure == "continue" and not wrong_setting and name == "post_start"
        if stays or [*error.faults] != [reason] or not state.directory:
            for fault in error.faults:
                log.fail(fault, exit_code=error.code)  # else the entrypoint's last line says it
        if stays:
            log.warn("the app stays up without being ready (STARTUP_ON_FAILURE is 'continue')")
            state.write("failed")
        return error.code
    finally:
        if measured is not None:
            state.write("metrics", measured.text())


def _reason(error: StartupError) -> str:
    return "; ".join(error.faults) if isinstance(error, SettingError) else str(error).partition("\n")[0]


def _measure(settings: Settings, phase: str, state: State | None = None) -> Measured | None:
    """Where STARTUP_METRICS_FILE asks for it: what this phase measures, on top of what the one before has."""
    if not settings.metrics_file or _in_a_task():
        return None
    from startup.run.metrics import Measured

    measured = Measured.from_text(state.read("metrics") if state is not None else None)
    measured.phase = phase
    if state is not None:  # should it not come to its end
        state.write("metrics", measured.text())
    return measured


def _publish(settings: Settings, measured: Measured, since: str) -> None:
    from startup.run.metrics import publish

    publish(settings, measured, since)


def _start_phase(
    name: str, app: int, settings: Settings, state: State, interrupts: Interrupts, measured: Measured | None
) -> int:
    try:
        with interrupts.while_lives(app if name == "post_start" else 0):
            planner = Planner(settings)
            plan = planner.plan(name)
            state.write(
                "stop_timeout", f"{settings.stop_timeout:.9f}".rstrip("0").rstrip(".")
            )  # no 1e-05: a shell reads it
            for stop_phase in STOP_PHASES:
                if planner.plan(stop_phase).tasks:
                    state.write(stop_phase)
            if planner.plan(FAILED).tasks or measured is not None:
                state.write(TELLS)
            planner.check()
            runner = _runner(settings, plan, state, interrupts)
    except AppEnded:
        return _died(settings, "it was not asked yet", [item.name for item in settings.tasks], state)
    try:
        if app and name == "post_start":
            runner.prepare()
            if code := _wait_for_the_app(app, settings, state, runner, measured):
                return code
            interrupts.watch_app(app)
        if name == "pre_start":
            _wait_for_others(settings, state)
        runner.run()
    except AppEnded:
        state.write("reason", f"before the startup was done; {_undone(runner.left)}")
        raise
    finally:
        if measured is not None:
            measured.add(name, runner)
    return 0


def _runner(settings: Settings, plan: Plan, state: State, interrupts: Interrupts) -> Runner | Idle:
    for warning in plan.warnings:
        log.warn(warning)
    if not plan.tasks:
        from startup.run.idle import Idle

        return Idle(plan)
    from startup.database.connect import connect
    from startup.run.runner import Runner

    return Runner(settings, plan, state, interrupts, partial(connect, settings))


def _wait_for_others(settings: Settings, state: State) -> None:
    """What STARTUP_WAIT_FOR names; before anything begins."""
    if settings.wait_for:
        from startup.verbs import wait_for

        wait_for.until_there(settings, state)


def _wait_for_the_app(
    app: int, settings: Settings, state: State, runner: Runner | Idle, measured: Measured | None
) -> int:
    """0 once it answers; what the entrypoint shall make of it when it ended instead."""
    from startup.ping.attempt import App
    from startup.ping.wait import DIED, TIMED_OUT
    from startup.verbs.ping import until_answered

    ping, outcome = settings.ping, until_answered(settings, app)
    if measured is not None:
        measured.pinged(outcome.seconds, outcome.tries)
    text = outcome.answer.text
    if outcome.result == DIED:
        return _died(settings, text, runner.left, state)
    if outcome.result == TIMED_OUT:
        with App(app) as watched:
            advice = ping.advice(watched)
        limit = f"{settings.ping_timeout:g} s (STARTUP_PING_TIMEOUT)"
        raise PingTimeout(f"the app did not answer within {limit}: {ping}: {text}; {advice}")
    runner.pinged(outcome.seconds)
    took = outcome.seconds
    log.say(f"the app answers after {took:.2f} s ({ping}: {text})", seconds=took, attempt=outcome.tries)
    return 0


def _died(settings: Settings, last: str, left: Sequence[str], state: State) -> int:
    explicit = settings.ping.explicit
    before = f"before it answered its ping (last: {last})" if explicit or left else ""
    state.write("reason", f"{before}; {_undone(left)}" if left else before)
    return APP_ENDED_UNANSWERED if explicit else APP_ENDED


def _undone(tasks: Sequence[str]) -> str:
    return f"these tasks did not run: {', '.join(tasks)}; the app's own output says why it ended"
