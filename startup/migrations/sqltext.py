"""Reading a migration as text: its statements, yoyo's directives, and what can be seen to be wrong without a server.

Where statements begin and end the database's dialect says.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from startup.database.session import Dialect
from startup.database.statement import Fault, Range, Statement
from startup.records import dataclass, field


@dataclass(frozen=True)
class Script:
    """A file's statements, its directives, and the faults that can be seen without a server."""

    statements: list[Statement]
    transactional: bool = True
    depends: tuple[str, ...] = ()
    faults: list[Fault] = field(default_factory=list)


_TRANSACTION = re.compile(
    r"(?:begin|start transaction|commit|end|abort|rollback(?! (?:work |transaction )?to\b)|prepare transaction)\b"
)
_TRANSACTION_WORD = re.compile(r"begin|start|commit|end|abort|rollback|prepare", re.IGNORECASE)
_PLAIN_BEGIN = re.compile(
    r"(?:begin|start)(?: deferred| immediate| exclusive)?(?: work| transaction)?"
    r"(?: isolation level read committed| read write)? ?;?$"
)
_PLAIN_COMMIT = re.compile(r"(?:commit|end)(?: work| transaction)? ?;?$")


def parse(
    text: str, dialect: Dialect, transactional: bool | None = None, known: Collection[str] | None = None
) -> Script:
    """Split *text*, read its directives, and collect its faults in the order of the file.

    *transactional* overrules the directive: a rollback file's own means nothing to yoyo. *known* are the ids that what
    only looks like ``-- depends:`` may be meant for; without them all of it is.
    """
    whole = dialect.split(text)
    statements = whole.statements
    first = statements[0].offset if statements else len(text)
    directives, faults = _directives(text, first, whole.quoted, known)
    faults += whole.faults
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


def _directives(
    text: str, first: int, quoted: list[Range], known: Collection[str] | None = None
) -> tuple[dict[str, list[str]], list[Fault]]:
    """The directives of the top block, and what looks like one there (or is one elsewhere) and would not be read."""
    directives: dict[str, list[str]] = {}
    faults: list[Fault] = []
    if "--" not in text:  # as in a large file of rows
        return directives, faults
    for found in _OTHER_TOOL.finditer(text):
        if not _inside(found.start(), quoted):
            faults.append(Fault(found.start(1), f"'-- {found.group(1)}' is for another tool: yoyo would run all of it"))
            break
    block = _top(text)
    for found in _LOOKS_LIKE.finditer(text):
        name, value = found.group(1), found.group(2).strip()
        meant = next((one for one in ("depends", "transactional") if _within_one_edit(name.lower(), one)), None)
        exact = _DIRECTIVE.match(text, found.start())
        if meant is None or _inside(found.start(), quoted) or (exact is None and found.start() >= first):
            continue
        if meant == "depends" and (exact is None or found.start() >= block) and not names_one(value, known):
            continue  # prose: "Depends: none"
        where = found.start(1)
        is_boolean = value.lower() in ("true", "false")
        if exact is None:
            faults.append(Fault(where, f"'-- {name}: {value}' is not read: yoyo's directive is '-- {meant}: ...'"))
        elif found.start() >= block:
            if meant == "depends" or is_boolean:  # else it is prose
                why = "a statement" if found.start() >= first else "a /* */ comment"
                told = f"'-- {meant}: ...' after {why} is not read: put it on the file's first line"
                faults.append(Fault(where, told))
        elif meant == "transactional" and not is_boolean:
            faults.append(Fault(where, f"'-- transactional: {value}': the value must be true or false"))
        elif meant == "transactional" and meant in directives:
            faults.append(Fault(where, "'-- transactional: ...' is given twice"))
        else:
            directives.setdefault(meant, []).append(value)
    return directives, faults


def names_one(text: str, known: Collection[str] | None) -> bool:
    """Is one of the words an id that is *known*, or nearly?"""
    from difflib import get_close_matches

    return known is None or any(get_close_matches(word, known, 1, 0.8) for word in re.findall(r"[^\s,]+", text))


def _within_one_edit(word: str, name: str) -> bool:
    """Is it *name*, but for one letter that is missing, too many or another, or two that changed places?"""

    def shortened(text: str) -> set[str]:
        return {text, *(text[:i] + text[i + 1 :] for i in range(len(text)))}

    return abs(len(word) - len(name)) < 2 and not shortened(word).isdisjoint(shortened(name))


def _top(text: str) -> int:
    """The end of the lines that yoyo reads directives from: empty ones and ``--`` comments."""
    block = re.match(r"(?:[^\S\n]*(?:--[^\n]*)?(?:\n|$))*", text)
    return block.end() if block else 0


def _inside(offset: int, ranges: list[Range]) -> bool:
    return any(start <= offset < end for start, end in ranges)


_CONCURRENTLY = re.compile(r"(?:create|drop|reindex|refresh|alter)\b.*\bconcurrently\b", re.DOTALL)
_NOT_ATOMIC = re.compile(r"(?:vacuum|cluster|call|do|reindex|create database|drop database|begin|start)\b")


def is_concurrent(statement: Statement) -> bool:
    """Does it wait for old transactions, without being in the way of anybody? Then no time limit for locks helps."""
    return bool(_CONCURRENTLY.match(statement.words))


def is_commit(statement: Statement) -> bool:
    """Does it end a transaction for good (COMMIT AND CHAIN begins another one)?"""
    return bool(re.match(r"(?:commit|end)\b", statement.words))


def is_atomic(statement: Statement) -> bool:
    """Does it, run in autocommit, either happen as a whole or leave nothing behind?"""
    return not (is_concurrent(statement) or _NOT_ATOMIC.match(statement.words))
