"""``startup forget NAME``."""

from __future__ import annotations

from types import SimpleNamespace as Arguments

from startup import log
from startup.errors import SettingError
from startup.ledger.ledger import Ledger
from startup.process.interrupts import Interrupts
from startup.settings.parsers import normal
from startup.verbs import common


def forget(arguments: Arguments, interrupts: Interrupts) -> int:
    """Take a task out of the ledger, so that it runs again."""
    settings, name = common.load(for_database=True), normal(arguments.name)
    with common.locked(settings, interrupts) as session:
        ledger = Ledger(session, settings.namespace)
        if name == "migrate":
            raise SettingError("migrate has no row in the ledger: take migrations back with 'startup rollback'")
        if ledger.forget(name) == 0:
            known = sorted({entry.task for entry in ledger.entries()})
            raise SettingError(f"the ledger has no task '{name}': it has {', '.join(known) or 'none'}")
        log.say(f"{name} is taken out of the ledger: it runs again at the next boot")
    return 0
