"""Asks the replicas of the service ``app`` for the users, all the time, and counts; two lines of JSON a second.

Each request resolves the name anew and takes one of the replicas that Swarm names. Where no connection is made
(refused, or the address is gone: the replica went just after the name was resolved) it resolves again, for RETRY s.
A request that was sent is never sent again: anything but a whole answer with status 200 is lost.
It counts from the first answer on, since before that nothing is served yet.
"""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections import Counter
from http.client import HTTPConnection, HTTPException

NAME, PORT, PATH = "tasks.app", 8000, "/users"
CLIENTS, PAUSE, CONNECT, RETRY, ANSWER = 2, 0.02, 1, 5, 10  # how many at once; seconds

answers: Counter[str] = Counter()  # by release
first: dict[str, float] = {}  # release -> when it answered for the first time, Unix time
lost: list[str] = []
again: Counter[str] = Counter()  # connections tried again, by error
longest = 0.0  # the longest time without an answer to anybody, seconds
last: float | None = None


def connect() -> HTTPConnection:
    """A connection to one of the replicas; OSError when there was none for RETRY seconds."""
    end = time.monotonic() + RETRY
    while True:
        try:
            found = socket.getaddrinfo(NAME, PORT, socket.AF_INET, socket.SOCK_STREAM)
            connection = HTTPConnection(str(random.choice(found)[4][0]), PORT, timeout=CONNECT)
            connection.connect()
            connection.sock.settimeout(ANSWER)
            return connection
        except OSError as error:
            if time.monotonic() > end:
                raise
            if last is not None:
                again[str(error)] += 1
            time.sleep(PAUSE)


def ask() -> None:
    """One request: the release that answered it, or why it is lost."""
    try:
        connection = connect()
        connection.request("GET", PATH)
        answer = connection.getresponse()
        answer.read()
        connection.close()
    except (OSError, HTTPException) as error:
        if last is not None:
            lost.append(f"{time.strftime('%T')} {type(error).__name__}: {error}")
        return
    if answer.status == 200:
        count(answer.headers["X-Release"])
    elif last is not None:
        lost.append(f"{time.strftime('%T')} status {answer.status} of release {answer.headers['X-Release']}")


def count(release: str) -> None:
    global last, longest
    now = time.time()
    answers[release] += 1
    first.setdefault(release, now)
    if last is not None:
        longest = max(longest, now - last)
    last = now


def ask_for_ever() -> None:
    while True:
        ask()
        time.sleep(PAUSE)


for _ in range(CLIENTS):
    threading.Thread(target=ask_for_ever, daemon=True).start()
while True:
    time.sleep(0.5)
    print(json.dumps({"answers": answers, "first": first, "lost": lost, "again": again, "longest": longest}))
