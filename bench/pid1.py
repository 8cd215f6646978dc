"""Compare the entrypoint as a container's first process with tini, dumb-init and a script by hand: docs/pid-1.md.

    .venv/bin/python bench/pid1.py [--write] [shells | inits] [row=TEXT]

Prints the tables, or one of them, or of the second the rows that have TEXT in their title; with --write they take the
place of those in docs/pid-1.md. Needs root, Docker, and Debian's tini, dumb-init, busybox, bash and dash; takes long.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
page = ROOT / "docs" / "pid-1.md"

from tests.docker import first_process as see  # noqa: E402
from tests.docker.conftest import Docker  # noqa: E402

INITS = {**{f"us, {name}": words for name, words in see.OURS.items() if name != "bundle"}, **see.OTHERS}
NAMES = {"by hand": "`app & wait`", "none": "no init"}
AS_PID_1 = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
RUNS = 100
SHELLS = {"dash": ("dash",), "busybox": ("busybox", "sh"), "bash": ("bash",)}


def numbers(found: Sequence[int], of: Sequence[int]) -> str:
    left = [str(number) for number in of if number not in found]
    return f"all {len(of)}" if not left else f"{len(found)} of {len(of)}"


def yes(value: bool) -> str:
    return "yes" if value else "**no**"


def signals(box: see.Box) -> str:
    return numbers(see.signals_that_arrive(box, see.FORWARDABLE, patience=0.5), see.FORWARDABLE)


def ignored(box: see.Box) -> str:
    found = see.ignored_signals(box)
    return "none" if not found else "**" + ", ".join(map(str, found)) + "**"


def codes(box: see.Box) -> str:
    """All 256, as PID 1 of a namespace, since containers would take minutes."""
    environ = {**os.environ, "STARTUP_TASKS": "none", "STARTUP_PING": "none", "STARTUP_PYTHON": sys.executable}

    def right(code: int) -> bool:
        with tempfile.TemporaryDirectory() as state:
            words = [*AS_PID_1, *box.init, "sh", "-c", f"exit {code}"]
            done = subprocess.run(
                words, env={**environ, "STARTUP_STATE_DIR": state}, capture_output=True, stdin=subprocess.DEVNULL
            )
        return done.returncode == code

    with ThreadPoolExecutor(2) as pool:
        return f"{sum(pool.map(right, range(256)))} of 256"


def memory_killed(box: see.Box) -> str:
    code, line = see.out_of_memory(box)
    return f"{code}, named" if "out of memory" in line else str(code)


def polite(box: see.Box) -> str:
    seen = see.leftovers(box, stubborn=False)
    return seen.wrote or "killed"


def stubborn(box: see.Box) -> str:
    return f"{max(0.0, see.leftovers(box, stubborn=True).seconds):.1f} s"


def stopped(*options: str) -> Callable[[see.Box], str]:
    def measure(box: see.Box) -> str:
        code, seconds = see.stop(box, *options, command=("sh", "-c", "echo up; exec sleep 1000"))
        return f"{seconds:.1f} s, {code}"

    return measure


def keys(typed: bytes) -> Callable[[see.Box], str]:
    def measure(box: see.Box) -> str:
        got, code = see.key(box, typed, patience=8)
        return f"{len(got)}" if code >= 0 else f"{len(got)}, **hangs**"

    return measure


def attach(box: see.Box) -> str:
    state, got, _ = see.attach(box)
    return yes(state == "running" and got == [2])


def sizes(box: see.Box) -> str:
    return yes(see.window_sizes(box) == ["80 24", "132 50"])


def memory(box: see.Box) -> str:
    if not box.init:
        return "-"  # the first process is the app
    seen = see.cost(box, seconds=10)
    return f"{seen.private} / {seen.resident} kB, {seen.wakeups:.0f}"


ROWS: list[tuple[str, Callable[[see.Box], str]]] = [
    ("signals that the app gets", signals),
    ("who gets HUP", lambda box: " and ".join(see.who_gets_a_signal(box)) or "nobody"),
    ("signals ignored when the app starts", ignored),
    ("stdin reaches the app", lambda box: yes(see.stdin_is_passed(box))),
    ("exit codes passed on", codes),
    ("out of memory", memory_killed),
    ("zombies left of 8 orphans", lambda box: str(see.zombies(box))),
    ("a child left behind", polite),
    ("one that ignores TERM lives on for", stubborn),
    ("`docker stop` of `sleep`", stopped()),
    ("the same with `-it`", stopped("--interactive", "--tty")),
    ("Ctrl-C arrives", keys(b"\x03")),
    ("Ctrl-\\\\ arrives", keys(b"\x1c")),
    ("the app goes on after Ctrl-Z", lambda box: yes(see.goes_on_after_ctrl_z(box))),
    ("job control of a shell in it", lambda box: yes(see.shell_has_job_control(box))),
    ("window size and its changes", sizes),
    ("attach, detach, Ctrl-C", attach),
    ("memory, private / in all; wake-ups a minute", memory),
]


def table() -> str:
    lines = ["| | " + " | ".join(NAMES.get(name, name) for name in INITS) + " |", "|---" * (len(INITS) + 1) + "|"]
    docker = Docker()
    wanted = [word.partition("=")[2] for word in sys.argv if word.startswith("row=")]
    for title, measure in ROWS:
        if wanted and not any(text in title for text in wanted):
            continue
        cells = []
        for name, words in INITS.items():
            with tempfile.TemporaryDirectory() as directory:
                box = see.Box(docker, words, Path(directory))
                try:
                    cells.append("not installed" if see.missing(words) else measure(box))
                except Exception as error:
                    cells.append("failed")
                    print(f"{title}, {name}: {error!r}"[:2000], file=sys.stderr)
                finally:
                    box.close()
                    docker.clean()
        lines.append(f"| {title} | {' | '.join(cells)} |")
        print(lines[-1], file=sys.stderr)
    return "\n".join(lines)


@contextlib.contextmanager
def entrypoint(shell: Sequence[str], *app: str) -> Iterator[subprocess.Popen[bytes]]:
    """entrypoint.sh with *app* under *shell*, once it is ready; ``true`` stands in for Python."""
    with tempfile.TemporaryDirectory() as state:
        environ = {
            "PATH": os.environ["PATH"],
            "STARTUP_TASKS": "none",
            "STARTUP_PING": "none",
            "STARTUP_PYTHON": "true",
        }
        words = [*shell, str(ROOT / "entrypoint.sh"), *app]
        with subprocess.Popen(
            words,
            env={**environ, "STARTUP_STATE_DIR": state},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        ) as process:
            see.until((Path(state) / "ready").exists)
            yield process


def burst(shell: Sequence[str], gap: float, runs: int = RUNS) -> int:
    """In how many of *runs* the app misses one of HUP, USR1 and WINCH, sent *gap* seconds apart."""
    lost = 0
    with tempfile.TemporaryDirectory() as directory:
        note = Path(directory) / "recorded"
        app = (sys.executable, "-I", "-S", str(see.RECORDER), str(note))
        with entrypoint(shell, *app) as process:
            see.until(lambda: note.exists() and note.read_text())
            for _ in range(runs):
                before = len(note.read_text().split())
                see.until(lambda: "S (sleeping)" in Path(f"/proc/{process.pid}/status").read_text())
                for number in (1, 10, 28):
                    process.send_signal(number)
                    if gap:
                        time.sleep(gap)
                see.until(lambda before=before: len(note.read_text().split()) >= before + 3, timeout=1.5, fail=False)  # type: ignore[misc]
                lost += sorted(note.read_text().split()[before:], key=int) != ["1", "10", "28"]
            process.send_signal(15)
    return lost


def coincidences(shell: Sequence[str], runs: int = RUNS) -> int:
    """How often the app's exit code, 7, is not what comes out, when USR1, which it ignores, comes as it ends."""
    lost = 0
    for count in range(runs):
        with entrypoint(shell, "sh", "-c", "trap '' USR1; echo up; read line; exit 7") as process:
            assert process.stdin is not None and process.stdout is not None
            process.stdout.readline()
            process.stdin.write(b"\n") if count % 2 else process.send_signal(10)
            end = time.perf_counter() + count % 20 * 20e-6
            while time.perf_counter() < end:
                pass
            process.send_signal(10) if count % 2 else process.stdin.write(b"\n")
            lost += process.wait() != 7
    return lost


def shells() -> str:
    lines = ["| | " + " | ".join(SHELLS) + " |", "|---" * (len(SHELLS) + 1) + "|"]
    for title, gap in (("at once", 0.0), ("0.05 ms apart", 5e-5), ("1 ms apart", 1e-3), ("10 ms apart", 1e-2)):
        cells = [f"{burst(words, gap)} of {RUNS}" for words in SHELLS.values()]
        lines.append(f"| a signal lost, of three {title} | {' | '.join(cells)} |")
    cells = [f"{coincidences(words)} of {RUNS}" for words in SHELLS.values()]
    lines.append(f"| the app's exit code lost when a signal comes in that moment | {' | '.join(cells)} |")
    return "\n".join(lines)


def write(text: str, name: str) -> None:
    """Put *text* between the page's two marks of that name."""
    begin, end = f"<!-- {name}: bench/pid1.py -->\n", f"\n<!-- /{name} -->"
    before, _, rest = page.read_text().partition(begin)
    _, _, after = rest.partition(end)
    if not after:
        raise ValueError(f"docs/pid-1.md has no lines between the two marks of {name}")
    page.write_text(f"{before}{begin}{text}{end}{after}")


def main() -> None:
    tables = {"shells": shells, "inits": table}
    for name in [name for name in tables if name in sys.argv] or tables:
        text = tables[name]()
        print(text, flush=True)
        if "--write" in sys.argv:
            write(text, name)


if __name__ == "__main__":
    main()
