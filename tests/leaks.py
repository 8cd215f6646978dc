"""Looks for the marked passwords in all that the product's processes write, in every test of the suite.

Each subprocess of a test is recorded: what ``communicate`` (and so ``subprocess.run``) returned, and the files that
its output goes to. A test fails at its end when the product has written a password there. Works the same under
pytest-xdist: each worker looks at its own tests.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

from tests.forms import FORMS

#: The password of every database of the tests, the one of compose.yaml, and the one that needs every kind of quoting.
MARKS = ("s3cr3t-Pa55", "for-the-demo-only", "xLeft7 @/%:'\"\\#?&+é xRight7")


def in_line(line: str) -> bool:
    """Is one of the marked secrets there, in any form, or the greater part of one that was cut?"""
    return any(form(mark) in line for mark in MARKS for form in FORMS.values())


#: Programs of the product, by their command lines; the engine's own answers may name an environment.
_PRODUCT = re.compile(r"entrypoint\.sh|startup-entrypoint|/startup\b|-m startup|^docker (run|logs|exec|compose)\b")
_NOT = re.compile(r"compose.* config\b")


class Leaks:
    """What was written since the last look."""

    def __init__(self) -> None:
        self._texts: list[tuple[str, str]] = []
        self._files: dict[Path, str] = {}
        self.recorded = 0

    def watch(self, path: Path, what: str = "a node") -> None:
        """A file that a process of the product writes to."""
        self._files[path] = what
        self.recorded += 1

    def add(self, what: str, output: object) -> None:
        """What a process of the product has written."""
        if output:
            self._texts.append((what, output.decode(errors="replace") if isinstance(output, bytes) else str(output)))
            self.recorded += 1

    def take(self) -> list[str]:
        """The lines with a password in them; then all is forgotten."""
        for path, what in self._files.items():
            if path.is_file():
                self._texts.append((what, path.read_text(errors="replace")))
        found = [f"{what}: {line}" for what, text in self._texts for line in text.splitlines() if in_line(line)]
        self._texts.clear()
        self._files.clear()
        return found


leaks = Leaks()


def record() -> None:
    """From here on every subprocess is recorded."""
    start, communicate = subprocess.Popen.__init__, subprocess.Popen.communicate

    def recording_start(self: Any, args: Any, *rest: Any, **options: Any) -> None:
        words = args if isinstance(args, str) else " ".join(os.fsdecode(word) for word in args)
        self.what = words if _PRODUCT.search(words) and not _NOT.search(words) else ""
        start(self, args, *rest, **options)
        for stream in (options.get("stdout"), options.get("stderr")) if self.what else ():
            number = stream if isinstance(stream, int | None) else stream.fileno()
            if isinstance(number, int) and number >= 0:
                path = Path(os.readlink(f"/proc/self/fd/{number}"))
                if path.is_file():
                    leaks.watch(path, self.what)

    def recording_communicate(self: Any, *arguments: Any, **options: Any) -> tuple[Any, Any]:
        out, err = communicate(self, *arguments, **options)
        if self.what:
            leaks.add(self.what, out)
            leaks.add(self.what, err)
        return out, err

    subprocess.Popen.__init__ = recording_start  # type: ignore[method-assign]
    subprocess.Popen.communicate = recording_communicate  # type: ignore[method-assign]
