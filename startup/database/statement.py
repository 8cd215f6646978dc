"""SQL as text: a statement and its place in a file, and what each database's way of splitting a file gives."""

from __future__ import annotations

import re
from typing import NamedTuple

from startup.records import dataclass, field

COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
#: From, to (not included), in characters from 0.
Range = tuple[int, int]


class Statement(NamedTuple):
    """One statement without the white space and comments before it, and where it starts in its file (from 0)."""

    text: str
    offset: int

    @property
    def words(self) -> str:
        """Its beginning in lower case, white space and comments squeezed: for telling kinds of statements apart."""
        return " ".join(COMMENT.sub(" ", self.text[:2000]).split()).lower()

    def place(self, error: BaseException) -> int:
        """Where in the file *error*, which the statement met, is: as the server tells it, else where it starts."""
        position = getattr(getattr(error, "diag", None), "statement_position", None)
        return self.offset + (int(position) - 1 if position else 0)


@dataclass(frozen=True)
class Fault:
    """What is wrong with a file, and where (an offset in characters, from 0)."""

    offset: int
    message: str


@dataclass(frozen=True)
class Split:
    """A file's statements, what no server would understand of it, and its strings of several lines."""

    statements: list[Statement]
    faults: list[Fault] = field(default_factory=list)
    quoted: list[Range] = field(default_factory=list)


class AtStatement(Exception):
    """A statement of a file failed: the driver's *error*, and its place in the file if that is known."""

    def __init__(self, error: Exception, offset: int | None) -> None:
        self.error = error
        self.offset = offset
        super().__init__(error)


def line_of(text: str, offset: int) -> int:
    """The number, from 1, of the line that *offset* is in."""
    return text.count("\n", 0, offset) + 1


def line_at(text: str, offset: int) -> str:
    """The line that *offset* is in, without its end."""
    end = text.find("\n", offset)
    return text[text.rfind("\n", 0, offset) + 1 : len(text) if end < 0 else end]
