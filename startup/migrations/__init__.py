"""Migrations at boot: yoyo's files, dependencies and tables, applied on the session that holds the lock.

``files`` reads what the image brings, ``tables`` what the database remembers; ``execute`` brings the one to the other,
``backwards`` takes back. yoyo itself is imported only when there is something to do.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from startup.migrations.backwards import rollback, sql
    from startup.migrations.execute import Drift, apply, review
    from startup.migrations.files import Catalog, Migration, load
    from startup.migrations.tables import State, pending

__all__ = ["Catalog", "Drift", "Migration", "State", "apply", "load", "pending", "review", "rollback", "sql"]


def __getattr__(name: str) -> object:
    """Import on first use: a boot with nothing to do must not pay for what applies or takes back (PEP 562)."""
    import importlib

    for module in ("files", "tables", "execute", "backwards") if name in __all__ else ():
        found = vars(importlib.import_module(f"{__name__}.{module}"))
        if name in found:
            return found[name]
    raise AttributeError(name)
