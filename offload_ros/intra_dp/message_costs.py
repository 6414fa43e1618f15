"""What messages to a server cost: beside their bytes, and in computing on either side meanwhile.

Sending and receiving take a processor too. Where it is the one that computes, or where Python's
lock is shared, each piece of a plan with steps holds up the rows that are being computed. How much
that is follows from the machines: the same steps of a small network of convolutions run with their
rows crossing in one piece and in many, on each side, and the difference of what the side's
computing took is what the pieces took of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
import math
from statistics import median
import time

import torch
from torch import Tensor, nn

from offload_ros.cuts.client import GraphLink, LocalGraph
from offload_ros.cuts.echo import echo_costs
from offload_ros.graph.capture import capture
from offload_ros.graph.steps import Step, Steps
from offload_ros.intra_dp.lower import Work, lower
from offload_ros.robot.lane import DeviceLane
from offload_ros.strategy import LinkState

TILES, TILE_ROWS, WIDTH, CHANNELS, DEPTH = 16, 4, 64, 32, 6
WIDE_BYTES = 8192  # of a row, for the cost of a byte
LEAST_REPEATS = 3
MOST_ON_LINK_S = 0.5  # no run that is to last longer there
LIMIT_S = 20.0  # for one run


class _Rows(nn.Module):
    """(B, 64) uint8, B >= 64, to (1, 64, 64) float32: each index of the last axis by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, (3, 1), padding=(1, 0))
        self.head = nn.Conv2d(CHANNELS, 1, 1)

    def forward(self, data: Tensor) -> Tensor:
        rows = data[:WIDTH].to(torch.float32)
        planes = rows.expand(1, CHANNELS, WIDTH, TILES * TILE_ROWS)
        for _ in range(DEPTH):
            planes = torch.relu(self.conv(planes))
        head: Tensor = self.head(planes)
        return head[0] * 2.0


@cache
def _subject(row_bytes: int, device: str) -> LocalGraph:
    generator = torch.Generator().manual_seed(0)
    network = _Rows().eval()
    for parameter in network.parameters():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    graph, parameters = capture(
        network, {'data': _data(row_bytes)}, f'rows_{row_bytes}', method='export'
    )
    return LocalGraph(graph, parameters, device)


def _data(row_bytes: int) -> Tensor:
    return torch.zeros(row_bytes, TILES * TILE_ROWS, dtype=torch.uint8)


def message_costs(
    link: GraphLink,
    lane: DeviceLane,
    state: Callable[[], LinkState],
    count: int,
    device: str = 'cpu',
) -> dict[str, Sequence[float]]:
    """For a profile, in s. 'fixed_s': of a message beside its bytes, ``count`` times
    (``cuts.echo``). 'robot_handling', 'server_handling': of each message that a side sends or
    receives, what it takes from its computing, and that of each byte. ``device``: the robot's.
    ``CutFailed`` where the server runs no graphs, or is lost."""
    costs: dict[str, Sequence[float]] = {'fixed_s': echo_costs(link, lane, state, count)}
    repeats = max(LEAST_REPEATS, count // 4)
    found = handling(link, lane, state().up_bytes_per_s, repeats, device)
    return {**costs, **{f'{side}_handling': each for side, each in found.items()}}


def handling(
    link: GraphLink, lane: DeviceLane, up_bytes_per_s: float, repeats: int, device: str = 'cpu'
) -> Mapping[str, tuple[float, float]]:
    """By side: (s of each message, s of each byte). ``up_bytes_per_s``: where it is low, what
    bytes take is not measured, and next to nothing of their time on the link."""
    thin, wide = _subject(WIDTH, device), _subject(WIDE_BYTES, device)
    known = math.isfinite(up_bytes_per_s) and up_bytes_per_s > 0.0
    thin_bytes, wide_bytes = TILES * TILE_ROWS * WIDTH, TILES * TILE_ROWS * WIDE_BYTES
    try:
        server_s = _difference(link, lane, thin, 'server', repeats) / (2 * TILES - 2)
        robot_s = _difference(link, lane, thin, 'robot', repeats) / (2 * TILES - 2)
        byte_s = 0.0
        if not known or wide_bytes / up_bytes_per_s < MOST_ON_LINK_S:
            more, less = (
                _taken_s(link, lane, each, _busy('server', each, True), 'server', repeats)
                for each in (wide, thin)
            )
            byte_s = max(0.0, more - less) / (wide_bytes - thin_bytes)
    finally:
        for each in (thin, wide):
            link.release(each.key)
    ratio = min(1.0, robot_s / server_s) if server_s > 0.0 else 1.0
    return {'robot': (robot_s, byte_s * ratio), 'server': (server_s, byte_s)}


def _difference(
    link: GraphLink, lane: DeviceLane, local: LocalGraph, side: str, repeats: int
) -> float:
    """Seconds that computing on ``side`` takes longer with many pieces; at least 0."""
    seconds = [
        _taken_s(link, lane, local, _busy(side, local, many), side, repeats)
        for many in (True, False)
    ]
    return max(0.0, seconds[0] - seconds[1])


@cache
def _busy(side: str, local: LocalGraph, many: bool) -> Work:
    """``side`` computes rows in tiles; what it gets and gives crosses in ``many`` pieces or one."""
    chain = _chain(local)
    first, own, last = chain[0], chain[1:-1], chain[-1]
    rows = [(tile * TILE_ROWS, (tile + 1) * TILE_ROWS) for tile in range(TILES)]
    whole = (0, TILES * TILE_ROWS)
    tiled = [Step(node, *each) for each in rows for node in own]
    if side == 'server':
        if many:
            server = [Step(node, *each) for each in rows for node in chain]
        else:
            server = [Step(first, *whole), *tiled, Step(last, *whole)]
        return lower(local.rows, Steps((), tuple(server)))
    if many:
        robot = [Step(node, *each) for each in rows for node in (first, *own)]
        steps = Steps(tuple(robot), tuple(Step(last, *each) for each in rows))
        return lower(local.rows, steps)
    robot = [Step(node, *each) for each in rows for node in (first, *own[:-1])]
    robot.append(Step(own[-1], *whole))
    return lower(local.rows, Steps(tuple(robot), (Step(last, *whole),)))


def _chain(local: LocalGraph) -> list[int]:
    rows = local.rows
    return [
        node.id
        for node in local.graph.nodes
        if node.id in rows.live and not rows.is_constant(node.id) and not rows.is_view(node.id)
    ]


def _taken_s(
    link: GraphLink, lane: DeviceLane, local: LocalGraph, work: Work, side: str, repeats: int
) -> float:
    """Seconds that ``side`` computes, a median."""
    link.open(local)
    data = {'data': _data(local.graph.inputs['data'].shape[0] or 0)}
    taken = []
    for repeat in range(1 + repeats):
        end_s = time.monotonic() + LIMIT_S
        ran = link.run_split(local, work, data, lane, end_s, timeline=True)
        if repeat and not ran.why_local:
            taken.append(ran.robot_s if side == 'robot' else ran.server_s)
    return median(taken) if taken else 0.0
