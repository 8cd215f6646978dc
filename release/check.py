"""All that is released, built and tried as a user gets it, before there is a tag: `make release-check`.

    python -m release.check               build, install, run and compare everything; into dist/
    python -m release.check notes         the newest version's section of CHANGELOG.md: a release's text
    python -m release.check tags TARGET   what the image of the target `base` or `bundle` is called, one name a line

Needs git, and Docker for the images and the SBOM: without an engine those are skipped, by name.
"""

from __future__ import annotations

import filecmp
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from release import sbom

ROOT = Path(__file__).resolve().parents[1]
VERSION_FILE, CHANGELOG, LOCK = "startup/__init__.py", "CHANGELOG.md", "release/packages.txt"
UNRELEASED = "Unreleased"
BUNDLE = "/opt/startup"
#: The app's own exit code, which must come through.
CODE = 7
APP = f"""
import socket, sqlite3, subprocess, sys, time
server = socket.create_server(("127.0.0.1", 0))
database, *health = sys.argv[1:]
until = time.monotonic() + 60
while subprocess.run(health, capture_output=True).returncode and time.monotonic() < until:
    time.sleep(0.1)
rows = sqlite3.connect(database).execute("SELECT word FROM greeting").fetchall()
sys.exit({CODE} if rows == [("hello",)] else f"the migration has left {{rows}}")
"""
MIGRATION = "CREATE TABLE greeting (word TEXT NOT NULL);\nINSERT INTO greeting VALUES ('hello');\n"
#: Run in the Dockerfile's stage bundle-build: the Debian packages that the bundle's programs and libraries are from.
DEBIAN_PARTS = rf"""
cd {BUNDLE}/lib
{{ echo busybox-static coreutils; dpkg-query --search $(ls | sed -n 's#.*\.so.*#*/&#p') 2>/dev/null \
   | sed -n '/^diversion/!s/: .*//p'; }} | tr -s ', ' '\n' | sort -u \
| xargs dpkg-query --show --showformat '${{Package}} ${{Version}} ${{Architecture}}\n'
"""
#: Run by the bundle's own Python: what pip has put there, and itself.
PYTHON_PARTS = f"""
import importlib.metadata, site, sys
packages = "{BUNDLE}/lib/packages"
for one in importlib.metadata.distributions(path=[packages, packages + "/behind", *site.getsitepackages()]):
    print(one.metadata["Name"], one.version)
print("Python", ".".join(map(str, sys.version_info[:3])))
import ssl, psycopg
print("OpenSSL", ssl.OPENSSL_VERSION.split()[1])
print("libpq", ".".join(map(str, divmod(psycopg.pq.version(), 10000))))
"""


class Fault(Exception):
    """What is wrong, with the name of the file or of what was built first."""


def say(text: str) -> None:
    print(f"release-check: {text}", file=sys.stderr, flush=True)


def run(
    what: str,
    *command: str | Path,
    expect: int = 0,
    cwd: Path = ROOT,
    env: Mapping[str, str] | None = None,
    timeout: float = 1200,
    umask: int = -1,
) -> str:
    """What it printed to stdout; a :class:`Fault` that begins with *what* if it ended otherwise than expected."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            cwd=cwd,
            env=env,
            timeout=timeout,
            umask=umask,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Fault(f"{what}: {error}") from None
    if done.returncode != expect:
        last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-30:])
        raise Fault(f"{what}: exit code {done.returncode}, not {expect}: {' '.join(words)}\n{last}")
    return done.stdout


# What must agree


def version_of(root: Path) -> str:
    found = re.search(r'^__version__ = "(.*)"$', (root / VERSION_FILE).read_text(), re.MULTILINE)
    if not found or not re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}", found[1]):
        raise Fault(f"{VERSION_FILE}: __version__ = {found[1] if found else None!r} is not of the form 1.2.3")
    return found[1]


@dataclass(frozen=True)
class Section:
    name: str
    text: str

    @property
    def number(self) -> tuple[int, ...]:
        return tuple(map(int, self.name.split(".")))


def sections(root: Path) -> list[Section]:
    """CHANGELOG.md's, newest first: ``## Unreleased``, ``## 1.2.3 - 2026-11-30``."""
    _, *parts = re.split(r"^## +", (root / CHANGELOG).read_text(), flags=re.MULTILINE)
    found = []
    for part in parts:
        heading, _, text = part.partition("\n")
        match = re.fullmatch(rf"({UNRELEASED})|(\d+\.\d+\.\d+) - \d{{4}}-\d\d-\d\d", heading.strip())
        if not match:
            raise Fault(f"{CHANGELOG}: '## {heading}' is neither '## {UNRELEASED}' nor '## 1.2.3 - YYYY-MM-DD'")
        found.append(Section(match[1] or match[2], text.strip()))
    if not found:
        raise Fault(f"{CHANGELOG}: there is no section: no line that begins with '## '")
    return found


def agree(root: Path, tags: Sequence[str]) -> str:
    """The version, which the changelog and *tags*, those on HEAD, must agree with.

    Without a tag, changes that are not released yet may stand above the newest version's section.
    """
    version, (newest, *_) = version_of(root), sections(root)
    for tag in tags:
        if tag != f"v{version}":
            raise Fault(f"{VERSION_FILE}: the version is {version}, but HEAD has the tag {tag}")
    if newest.name == UNRELEASED:
        if tags:
            raise Fault(f"{CHANGELOG}: the newest section is '{UNRELEASED}', but HEAD has the tag {tags[0]}")
        released = [section for section in sections(root) if section.name != UNRELEASED]
        if released and released[0].number > Section(version, "").number:
            raise Fault(f"{CHANGELOG}: {released[0].name} is released, but {VERSION_FILE} has {version}")
    elif newest.name != version:
        raise Fault(f"{CHANGELOG}: the newest section is {newest.name}, but {VERSION_FILE} has {version}")
    return version


def notes(root: Path) -> str:
    """The text of the version's own section; where there is none yet, of what is not released."""
    version, found = version_of(root), {section.name: section.text for section in sections(root)}
    text = found.get(version, found.get(UNRELEASED))
    if not text:
        raise Fault(f"{CHANGELOG}: there is nothing about {version}")
    return re.sub(r"\n +(?![-*])", " ", text)  # a release's page breaks lines where its text does


def image_tags(version: str, target: str) -> list[str]:
    major, minor, _ = version.split(".")
    numbers = [major, f"{major}.{minor}", version]
    return ["bundle", *(f"{number}-bundle" for number in numbers)] if target == "bundle" else ["latest", *numbers]


def tags_on_head(root: Path) -> list[str]:
    """Those that look like a version's. A tag is of what is committed, so nothing else may lie in the tree."""
    found = [tag for tag in run("git", "git", "tag", "--points-at", "HEAD", cwd=root).split() if re.match(r"v\d", tag)]
    changed = run("git", "git", "status", "--porcelain", cwd=root)
    if found and changed:
        raise Fault(f"{changed.splitlines()[0][3:]}: not committed, but HEAD has the tag {found[0]}")
    return found


# What is built


def python_of(directory: Path, *arguments: str | Path) -> Path:
    """A new virtual environment's interpreter, with what pip installs by *arguments*."""
    venv.create(directory, with_pip=True, symlinks=True)
    python = directory / "bin" / "python"
    run(f"pip install {arguments[-1]}", python, "-m", "pip", "install", "--quiet", *arguments)
    return python


def build_distributions(work: Path, version: str, epoch: str) -> tuple[Path, Path]:
    """The wheel and the sdist; from that the wheel again, elsewhere and under another umask: the same bytes."""
    python = python_of(work / "build", "--require-hashes", "--requirement", ROOT / "release/build.txt")
    stem, env = f"startup_tasks-{version}", {**os.environ, "SOURCE_DATE_EPOCH": epoch}
    build = (python, "-m", "hatchling", "build", "--directory")
    run("sdist and wheel", *build, work / "dist", "--target", "sdist", "--target", "wheel", env=env)
    sdist, wheel = work / "dist" / f"{stem}.tar.gz", work / "dist" / f"{stem}-py3-none-any.whl"
    for path in (sdist, wheel):
        if not path.is_file():
            raise Fault(f"pyproject.toml: {path.name} is not what was built: {os.listdir(work / 'dist')}")
    shutil.unpack_archive(sdist, work / "again")
    again = work / "again" / "dist"
    run("the wheel again", *build, again, "--target", "wheel", env=env, cwd=work / "again" / stem, umask=0o077)
    if not filecmp.cmp(wheel, again / wheel.name, shallow=False):
        raise Fault(f"{wheel.name}: the tree's and the sdist's are not the same bytes")
    say(f"{wheel.name}: built twice, the same bytes")
    return wheel, sdist


def expect_version(what: str, version: str, shown: str) -> None:
    if shown.strip() != f"startup-tasks {version}":
        raise Fault(f"{what}: --version says {shown.strip()!r}, but {VERSION_FILE} has {version}")


def write_flow(directory: Path) -> None:
    """An app that exits with CODE once health says ready, and the migration that it looks for."""
    (directory / "migrations").mkdir(parents=True)
    (directory / "migrations" / "0001.greeting.sql").write_text(MIGRATION)
    (directory / "app.py").write_text(APP)


def try_distribution(work: Path, path: Path, version: str) -> None:
    what, here = path.name, work / path.suffix
    python = python_of(here / "venv", path)
    write_flow(here / "flow")
    expect_version(what, version, run(what, python.with_name("startup"), "--version"))
    entrypoint, database = python.with_name("startup-entrypoint"), here / "check.db"
    settings = {"DATABASE_URL": f"sqlite:///{database}", "STARTUP_STATE_DIR": str(here / "state")}
    env = {"PATH": os.environ["PATH"], **settings}
    app = (python, "app.py", database, entrypoint, "startup", "health")
    run(what, entrypoint, *app, expect=CODE, cwd=here / "flow", env=env, timeout=120)
    say(f"{what}: installed, {version}, app, migration, health and exit code as they must be")


def there_is_docker() -> bool:
    try:
        run("docker", "docker", "info", timeout=60)
    except Fault:
        return False
    return True


@dataclass(frozen=True)
class Image:
    """A target of the Dockerfile, and where its programs are."""

    target: str
    python: str
    programs: str

    def build(self, version: str) -> str:
        name = f"startup-tasks:{image_tags(version, self.target)[-1]}"
        run(f"Dockerfile: {self.target}", "docker", "build", "--target", self.target, "--tag", name, ".")
        return name

    def attempt(self, work: Path, version: str) -> None:
        name = self.build(version)
        startup, entrypoint = f"{self.programs}/startup", f"{self.programs}/startup-entrypoint"
        expect_version(name, version, run(name, "docker", "run", "--rm", "--entrypoint", startup, name, "--version"))
        write_flow(work / self.target)
        options = "--workdir /check --tmpfs /data:mode=1777 --env DATABASE_URL=sqlite:////data/check.db".split()
        app = (self.python, "app.py", "/data/check.db", entrypoint, "startup", "health")
        container = run(name, "docker", "create", *options, "--entrypoint", entrypoint, name, *app).strip()
        try:
            run(name, "docker", "cp", f"{work / self.target}/.", f"{container}:/check")
            run(name, "docker", "start", "--attach", container, expect=CODE, timeout=120)
        finally:
            run(name, "docker", "rm", "--force", "--volumes", container)
        say(f"{name}: {version}, app, migration, health and exit code as they must be")


IMAGES = (Image("base", "python", "/usr/local/bin"), Image("bundle", f"{BUNDLE}/bin/python3", f"{BUNDLE}/bin"))


def locked(root: Path) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==(\S+)", (root / LOCK).read_text(), re.MULTILINE))


def bundle_parts(root: Path, version: str, python_parts: str, debian_parts: str) -> tuple[sbom.Part, list[sbom.Part]]:
    """The product, and what the bundle has of others; of pip's packages those in the lock, and no others."""
    product, parts = sbom.Part("pypi", "startup-tasks", version), []
    pins = locked(root)
    for line in python_parts.splitlines():
        name, number = line.split()
        name = re.sub(r"[-_.]+", "-", name).lower()
        if name in ("python", "openssl", "libpq"):  # the last two are in psycopg's wheel
            parts.append(sbom.Part("generic", name, number))
        elif name != product.name:
            if pins.get(name) != number:
                raise Fault(f"{LOCK}: has {name} {pins.get(name)}, but the bundle has {number}")
            parts.append(sbom.Part("pypi", name, number))
        elif number != version:
            raise Fault(f"{VERSION_FILE}: has {version}, but the bundle has {number}")
    for line in debian_parts.splitlines():
        name, number, machine = line.split()
        parts.append(sbom.Part("deb/debian", name, number, f"?arch={machine}"))
    names = {part.name for part in parts}
    wanted = {"busybox-static", "coreutils", "libc6", "libpq", "openssl", "psycopg", "python", "yoyo-migrations"}
    if missing := wanted - names:
        raise Fault(f"Dockerfile: the bundle's parts lack {', '.join(sorted(missing))}")
    return product, parts


def write_sbom(path: Path, version: str, epoch: str) -> None:
    stage, bundle = "startup-tasks:bundle-build", f"startup-tasks:{version}-bundle"
    run("Dockerfile: bundle-build", "docker", "build", "--target", "bundle-build", "--tag", stage, ".")
    debian = run(stage, "docker", "run", "--rm", stage, "sh", "-c", DEBIAN_PARTS)
    run(stage, "docker", "rmi", stage)
    python = run(bundle, "docker", "run", "--rm", bundle, f"{BUNDLE}/bin/python3", "-I", "-c", PYTHON_PARTS)
    document = sbom.bom(*bundle_parts(ROOT, version, python, debian), int(epoch))
    if faults := sbom.faults(document):
        raise Fault(f"{path.name}: {'; '.join(faults)}")
    path.write_text(json.dumps(document, indent=2) + "\n")
    say(f"{path.name}: {len(document['components'])} components")


def check() -> None:
    version = agree(ROOT, tags := tags_on_head(ROOT))
    say(f"{version}: {VERSION_FILE}, {CHANGELOG} and {tags[0] if tags else 'the missing tag'} agree")
    epoch = run("git", "git", "log", "-1", "--format=%ct").strip()
    dist = ROOT / "dist"
    dist.mkdir(exist_ok=True)
    for old in dist.glob("startup[-_]tasks-*"):
        old.unlink()
    with tempfile.TemporaryDirectory(prefix="release-check-") as directory:
        work = Path(directory)
        for path in build_distributions(work, version, epoch):
            try_distribution(work, path, version)
            shutil.copy(path, dist)
        if there_is_docker():
            for image in IMAGES:
                image.attempt(work, version)
            write_sbom(dist / f"startup-tasks-{version}.cdx.json", version, epoch)
        else:
            say("skipped, there is no Docker Engine here: the image base, the image bundle, the SBOM")
    (dist / "startup-tasks-notes.md").write_text(notes(ROOT) + "\n")
    say(f"green; dist/ has {', '.join(sorted(path.name for path in dist.glob('startup[-_]tasks-*')))}")


def main(arguments: Sequence[str]) -> int:
    try:
        match list(arguments):
            case []:
                check()
            case ["notes"]:
                print(notes(ROOT))
            case ["tags", ("base" | "bundle") as target]:
                print(*image_tags(version_of(ROOT), target), sep="\n")
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except Fault as fault:
        say(str(fault))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
