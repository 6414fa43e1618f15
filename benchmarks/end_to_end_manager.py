"""A manager of ``benchmarks/end_to_end.py``: the real node with an emulated accelerator beside its
core (``accelerator.py``). With ``rpc`` as first word its strategy ``rrto`` asks the server for one
operator after the other, as Cricket does."""

from __future__ import annotations

from functools import partial
from pathlib import Path
import sys

sys.path.append(str(Path(__file__).resolve().parents[1]))
from benchmarks.accelerator import AcceleratorPacer
from offload_ros.nodes import manager
from offload_ros.robot.pacing import Pacer
from offload_ros.rrto import strategy


def main() -> None:
    """Run the node until it is told to end."""
    paced = Pacer.of_robot()
    Pacer.of_robot = lambda: AcceleratorPacer(paced.slowdown)  # type: ignore[method-assign]
    if sys.argv[1] == 'rpc':
        one_by_one = partial(strategy.OperatorClient, mode='rpc')
        strategy.OperatorClient = one_by_one  # type: ignore[assignment, misc]
    manager.main()


if __name__ == '__main__':
    main()
