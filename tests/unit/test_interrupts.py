"""A signal ends what runs, wherever in Python it strikes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WEAK_REFERENCE = "thing = Thing(); reference = weakref.ref(thing, struck); del thing"
DEL = "Thing.__del__ = struck; Thing()"


@pytest.mark.parametrize("where", [WEAK_REFERENCE, DEL])
def test_a_signal_that_strikes_where_exceptions_are_swallowed_is_not_lost(where: str) -> None:
    script = f"""
import os, sys, time, weakref
sys.path.insert(0, {str(ROOT)!r})
from startup.interrupts import Interrupts

class Thing: pass

def struck(_):
    os.kill(os.getpid(), 15)
    for _ in range(1000):
        pass

Interrupts().install()
{where}
print("swallowed", flush=True)
time.sleep(60)
"""
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, timeout=30)
    assert done.stdout == "swallowed\n", "else the test does not test it"
    assert done.returncode == 143
    assert done.stderr == ""
