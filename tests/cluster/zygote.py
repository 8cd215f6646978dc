"""Forks nodes out of a process that has imported everything: fifty are started at once, and a crash is cheap to try.

Reads orders from stdin, one JSON object a line (``env``, ``cwd``, ``log``, ``argv``, ``without``); writes
``{"pid": ...}`` for each, and ``{"pid": ..., "code": ...}`` when it has ended. A node is what
``python -I startup VERB`` is: a process of its own, in a session of its own. ``without`` names a guard to take out.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
from typing import Any

sys.path.insert(0, sys.argv[1])

import psycopg  # noqa: F401
import yoyo.migrations  # noqa: F401

from startup import cli
from startup.database import sqlite  # noqa: F401
from startup.migrations import apply, yoyos  # noqa: F401


def be_a_node(order: dict[str, Any]) -> None:
    os.setsid()
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(order["env"])
    os.chdir(order["cwd"])
    for number, path, flags in (
        (0, "/dev/null", os.O_RDONLY),
        (2, order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND),
    ):
        descriptor = os.open(path, flags, 0o644)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.dup2(2, 1)
    if order["without"]:
        from tests.cluster import guards

        guards.take_out(order["without"])
    try:
        code = cli.main(order["argv"])
    except SystemExit as end:
        code = int(end.code or 0)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(writer)
    orders = b""
    while True:
        ready, _, _ = select.select([0, reader], [], [])
        if reader in ready:
            os.read(reader, 4096)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            print(json.dumps({"pid": pid, "code": os.waitstatus_to_exitcode(status)}), flush=True)
        if 0 not in ready:
            continue
        data = os.read(0, 65536)
        if not data:
            return
        *lines, orders = (orders + data).split(b"\n")
        for line in lines:
            pid = os.fork()
            if pid == 0:
                be_a_node(json.loads(line))
            print(json.dumps({"pid": pid}), flush=True)


main()
