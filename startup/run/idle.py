"""What runs a plan without tasks, so that nothing is loaded that runs some."""

from __future__ import annotations

from collections.abc import Sequence

from startup import log
from startup.plan.planner import Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from startup.ledger.journal import Span


class Idle:
    """As :class:`startup.run.runner.Runner`, of which it takes the place."""

    #: The tasks that have not run (yet).
    left: Sequence[str] = ()
    spans: Sequence[Span] = ()

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def prepare(self) -> None:
        """Nothing is to prepare."""

    def pinged(self, seconds: float) -> None:
        """The app has answered."""

    def run(self) -> None:
        """Say why there is nothing to run."""
        for note in self.plan.notes:
            log.say(note)
