"""14: the same boot in a container that may use a tenth and a half of a CPU, beside what people use instead."""

from __future__ import annotations

import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from xml.sax.saxutils import escape

from bench import image
from bench.measure import Group, Series, Verdict, interleave
from bench.things import APP, PEERS, ROOT, Bench, Fifo, Mark
from bench.tools import Dbmate, Ours, Tool, applied
from tests.conftest import pick_port

LIMITS = ("0.1", "0.5")
DIRECT, OURS, BY_HAND = "no entrypoint, no migrations", "startup-tasks", "curl loop, dbmate up"
CASES = (DIRECT, OURS, BY_HAND)
#: What is measured of each boot, in seconds from the container's first exec.
MOMENTS = ("the app's first instruction", "the app's answer", "ready")
PLOT = ROOT / "docs" / "limits.svg"
#: The demo is the target `base` with what a small web app imports.
DOCKERFILE = """
FROM {demo} AS limits
USER root
RUN apt-get update && apt-get install --yes --no-install-recommends curl
COPY dbmate /usr/local/bin/
COPY app.py by_hand.sh /bench/
"""


def measure(bench: Bench) -> list[Group]:
    if not image.has_docker():
        print("bench: no Docker Engine here: row 14 is left out")
        return []
    projects: dict[str, Tool] = {OURS: Ours(bench), BY_HAND: Dbmate()}
    done = {name: applied(bench, tool, 100) for name, tool in projects.items()}
    # without an entrypoint there is nothing that would migrate
    done[DIRECT] = done[OURS]
    with _image(bench) as tag:
        groups = [group for limit in LIMITS for group in _under(bench, tag, limit, done)]
    if not bench.quick:
        PLOT.write_text(plot(groups))
    return groups


def _under(bench: Bench, tag: str, limit: str, projects: Mapping[str, tuple[Path, str]]) -> list[Group]:
    moments: dict[str, list[list[float]]] = {name: [] for name in CASES}

    def boot(name: str) -> float:
        moments[name].append(_boot(bench, tag, limit, name, *projects[name]))
        return moments[name][-1][-1]

    interleave({name: lambda name=name: boot(name) for name in CASES}, bench.n(10, 2))  # type: ignore[misc]
    groups = []
    for number, moment in enumerate(MOMENTS):
        # without the one that only warms up
        series = {name: Series([one[number] for one in moments[name][1:]], name == OURS) for name in CASES}
        found = {name: f"{one.median:.2f} s" for name, one in series.items()}
        others = "; ".join(f"{name} {found[name]}" for name in (DIRECT, BY_HAND))
        verdict = Verdict(f"{limit} CPU: {moment}", "-", f"{found[OURS]} ({others})", None)
        title = f"{limit} CPU: {moment}"
        note = "In a container, from its first exec; 100 migrations are applied, nothing is to do."
        groups.append(Group("14", title, "s", series, DIRECT, [verdict], note))
    return groups


@contextmanager
def _image(bench: Bench) -> Iterator[str]:
    """One image for all cases; they differ in the entrypoint alone."""
    prefix, context = f"startup-bench-{uuid.uuid4().hex[:8]}", bench.new_directory()
    for file in (PEERS / "dbmate", APP, Path(__file__).with_name("by_hand.sh")):
        shutil.copy2(file, context)
    demo, tag = f"{prefix}-demo", f"{prefix}-limits"
    try:
        image.build(demo, "demo", None)
        image.build(tag, "limits", DOCKERFILE.format(demo=demo), context)
        yield tag
    finally:
        image.remove(tag)
        image.remove(demo)


def _boot(bench: Bench, tag: str, limit: str, name: str, project: Path, url: str) -> list[float]:
    """The moments of one boot. The engine's own part, until the container's first exec, is left out."""
    out, port, container = bench.new_directory(), pick_port(), f"{tag}-{uuid.uuid4().hex[:8]}"
    (out / "state").mkdir()
    begun, ready = Fifo(out / "begun"), Mark(out / "state" / "ready")
    ping = f"http://127.0.0.1:{port}/"
    env = {
        "DATABASE_URL": url if name == OURS else f"{url}?sslmode=disable",
        **({"STARTUP_PING": ping, "STARTUP_STATE_DIR": "/out/state"} if name == OURS else {}),
        **({"PING": ping, "READY": "/out/state/ready"} if name == BY_HAND else {}),
    }
    words = ["docker", "run", "--rm", "--name", container, f"--cpus={limit}", "--network=host", "--workdir=/project"]
    words += [f"--volume={out}:/out", f"--volume={project}:/project:ro", "--entrypoint=/bin/sh"]
    words += [f"--env={key}={value}" for key, value in env.items()]
    first = {DIRECT: [], OURS: ["startup-entrypoint"], BY_HAND: ["sh", "/bench/by_hand.sh"]}[name]
    app = ["python", "/bench/app.py", "/out/note", str(port), "imports"]
    words += [tag, "-c", 'echo >/out/begun; exec "$@"', "sh", *first, *app]
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        start = begun.wait(process)
        end = None if name == DIRECT else ready.wait(process)
        began, listening = _note(out / "note", process)
    finally:
        subprocess.run(["docker", "rm", "--force", container], capture_output=True, check=False)
        process.wait()
    shutil.rmtree(out)
    return [began - start, listening - start, (end or listening) - start]


def _note(path: Path, process: subprocess.Popen[bytes], timeout: float = 120) -> tuple[float, float]:
    """When the app began, and when it listened."""
    deadline = time.monotonic() + timeout
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline, process.args
        time.sleep(0.02)
    began, listening, _ = map(float, path.read_text().split())
    return began, listening


def plot(groups: list[Group]) -> str:
    """A line of time for each boot, with its three moments; a panel for each limit."""
    left, right, row, head = 230, 860, 26, 46
    top, parts = 0, []
    for limit in LIMITS:
        rows = [group for group in groups if group.title.startswith(f"{limit} CPU")]
        longest = max(one.median for group in rows for one in group.series.values())
        parts.append(f'<text x="8" y="{top + 24}" class="h">{limit} CPU, seconds from the first exec (medians)</text>')
        for number, name in enumerate(CASES):
            y, kind = top + head + row * number, "us" if name == OURS else "them"
            times = [group.series[name].median for group in rows]
            places = [left + (right - left) * seconds / longest for seconds in times]
            parts += [
                f'<text x="{left - 12}" y="{y + 4}" text-anchor="end" class="{kind}">{escape(name)}</text>',
                f'<line x1="{left}" x2="{places[-1]:.1f}" y1="{y}" y2="{y}" class="{kind}"/>',
                f'<line x1="{places[0]:.1f}" x2="{places[0]:.1f}" y1="{y - 6}" y2="{y + 6}" class="{kind}"/>',
                f'<circle cx="{places[1]:.1f}" cy="{y}" r="5" class="{kind} answer"/>',
                f'<circle cx="{places[2]:.1f}" cy="{y}" r="4" class="{kind}"/>',
                f'<text x="{right + 12}" y="{y + 4}" class="{kind}">{times[-1]:.2f} s</text>',
            ]
        top += head + row * len(CASES) + 8
    parts.append(
        f'<text x="8" y="{top + 16}">| the app\'s first instruction &#160; \u25cb its answer &#160; \u25cf ready</text>'
    )
    top += 32
    style = (
        "text{font:12px sans-serif;fill:#444}.h{font-weight:bold;fill:#111}line{stroke-width:2}"
        "circle.us{fill:#c2410c;stroke:#c2410c}text.us{fill:#c2410c;font-weight:bold}line.us{stroke:#c2410c}"
        "circle.them{fill:#64748b;stroke:#64748b}line.them{stroke:#64748b}circle.answer{fill:#fff;stroke-width:2}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="960" height="{top}" viewBox="0 0 960 {top}">'
        f'<style>{style}</style><rect width="960" height="{top}" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )
