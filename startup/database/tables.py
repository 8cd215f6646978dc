"""The one way in which tables of our own are made, and gain the columns of a newer image."""

from __future__ import annotations

from collections.abc import Mapping

from startup.database.session import Session


class Table:
    """Columns with their types (``{time}`` is the dialect's for a time), and the primary key's columns."""

    def __init__(self, name: str, columns: Mapping[str, str], key: str) -> None:
        self.name, self.columns, self.key = name, columns, key

    def stands_in(self, there: Mapping[str, set[str]]) -> bool:
        """Is it among the tables that are *there*, with every column?"""
        return there.get(self.name, set()) >= set(self.columns)


def make(session: Session, *tables: Table) -> None:
    """Make what is missing of *tables*, and of their columns. In a transaction, under the lock."""
    session.ensure_schema()
    there = session.tables(*(table.name for table in tables))
    for table in tables:
        name = session.qualify(table.name)
        types = {column: kind.format(time=session.dialect.timestamp) for column, kind in table.columns.items()}
        if table.name not in there:
            key = table.key.split(", ")  # SQLite takes NULL in it unless told otherwise
            columns = [f"{column} {kind}{' NOT NULL' if column in key else ''}" for column, kind in types.items()]
            session.execute(f"CREATE TABLE {name} ({', '.join(columns)}, PRIMARY KEY ({table.key}))")
            continue
        for column in types.keys() - there[table.name]:
            session.execute(f"ALTER TABLE {name} ADD COLUMN {column} {types[column]}")
