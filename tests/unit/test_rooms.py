"""What the lint cannot say of the rooms (pyproject.toml, tool.importlinter)."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

STARTUP = Path(__file__).parents[2] / "startup"


LIGHT = [STARTUP / "launch.py", STARTUP / "spawn.py", *(STARTUP / "ping").glob("*.py")]


@pytest.mark.parametrize("file", LIGHT, ids=lambda file: file.name)
def test_the_ping_the_launcher_and_spawn_know_the_standard_library_alone(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text())):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            assert name.split(".")[0] in {*sys.stdlib_module_names, "startup"}, f"{file.name} imports {name}"
