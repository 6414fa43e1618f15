"""Operators merged into layers: a shorter problem with the same best layer cut.

Between producer u and its only reader v, which reads nothing else, no cut is better than one beside
them where the server is at least as fast for both, u reads one tensor that is no larger than its
own, and v's output is no larger than u's: a cut from robot to server moves before u, one from
server to robot after v, and neither the work nor the bytes grow. Most activations, normalisations
and additions go with their convolution. This holds exactly for serial costs (``serial_cost``); in
the evaluator, where both sides work at once, it is a heuristic.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from offload_ros.baselines.serial_cost import downlink_codec_s, uplink_codec_s
from offload_ros.graph.profile import CODING_TIMES, Profile, ProfiledOperator

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Layers:
    """``profile``: one operator per layer, launch floors within its times. ``layer_of``: (n,) place
    in it of each operator of the original."""

    profile: Profile
    layer_of: NDArray[np.int64]

    def shrink(self, on_server: Flags) -> Flags:
        """(n,) sides of operators to (layers,): of the last operator of each layer."""
        layers = np.zeros(len(self.profile), dtype=bool)
        layers[self.layer_of] = on_server
        return layers

    def expand(self, on_server: Flags) -> Flags:
        """(layers, ...) sides of layers to (n, ...) sides of operators."""
        expanded: Flags = on_server[self.layer_of]
        return expanded


class Transfers(NamedTuple):
    """(n,) bytes that cross of each output, and what its codec takes (s) up and down."""

    size: NDArray[np.float64]
    up_s: NDArray[np.float64]
    down_s: NDArray[np.float64]

    def no_dearer(self, one: int, other: int) -> bool:
        """Whether ``one`` crosses at no more cost than ``other``, whatever the link."""
        return all(bool(each[one] <= each[other]) for each in self)


def merged_layers(profile: Profile) -> Layers:
    """Merge what can be; see the module."""
    robot_s, server_s = (np.maximum(*profile.times(side)) for side in ('robot', 'server'))
    transfers = Transfers(
        profile.column('message_bytes'),
        uplink_codec_s(profile),
        downlink_codec_s(profile),
    )
    gains = robot_s >= server_s
    last: dict[int, int] = {}  # of a group by its last operator so far: the group's first
    groups: dict[int, list[int]] = {}
    for place, operator in enumerate(profile.operators):
        producers = profile.producers[place]
        joins = (
            len(producers) == 1
            and producers[0] in last
            and _inseparable(profile, producers[0], place, transfers)
            and bool(gains[producers[0]] and gains[place])
        )
        first = last.pop(producers[0]) if joins else place
        groups.setdefault(first, []).append(place)
        if not operator.is_input:
            last[place] = first
    ordered = sorted(groups.values(), key=lambda group: group[-1])
    layer_of = np.empty(len(profile), dtype=np.int64)
    for layer, group in enumerate(ordered):
        layer_of[group] = layer
    operators = tuple(
        _layer(profile, layer, group, layer_of, float(robot_s[group].sum()), server_s)
        for layer, group in enumerate(ordered)
    )
    sides = {
        'robot': replace(profile.robot, floor_s=0.0),
        'server': replace(profile.server, floor_s=0.0),
    }
    return Layers(Profile(profile.model, operators, **sides), layer_of)


def _inseparable(profile: Profile, u: int, v: int, transfers: Transfers) -> bool:
    """No good cut lies between ``u`` and ``v``, which reads only ``u``, as far as bytes tell, and
    their codecs."""
    before = profile.producers[u]
    return (
        len(profile.consumers[u]) == 1
        and not profile.operators[u].is_output
        and len(before) == 1
        and transfers.no_dearer(before[0], u)
        and transfers.no_dearer(v, u)
    )


def _layer(
    profile: Profile,
    layer: int,
    group: list[int],
    layer_of: NDArray[np.int64],
    robot_s: float,
    server_s: NDArray[np.float64],
) -> ProfiledOperator:
    """One operator that stands for ``group``, as a barrier: layer cuts have no parts."""
    first, final = group[0], profile.operators[group[-1]]
    producers = dict.fromkeys(int(layer_of[each]) for each in profile.producers[first])
    return ProfiledOperator(
        id=layer,
        name=final.name,
        inputs=tuple(producers),
        width=1,
        output_bytes=final.output_bytes,
        robot_s=robot_s,
        server_s=float(server_s[group].sum()),
        is_input=final.is_input,
        is_output=final.is_output,
        wire_bytes=final.wire_bytes,
        codec=final.codec,
        **{name: getattr(final, name) for name in CODING_TIMES},
    )
