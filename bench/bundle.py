"""12: the bundle in somebody else's image: what stands before the app's first instruction, and what it adds.

wait4x is left out: neither Debian nor PyPI has it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import uuid
from pathlib import Path

from bench import image
from bench.measure import Group, Series, Verdict, minus
from bench.things import PEERS, Bench

DIRECT, OURS = "executed directly", "startup-tasks, the bundle"
#: Programs of one file, which users copy alone, as Debian has them; dbmate is the wheel's.
SMALL = ("tini", "dumb-init")
DOCKERFILE = f"""
FROM debian:trixie-slim AS peers
RUN apt-get update && apt-get install --yes --no-install-recommends {" ".join(SMALL)}
FROM peers AS image
COPY --from={{bundle}} /opt/startup /opt/startup
FROM scratch AS tini
COPY --from=peers /usr/bin/tini /
FROM scratch AS dumb-init
COPY --from=peers /usr/bin/dumb-init /
FROM scratch AS dbmate
COPY dbmate /
"""


def measure(bench: Bench) -> list[Group]:
    if not image.has_docker():
        print("bench: no Docker Engine here: row 12 is left out")
        return []
    prefix = f"startup-bench-{uuid.uuid4().hex[:8]}"
    context = bench.new_directory()
    shutil.copy2(PEERS / "dbmate", context)
    sizes: dict[str, int] = {}
    try:
        sizes["bundle"] = image.build(f"{prefix}-bundle", "bundle", None)
        dockerfile = DOCKERFILE.replace("{bundle}", f"{prefix}-bundle")
        for stage in ("image", *SMALL, "dbmate"):
            sizes[stage] = image.build(f"{prefix}-{stage}", stage, dockerfile, context)
        series = _start(f"{prefix}-image", bench.n(100))
        packed = _packed(f"{prefix}-bundle")
    finally:
        for stage in ("bundle", "image", *SMALL, "dbmate"):
            image.remove(f"{prefix}-{stage}")
    added = minus(series[OURS], series[DIRECT])
    quartiles = f"{added.percentile(25) * 1000:.1f} - {added.percentile(75) * 1000:.1f}"
    start = Verdict(
        "the bundle: added before the app's first instruction",
        "within 8 ms of direct",
        f"{added.median * 1000:.1f} ms ({quartiles})",
        added.median <= 0.008,
    )
    size = Verdict(
        "the bundle: added to any image",
        "under 45 MB, 18 MB compressed",
        f"{sizes['bundle'] / 1e6:.1f} MB, {packed / 1e6:.1f} MB",
        sizes["bundle"] < 45e6 and packed < 18e6,
    )
    compared = {"startup-tasks, the bundle: ping, migrations, tasks, a Python": Series([float(sizes["bundle"])], True)}
    for name, what in (("tini", "signals"), ("dumb-init", "signals"), ("dbmate", "migrations")):
        compared[f"{name}: {what}"] = Series([float(sizes[name])])
    note = "Inside a container of debian:trixie-slim, from exec to the first byte that the image's dd writes."
    return [
        Group("12", "The app's start in an image with the bundle", "ms", series, DIRECT, [start], note),
        Group(
            "12", "The bundle's size", "MB", compared, next(iter(compared)), [size], "Uncompressed, as Docker counts."
        ),
    ]


def _start(name: str, runs: int) -> dict[str, Series]:
    cases = (f"{DIRECT}=", f"{OURS}=/opt/startup/bin/startup-entrypoint", "tini=tini -s --", "dumb-init=dumb-init --")
    python = ("--entrypoint=/opt/startup/bin/python3", name, "-I", "/src/bench/inside.py", str(runs))
    words = ["docker", "run", "--rm", f"--volume={Path(__file__).parent}:/src/bench:ro", *python, *cases]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return {name: Series(values, name == OURS) for name, values in json.loads(done.stdout).items()}


def _packed(name: str) -> int:
    """The size of the whole image as registries keep it, nearly: gzip's own default is what Docker pushes with."""
    with subprocess.Popen(["docker", "save", name], stdout=subprocess.PIPE) as saved:
        return len(subprocess.run(["gzip"], stdin=saved.stdout, capture_output=True, check=True).stdout)
