"""What a message between robot and server costs beside its bytes: threads, DDS, the framing.

Measured by the smallest run of a graph that there is: one message there, one operator, one back.
"""

from __future__ import annotations

from collections.abc import Callable
import math
import time

import torch

from offload_ros.cuts.client import GraphLink, LocalGraph, Ran
from offload_ros.cuts.cut import Cut
from offload_ros.graph.graph import Graph, Input, Node, TensorSpec, Value
from offload_ros.robot.lane import DeviceLane
from offload_ros.strategy import LinkState

BYTES = 256
LIMIT_S = 5.0  # for one echo


def echo_costs(
    link: GraphLink, lane: DeviceLane, state: Callable[[], LinkState], count: int
) -> list[float]:
    """``count`` times (s) half of what an echo took beyond the link's round trip and its bytes;
    fewer where ``state`` does not know the round trip yet. ``CutFailed`` where the server runs no
    graphs."""
    spec = TensorSpec((BYTES,), torch.uint8)
    node = Node(0, 'aten.bitwise_not.default', (Input('data'),), {}, (spec,))
    graph = Graph('echo', {'data': spec}, {}, (node,), {'data': Value(0)})
    local, cut = LocalGraph(graph, {}), Cut(graph, [0])
    data = {'data': torch.zeros(BYTES, dtype=torch.uint8)}
    link.open(local)
    try:
        costs = []
        for _ in range(1 + count):
            ran = link.run(local, cut, data, lane, time.monotonic() + LIMIT_S)
            costs.append((ran.total_s - ran.server_s - _on_link_s(ran, state())) / 2.0)
    finally:
        link.release(local.key)
    return [max(0.0, each) for each in costs[1:] if math.isfinite(each)]


def _on_link_s(ran: Ran, state: LinkState) -> float:
    rates = (ran.bytes_up, state.up_bytes_per_s), (ran.bytes_down, state.down_bytes_per_s)
    known = [amount / rate for amount, rate in rates if math.isfinite(rate) and rate > 0.0]
    return state.round_trip_s + sum(known)
