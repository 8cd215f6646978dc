"""Settings and dotenv files under any value: each is read, or told by its name; never a traceback, never half."""

from __future__ import annotations

import random
from pathlib import Path

import dotenv
import pytest

from startup.settings.settings import NAMES, SECRETS, load

VALUES = (
    *("", " ", "0", "1", "-1", "1e9", "0.5", ".5", "٣", "nan", "inf", "true", "yes", "off", "TRUE", "none", "auto"),
    *("migrate", "a b,c@once", "a@", "@once", "a@never", "a:b", "a:b.c@release", "pkg.mod:f", "é", "a/b", "x" * 5000),
    *(
        "tcp://x:1",
        "tcp://x:99999",
        "http://x:1/y",
        "https://[::1]:2",
        "cmd:true",
        "cmd:",
        "file:/x",
        "bogus://",
        "redis://:p@h:1/2 database",
        "://",
    ),
    *(
        "dev",
        "test",
        "prod",
        "session",
        "follower",
        "continue",
        "json",
        "debug",
        "a.b",
        "a.b.c",
        '"a"',
        "../x",
        "\t\n",
        "%s",
    ),
    *(
        "sqlite:///x.db",
        "sqlite://",
        "postgresql://u:p@h/d",
        "postgresql://u:p@x:y@h",
        "postgres://h:0",
        "mysql://h",
        "\udcff",
    ),
)


def test_any_value_is_read_or_told_by_its_name(rng: random.Random, cases: int) -> None:
    for _ in range(cases):
        names = rng.sample(NAMES, rng.randrange(1, 8)) + rng.choices(("STARTUP_TASK_A", "STARTUP_X", "PORT", "APP_ENV"))
        environ = {name: rng.choice(VALUES) for name in names}
        found = load({"HOME": "/nonexistent", **environ})
        for text in (*found.faults, *found.address_faults):
            assert any(name in text for name in environ) or "STARTUP_ENV" in text, (environ, text)
        assert set(found.values) >= set(NAMES) - {f"{name}_FILE" for name in SECRETS}, environ
        assert all(getattr(found, name) >= 0 for name in ("timeout", "ping_timeout", "lock_timeout")), environ


TEXT = "aZ9 #='\"\\$`!é☃\t{}:@"


def quoted(rng: random.Random, value: str) -> str:
    """*value* in one of the forms in which a dotenv file can hold it."""
    forms = ["'{}'".format(value.replace("\\", "\\\\").replace("'", "\\'"))]
    forms.append('"{}"'.format(value.replace("\\", "\\\\").replace('"', '\\"')))
    if value.isalnum():
        forms.append(value)
    return rng.choice(forms)


def test_a_dotenv_file_gives_the_values_that_were_written(
    rng: random.Random, cases: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(cases):
        meant = {f"NAME_{n}": "".join(rng.choices(TEXT, k=rng.randrange(1, 9))) for n in range(rng.randrange(1, 6))}
        lines = []
        for name, value in meant.items():
            lines += rng.choices(["", "# x='", "  "], k=rng.randrange(2))
            lines.append(f"{rng.choice(['', 'export ', ' '])}{name}{rng.choice(['=', ' = '])}{quoted(rng, value)}")
        text = rng.choice(["", "\ufeff"]) + rng.choice(["\n", "\r\n"]).join(lines)
        Path(".env").write_bytes(text.encode())
        found = load({"STARTUP_DOTENV": ".env"})
        assert found.faults == [], text
        assert {name: found.environ.get(name) for name in meant} == meant, text


def test_any_file_is_read_as_dotenv_reads_it_or_told_by_its_name(
    rng: random.Random, cases: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pieces = [
        b"A=1",
        b"\n",
        b"\r\n",
        b"=",
        b"'",
        b'"',
        b"export ",
        b"#",
        b"\0",
        b"\xff",
        b"B",
        b" ",
        b"C='x\ny'",
        b"\\",
    ]
    for _ in range(cases):
        content = b"".join(rng.choices(pieces, k=rng.randrange(12)))
        Path("file").write_bytes(content)
        found = load({"STARTUP_DOTENV": "file"})
        if found.faults:
            assert all(text.startswith("file") and "Traceback" not in text for text in found.faults), content
        else:
            read = {
                name: value
                for name, value in dotenv.dotenv_values("file", interpolate=False).items()
                if value is not None
            }
            assert {name: found.environ[name] for name in read} == read, content
