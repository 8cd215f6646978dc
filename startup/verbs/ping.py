"""``startup ping [--wait]``, and the flow's waiting for the app."""

from __future__ import annotations

from types import SimpleNamespace as Arguments

from startup import log
from startup.errors import PingTimeout
from startup.ping import wait
from startup.process.interrupts import Interrupts
from startup.settings.settings import Settings, require
from startup.verbs import common


def ping(arguments: Arguments, interrupts: Interrupts) -> int:
    """0 answered, 1 not yet, 124 over the time limit."""
    settings = common.load()
    require(settings)
    if arguments.wait:
        outcome = until_answered(settings)
        answer, otherwise = outcome.answer, PingTimeout.code
    else:
        answer, otherwise = settings.ping.try_once(None), 1
    print(log.plain(log.redact(f"{settings.ping}: {answer.text}")))
    return 0 if answer.ok else otherwise


def until_answered(settings: Settings, app: int | None = None) -> wait.Outcome:
    """Until the app, whose pid *app* is where that is known, answers, ends, or is over STARTUP_PING_TIMEOUT."""
    return wait.wait(
        settings.ping,
        app=app,
        timeout=settings.ping_timeout,
        interval=settings.ping_interval,
        report=log.say,
        warn=log.warn,
    )
