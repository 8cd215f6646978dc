"""What the server tells of sessions and indexes: its questions in SQL, and its answers in words."""

from __future__ import annotations

from startup.database.postgres.reach import APPLICATION, NAME_BYTES
from startup.database.session import Holder

HOLDER = """
    SELECT a.pid, a.usename, a.application_name, pg_catalog.host(a.client_addr),
        extract(epoch FROM pg_catalog.clock_timestamp() - a.backend_start)::bigint,
        a.state, extract(epoch FROM pg_catalog.clock_timestamp() - a.state_change)::bigint, a.query
    FROM (SELECT pid FROM pg_catalog.pg_locks WHERE {is_lock}) l JOIN pg_catalog.pg_stat_activity a USING (pid)
"""
CONNECTED = f"""
    SELECT pg_catalog.substr(application_name, {len(APPLICATION) + 1}) FROM pg_catalog.pg_stat_activity
    WHERE pg_catalog.left(application_name, {len(APPLICATION)}) = '{APPLICATION}'
    AND datname = pg_catalog.current_database() AND pid <> pg_catalog.pg_backend_pid()
"""
#: Connections to spare: the server's, this role's and this database's (-1: no limit of theirs).
CROWD = f"""
    SELECT pg_catalog.count(*) FILTER (WHERE pg_catalog.left(a.application_name, {len(APPLICATION)}) = '{APPLICATION}'
            AND a.datid = d.oid),
        least(pg_catalog.current_setting('max_connections')::int
            - pg_catalog.current_setting('superuser_reserved_connections')::int
            - coalesce(pg_catalog.current_setting('reserved_connections', true), '0')::int - pg_catalog.count(*),
            CASE WHEN r.rolconnlimit >= 0
                THEN r.rolconnlimit - pg_catalog.count(*) FILTER (WHERE a.usesysid = r.oid) END,
            CASE WHEN d.datconnlimit >= 0 THEN d.datconnlimit - pg_catalog.count(*) FILTER (WHERE a.datid = d.oid) END)
    FROM pg_catalog.pg_stat_activity a, pg_catalog.pg_database d, pg_catalog.pg_roles r
    WHERE d.datname = pg_catalog.current_database() AND r.rolname = current_user AND a.usesysid IS NOT NULL
    GROUP BY d.oid, d.datconnlimit, r.oid, r.rolconnlimit
"""
BLOCKERS = """
    SELECT b.pid, a.usename, a.application_name, pg_catalog.host(a.client_addr), a.state, a.query,
        extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start)::bigint
    FROM (SELECT DISTINCT pg_catalog.unnest(pg_catalog.pg_blocking_pids({pid})) AS pid) b
    LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = b.pid ORDER BY a.xact_start, b.pid
"""
WAITERS = """
    SELECT w.pid, w.usename, w.application_name, w.query,
        coalesce(extract(epoch FROM pg_catalog.clock_timestamp() - w.query_start), 0) >= 1
        AND (SELECT state = 'idle in transaction' FROM pg_catalog.pg_stat_activity WHERE pid = {pid})
    FROM pg_catalog.pg_stat_activity w
    WHERE {pid} = ANY (pg_catalog.pg_blocking_pids(w.pid)) AND w.datname = pg_catalog.current_database() LIMIT 5
"""
BUILDS = """
    SELECT command, phase, blocks_done, blocks_total, tuples_done, tuples_total, lockers_done, lockers_total
    FROM pg_catalog.pg_stat_progress_create_index WHERE pid = {pid}
"""
INVALID_INDEXES = """
    SELECT i.indexrelid::regclass::text, i.indrelid::regclass::text
    FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
    WHERE NOT i.indisvalid AND c.relkind = 'i'
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_progress_create_index p WHERE p.index_relid = i.indexrelid)
"""


def holder(
    pid: int, user: str, application: str | None, host: str, age: int | None, state: str | None, since: int, query: str
) -> Holder:
    """A row of HOLDER."""
    ours = (application or "").startswith(APPLICATION)
    detail = _who(pid, user, "" if ours else application, host) + (
        f", connected for {age} s" if age is not None else ""
    )
    doing = f"for {since} s: {_statement(query)}" if state == "active" else f"no statement for {since} s"
    if not ours or application is None:
        return Holder("", detail, pid, doing if state else "")
    truncated = len(application.encode()) > NAME_BYTES - 4  # not in the middle of a character
    return Holder(application[len(APPLICATION) :], detail, pid, doing if state else "", truncated)


def blocker(pid: int, user: str, application: str, host: str, state: str, query: str, age: int | None) -> str:
    """A row of BLOCKERS on one line; a prepared transaction has no process, and shows as pid 0."""
    if not pid:
        return "a prepared transaction (see pg_prepared_xacts)"
    statement = _statement(query)
    return (
        f"{_who(pid, user, application, host)}, {state or 'state not shown to this role'}"
        + (f", in a transaction for {age} s" if age is not None else "")
        + (f": {statement}" if statement else "")
    )


def waiter(pid: int, user: str, application: str, query: str, in_vain: bool) -> list[str]:
    """A row of WAITERS; what waits for a session that does nothing may be its own."""
    lines = [f"pid {pid} ({user}, {application or 'no application name'}) waits for it: {_statement(query, 100)}"]
    if in_vain:
        lines.append(
            "this migration does nothing in the database meanwhile: if its Python code has opened the connection of "
            f"pid {pid}, both wait for ever (use the connection that the step is given)"
        )
    return lines


def build(command: str, phase: str, *counts: int) -> str:
    """A row of BUILDS."""
    text = f"{command}: {phase}"
    for done, total, unit in zip(counts[::2], counts[1::2], ("blocks", "tuples", "older transactions"), strict=True):
        if total:
            text += f", {done} of {total} {unit}"
    return text


def _who(pid: int, user: str, application: str | None, host: str | None) -> str:
    named = f", application {application}" if application else ""
    return f"pid {pid}, user {user}{named}" + (f", from {host}" if host else "")


def _statement(query: str | None, most: int = 200) -> str:
    """SQL on one line, of at most so many characters."""
    statement = " ".join((query or "").split())
    return f"{statement[:most]}..." if len(statement) > most else statement
