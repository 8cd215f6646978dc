"""Reading SQL as text: where statements begin and end, yoyo's directives, and what no database server understands.

PostgreSQL's rules are those of its manual, chapter "Lexical Structure", with psql's for ``BEGIN ATOMIC`` bodies;
SQLite's own ``complete_statement`` decides for SQLite.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Literal

Dialect = Literal["postgresql", "sqlite"]
#: From, to (not included), in characters from 0.
Range = tuple[int, int]


@dataclass(frozen=True)
class Statement:
    """One statement without the white space and comments before it, and where it starts in its file (from 0)."""

    text: str
    offset: int

    @property
    def words(self) -> str:
        """Its beginning in lower case, white space and comments squeezed: for telling kinds of statements apart."""
        return " ".join(_COMMENT.sub(" ", self.text[:2000]).split()).lower()


@dataclass(frozen=True)
class Fault:
    """What is wrong with a file, and where (an offset in characters, from 0)."""

    offset: int
    message: str


@dataclass(frozen=True)
class Script:
    """A file's statements, its directives, and the faults that can be seen without a server."""

    statements: list[Statement]
    transactional: bool = True
    depends: tuple[str, ...] = ()
    faults: list[Fault] = field(default_factory=list)


_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_INTERESTING = re.compile(
    r"""--[^\n]*|/\*|(?<![\w$])[eE]'|['"]|(?<![\w$])\$(?:[A-Za-z_\x80-\U0010ffff][\w]*)?\$|[;()\\]"""
    r"""|(?<![\w$])(?:begin|case|end)(?![\w$])""",
    re.IGNORECASE,
)
# A statement with nothing in it that needs a closer look, as large files have them by the thousand: no body that could
# hold a semicolon (CREATE); no comment, dollar or backslash outside strings, none in '...'; strings of one line,
# parentheses one level deep. Matched within _SHORT characters only: `re` remembers each character that it could give
# back, which takes a hundred times the text's memory.
_SHORT = 2000
_NO_MARK = r"(?:[^'\"$;()\\/-]|-(?!-)|/(?!\*))*"
_STRING = r"(?:'[^'\\\n]*'|\"[^\"\n]*\")"
_PLAIN = re.compile(
    rf"\s*((?!create\b)[a-z]{_NO_MARK}(?:(?:{_STRING}|\({_NO_MARK}(?:{_STRING}{_NO_MARK})*\)){_NO_MARK})*;)",
    re.IGNORECASE,
)
_ESCAPED_END = re.compile(r"(?:[^'\\]|\\.|'')*'", re.DOTALL)
_ROUTINE = re.compile(r"create\s+(?:or\s+replace\s+)?(?:function|procedure)\b", re.IGNORECASE)
_SPACE = re.compile(r"\s*")
_COPY = re.compile(r"copy\s[^']*?\b(?:from\s+stdin|to\s+stdout)\b", re.IGNORECASE)
_TRANSACTION = re.compile(
    r"(?:begin|start transaction|commit|end|abort|rollback(?! (?:work |transaction )?to\b)|prepare transaction)\b"
)
_TRANSACTION_WORD = re.compile(r"begin|start|commit|end|abort|rollback|prepare", re.IGNORECASE)
_PLAIN_BEGIN = re.compile(
    r"(?:begin|start)(?: deferred| immediate| exclusive)?(?: work| transaction)?"
    r"(?: isolation level read committed| read write)? ?;?$"
)
_PLAIN_COMMIT = re.compile(r"(?:commit|end)(?: work| transaction)? ?;?$")


def line_of(text: str, offset: int) -> int:
    """The number, from 1, of the line that *offset* is in."""
    return text.count("\n", 0, offset) + 1


def line_at(text: str, offset: int) -> str:
    """The line that *offset* is in, without its end."""
    end = text.find("\n", offset)
    return text[text.rfind("\n", 0, offset) + 1 : len(text) if end < 0 else end]


def parse(text: str, dialect: Dialect, known_ids: Collection[str] = (), transactional: bool | None = None) -> Script:
    """Split *text*, read its directives, and collect its faults in the order of the file.

    *transactional* overrules the directive: a rollback file's own means nothing to yoyo.
    """
    if dialect == "postgresql":
        statements, faults, quoted = split(text)
        faults += _client_commands(statements)
    else:
        statements, faults, quoted = split_sqlite(text), [], []
    first = statements[0].offset if statements else len(text)
    directives, wrong = _directives(text, first, known_ids, quoted)
    faults += wrong
    if "\0" in text:
        faults.append(Fault(text.index("\0"), "a NUL byte: is this file UTF-8 text?"))
    if transactional is None:
        transactional = directives.get("transactional", ["true"])[0].lower() != "false"
    if transactional:
        statements, wrong = _unwrap(statements)
        faults += wrong
    return Script(
        statements,
        transactional,
        tuple(" ".join(directives.get("depends", [])).split()),
        sorted(faults, key=lambda fault: fault.offset),
    )


def depends(text: str) -> tuple[str, ...]:
    """The ids in the ``-- depends:`` lines at the top of an SQL file."""
    top = text[: _top(text)]
    return tuple(word for found in _DIRECTIVE.finditer(top) if found[1] == "depends" for word in found[2].split())


def split(text: str) -> tuple[list[Statement], list[Fault], list[Range]]:
    """PostgreSQL's statements in *text*, its first fault if it cannot be split, and its strings of several lines."""
    statements: list[Statement] = []
    quoted: list[Range] = []
    start = -1  # of the statement that is being read
    position = depth = blocks = 0
    end = len(text)

    def ended(offset: int, message: str) -> tuple[list[Statement], list[Fault], list[Range]]:
        """What comes after this fault cannot be split: the reading ends here."""
        first = start if start >= 0 else offset
        return [*statements, Statement(text[first:], first)], [Fault(offset, message)], quoted

    while position < end:
        if start < 0 and (plain := _PLAIN.match(text, position, position + _SHORT)):
            statements.append(Statement(plain.group(1), plain.start(1)))
            position = plain.end()
            continue
        found = _INTERESTING.search(text, position)
        stop = found.start() if found else end
        if start < 0:
            space = _SPACE.match(text, position, stop)
            assert space is not None
            if space.end() < stop:
                start = space.end()
        if found is None:
            break
        token, position = found.group(), found.end()
        if token.startswith("--"):
            continue
        if token == "/*":
            position = _comment_end(text, position)
            if position < 0:
                return ended(stop, "a comment (/*) starts here and never ends")
            continue
        if token == ";" and depth <= 0 and not blocks:
            if start >= 0:
                statements.append(Statement(text[start:position], start))
            start, depth = -1, 0
            continue
        if start < 0:
            start = stop
        if token in ("'", '"'):
            position = text.find(token, position) + 1
            if not position:
                return ended(
                    stop, ("a string (')" if token == "'" else 'a quoted name (")') + " starts here and never ends"
                )
        elif token in ("e'", "E'"):
            close = _ESCAPED_END.match(text, position)
            if close is None:
                return ended(stop, "a string (E') starts here and never ends")
            position = close.end()
        elif token.startswith("$"):
            position = text.find(token, position)
            if position < 0:
                return ended(stop, f"a string ({token}) starts here and never ends")
            position += len(token)
        elif token == "(":
            depth += 1
        elif token == ")":
            depth -= 1
        elif token == "\\":
            command = line_at(text, stop).strip()[:60]
            return ended(stop, f"psql's own command ({command}) means nothing to the server: write it as SQL")
        elif token != ";":  # BEGIN ATOMIC ... CASE ... END ... END
            word = token.lower()
            if word == "end":
                blocks = max(blocks - 1, 0)
            elif blocks or (word == "begin" and _ROUTINE.match(_COMMENT.sub(" ", text[start:stop]))):
                blocks += 1
        if position - stop > 2 and "\n" in text[stop:position]:
            quoted.append((stop, position))
    if start >= 0:
        statements.append(Statement(text[start:], start))
    return statements, [], quoted


def _comment_end(text: str, position: int) -> int:
    """Where the comment that was opened before *position* is closed (they nest in PostgreSQL); -1 if it is not."""
    depth = 1
    for found in re.compile(r"/\*|\*/").finditer(text, position):
        depth += 1 if found.group() == "/*" else -1
        if not depth:
            return found.end()
    return -1


def split_sqlite(text: str) -> list[Statement]:
    """SQLite's statements in *text*."""
    import sqlite3

    statements: list[Statement] = []
    start = 0
    ends = [found.end() for found in re.finditer(";", text)]
    for end in ends:
        candidate = text[start:end]
        if "\0" not in candidate and sqlite3.complete_statement(candidate):
            _add(statements, candidate, start)
            start = end
    _add(statements, text[start:], start)
    return statements


def _add(statements: list[Statement], text: str, offset: int) -> None:
    blank = re.match(r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/|;)*", text, re.DOTALL)
    begin = blank.end() if blank else 0
    if begin < len(text):
        statements.append(Statement(text[begin:], offset + begin))


def _client_commands(statements: list[Statement]) -> Iterator[Fault]:
    for statement in statements:
        if _COPY.match(statement.text):
            yield Fault(
                statement.offset,
                "COPY FROM stdin / TO stdout is for psql, which feeds it: write INSERT, or COPY in a Python migration",
            )


def _unwrap(statements: list[Statement]) -> tuple[list[Statement], list[Fault]]:
    """Without a BEGIN that comes first and its COMMIT that comes last: the file has a transaction anyway."""
    inner = statements
    if len(statements) >= 2:
        first, last = statements[0].words, statements[-1].words
        if _PLAIN_BEGIN.match(first) and _PLAIN_COMMIT.match(last):
            inner = statements[1:-1]
    return inner, [
        Fault(
            statement.offset,
            f"{statement.words.split(';')[0].upper()[:40]}: a migration runs in one transaction with its mark; take it "
            "out, or write '-- transactional: false' on the file's first line",
        )
        for statement in inner
        if _TRANSACTION_WORD.match(statement.text) and _TRANSACTION.match(statement.words)
    ]


# yoyo's directives: comment lines before the first statement, lower case, the value exactly true or false.
_DIRECTIVE = re.compile(r"[^\S\n]*--[^\S\n]*(transactional|depends)[^\S\n]*:[^\S\n]*(.*)$", re.MULTILINE)
_LOOKS_LIKE = re.compile(r"^[^\S\n]*--+[^\S\n]*([A-Za-z_-]+)[^\S\n]*[:=][^\S\n]*(.*)$", re.MULTILINE)
_OTHER_TOOL = re.compile(
    r"^[^\S\n]*--[^\S\n]*(migrate:(?:up|down)\b|\+goose\s+\w+|\+migrate\s+\w+|\+micrate\s+\w+|//@UNDO)",
    re.MULTILINE | re.IGNORECASE,
)
_BOOLEANS = ("true", "false", "yes", "no", "on", "off", "0", "1", "t", "f")
_DEPENDS_WORDS = (  # as people write it
    "depends",
    "depend",
    "depends_on",
    "depends-on",
    "dependson",
    "dependencies",
    "dependency",
    "requires",
)


def _directives(
    text: str, first: int, known_ids: Collection[str], quoted: list[Range]
) -> tuple[dict[str, list[str]], list[Fault]]:
    directives: dict[str, list[str]] = {}
    faults: list[Fault] = []
    for found in _OTHER_TOOL.finditer(text):
        if not _inside(found.start(), quoted):
            faults.append(Fault(found.start(1), f"'-- {found.group(1)}' is for another tool: yoyo would run all of it"))
            break
    block = _top(text)
    for found in _LOOKS_LIKE.finditer(text):
        name, value = found.group(1), found.group(2).strip()
        exact = _DIRECTIVE.match(text, found.start())
        meant = _meant(name, value, known_ids, top=found.start() < first)
        if meant is None or _inside(found.start(), quoted):
            continue
        where = found.start(1)
        if exact is None:
            faults.append(Fault(where, f"'-- {name}: {value}' is not read: yoyo's directive is '-- {meant}: ...'"))
        elif found.start() >= block:
            why = "a statement" if found.start() >= first else "a /* */ comment"
            faults.append(Fault(where, f"'-- {meant}: ...' after {why} is not read: put it on the file's first line"))
        elif meant == "transactional" and value.lower() not in ("true", "false"):
            faults.append(Fault(where, f"'-- transactional: {value}': the value must be true or false"))
        elif meant in directives and meant == "transactional":
            faults.append(Fault(where, "'-- transactional: ...' is given twice"))
        else:
            directives.setdefault(meant, []).append(value)
    return directives, faults


def _top(text: str) -> int:
    """The end of the lines that yoyo reads directives from: empty ones and ``--`` comments."""
    block = re.match(r"(?:[^\S\n]*(?:--[^\n]*)?(?:\n|$))*", text)
    return block.end() if block else 0


def _meant(name: str, value: str, known_ids: Collection[str], top: bool) -> str | None:
    """The directive that a comment ``-- name: value`` is, or was meant to be; None: it is prose."""
    lower = name.lower()
    if name == "depends" or (lower in _DEPENDS_WORDS and (top or any(word in known_ids for word in value.split()))):
        return "depends"
    near = difflib.SequenceMatcher(None, lower, "transactional").ratio() >= 0.8
    if near and (value.lower() in _BOOLEANS or (name == "transactional" and top)):
        return "transactional"
    return None


def _inside(offset: int, ranges: list[Range]) -> bool:
    return any(start <= offset < end for start, end in ranges)


# Index statements, which PostgreSQL can leave half done: an INVALID index.
_NAME = r"""(?:"(?:[^"]|"")+"|[\w$]+)"""
_CREATE_INDEX = re.compile(
    rf"create\s+(?:unique\s+)?index\s+concurrently\s+(?:if\s+not\s+exists\s+)?(?!on\s)(?P<index>{_NAME})\s+"
    rf"on\s+(?:only\s+)?(?P<table>{_NAME}(?:\s*\.\s*{_NAME})*)",
    re.IGNORECASE,
)
_DROP_INDEX = re.compile(
    rf"drop\s+index\s+concurrently\s+(?:if\s+exists\s+)?(?P<index>{_NAME}(?:\s*\.\s*{_NAME})*)"
    r"\s*(?:restrict\s*|cascade\s*)?;?\s*$",
    re.IGNORECASE,
)
_CONCURRENTLY = re.compile(r"(?:create|drop|reindex|refresh|alter)\b.*\bconcurrently\b", re.DOTALL)
_NOT_ATOMIC = re.compile(r"(?:vacuum|cluster|call|do|reindex|create database|drop database|begin|start)\b")


@dataclass(frozen=True)
class IndexStatement:
    """CREATE or DROP INDEX CONCURRENTLY: the index as written, and the table it is made on (None for DROP)."""

    index: str
    table: str | None


def index_statement(statement: Statement) -> IndexStatement | None:
    """What a CREATE INDEX CONCURRENTLY name ON table, or a DROP INDEX CONCURRENTLY name, is about; None for others."""
    text = _COMMENT.sub(" ", statement.text)
    if found := _CREATE_INDEX.match(text):
        return IndexStatement(found["index"], found["table"])
    if found := _DROP_INDEX.match(text):
        return IndexStatement(found["index"], None)
    return None


def is_concurrent(statement: Statement) -> bool:
    """Does it wait for old transactions, without being in the way of anybody? Then no time limit for locks helps."""
    return bool(_CONCURRENTLY.match(statement.words))


def is_commit(statement: Statement) -> bool:
    """Does it end a transaction for good (COMMIT AND CHAIN begins another one)?"""
    return bool(re.match(r"(?:commit|end)\b", statement.words))


def is_atomic(statement: Statement) -> bool:
    """Does it, run in autocommit, either happen as a whole or leave nothing behind?"""
    return not (is_concurrent(statement) or _NOT_ATOMIC.match(statement.words))
