"""8: fifty nodes at once, on an empty database and with nothing to do."""

from __future__ import annotations

import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from bench.measure import Group, Series, Verdict, interleave
from bench.things import PATH, Bench
from bench.tools import Ours, Tool, all_tools, applied, one_table
from tests.conftest import run_query

NODES = 50
MIGRATIONS = 20
OURS = Ours.name


def measure(bench: Bench) -> list[Group]:
    nodes = bench.n(NODES, 10)
    failed: dict[str, list[int]] = {}
    empty: dict[str, Callable[[], float]] = {}
    nothing: dict[str, Callable[[], float]] = {}
    for tool in all_tools(bench):
        project = bench.new_directory()
        tool.write(project, MIGRATIONS, one_table)

        def on_empty(tool: Tool = tool, project: Path = project) -> float:
            name = bench.server.new_database()
            took = _at_once(tool, project, bench.server.url(name), nodes, failed.setdefault(f"{tool.name}, empty", []))
            bench.server.drop_database(name)
            return took

        def on_done(tool: Tool = tool) -> float:
            directory, url = applied(bench, tool, 100)
            return _at_once(tool, directory, url, nodes, failed.setdefault(f"{tool.name}, nothing to do", []))

        empty[tool.name], nothing[tool.name] = on_empty, on_done
    for tool in all_tools(bench):
        applied(bench, tool, 100)
    on_empty_took = interleave(empty, bench.n(3, 1), budget=15, least=2, warm=False)
    on_done_took = interleave(nothing, bench.n(3, 1), budget=15, least=2, warm=False)
    statements, locks = _statements(bench, nodes)
    errors = sum(failed[f"{OURS}, empty"]) + sum(failed[f"{OURS}, nothing to do"])
    verdicts = [
        Verdict(f"{nodes} nodes: nodes that failed", "0", f"{errors}", errors == 0),
        Verdict("nothing to do: statements a node", "under 10", f"{statements:.1f}", statements < 10),
        Verdict("nothing to do: locks asked for", "0", f"{locks}", locks == 0),
    ]
    lists = (
        (f"{MIGRATIONS} migrations, empty database", "empty", on_empty_took),
        ("nothing to do", "nothing to do", on_done_took),
    )
    return [
        Group(
            "8",
            f"{nodes} nodes at once: {title}",
            "s",
            _named(series, failed, key),
            OURS,
            verdicts if key == "empty" else [],
        )
        for title, key, series in lists
    ]


def _named(series: dict[str, Series], failed: dict[str, list[int]], key: str) -> dict[str, Series]:
    """With the peers' failures behind their names."""
    shown = {}
    for name, one in series.items():
        counts = failed[f"{name}, {key}"]
        worst = f" ({min(counts)} to {max(counts)} nodes failed)" if max(counts) else ""
        shown[name + worst] = one
    return shown


def _at_once(tool: Tool, directory: Path, url: str, nodes: int, failed: list[int]) -> float:
    """Seconds until the last one has ended; how many have failed is added to *failed*."""
    argv, env = tool.command(directory, url)
    began = time.monotonic()
    started = [
        subprocess.Popen(
            argv,
            env={"PATH": PATH, **env},
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(nodes)
    ]
    codes = [process.wait(300) for process in started]
    failed.append(sum(code != 0 for code in codes))
    return time.monotonic() - began


def _statements(bench: Bench, nodes: int) -> tuple[float, int]:
    """What nodes with nothing to do ask the server: statements a node, and tries for an advisory lock in all."""
    tool = Ours(bench)
    directory, url = applied(bench, tool, 100)
    database = url.rpartition("/")[2]
    admin = bench.server.admin_url("postgres")
    run_query(admin, f"ALTER DATABASE {database} SET log_statement = 'all'")
    before = len(bench.server.log())
    _at_once(tool, directory, url, nodes, [])
    run_query(admin, f"ALTER DATABASE {database} RESET log_statement")
    lines = re.findall(r"\[(\d+)\] startup/\S* LOG:  (?:statement|execute [^:]*): (.*)", bench.server.log()[before:])
    asked = Counter(pid for pid, _ in lines)
    assert len(asked) == nodes, f"{len(asked)} of {nodes} nodes were seen"
    return len(lines) / nodes, sum("advisory_lock" in statement for _, statement in lines)
