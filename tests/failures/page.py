"""docs/troubleshooting.md, made from the failures that are staged in the tests."""

from __future__ import annotations

from pathlib import Path

from tests.failures.catalog import FAILURES

PATH = Path(__file__).parents[2] / "docs" / "troubleshooting.md"
HEAD = """# Troubleshooting
What you see, and what to do. Each of these failures is staged for real in `tests/failures`, and each line below is
compared there word for word; `<...>` stands for what differs from run to run. This page is made from that list:
`STARTUP_TEST_WRITE_DOCS=1 make test PYTEST_ARGS='tests/failures -k page'`.

The last line on stderr says who ended the container and why. The same text is in the file `result` of the state
directory (`/run/startup`) and, in Kubernetes, in the termination message. While a container runs:

    docker compose exec SERVICE startup health     # the phase, in one line
    docker compose exec SERVICE startup status     # migrations, ledger, lock, who waits for whom, the last run
    docker compose exec SERVICE startup describe   # settings and tasks as resolved, with where each came from
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    chapter = ""
    for failure in FAILURES:
        if failure.chapter != chapter:
            chapter = failure.chapter
            parts.append(f"## {chapter}\n")
        lines = "\n".join(f"    {line}".rstrip() for line in failure.line.splitlines())
        title = failure.name.replace("_", " ").capitalize()
        parts.append(f"### {title}\n{failure.symptom}\n\n{lines}\n\n- Cause: {failure.cause}\n- Cure: {failure.cure}\n")
    return "\n".join(parts)
