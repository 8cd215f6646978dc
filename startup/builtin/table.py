"""The table that insert_users fills: how rows get in as their columns' types want them, and what it must be told of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from startup.database.session import Session
from startup.errors import TaskFailed


class Table(ABC):
    """A table of the session's database, and those of its columns that are written."""

    def __init__(self, session: Session, name: str, columns: Sequence[str]) -> None:
        self.name = name
        self.columns = columns
        self.target = ".".join(map(quote, name.split(".")))
        self._connection = session.connection

    @staticmethod
    def found(session: Session, name: str, columns: Sequence[str], typed: bool, warn: Callable[[str], None]) -> Table:
        """The table *name*, for values that are *typed* as JSON's or text. TaskFailed where it, or a column, is not."""
        table: Table
        if session.dialect.placeholder == "%s":
            table = _Postgres(session, name, columns, typed)
        else:
            table = _Sqlite(session, name, columns)
        try:
            told_apart = table.tells_rows_apart()
        except Exception as error:
            raise TaskFailed(f"the table {name} cannot be filled: {str(error).partition(chr(10))[0]}") from None
        if not told_apart:
            warn(
                f"the table {name} has no unique constraint over columns of the file ({', '.join(columns)}): rows that "
                "are there already are added again, each time that the file changes"
            )
        return table

    def add(self, rows: Sequence[Sequence[Any]], texts: Sequence[str]) -> int:
        """Add what is not there yet; how many. All of them or, with the driver's error, none."""
        cursor = self._connection.cursor()
        cursor.execute("SAVEPOINT startup_rows")
        try:
            added = self._insert(cursor, rows, texts)
        except Exception:
            cursor.execute("ROLLBACK TO SAVEPOINT startup_rows")
            raise
        cursor.execute("RELEASE SAVEPOINT startup_rows")
        return added

    @abstractmethod
    def _insert(self, cursor: Any, rows: Sequence[Sequence[Any]], texts: Sequence[str]) -> int: ...

    @abstractmethod
    def tells_rows_apart(self) -> bool:
        """Is there a unique constraint that the columns are enough for? Raises the driver's error without the table."""

    def advance_sequences(self, warn: Callable[[str], None]) -> None:  # noqa: B027  # SQLite does so by itself
        """Set what numbers new rows behind the highest number that is there."""


class _Postgres(Table):
    """By json_to_recordset(): one statement a batch, whatever rights there are, each value read by its type's input."""

    def __init__(self, session: Session, name: str, columns: Sequence[str], typed: bool) -> None:
        super().__init__(session, name, columns)
        self._typed = typed
        self._statement = b""

    def _rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        cursor = self._connection.cursor()
        cursor.execute(sql, parameters)
        found: list[tuple[Any, ...]] = cursor.fetchall()
        return found

    def tells_rows_apart(self) -> bool:
        self._rows(f"SELECT FROM {self.target.replace('%', '%%')} LIMIT 0")
        types = dict(
            self._rows(
                "SELECT attname, pg_catalog.format_type(atttypid, NULL) FROM pg_catalog.pg_attribute "
                "WHERE attrelid = %s::pg_catalog.regclass AND attnum > 0 AND NOT attisdropped",
                self.target,
            )
        )
        if missing := [name for name in self.columns if name not in types]:
            raise LookupError(f"it has no column {missing[0]}")
        names = ", ".join(map(quote, self.columns))
        read = names
        if not self._typed:
            read = ", ".join(f"{quote(name)}::{types[name]}" for name in self.columns)
        fields = ", ".join(f"{quote(name)} {types[name] if self._typed else 'text'}" for name in self.columns)
        insert = f"INSERT INTO {self.target} ({names}) OVERRIDING SYSTEM VALUE SELECT {read} FROM ".replace("%", "%%")
        fields = f") AS _rows({fields}) ON CONFLICT DO NOTHING".replace("%", "%%")
        self._statement = f"{insert}pg_catalog.json_to_recordset(%s{fields}".encode()
        ((told_apart,),) = self._rows(
            "SELECT EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = %s::pg_catalog.regclass "
            "AND (i.indisunique OR i.indisexclusion) AND i.indisvalid AND NOT EXISTS (SELECT FROM "
            "pg_catalog.pg_attribute a WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey) "
            "AND a.attname <> ALL (%s)))",
            self.target,
            list(self.columns),
        )
        return bool(told_apart)

    def _insert(self, cursor: Any, rows: Sequence[Sequence[Any]], texts: Sequence[str]) -> int:
        cursor.execute(self._statement, [f"[{','.join(texts)}]"])
        return int(cursor.rowcount)

    def advance_sequences(self, warn: Callable[[str], None]) -> None:
        """Never backwards; of the columns that the file names, by identity, serial or a default with nextval()."""
        found = self._rows(
            "SELECT DISTINCT a.attname, s.seqrelid::pg_catalog.regclass::text FROM pg_catalog.pg_attribute a "
            "LEFT JOIN pg_catalog.pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum "
            "JOIN pg_catalog.pg_depend d "
            "ON (d.classid, d.objid) = ('pg_catalog.pg_attrdef'::pg_catalog.regclass, f.oid) "
            "OR (d.refclassid, d.refobjid, d.refobjsubid) = ('pg_catalog.pg_class'::pg_catalog.regclass, a.attrelid, "
            "a.attnum) JOIN pg_catalog.pg_sequence s ON s.seqincrement > 0 AND s.seqrelid = CASE "
            "WHEN d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass THEN d.refobjid ELSE d.objid END "
            "WHERE a.attrelid = %s::pg_catalog.regclass AND a.attname = ANY (%s)",
            self.target,
            list(self.columns),
        )
        cursor = self._connection.cursor()
        for column, sequence in found:
            cursor.execute("SAVEPOINT startup_sequence")
            try:
                cursor.execute(
                    f"SELECT pg_catalog.setval('{sequence.replace(chr(39), chr(39) * 2)}', highest) FROM {sequence}, "
                    f"(SELECT max({quote(column)}) AS highest FROM {self.target}) AS there "
                    "WHERE highest > last_value OR (highest = last_value AND NOT is_called)"
                )
            except Exception as error:
                cursor.execute("ROLLBACK TO SAVEPOINT startup_sequence")
                warn(
                    f"the sequence {sequence} could not be set behind the highest {column} of {self.name}, so that the "
                    f"app's next row may fail: {str(error).partition(chr(10))[0]}"
                )


class _Sqlite(Table):
    def tells_rows_apart(self) -> bool:
        self._connection.execute(f"SELECT 1 FROM {self.target} LIMIT 0")
        schema, _, name = self.name.rpartition(".")
        of = f"pragma_table_info(?{', ?' if schema else ''})"
        where = [name, schema] if schema else [name]
        columns = self._connection.execute(f"SELECT name, pk FROM {of}", where).fetchall()
        unique = [{one for one, key in columns if key}]
        indexes = f'SELECT name FROM pragma_index_list(?{", ?" if schema else ""}) WHERE "unique"'
        for (index,) in self._connection.execute(indexes, where).fetchall():
            members = self._connection.execute("SELECT name FROM pragma_index_info(?)", [index]).fetchall()
            unique.append({one for (one,) in members if one})
        return any(members and members <= set(self.columns) for members in unique)

    def _insert(self, cursor: Any, rows: Sequence[Sequence[Any]], texts: Sequence[str]) -> int:
        names, marks = ", ".join(map(quote, self.columns)), ", ".join("?" * len(self.columns))
        cursor.executemany(f"INSERT INTO {self.target} ({names}) VALUES ({marks}) ON CONFLICT DO NOTHING", rows)
        return max(int(cursor.rowcount), 0)


def quote(name: str) -> str:
    """*name* as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'
