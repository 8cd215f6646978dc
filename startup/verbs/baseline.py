"""``startup baseline ID [--dry-run]``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from types import SimpleNamespace as Arguments
from typing import cast

from startup import log
from startup.database.connect import connect
from startup.database.session import Session
from startup.ledger.ledger import DONE, Entry, Ledger
from startup.migrations import apply, files
from startup.migrations import baseline as migrations
from startup.migrations.files import Migration
from startup.process.interrupts import Interrupts
from startup.settings.settings import Settings
from startup.verbs import common


def baseline(arguments: Arguments, interrupts: Interrupts) -> int:
    """Take the migrations up to ID for applied, under the lock."""
    settings = common.load(for_database=True)
    catalog = files.load(settings.migrations, given=settings.given("STARTUP_MIGRATIONS"))
    last, drift = files.find(arguments.id, catalog, "baseline"), cast("apply.Drift", settings.drift)
    if arguments.dry_run:
        with closing(connect(settings, reads_only=True)) as session:
            taken = migrations.preview(session, catalog, last, drift=drift)
        for migration in taken:
            print(log.plain(log.redact(f"{migration.id}  ({migration.path})")))
        _say(last, taken, "would be")
        return 0
    with common.locked(settings, interrupts, patience=settings.lock_timeout) as session:
        record = _recorder(session, settings, last)
        taken = migrations.baseline(session, catalog, last, node=settings.node, drift=drift, record=record)
    _say(last, taken, "are")
    return 0


def _recorder(session: Session, settings: Settings, last: Migration) -> migrations.Recorder:
    """Writes a line of the ledger: who did it, when, up to where. No task has such a name: there is a blank in it."""
    ledger, started = Ledger(session, settings.namespace), time.monotonic()

    def record() -> None:
        ledger.create(inside=True)
        epoch, seconds = ledger.run().epoch, round(time.monotonic() - started, 3)
        names = (f"baseline {last.id}", "once", "once")
        ledger.mark(epoch, Entry(*names, DONE, settings.node, epoch, settings.release, seconds=seconds))

    return record


def _say(last: Migration, taken: Sequence[Migration], are: str) -> None:
    if not taken:
        log.say(f"baseline {last.id}: nothing to do: all migrations up to it are applied already")
        return
    many = f"migrations {are}" if len(taken) > 1 else f"migration {are.replace('are', 'is')}"
    log.say(
        f"baseline {last.id}: {len(taken)} {many} taken for applied, without being run: "
        + apply.names([migration.id for migration in taken])
    )
