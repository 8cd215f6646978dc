"""Which tables live together, and the one way in which ours are made and gain the columns of a newer image."""

from __future__ import annotations

from collections.abc import Mapping

from startup.records import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from startup.database.session import Session


@dataclass(frozen=True)
class Family:
    """Tables that live in one schema: that in which the first of them was made."""

    names: tuple[str, ...]
    #: Those whose rows tell that the family is in use there; of the ledger's those of one namespace.
    telling: tuple[str, ...] = ()
    by_namespace: bool = False


LEDGERS = Family(
    ("startup_run", "startup_ledger", "startup_node"), telling=("startup_run", "startup_ledger"), by_namespace=True
)
YOYOS = Family(
    ("_yoyo_migration", "startup_migration", "yoyo_lock", "_yoyo_log", "_yoyo_version"),
    telling=("_yoyo_migration", "startup_migration"),
)


def family_of(*names: str) -> Family:
    """The family of the first of *names*; of tables that are none of ours, they themselves."""
    return next((family for family in (LEDGERS, YOYOS) if names[0] in family.names), Family(names))


class Table:
    """Columns with their types (``{time}`` is the dialect's for a time), and the primary key's columns."""

    def __init__(self, name: str, columns: Mapping[str, str], key: str) -> None:
        self.name, self.columns, self.key = name, columns, key

    def stands_in(self, there: Mapping[str, set[str]]) -> bool:
        """Is it among the tables that are *there*, with every column?"""
        return there.get(self.name, set()) >= set(self.columns)


def make(session: Session, *tables: Table) -> None:
    """Make what is missing of *tables*, and of their columns. In a transaction, under the lock."""
    session.ensure_home(tables[0].name)
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
