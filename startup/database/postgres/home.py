"""Where the tables of ours live: found along the search_path, once a boot, and trusted by who owns them.

SPEC section 6, "Home": what the address names is a decision; else a search_path that changes between two boots, or
within a migration, must not lead to empty tables elsewhere, in which nothing has ever run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from startup.database.session import Row
from startup.database.tables import LEDGERS, YOYOS, Family
from startup.errors import SettingError
from startup.records import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

Execute = Callable[[str, Sequence[object]], list[Row]]

#: The tables of these names, with their columns, in the order of the path: in these schemas, or on the search_path.
_FIND = """
    SELECT n.nspname, n.oid::bigint, c.relname, c.relkind::text, c.relowner = r.oid,
        pg_catalog.has_table_privilege(c.oid, 'SELECT'),
        CASE c.relkind WHEN 'r' THEN pg_catalog.pg_relation_size(c.oid) > 0 ELSE false END, a.attname
    FROM pg_catalog.unnest(coalesce(%s::name[], pg_catalog.current_schemas(false))) WITH ORDINALITY p (name, place)
    JOIN pg_catalog.pg_namespace n ON n.nspname = p.name
    JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
    JOIN pg_catalog.pg_roles r ON r.rolname = current_user
    LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE c.relname = ANY (%s) AND c.relpersistence <> 't' ORDER BY p.place, c.relname
"""
#: Plain tables, in a schema or off the search_path, of owners who may be trusted, or of others; may we read them?
#: ``inherit_option`` came with PostgreSQL 16.
_OWNED = """
    WITH RECURSIVE me AS (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = current_user),
    inherited (role) AS (
        SELECT oid FROM me UNION SELECT m.roleid FROM inherited i JOIN pg_catalog.pg_auth_members m ON m.member = i.role
        JOIN pg_catalog.pg_roles r ON r.oid = m.member
        WHERE coalesce((pg_catalog.to_jsonb(m) ->> 'inherit_option')::boolean, r.rolinherit)
    ),
    members (role) AS (
        SELECT oid FROM me UNION SELECT m.member FROM members i JOIN pg_catalog.pg_auth_members m ON m.roleid = i.role
    )
    SELECT n.nspname, c.relname, o.rolname, current_user,
        pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT')
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_database d ON d.datname = pg_catalog.current_database()
    JOIN pg_catalog.pg_roles s ON s.oid = n.nspowner JOIN pg_catalog.pg_roles o ON o.oid = c.relowner
    WHERE c.relname = ANY (%s) AND c.relkind = 'r' AND c.relpersistence <> 't'
    AND CASE WHEN %s::name IS NULL THEN n.nspname <> ALL (pg_catalog.current_schemas(true)) ELSE n.nspname = %s END
    AND (o.rolsuper OR o.oid = d.datdba OR (o.oid = s.oid AND s.rolname <> 'pg_database_owner')
        OR o.oid IN (SELECT role FROM inherited) OR o.oid IN (SELECT role FROM members)) = %s
    ORDER BY 1, 2
"""


@dataclass
class Place:
    """A schema with tables of a family: each with its kind ('r' is a plain table), and its columns."""

    schema: str
    oid: int
    kinds: dict[str, str]
    columns: dict[str, set[str]]
    readable: set[str]
    #: Those that have, or had, rows.
    filled: set[str]
    #: Do all of them belong to this role itself?
    own: bool

    @property
    def key(self) -> tuple[str, ...]:
        """The schema and the tables."""
        return (self.schema, *self.kinds)


class Homes:
    """Where each family of tables was found; handed on to the session that replaces one that was lost."""

    def __init__(self, decided: str | None, namespace: str, reads_only: bool) -> None:
        #: The schema that the address names.
        self.decided = decided
        self._namespace = namespace
        self._any_owner = reads_only
        self.found: dict[Family, tuple[str, int]] = {}
        self._nowhere_else: set[Family] = set()
        self._trusted: set[tuple[str, ...]] = set()

    def look(self, execute: Execute, family: Family, names: Sequence[str]) -> dict[str, set[str]]:
        """Those of *names* that are there, each with its columns. SettingError where they cannot be trusted."""
        known = self.found.get(family)
        schemas = [known[0]] if known else [self.decided] if self.decided else None
        places = _places(execute(_FIND, [schemas, list(names if known else family.names)]))
        place = next(iter(places), None) if known else self._choose(execute, family, places)
        if place is None:
            return {}
        _require_plain(place)
        if not self._trusts(execute, place):
            raise _distrust(_strangers(execute, place))
        self.found[family] = place.schema, place.oid
        return {name: columns for name, columns in place.columns.items() if name in names}

    def _choose(self, execute: Execute, family: Family, places: list[Place]) -> Place | None:
        """The home among *places*: the one that is in use. SettingError for two, or for one off the path."""
        if self.decided or not family.telling:
            return places[0] if places else None
        trusted = [place for place in places if set(place.kinds.values()) == {"r"} and self._trusts(execute, place)]
        if len(trusted) == len(places) == 1 and not family.by_namespace and trusted[0].filled & set(family.telling):
            return trusted[0]
        used = self._used(execute, family, {(place.schema, name) for place in trusted for name in place.readable})
        if len(used) > 1:
            raise SettingError(
                f"the tables {_named(family)} are in use in two schemas of the search_path, {' and '.join(used)}: "
                f"right would be ?schema={used[0]} (or the other) in DATABASE_URL"
            )
        if used:
            return next(place for place in trusted if place.schema == used[0])
        if family not in self._nowhere_else:
            self._refuse_elsewhere(execute, family)
            self._nowhere_else.add(family)
        doubtful = [place for place in places if place not in trusted]  # refused, since one of them may be the home
        return next(iter(doubtful or places), None)

    def _trusts(self, execute: Execute, place: Place) -> bool:
        if place.own or self._any_owner or place.key in self._trusted:
            return True
        if _strangers(execute, place):
            return False
        self._trusted.add(place.key)
        return True

    def _refuse_elsewhere(self, execute: Execute, family: Family) -> None:
        """SettingError where the path leads to none in use, but there is one off it, of an owner who may be trusted."""
        rows = execute(_OWNED, [[*family.telling, *LEDGERS.telling], None, None, True])
        there = {(schema, table) for schema, table, _, _, readable in rows if readable}
        used = self._used(execute, family, there)
        if family == YOYOS:  # beside a ledger they are of its namespaces
            ledgers = {schema for schema, table in there if table in LEDGERS.telling}
            ours = self._used(execute, LEDGERS, there)
            used = [schema for schema in used if schema in ours or schema not in ledgers]
        if used:
            path = execute("SELECT pg_catalog.current_setting('search_path')", [])[0][0]
            raise SettingError(
                f"the tables {_named(family)} are in the schema {used[0]}, to which the search_path, {path}, does "
                f"not lead: right would be ?schema={used[0]} in DATABASE_URL, or ?schema= with another name where "
                "this is to begin anew"
            )

    def _used(self, execute: Execute, family: Family, there: set[tuple[str, str]]) -> list[str]:
        """The schemas in which the family, of whose tables these are *there*, has rows."""
        queries: list[str] = []
        parameters: list[object] = []
        for schema, table in sorted(there):
            if table in family.telling:
                condition = " WHERE namespace = %s" if family.by_namespace else ""
                queries.append(f"SELECT %s::text WHERE EXISTS (SELECT FROM {_quoted(schema, table)}{condition})")
                parameters += [schema, self._namespace] if family.by_namespace else [schema]
        rows = execute(" UNION ".join(queries), parameters) if queries else []
        return sorted(schema for (schema,) in rows)


def _places(rows: list[Row]) -> list[Place]:
    places: dict[str, Place] = {}
    for schema, oid, table, kind, own, readable, filled, column in rows:
        place = places.get(schema) or Place(schema, oid, {}, {}, set(), set(), own)
        place.kinds[table] = kind
        place.readable.update([table] if readable else ())
        place.filled.update([table] if filled else ())
        place.columns.setdefault(table, set()).update([column] if column else ())
        places[schema] = replace(place, own=place.own and own)
    return list(places.values())


def _require_plain(place: Place) -> None:
    if odd := [table for table, kind in place.kinds.items() if kind != "r"]:
        raise SettingError(
            f"{place.schema}.{odd[0]} is not a plain table (a view, a partitioned or a foreign table): what keeps the "
            "ledger and the migrations' marks must be one; right would be another ?schema= in DATABASE_URL"
        )


def _strangers(execute: Execute, place: Place) -> list[Row]:
    return execute(_OWNED, [list(place.kinds), place.schema, place.schema, False])


def _distrust(strangers: list[Row]) -> SettingError:
    names = [f"{schema}.{table} to '{owner}'" for schema, table, owner, *_ in strangers]
    lines = [
        f"ALTER TABLE {_quoted(schema, table)} OWNER TO {_quoted(role)};" for schema, table, _, role, _ in strangers
    ]
    return SettingError(
        f"of the tables that DATABASE_URL leads to, there belongs {', '.join(names)}, whom the role "
        f"'{strangers[0][3]}' has no reason to trust: a table of somebody else's can run code as that role. "
        "Right would be, once they are known to be what they should be:\n" + "\n".join(lines)
    )


def _named(family: Family) -> str:
    return " and ".join(family.telling)


def _quoted(*names: str) -> str:
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)


def first_named(path: str) -> str | None:
    """The first schema that a search_path names; None where that is the role's own, ``"$user"``, or none."""
    match = re.match(r'\s*(?:"((?:[^"]|"")*)"|([^\s,"]+))', path)
    if match is None:
        return None
    name = match[2].lower() if match[1] is None else match[1].replace('""', '"')
    return None if name in ("$user", "") else name


def decided_by(parameters: dict[str, Any]) -> bool:
    """Do libpq's parameters in force (the address, PGOPTIONS, a service file) name a search_path?"""
    return re.search(r"search_path", str(parameters.get("options", "")), re.IGNORECASE) is not None
