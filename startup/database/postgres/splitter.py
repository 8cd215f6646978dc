"""Where PostgreSQL's statements begin and end: its manual's "Lexical Structure", psql's rules for ``BEGIN ATOMIC``."""

from __future__ import annotations

import re

from startup.database.statement import Fault, Range, Split, Statement, line_at

# `re` looks for the first character of a token in no time where each alternative begins with a letter of its own; what
# comes before that letter is therefore asked behind it.
_ALONE = r"(?<![\w$].)"
_TOKENS = r"""'[^']*'?|"[^"]*"?|;|--[^\n]*|/\*|\\|\$""" + _ALONE + r"(?:[A-Za-z_\x80-\U0010ffff]\w*)?\$"
_TOKEN = re.compile(_TOKENS)


def _word(word: str) -> str:
    rest = "".join(f"[{one}{one.upper()}]" for one in word[1:])
    return "|".join(rf"{first}{_ALONE}{rest}(?![\w$])" for first in (word[0], word[0].upper()))


#: The same, and the words that count where a routine is made.
_IN_ROUTINE = re.compile("|".join([_TOKENS, *map(_word, ("begin", "case", "end"))]))
_BLANK = r"(?:\s|--[^\n]*(?![^\n])|/\*[^*]*\*+(?:[^/*][^*]*\*+)*/)+"
_ROUTINE = re.compile(rf"create{_BLANK}(?:or{_BLANK}replace{_BLANK})?(?:function|procedure)\b", re.IGNORECASE)
#: Before a string.
_ESCAPES = re.compile(r"(?<![\w$])[eE]")
_ESCAPED_END = re.compile(r"(?:[^'\\]|\\.|'')*'", re.DOTALL)
#: With the comments of whole lines, of which a file has a few in a row.
_SPACE = re.compile(r"\s*(?:--[^\n]*\n\s*){0,50}")
# A whole statement, and rows of values, in which nothing needs a closer look, as large files have them by the thousand:
# no body that could hold a semicolon (CREATE); no comment, tag or backslash outside strings, none in '...'; strings
# of one line, parentheses one level deep. Matched within _SHORT characters only: `re` remembers each character that it
# could give back, which takes a hundred times the text's memory.
_SHORT = 2000
_UNMARKED = r"[^'\"$;()\\/-]*"
_NO_MARK = rf"{_UNMARKED}(?:(?:-(?!-)|/(?!\*)){_UNMARKED})*"
_ESCAPED = r"(?<=[^\w$][eE])'(?:[^'\\\n]*\\.)+[^'\\\n]*'"
_STRING = rf"(?:'[^'\\\n]*'|\"[^\"\n]*\"|{_ESCAPED}|(?<![\w$])\$\$[^$\n]*\$\$)"
_PLAIN = re.compile(
    rf"\s*((?!create\b)[a-z]{_NO_MARK}(?:(?:{_STRING}|\({_NO_MARK}(?:{_STRING}{_NO_MARK})*\)){_NO_MARK})*;)",
    re.IGNORECASE,
)
#: Strings in a row, up to one that '' does not continue.
_STRINGS = re.compile(rf"(?:{_NO_MARK}{_STRING}(?=[^']))+")
#: From within a row to the end of another.
_ROWS = re.compile(rf"{_NO_MARK}\)(?:[\s,]*\({_NO_MARK}(?:{_STRING}{_NO_MARK})*\))+")
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
    search = in_rows = _TOKEN.search
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
            position = _SPACE.match(text, position).end()  # type: ignore[union-attr]  # it always matches
            if position < end and text[position] != ";" and text[position : position + 2] not in ("--", "/*"):
                start, depth = position, 0
                search = _IN_ROUTINE.search if _ROUTINE.match(text, start) else in_rows
        elif search is in_rows:
            if depth > 0 and (rows := _ROWS.match(text, position, position + _SHORT)):
                depth, position = depth - 1, rows.end()
            elif strings := _STRINGS.match(text, position, position + _SHORT):
                position = strings.end()
        found = search(text, position)
        if found is None:
            break
        stop, token = found.start(), found.group()
        depth += text.count("(", position, stop) - text.count(")", position, stop)
        position = found.end()
        if token == ";":
            if depth <= 0 and not blocks:
                if start >= 0:
                    statements.append(Statement(text[start:position], start))
                start = -1
        elif token[0] == "'" or token[0] == '"':
            if token[0] == "'" and stop and _ESCAPES.match(text, stop - 1):
                stop -= 1
                close = _ESCAPED_END.match(text, stop + 2)
                if close is None:
                    return ended(stop, "a string (E') starts here and never ends")
                position = close.end()
            elif len(token) == 1 or token[-1] != token[0]:
                what = "a string (')" if token[0] == "'" else 'a quoted name (")'
                return ended(stop, f"{what} starts here and never ends")
            if "\n" in text[stop:position]:
                quoted.append((stop, position))
        elif token[0] == "$":
            position = text.find(token, position) + len(token)
            if position < len(token):
                return ended(stop, f"a string ({token}) starts here and never ends")
            if "\n" in text[stop:position]:
                quoted.append((stop, position))
        elif token == "/*":
            position = _comment_end(text, position)
            if position < 0:
                return ended(stop, "a comment (/*) starts here and never ends")
        elif token == "\\":
            command = line_at(text, stop).strip()[:60]
            return ended(stop, f"psql's own command ({command}) means nothing to the server: write it as SQL")
        elif token[0] != "-" and depth <= 0:  # BEGIN ATOMIC ... CASE ... END ... END: psql counts outside parentheses
            if token[0] in "eE":
                blocks = max(blocks - 1, 0)
            elif blocks or token[0] in "bB":
                blocks += 1
    if start >= 0:
        statements.append(Statement(text[start:], start))
    return Split(statements, quoted=quoted)


def _comment_end(text: str, position: int) -> int:
    """Where the comment that was opened before *position* is closed (they nest in PostgreSQL); -1 if it is not."""
    depth = 1
    for found in re.compile(r"/\*|\*/").finditer(text, position):
        depth += 1 if found.group() == "/*" else -1
        if not depth:
            return found.end()
    return -1
