"""For uvicorn: answers with the file ``answer``; a POST shows by the file ``at-work`` that it waits for its body."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

ANSWER = Path("answer").read_bytes()


async def app(
    scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
) -> None:
    if scope["type"] != "http":
        raise RuntimeError("no lifespan here")
    if scope["method"] == "POST":
        Path("at-work").touch()
        await receive()
    headers = [(b"content-length", b"%d" % len(ANSWER))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": ANSWER})
