"""migrate: applies the migrations that are pending. yoyo's own tables remember which are not."""

from __future__ import annotations

from collections.abc import Callable

from startup import log
from startup.builtin.builtin import Builtin
from startup.database.session import Session
from startup.errors import SettingError
from startup.records import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from startup.migrations.apply import Drift
    from startup.migrations.tables import State


class Migrate(Builtin):
    """The files of STARTUP_MIGRATIONS against the database. What applies them is loaded when one is pending."""

    kind = "migrate"
    policy = "always"
    policies = ()
    refusal = "migrate takes no policy, it applies what is pending"
    ledgered = False
    _squawk = ""

    def prepare(self, asked_for: bool) -> str:
        """Read the directories."""
        from startup.migrations import files

        given = self.settings.given("STARTUP_MIGRATIONS")
        self.catalog = files.load(self.settings.migrations, given=given)
        self.warnings = files.overlooked(self.catalog)
        if self.settings.lint != "off":
            self._squawk = self._find_squawk()
        return self.catalog.note or ""

    def is_done(self, session: Session, warn: Callable[[str], None]) -> bool:
        """Is nothing pending? TaskFailed for an applied migration whose content has changed."""
        from startup.migrations import tables

        if tables.all_as_recorded(session, self.catalog):
            self._count(0)
            return True
        state = tables.pending(session, self.catalog)
        self._count(len(state.pending))
        # What looks interrupted may be running now, on the node that holds the lock.
        if not state.nothing_to_do or any(record.id in self.catalog.by_id for record in state.interrupted):
            return False
        if state.locked:
            if session.only_looks:  # there may be a row to clear
                return False
            from startup.migrations import lock

            lock.clear_stale(session)
        if state.odd:
            from startup.migrations import apply

            state = replace(state, interrupted=())
            apply.review(session, self.catalog, state, drift=self._drift, warn=warn)
        return True

    def pending(self, session: Session) -> list[str]:
        """The ids of the migrations that are to be applied."""
        from startup.migrations import tables

        return [migration.id for migration in tables.pending(session, self.catalog).pending]

    def run(self, session: Session, seconds_left: Callable[[], float] | None, warn: Callable[[str], None]) -> str:
        """Apply what is pending, each file with its mark in a transaction of its own."""
        from startup.migrations import apply, tables

        if self._squawk:
            self._lint(session, tables.pending(session, self.catalog), warn)
        count = apply.apply(
            session,
            self.catalog,
            table_lock_timeout=self.settings.table_lock_timeout,
            drift=self._drift,
            deadline=seconds_left,
            node=self.settings.node,
            report=log.say,
            warn=warn,
            progress=self._count,
        )
        return f"{count} applied"

    def examine(self, session: Session, warn: Callable[[str], None]) -> None:
        """TaskFailed for files that would not be applied, and for what a review finds."""
        from startup.migrations import apply, tables

        state = tables.pending(session, self.catalog)
        apply.examine(session, self.catalog, state)
        if self._squawk:
            self._lint(session, state, warn)
        if state.interrupted and session.holder(migrations=True):
            state = replace(state, interrupted=())  # what looks so may be running now
        apply.review(session, self.catalog, state, drift=self._drift, warn=warn)

    def preview(self, session: Session) -> tuple[bool, str, list[str]]:
        """Is any pending, how many, and their SQL."""
        from startup.migrations import rollback, tables

        state, total = tables.pending(session, self.catalog), len(self.catalog.migrations)
        details: list[str] = []
        for migration in [*state.pending, *(self.catalog.post_apply if state.pending else state.owed)]:
            details.append(f"{migration.id}  ({migration.path})")
            details += [f"    {line}" for line in rollback.sql(migration).splitlines()]
        if state.interrupted:
            word = "at work" if session.holder(migrations=True) else "interrupted"
            details += [f"{word}: {record}" for record in state.interrupted]
        details += [f"{name}: the database has it, this image does not" for name in state.unknown]
        details += [f"{migration.id}: its content changed after it was applied" for migration in state.drifted]
        if state.pending:
            return True, f"{len(state.pending)} of {total} migrations are pending", details
        return not state.nothing_to_do, f"nothing is pending ({total} migrations are applied)", details

    def _find_squawk(self) -> str:
        """Its path; '' for SQLite, and where nothing is ever applied. SettingError where it is not installed."""
        address = self.settings.address
        if self.settings.role == "follower" or address is None or address.dialect != "postgresql":
            return ""
        from startup.migrations import squawk

        if program := squawk.program():
            return program
        raise SettingError(f"STARTUP_LINT is '{self.settings.lint}', but squawk is not installed: {squawk.HOW}")

    def _lint(self, session: Session, state: State, warn: Callable[[str], None]) -> None:
        """Name what is found in pending files, or raise TaskFailed with it. Where none is applied yet, all is new."""
        if not (state.pending and state.applied):
            return
        from startup.migrations import files, lint

        files.check(state.pending, self.catalog, session.dialect)
        found = lint.pending(self.catalog, state.pending, session.dialect, self._squawk)
        if self.settings.lint == "fail":
            found.require_none()
        for line in found.lines:
            warn(line)

    def _count(self, pending: int, applied: int = 0) -> None:
        self.progress = pending, applied

    @property
    def _drift(self) -> Drift:
        from typing import cast

        return cast("Drift", self.settings.drift)
