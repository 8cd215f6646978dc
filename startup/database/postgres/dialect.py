"""PostgreSQL's SQL, as far as it is not everybody's."""

from __future__ import annotations

from startup.database.session import Dialect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from startup.database.statement import Split

#: lock_not_available, deadlock_detected, serialization_failure: the same file may well pass a moment later.
TRY_AGAIN = ("55P03", "40P01", "40001")


class PostgresDialect(Dialect):
    """See :class:`startup.database.session.Dialect`."""

    now = "pg_catalog.clock_timestamp()"
    some_minutes_ago = "pg_catalog.clock_timestamp() - interval '5 minutes'"
    a_day_ago = "pg_catalog.clock_timestamp() - interval '1 day'"
    timestamp = "timestamptz"
    count = "pg_catalog.count(*)"
    yoyo_backend = "yoyo.backends.core.postgresql:PostgresqlPsycopgBackend"
    digest = (
        "pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(pg_catalog.string_agg("
        "{line}, pg_catalog.chr(10) ORDER BY {line} COLLATE \"C\"), 'UTF8')), 'hex')"
    )
    concurrent_indexes = True

    def split(self, text: str) -> Split:
        """See :mod:`startup.database.postgres.splitter`."""
        from startup.database.postgres.splitter import split

        return split(text)

    def may_pass_later(self, error: BaseException) -> bool:
        """By SQLSTATE."""
        return getattr(error, "sqlstate", None) in TRY_AGAIN

    def is_duplicate(self, error: BaseException) -> bool:
        """unique_violation"""
        return getattr(error, "sqlstate", None) == "23505"


POSTGRESQL = PostgresDialect()
