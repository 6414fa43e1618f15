"""Every layer cut of a small profile, and its cost by a sum written apart from the package's."""

from __future__ import annotations

from itertools import product

import numpy as np


def all_cuts(profile):
    """(n, 2^movable) sides, inputs on the robot."""
    choices = [(False,) if operator.is_input else (False, True) for operator in profile.operators]
    return np.array(list(product(*choices)), dtype=bool).T


def serial_total(profile, link, on_server, watts=(1.0, 1.0, 1.0, 1.0)):
    """Operator by operator, tensor by tensor. ``watts``: while the robot computes, the server
    computes, a message is on the link, and during its delay or coding; all 1: seconds."""
    robot_w, server_w, link_w, delay_w = watts
    total = 0.0
    for place, operator in enumerate(profile.operators):
        there = bool(on_server[place])
        seconds = operator.server_s if there else operator.robot_s
        total += seconds * (server_w if there else robot_w)
        sides = {bool(on_server[reader]) for reader in profile.consumers[place]}
        if operator.is_output:
            sides.add(False)
        if (not there) in sides:
            bandwidth = link.downlink_bytes_per_s if there else link.uplink_bytes_per_s
            size = operator.output_bytes if operator.wire_bytes is None else operator.wire_bytes
            sender, receiver = ('server', 'robot') if there else ('robot', 'server')
            encode, decode = getattr(profile, sender).encode, getattr(profile, receiver).decode
            codec_s = encode.fixed_s + encode.s_per_byte * size
            codec_s += decode.fixed_s + decode.s_per_byte * size
            codec_s += getattr(operator, f'{sender}_encode_s')
            codec_s += getattr(operator, f'{receiver}_decode_s')
            total += link_w * size / (link.utilisation * bandwidth)
            total += delay_w * (link.delay_s + codec_s)
    return total


def least_serial(profile, link, watts=(1.0, 1.0, 1.0, 1.0)):
    return min(serial_total(profile, link, cut, watts) for cut in all_cuts(profile).T)
