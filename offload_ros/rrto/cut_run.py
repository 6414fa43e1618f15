"""One inference of a recorded unit that robot and server compute together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from offload_ros.cuts.robot_run import RobotRun


@dataclass(eq=False)
class CutRun:
    """One inference of a unit that is usable and planned, or ``timed``: all on the server, which
    tells the time of each operator. ``cancel`` by any thread."""

    unit: int
    timed: bool
    cancelled: bool = False
    run: RobotRun | None = None

    def cancel(self) -> None:
        """Nobody wants its values any more."""
        self.cancelled = True
        if self.run is not None:
            self.run.end('the program does something else')

    def began(self, run: RobotRun) -> None:
        """What computes it."""
        self.run = run
        if self.cancelled:
            self.cancel()
