"""The flow: ``init`` and ``run``, which do its tasks alone, and one phase of it for entrypoint.sh."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace as Arguments

from startup import log
from startup.errors import APP_ENDED, APP_ENDED_UNANSWERED, AppEnded, PingTimeout, SettingError, StartupError
from startup.plan.planner import STOP_PHASES, Plan, Planner, resolve
from startup.process import proof
from startup.process.interrupts import Interrupts
from startup.settings.settings import Settings
from startup.state import State
from startup.verbs import common

TYPE_CHECKING = False
if TYPE_CHECKING:
    from startup.run.idle import Idle
    from startup.run.runner import Runner


def init(arguments: Arguments, interrupts: Interrupts) -> int:
    """Run the post_start list, or the named tasks, and exit."""
    settings = common.load(warn=True)
    log.always(phase="post_start")
    plan = resolve(settings, "post_start", arguments.name or None)
    runner = _runner(settings, plan, State(""), interrupts)
    _wait_for_others(settings, State(""))
    runner.run()
    if not plan.tasks:
        log.say("nothing to run: the list of tasks is empty")
    return 0


def phase(arguments: Arguments, interrupts: Interrupts) -> int:
    """Run one phase for entrypoint.sh; does not return, unless by an exception."""
    name, state = arguments.phase, State(arguments.state)
    proof.mark_by(lambda: state.write("proof", name))
    proof.leave(_phase(name, int(arguments.app or 0), state, interrupts), tidy=False)  # the app's probe is waiting
    raise AssertionError("it does not return")


def _phase(name: str, app: int, state: State, interrupts: Interrupts) -> int:
    log.always(phase=name)
    settings = common.load(warn=name == "post_start")
    # a dotenv file may have set these
    state.write("log", f"{settings.log_format} {settings.log_level} {settings.node}")
    try:
        if name in STOP_PHASES:
            from startup.run.stop import run_stop_tasks

            return run_stop_tasks(name, settings, interrupts)
        with interrupts.heeded():
            return _start_phase(name, app, settings, state, interrupts)
    except StartupError as error:
        wrong_setting = isinstance(error, SettingError)
        reason = "; ".join(error.faults) if wrong_setting else str(error).partition("\n")[0]
        state.write("reason", reason)
        state.phase(f"failed: {reason}")
        stays = settings.on_failure == "continue" and not wrong_setting and name == "post_start"
        if stays or [*error.faults] != [reason] or not state.directory:
            for fault in error.faults:
                log.fail(fault, exit_code=error.code)  # else the entrypoint's last line says it
        if stays:
            log.warn("the app stays up without being ready (STARTUP_ON_FAILURE is 'continue')")
            state.write("failed")
            return 0
        return error.code


def _start_phase(name: str, app: int, settings: Settings, state: State, interrupts: Interrupts) -> int:
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
            planner.check()
            runner = _runner(settings, plan, state, interrupts)
    except AppEnded:
        return _died(settings, "it was not asked yet", [item.name for item in settings.tasks], state)
    if app and name == "post_start":
        runner.prepare()
        if code := _wait_for_the_app(app, settings, state, runner):
            return code
        interrupts.watch_app(app)
    if name == "pre_start":
        _wait_for_others(settings, state)
    try:
        runner.run()
    except AppEnded:
        state.write("reason", f"before the startup was done; {_undone(runner.left)}")
        raise
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


def _wait_for_the_app(app: int, settings: Settings, state: State, runner: Runner | Idle) -> int:
    """0 once it answers; what the entrypoint shall make of it when it ended instead."""
    from startup.ping.attempt import App
    from startup.ping.wait import DIED, TIMED_OUT
    from startup.verbs.ping import until_answered

    ping, outcome = settings.ping, until_answered(settings, app)
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
