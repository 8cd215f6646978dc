"""The built-in tasks: one line for each."""

from __future__ import annotations

import importlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from startup.builtin.builtin import Builtin
    from startup.settings.settings import Settings

#: Each one's name and its class, imported only when it is named.
BUILT_IN = {
    "insert_users": "startup.builtin.users:InsertUsers",
    "migrate": "startup.builtin.migrate:Migrate",
}


def make(name: str, settings: Settings) -> Builtin | None:
    """The built-in task of this name, if it is one."""
    if name not in BUILT_IN:
        return None
    module, _, kind = BUILT_IN[name].partition(":")
    built_in: Builtin = getattr(importlib.import_module(module), kind)(settings)
    return built_in
