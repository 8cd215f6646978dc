"""9: what the product adds to an image."""

from __future__ import annotations

import shutil
import subprocess
import uuid
from pathlib import Path

from bench.measure import Group, Series, Verdict
from bench.things import ROOT, Bench

BASE = "python:3.13-slim-trixie"
LIBRARIES = "psycopg[binary] yoyo-migrations==9.0.0 python-dotenv"
#: A stage for each size; the wheel itself stays out of the image.
DOCKERFILE = f"""
FROM {BASE} AS wheel
COPY . /src
RUN pip wheel --no-deps --quiet --wheel-dir /dist /src
FROM {BASE} AS libraries
RUN pip install --no-cache-dir --quiet {LIBRARIES}
FROM {BASE} AS psycopg
RUN pip install --no-cache-dir --quiet 'psycopg[binary]'
FROM psycopg AS with-psycopg
RUN --mount=from=wheel,source=/dist,target=/dist pip install --no-cache-dir --quiet /dist/*.whl
FROM libraries AS with-libraries
RUN --mount=from=wheel,source=/dist,target=/dist pip install --no-cache-dir --quiet /dist/*.whl
"""


def measure(bench: Bench) -> list[Group]:
    if not has_docker():
        print("bench: no Docker Engine here: row 9 is left out")
        return []
    prefix = f"startup-bench-{uuid.uuid4().hex[:8]}"
    sizes = {"": _size(BASE)}
    try:
        for stage in ("libraries", "psycopg", "with-psycopg", "with-libraries"):
            sizes[stage] = build(f"{prefix}-{stage}", stage, DOCKERFILE)
        sizes["base"] = build(f"{prefix}-base", "base", None)
    finally:
        for stage in sizes:
            remove(f"{prefix}-{stage}")
    added = {
        "psycopg[binary], yoyo and dotenv by pip": sizes["libraries"] - sizes[""],
        f"startup-tasks, target base, to {BASE}": sizes["base"] - sizes[""],
        "startup-tasks, by pip, to an image with Python and psycopg": sizes["with-psycopg"] - sizes["psycopg"],
        "startup-tasks, by pip, to an image with all three libraries": sizes["with-libraries"] - sizes["libraries"],
    }
    series = {name: Series([float(size)], name.startswith("startup")) for name, size in added.items()}
    floor, whole, small, own = added.values()
    verdicts = [
        Verdict(
            f"added to {BASE}",
            "under 20 MB",
            f"{whole / 1e6:.1f} MB, {whole / floor:.2f} times its libraries",
            whole < 20e6,
        ),
        Verdict("added where Python and psycopg are", "under 1 MB", f"{small / 1e6:.2f} MB", small < 1e6),
        Verdict("of that the product itself", "-", f"{own / 1e6:.2f} MB", None),
    ]
    return [
        Group("9", "Added to the image", "MB", series, next(iter(series)), verdicts, "Uncompressed, as Docker counts.")
    ]


def _size(image: str) -> int:
    done = subprocess.run(
        ["docker", "image", "inspect", "--format", "{{.Size}}", image], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def has_docker() -> bool:
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0


def remove(tag: str) -> None:
    subprocess.run(["docker", "image", "rm", "--force", tag], capture_output=True, check=False)


def build(tag: str, stage: str, dockerfile: str | None, context: Path = ROOT) -> int:
    """Build *stage*, of our own Dockerfile or of the text *dockerfile*; its size in bytes."""
    words = ["docker", "build", "--quiet", "--target", stage, "--tag", tag]
    words += ["--file", "-"] if dockerfile else []
    done = subprocess.run([*words, str(context)], input=dockerfile, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return _size(tag)
