"""Where PostgreSQL's statements begin and end: its manual's "Lexical Structure", psql's rules for ``BEGIN ATOMIC``."""

from __future__ import annotations

import re

from startup.database.statement import COMMENT, Fault, Range, Split, Statement, line_at

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
#: The same, but for the words, which count where a routine is made alone.
_MARKS = re.compile(r"""[-/'"$;()\\]""")
_AT_MARK = re.compile(
    r"""--[^\n]*|/\*|['"]|\$(?:[A-Za-z_\x80-\U0010ffff][\w]*)?\$|[;()\\]|.""",
)
#: Rows of values, and what else stands in parentheses one after another: of no interest where no routine is made.
_ROWS = re.compile(rf"(?:[\s,]*\({_NO_MARK}(?:{_STRING}{_NO_MARK})*\))+")
_ESCAPED_END = re.compile(r"(?:[^'\\]|\\.|'')*'", re.DOTALL)
_CREATE = re.compile(r"create\b", re.IGNORECASE)
_ROUTINE = re.compile(r"create\s+(?:or\s+replace\s+)?(?:function|procedure)\b", re.IGNORECASE)
_SPACE = re.compile(r"\s*")
_FED = "COPY FROM stdin / TO stdout is for psql, which feeds it: write INSERT, or COPY in a Python migration"
_COPY = re.compile(r"copy\s[^']*?\b(?:from\s+stdin|to\s+stdout)\b", re.IGNORECASE)


def split(text: str) -> Split:
    """PostgreSQL's statements in *text*, its first fault if it cannot be split, and its strings of several lines."""
    whole = _split(text)
    whole.faults.extend(Fault(one.offset, _FED) for one in whole.statements if _COPY.match(one.text))
    return whole


def _split(text: str) -> Split:
    statements: list[Statement] = []
    quoted: list[Range] = []
    start = -1  # of the statement that is being read
    position = depth = blocks = 0
    routine = -1, False  # the statement that was looked at, and whether it makes one
    creates = False
    end = len(text)

    def ended(offset: int, message: str) -> Split:
        """What comes after this fault cannot be split: the reading ends here."""
        first = start if start >= 0 else offset
        return Split([*statements, Statement(text[first:], first)], [Fault(offset, message)], quoted)

    while position < end:
        if start < 0 and (plain := _PLAIN.match(text, position, position + _SHORT)):
            statements.append(Statement(plain.group(1), plain.start(1)))
            position = plain.end()
            continue
        if start < 0:
            space = _SPACE.match(text, position)
            assert space is not None
            position = space.end()
            if position < end and text[position] != ";" and text[position : position + 2] not in ("--", "/*"):
                start, creates = position, _CREATE.match(text, position) is not None
        elif not creates and (rows := _ROWS.match(text, position, position + _SHORT)):
            position = rows.end()
        found = _INTERESTING.search(text, position) if creates else _marked(text, position)
        if found is None:
            break
        stop, token, position = found.start(), found.group(), found.end()
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
            if depth > 0:  # psql counts them outside parentheses alone: a parameter may have such a name
                continue
            if word == "end":
                blocks = max(blocks - 1, 0)
                continue
            if word == "begin" and routine[0] != start:
                routine = start, _ROUTINE.match(COMMENT.sub(" ", text[start:stop])) is not None
            if blocks or (word == "begin" and routine[1]):
                blocks += 1
        if position - stop > 2 and "\n" in text[stop:position]:
            quoted.append((stop, position))
    if start >= 0:
        statements.append(Statement(text[start:], start))
    return Split(statements, quoted=quoted)


def _marked(text: str, position: int) -> re.Match[str] | None:
    """The next that _INTERESTING finds, the words aside: by the first characters alone, which is much faster."""
    while mark := _MARKS.search(text, position):
        at = mark.start()
        found = _AT_MARK.match(text, at)
        assert found is not None
        token = found[0]
        if token == "'" and at and text[at - 1] in "eE" and _is_word_start(text, at - 1):
            return _INTERESTING.match(text, at - 1)
        if token not in ("-", "/", "$") and (token[0] != "$" or _is_word_start(text, at)):
            return found
        position = at + 1
    return None


def _is_word_start(text: str, at: int) -> bool:
    return not at or not (text[at - 1].isalnum() or text[at - 1] in "_$")


def _comment_end(text: str, position: int) -> int:
    """Where the comment that was opened before *position* is closed (they nest in PostgreSQL); -1 if it is not."""
    depth = 1
    for found in re.compile(r"/\*|\*/").finditer(text, position):
        depth += 1 if found.group() == "/*" else -1
        if not depth:
            return found.end()
    return -1
