"""``make bench``: measure, and write what docs/speed.md shows."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import re
import sys
import time
from pathlib import Path

from bench.measure import Group, plot, summary
from bench.things import ROOT, Bench

#: Rows of the table of goals: the module that measures them.
ROWS = {
    "1": "start",
    "2": "ping",
    "3": "ready",
    "4": "ready",
    "5": "waiting",
    "6": "memory",
    "7": "migrations",
    "8": "nodes",
    "9": "image",
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("rows", nargs="*", help=f"of {' '.join(ROWS)}; all by default")
    parser.add_argument("--quick", action="store_true", help="3 runs each, for a look; writes nothing")
    parser.add_argument("--keep", action="store_true", help="write docs/speed.md although it is quick, or not all rows")
    arguments = parser.parse_args()
    wanted = arguments.rows or list(ROWS)
    modules = list(dict.fromkeys(ROWS[row] for row in wanted))
    bench = Bench(arguments.quick)
    groups: list[Group] = []
    began, load = time.monotonic(), os.getloadavg()[0]
    try:
        for name in modules:
            print(f"bench: {name}, after {time.monotonic() - began:.0f} s", file=sys.stderr)
            for group in importlib.import_module(f"bench.{name}").measure(bench):
                groups.append(group)
                print("\n" + group.markdown() + "\n" + summary([group]), flush=True)
    finally:
        bench.close()
    if arguments.keep or not (arguments.quick or arguments.rows):
        machine = (
            f"Measured on {time.strftime('%Y-%m-%d', time.gmtime())} in {(time.monotonic() - began) / 60:.0f} minutes: "
            f"{os.cpu_count()} cores, Linux {platform.release().split('-')[0]}, Python {platform.python_version()}, "
            f"PostgreSQL {_server_version(bench)}; load average {load:.1f} before, {os.getloadavg()[0]:.1f} after."
        )
        write(groups, machine)
    print(summary(groups))
    return 0


def _server_version(bench: Bench) -> str:
    return str(bench.cache.get("server version", ""))


def write(groups: list[Group], machine: str) -> None:
    """The plot, and the measured part of docs/speed.md; the words around it stay."""
    (ROOT / "docs" / "speed.svg").write_text(plot(groups))
    tables = "\n".join(group.markdown() for group in groups)
    text = f"{machine}\n\n{summary(groups)}\n![medians and quartiles](speed.svg)\n\n{tables}"
    page: Path = ROOT / "docs" / "speed.md"
    begin, end = "<!-- measured: make bench writes from here -->\n", "<!-- to here -->\n"
    old = page.read_text() if page.exists() else f"# Speed\n{begin}{end}"
    page.write_text(re.sub(f"(?s){begin}.*{end}", lambda _: begin + text + end, old))


if __name__ == "__main__":
    sys.exit(main())
