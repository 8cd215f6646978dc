"""7: 1,000 pending migrations, one large file, and a boot with nothing to do, against the tools that people use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from bench.measure import Group, Series, Verdict, interleave
from bench.things import Bench, timed
from bench.tools import Sql, Tool, all_tools, applied, many_statements, one_table

OURS, YOYO, DBMATE = "startup-tasks init", "yoyo apply", "dbmate up"


def measure(bench: Bench) -> list[Group]:
    pending, statements = bench.n(1000, 100), bench.n(20_000, 2_000)
    note = "Whole processes, from an empty database."
    many = _race(bench, pending, one_table)
    large = _race(bench, 1, many_statements(statements))
    return [
        Group(
            "7",
            f"{pending:,} pending migrations",
            "s",
            many,
            OURS,
            [_judged(many, f"{pending:,} pending", 1 / 2)],
            note,
        ),
        Group(
            "7",
            f"One file of {statements:,} statements",
            "s",
            large,
            OURS,
            [_judged(large, "one large file", 1 / 20)],
            note,
        ),
        *_against_dbmate(bench),
        _nothing_to_do(bench),
    ]


def _against_dbmate(bench: Bench) -> list[Group]:
    """The fastest of them, alone with us, so that each of our runs has one of its own beside it."""
    if DBMATE not in [tool.name for tool in all_tools(bench)]:
        return []
    few, many, statements = bench.n(400, 40), bench.n(1000, 100), bench.n(20_000, 2_000)
    cases: list[tuple[str, int, Sql]] = [
        (f"{few:,} pending migrations", few, one_table),
        (f"{many:,} pending migrations", many, one_table),
        (f"One file of {statements:,} statements", 1, many_statements(statements)),
    ]
    groups = []
    for title, count, sql in cases:
        series = _race(bench, count, sql, only=(OURS, DBMATE), runs=bench.n(9, 1))
        pairs = zip(series[OURS].values, series[DBMATE].values, strict=False)
        ratios = Series([ours / theirs for ours, theirs in pairs])
        found = f"{ratios.median:.2f} ({ratios.percentile(25):.2f} - {ratios.percentile(75):.2f})"
        verdict = Verdict(title, "at most 1.3 of dbmate, pair by pair", found, ratios.median <= 1.3)
        groups.append(Group("7", f"{title}, dbmate beside it", "s", series, DBMATE, [verdict], "Whole processes."))
    return groups


def _judged(series: dict[str, Series], what: str, limit: float) -> Verdict:
    ratio = series[OURS].median / series[YOYO].median
    return Verdict(what, f"at most 1/{1 / limit:.0f} of stock yoyo", f"1/{1 / ratio:.1f}", ratio <= limit)


def _race(bench: Bench, count: int, sql: Sql, only: Sequence[str] = (), runs: int | None = None) -> dict[str, Series]:
    """Each tool, or those *only*, applies the same *count* files to an empty database."""
    cases: dict[str, Callable[[], float]] = {}
    for tool in [tool for tool in all_tools(bench) if not only or tool.name in only]:
        directory = bench.new_directory()
        tool.write(directory, count, sql)
        cases[tool.name] = lambda tool=tool, directory=directory: _apply(bench, tool, directory)  # type: ignore[misc]
    if runs is not None:
        return interleave(cases, runs)
    return interleave(cases, bench.n(5, 1), budget=15, least=2, warm=False)


def _apply(bench: Bench, tool: Tool, directory: Path) -> float:
    name = bench.server.new_database()
    argv, env = tool.command(directory, bench.server.url(name))
    took = timed(argv, env, directory)
    bench.server.drop_database(name)
    return took


def _nothing_to_do(bench: Bench) -> Group:
    cases: dict[str, Callable[[], float]] = {}
    counts = (10, bench.n(1000, 100), bench.n(5000, 500))
    for count in counts:
        for tool in all_tools(bench):
            directory, url = applied(bench, tool, count)
            argv, env = tool.command(directory, url)
            cases[f"{tool.name}, {count:,} applied"] = (
                lambda argv=argv, env=env, directory=directory: timed(argv, env, directory)  # type: ignore[misc]
            )
    series = interleave(cases, bench.n(20), budget=8, least=3)
    few, some, many = (series[f"{OURS}, {count:,} applied"].median for count in counts)
    growth = Verdict(
        f"nothing to do, {counts[2]:,} applied against 10",
        "-",
        f"{many / few:.2f} times; {counts[1]:,}: {some / few:.2f}",
        None,
    )
    return Group("7", "Nothing to do", "s", series, f"{OURS}, 10 applied", [growth], "Whole processes.")
