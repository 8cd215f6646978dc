"""``startup rollback [--count N]``."""

from __future__ import annotations

from types import SimpleNamespace as Arguments

from startup import log
from startup.ledger.ledger import Ledger
from startup.migrations import files
from startup.migrations.rollback import rollback as take_back
from startup.plan.task import PENDING
from startup.process.interrupts import Interrupts
from startup.verbs import common


def rollback(arguments: Arguments, interrupts: Interrupts) -> int:
    """Take back the newest migrations, under the lock."""
    settings = common.load(for_database=True)
    catalog = files.load(settings.migrations, given=settings.given("STARTUP_MIGRATIONS"))
    with common.locked(settings, interrupts) as session:
        # what is taken back is pending again: the backup of the first time is none for the second
        Ledger(session, settings.namespace).forget_keys(f"{PENDING} ")
        for name in take_back(
            *(session, catalog, arguments.count),
            node=settings.node,
            table_lock_timeout=settings.table_lock_timeout,
            report=log.say,
        ):
            log.say(f"{name} is taken back")
    return 0
