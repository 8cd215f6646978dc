"""A strict reader of Prometheus' text exposition format 0.0.4, with what ``promtool check metrics`` would find."""

from __future__ import annotations

import re

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
_SAMPLE = re.compile(rf"({_NAME})(?:\{{({_LABEL}(?:,{_LABEL})*)\}})? (-?\d+(?:\.\d+)?)")
_ESCAPED = {r"\\": "\\", r"\"": '"', r"\n": "\n"}
#: A metric's name, and its labels.
Series = tuple[str, tuple[tuple[str, str], ...]]


def parse(text: str) -> dict[Series, float]:
    """Every sample; AssertionError for what a collector would refuse or a linter name."""
    assert text.endswith("\n") and "\r" not in text
    found: dict[Series, float] = {}
    families: list[str] = []
    lines = text[:-1].split("\n")
    while lines:
        helped = re.fullmatch(rf"# HELP ({_NAME}) ((?:[^\\]|\\[\\n])+)", lines.pop(0))
        assert helped, text
        name = helped[1]
        assert name not in families, f"{name} stands twice"
        families.append(name)
        assert lines.pop(0) == f"# TYPE {name} gauge"
        assert not re.search(r"_(total|count|sum|bucket)$|milli|micro|minutes|hours", name)
        samples = 0
        while lines and not lines[0].startswith("#"):
            sample = _SAMPLE.fullmatch(lines.pop(0))
            assert sample and sample[1] == name, text
            labels = tuple(sorted(_labels(sample[2] or "")))
            assert len({label for label, _ in labels}) == len(labels)
            assert (name, labels) not in found, f"{name}{labels} stands twice"
            found[name, labels] = float(sample[3])
            samples += 1
        assert samples, f"{name} has no sample"
    return found


def _labels(text: str) -> list[tuple[str, str]]:
    pairs = re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', text)
    return [(name, re.sub(r"\\.", lambda found: _ESCAPED[found[0]], value)) for name, value in pairs]


def value(found: dict[Series, float], name: str, **labels: str) -> float:
    """Of the one series of this name that has these labels."""
    (only,) = [number for (one, has), number in found.items() if one == name and labels.items() <= dict(has).items()]
    return only


def labels(found: dict[Series, float], name: str) -> list[dict[str, str]]:
    """Of every series of this name."""
    return [dict(has) for one, has in found if one == name]
