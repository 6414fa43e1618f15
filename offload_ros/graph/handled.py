"""What messages take from a side's computing while it walks its steps (``Side.handling``)."""

from __future__ import annotations

from collections.abc import Sequence

from offload_ros.graph.profile import TransferCost
from offload_ros.graph.steps_flow import AT_ONCE, Message, Walk


def inputs_of(messages: Sequence[Message]) -> int:
    """How many of ``messages`` leave at once: they come first."""
    for place, each in enumerate(messages):
        if each.step != AT_ONCE:
            return place
    return len(messages)


def handled(
    walk: Walk,
    cost: TransferCost,
    incoming: Sequence[float],
    outgoing: Sequence[float],
    at_once: int = 0,
) -> Sequence[float]:
    """Seconds before each step: of messages that it is the first to wait for, and of those that
    left after the step before; before the first one, of the first ``at_once`` that leave.
    ``incoming``, ``outgoing``: bytes of the messages."""
    before_s = [0.0] * len(walk.steps)
    fixed_s, s_per_byte = cost.fixed_s, cost.s_per_byte
    if not before_s or not (fixed_s or s_per_byte):
        return before_s
    known: set[int] = set()
    before_s[0] = sum(fixed_s + s_per_byte * size for size in outgoing[:at_once])
    for step, waits in enumerate(walk.waits):
        for message in waits:
            if message not in known:
                known.add(message)
                before_s[step] += fixed_s + s_per_byte * incoming[message]
    for step, sent in enumerate(walk.sends[:-1], 1):
        if sent is not None:
            before_s[step] += fixed_s + s_per_byte * outgoing[sent]
    return before_s
