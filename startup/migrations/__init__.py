"""Migrations at boot: yoyo's files, dependencies and tables, applied on the session that holds the lock.

``files`` reads what the image brings, ``tables`` what the database remembers; ``execute`` brings the one to the other,
``backwards`` takes back. yoyo itself is imported only when there is something to do.
"""

from startup.migrations.backwards import rollback, sql
from startup.migrations.execute import Drift, apply, review
from startup.migrations.files import Catalog, Migration, load
from startup.migrations.tables import State, pending

__all__ = ["Catalog", "Drift", "Migration", "State", "apply", "load", "pending", "review", "rollback", "sql"]
