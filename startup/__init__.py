"""Startup tasks for any container image: started app, ping, ordered tasks, once per cluster. See the README."""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["Context", "task"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from startup.plan.task import Context, task


def __getattr__(name: str) -> object:
    """Import on first use: the launcher and the ping must not pay for what they do not need (PEP 562)."""
    if name not in __all__:
        raise AttributeError(name)
    from startup.plan import task as tasks

    return getattr(tasks, name)
