"""No secret in any form in which SQL, shells, URLs and JSON write it, nor cut."""

from __future__ import annotations

import random

import pytest

from startup import log
from tests.forms import FORMS

SPECIAL = "'\"\\ /%:@#?&+=;$`<>()[]{}|~!*^,.-_\t\néß☃😀\x7f"


def a_secret(rng: random.Random) -> str:
    """With a part on each side that shows in whatever form the rest is written."""
    return (
        f"Left{rng.randrange(10)}" + "".join(rng.choices(SPECIAL, k=rng.randrange(1, 9))) + f"R1ght{rng.randrange(9)}"
    )


@pytest.mark.parametrize("form", FORMS)
def test_a_secret_is_masked_in_each_form(rng: random.Random, cases: int, form: str) -> None:
    for _ in range(max(1, cases // len(FORMS))):
        secret = a_secret(rng)
        log._secrets.clear()
        log.hide(secret)
        for before, after in (("", ""), ("x ", ""), ('password="', '"') if form != "cut" else ("'", "'")):
            shown = log.redact(f"{before}{FORMS[form](secret)}{after}")
            assert secret[:5] not in shown and secret[-6:] not in shown, (secret, FORMS[form](secret), shown)


def test_a_line_that_is_cut_anywhere_in_a_secret_shows_at_most_a_quarter_of_it(rng: random.Random, cases: int) -> None:
    for _ in range(cases):
        secret = a_secret(rng)
        log._secrets.clear()
        log.hide(secret)
        written = rng.choice([one for name, one in FORMS.items() if name not in ("shlex", "cut")])(secret)
        least = max(4, len(secret) // 4)
        cut = written[: rng.randrange(least, len(written) + 1)]
        assert secret[:least] not in log.redact(f"PASSWORD {cut}\nand more"), (secret, cut)


def test_what_is_no_secret_stays_as_it_is(rng: random.Random, cases: int) -> None:
    for _ in range(cases):
        log._secrets.clear()
        log.hide(a_secret(rng))
        text = "".join(rng.choices(SPECIAL + "abcdefgh ", k=60)).replace("://", "")
        assert log.redact(text) == text
