"""A second evaluator, written apart from the one in the package: row by row, event by event, with
nothing in common but its documentation. Slow, for small profiles."""

from __future__ import annotations

from itertools import pairwise
import math

PARTS = ('robot', 'server')


def rows_needed(profile, reader, producer, start, stop):
    """The set of rows of ``producer`` that rows [start, stop) of ``reader`` need."""
    if stop <= start:
        return set()
    everything = set(range(producer.width))
    if not reader.split or stop - start == reader.width:
        return everything
    made = math.floor((producer.width + 2 * reader.padding - reader.kernel) / reader.stride) + 1
    doubled = reader.stride < 1 and reader.width * reader.stride == producer.width
    if made != reader.width and not doubled:
        return everything
    first = math.floor(start * reader.stride - reader.padding)
    last = math.ceil((stop - 1) * reader.stride - reader.padding + reader.kernel)
    return everything & set(range(first, last))


def hull(rows):
    """All from the least to the largest."""
    return set(range(min(rows), max(rows) + 1)) if rows else set()


def evaluate(profile, plan, link):
    """Latency in s, bytes up, bytes down, and seconds (computing, communicating) of the robot."""
    own = {
        side: {
            operator.id: set(range(*map(int, getattr(plan, side)[place])))
            for place, operator in enumerate(profile.operators)
        }
        for side in PARTS
    }
    by_id = {operator.id: operator for operator in profile.operators}
    wanted = {side: {each: set() for each in by_id} for side in PARTS}
    waits = {side: set() for side in PARTS}
    for reader in profile.operators:
        for producer in (by_id[each] for each in reader.inputs):
            for side in PARTS:
                rows = own[side][reader.id]
                if not rows:
                    continue
                need = rows_needed(profile, reader, producer, min(rows), max(rows) + 1)
                wanted[side][producer.id] |= need
                if need - own[side][producer.id]:
                    waits[side].add((reader.id, producer.id))
    for operator in profile.operators:
        if operator.is_output:
            wanted['robot'][operator.id] |= set(range(operator.width))
    free = {'robot': 0.0, 'server': 0.0, 'up': 0.0, 'down': 0.0}
    arrived = {side: {} for side in PARTS}
    done = {side: {} for side in PARTS}
    amount = {'up': 0.0, 'down': 0.0}
    computing, talking = [], []
    rate = {
        'up': link.utilisation * link.uplink_bytes_per_s,
        'down': link.utilisation * link.downlink_bytes_per_s,
    }
    machines = {'robot': profile.robot, 'server': profile.server}
    for operator in profile.operators:
        for side in PARTS:
            rows = own[side][operator.id]
            if not rows:
                continue
            begin = free[side]
            for each in operator.inputs:
                if (operator.id, each) in waits[side]:
                    begin = max(begin, arrived[side][each])
            whole = operator.robot_s if side == 'robot' else operator.server_s
            launched = operator.robot_s > 0 or operator.server_s > 0
            floor = machines[side].floor_s if launched else 0.0
            end = begin + max(whole * len(rows) / operator.width, floor)
            free[side] = done[side][operator.id] = end
            if side == 'robot':
                computing.append((begin, end))
        for side, other, way in (('server', 'robot', 'up'), ('robot', 'server', 'down')):
            missing = hull(wanted[side][operator.id]) - own[side][operator.id]
            if not missing:
                continue
            assert missing <= own[other][operator.id]
            part = len(missing) / operator.width
            whole = operator.output_bytes if operator.wire_bytes is None else operator.wire_bytes
            size = whole * part
            encode, decode = machines[other].encode, machines[side].decode
            encode_s = encode.fixed_s + encode.s_per_byte * size
            encode_s += part * getattr(operator, f'{other}_encode_s')
            decode_s = decode.fixed_s + decode.s_per_byte * size
            decode_s += part * getattr(operator, f'{side}_decode_s')
            begin = max(free[way], done[other][operator.id] + encode_s)
            free[way] = begin + size / rate[way]
            talking.append((begin, free[way]))
            amount[way] += size
            arrived[side][operator.id] = free[way] + link.delay_s + decode_s
    latency = 0.0
    for operator in profile.operators:
        if operator.is_output:
            if own['robot'][operator.id]:
                latency = max(latency, done['robot'][operator.id])
            if operator.id in arrived['robot']:
                latency = max(latency, arrived['robot'][operator.id])
    return latency, amount['up'], amount['down'], _states(computing, talking, latency)


def _states(computing, talking, latency):
    """By looking at each piece between two moments at which anything changes."""
    moments = sorted({0.0, latency, *(m for each in computing + talking for m in each)})
    seconds = [0.0, 0.0]
    for left, right in pairwise(moments):
        if right > latency:
            break
        middle = 0.5 * (left + right)
        if any(begin < middle < end for begin, end in computing):
            seconds[0] += right - left
        elif any(begin < middle < end for begin, end in talking):
            seconds[1] += right - left
    return tuple(seconds)
