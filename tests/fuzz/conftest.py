"""Readers under random input: a few hundred cases a run, STARTUP_TEST_FUZZ=20000 for thousands; the seed is printed.

``rng``    random.Random, of STARTUP_TEST_SEED or of a new seed, which is printed with a test that fails
``cases``  how many cases a test shall try
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from startup import log


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Thousands of cases take what they take."""
    for item in items:
        if "STARTUP_TEST_FUZZ" in os.environ and item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.timeout(0))


@pytest.fixture(autouse=True)
def _no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_secrets", set())
    monkeypatch.setattr(log, "_words", {})


@pytest.fixture
def rng() -> random.Random:
    seed = os.environ.get("STARTUP_TEST_SEED") or str(random.SystemRandom().randrange(1 << 32))
    print(f"STARTUP_TEST_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def cases() -> int:
    return int(os.environ.get("STARTUP_TEST_FUZZ", "300"))
