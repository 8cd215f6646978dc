"""Run by the bundle's Python in a container: until the app's first byte, directly and under each first process.

    python3 -I inside.py RUNS NAME=COMMAND...

JSON, the seconds of each case. The app is the image's own dd.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.measure import interleave

APP = ("/bin/dd", "if=/dev/zero", "bs=1", "count=1", "status=none")
ENV = {"STARTUP_TASKS": "none", "STARTUP_PING": "none", "STARTUP_LOG_LEVEL": "error"}


def delay(first: list[str]) -> float:
    """Seconds; it is waited for to its end, so that it does not disturb the next."""
    env = {"PATH": os.environ["PATH"], **ENV}
    began = time.monotonic()
    with subprocess.Popen([*first, *APP], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        written = os.read(process.stdout.fileno(), 1)
        took = time.monotonic() - began
    assert (written, process.returncode) == (b"\0", 0), first
    return took


if __name__ == "__main__":
    words = {name: command.split() for name, _, command in (word.partition("=") for word in sys.argv[2:])}
    series = interleave({name: partial(delay, command) for name, command in words.items()}, int(sys.argv[1]))
    print(json.dumps({name: one.values for name, one in series.items()}))
