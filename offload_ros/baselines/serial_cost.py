"""The cost of a layer cut when nothing overlaps: the model that DSCCS and MCOP minimise.

All operator times, and one transfer for each tensor that is needed on the other side, are added
up; outputs return to the robot. The evaluator, where both processors and both links work at once,
never takes longer than this sum for the same cut: each task of the critical path is in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offload_ros.graph.crossings import Halo, Windows
from offload_ros.graph.profile import Floats, Profile
from offload_ros.graph.schedule import Link
from offload_ros.policy.power import PowerModel

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class SerialCosts:
    """(n,) costs (s or J, or a weighted sum) of each operator on either side, and of its output's
    way up and down the link."""

    profile: Profile
    robot: Floats
    server: Floats
    up: Floats
    down: Floats

    @classmethod
    def of_time(cls, profile: Profile, link: Link) -> SerialCosts:
        """Seconds."""
        parts = _transfers_s(profile, link)
        up, down = (busy + waiting for busy, waiting in parts)
        robot, server = (np.maximum(*profile.times(side)) for side in ('robot', 'server'))
        return cls(profile, robot, server, up, down)

    @classmethod
    def of_energy(cls, profile: Profile, link: Link, power: PowerModel) -> SerialCosts:
        """Joules of the robot, which waits while the server computes."""
        time = cls.of_time(profile, link)
        up, down = (
            _times(power.communicating_w, busy) + _times(power.standby_w, waiting)
            for busy, waiting in _transfers_s(profile, link)
        )
        robot, server = power.computing_w * time.robot, power.standby_w * time.server
        return cls(profile, robot, server, up, down)

    def plus(self, weight: float, other: SerialCosts) -> SerialCosts:
        """This and ``weight`` times ``other``."""
        return SerialCosts(
            self.profile,
            *(
                own + _times(weight, more)
                for own, more in (
                    (self.robot, other.robot),
                    (self.server, other.server),
                    (self.up, other.up),
                    (self.down, other.down),
                )
            ),
        )

    def scaled(self, factor: float) -> SerialCosts:
        """All of it times ``factor``."""
        parts = (self.robot, self.server, self.up, self.down)
        return SerialCosts(self.profile, *(_times(factor, part) for part in parts))

    def total(self, on_server: Flags) -> Floats:
        """(P,) of layer cuts ``on_server`` (n, P); inputs must be on the robot."""
        crossings = Windows(self.profile, Halo.EXACT).cut_crossings(on_server)
        side = np.where(on_server, self.server[:, None], self.robot[:, None])
        up = np.where(crossings.up_rows > 0.0, self.up[:, None], 0.0)
        down = np.where(crossings.down_rows > 0.0, self.down[:, None], 0.0)
        total: Floats = (side + up + down).sum(axis=0)
        return total


def _times(factor: float, values: Floats) -> Floats:
    """0 times infinity is 0 here: what has no weight does not count."""
    return factor * values if factor else np.zeros_like(values)


def uplink_codec_s(profile: Profile) -> Floats:
    """(n,) to encode each output on the robot and to decode it on the server."""
    return profile.encode_s('robot') + profile.decode_s('server')


def downlink_codec_s(profile: Profile) -> Floats:
    """(n,) the other way."""
    return profile.encode_s('server') + profile.decode_s('robot')


def _transfers_s(profile: Profile, link: Link) -> tuple[tuple[Floats, Floats], ...]:
    """Up and down: (n,) seconds that each output occupies the link, and waits beside that."""
    size = profile.column('message_bytes')
    found = []
    for bandwidth, sender, receiver, coding_s in (
        (link.uplink_bytes_per_s, profile.robot, profile.server, uplink_codec_s(profile)),
        (link.downlink_bytes_per_s, profile.server, profile.robot, downlink_codec_s(profile)),
    ):
        rate = link.utilisation * bandwidth
        with np.errstate(divide='ignore', invalid='ignore'):
            busy = np.where(size > 0.0, size / np.float64(rate), 0.0)
        waiting = link.delay_s + coding_s
        for codec in (sender.encode, receiver.decode):
            waiting += codec.fixed_s + codec.s_per_byte * size
        found.append((busy, waiting))
    return tuple(found)
