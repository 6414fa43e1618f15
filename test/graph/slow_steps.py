"""A second evaluator of plans with steps, written apart from the package's: sets of rows, and a
clock that goes from event to event. Whole rows only."""

from __future__ import annotations

import itertools
import math

from .slow_schedule import hull, rows_needed


class Refused(Exception):
    """Rows that nobody computes, or two sides that wait for each other."""


class Message:
    def __init__(self, operator, rows, order):
        self.operator, self.rows, self.order = operator, rows, order
        self.ready = self.arrival = None


def evaluate_steps(profile, steps, link):
    """Latency in s, bytes up and down; ``Refused``."""
    by_id = {each.id: each for each in profile.operators}
    lists = {'robot': list(steps.robot), 'server': list(steps.server)}
    reads = {side: [] for side in lists}  # per step: {operator: rows that must come over the link}
    for side, own in lists.items():
        have = {each.id: set() for each in profile.operators}
        if side == 'robot':
            for each in profile.operators:
                if each.is_input:
                    have[each.id] = set(range(each.width))
        for operator, start, stop in own:
            lacks = {}
            for producer in by_id[operator].inputs:
                need = rows_needed(profile, by_id[operator], by_id[producer], start, stop)
                if need - have[producer]:
                    lacks[producer] = need - have[producer]
            reads[side].append(lacks)
            have[operator] |= set(range(start, stop))
        if side == 'robot':
            result = {
                each.id: set(range(each.width)) - have[each.id]
                for each in profile.operators
                if each.is_output
            }
            reads[side].append({key: rows for key, rows in result.items() if rows})
    leaving = {
        'robot': leave(by_id, lists['robot'], reads['server']),
        'server': leave(by_id, lists['server'], reads['robot']),
    }
    first_inputs = inputs(by_id, reads['server'])
    return clock(profile, lists, reads, leaving, first_inputs, link)


def leave(by_id, own, reads):
    """The message of each step, or None."""
    wanted = {}
    for order, lacks in enumerate(reads):
        for operator, rows in lacks.items():
            for row in rows:
                wanted.setdefault(operator, {}).setdefault(row, order)
    done = {key: set() for key in by_id}
    messages = []
    for operator, start, stop in own:
        fresh = set(range(start, stop)) - done[operator]
        done[operator] |= fresh
        rows = {row for row in fresh if row in wanted.get(operator, ())}
        order = min((wanted[operator][row] for row in rows), default=None)
        messages.append(Message(operator, hull(rows), order) if rows else None)
    for operator, rows in wanted.items():
        if not by_id[operator].is_input and set(rows) - done[operator]:
            raise Refused
    return messages


def inputs(by_id, reads):
    messages, brought = [], {}
    for order, lacks in enumerate(reads):
        for operator, rows in sorted(lacks.items()):
            if by_id[operator].is_input:
                rest = rows - brought.setdefault(operator, set())
                if rest:
                    messages.append(Message(operator, hull(rest), order))
                    brought[operator] |= hull(rest)
    return messages


class Way:
    """One direction."""

    def __init__(self, profile, rate, link, sender, receiver):
        self.up = sender is profile.robot
        self.by_id = {each.id: each for each in profile.operators}
        self.rate, self.link, self.sender, self.receiver = rate, link, sender, receiver
        self.queue, self.free, self.amount = [], 0.0, 0.0
        self.arrivals = []  # (time, operator, rows, message)

    def size(self, message):
        operator = self.by_id[message.operator]
        return operator.message_bytes * len(message.rows) / operator.width

    def codec_s(self, message):
        encode, decode = self.sender.encode, self.receiver.decode
        operator, size = self.by_id[message.operator], self.size(message)
        part = len(message.rows) / operator.width
        ends = ('robot', 'server') if self.up else ('server', 'robot')
        own = getattr(operator, f'{ends[0]}_encode_s'), getattr(operator, f'{ends[1]}_decode_s')
        return (
            encode.fixed_s + encode.s_per_byte * size + part * own[0],
            decode.fixed_s + decode.s_per_byte * size + part * own[1],
        )

    def work(self, now):
        """Begin what can begin by ``now``."""
        while self.queue and self.free <= now:
            self.queue.sort(key=lambda each: (each.ready, each.order))
            message = self.queue.pop(0)
            size = self.size(message)
            encode_s, decode_s = self.codec_s(message)
            begin = max(self.free, message.ready + encode_s)
            if size:
                self.free = begin + (size / self.rate if self.rate else math.inf)
            else:
                self.free = begin
            self.amount += size
            late = self.link.delay_s + decode_s
            self.arrivals.append((self.free + late, message.operator, message.rows, message))


def clock(profile, lists, reads, leaving, first_inputs, link):
    by_id = {each.id: each for each in profile.operators}
    machines = {'robot': profile.robot, 'server': profile.server}
    use = link.utilisation
    ways = {
        'robot': Way(profile, use * link.uplink_bytes_per_s, link, *machines.values()),
        'server': Way(
            profile, use * link.downlink_bytes_per_s, link, *list(machines.values())[::-1]
        ),
    }
    incoming = {'robot': ways['server'], 'server': ways['robot']}
    for message in first_inputs:
        message.ready = 0.0
        ways['robot'].queue.append(message)
    place = dict.fromkeys(lists, 0)
    busy = dict.fromkeys(lists, None)  # end of the running step
    free = dict.fromkeys(lists, 0.0)
    taken = {side: set() for side in lists}  # arrivals that a step has waited for
    before = dict.fromkeys(lists, 0.0)  # handling of what left after the last step
    before['robot'] = sum(handling(machines['robot'], ways['robot'], each) for each in first_inputs)
    ended = {'robot': 0.0}
    now = 0.0
    while True:
        moved = True
        while moved:
            moved = False
            for side, own in lists.items():
                if busy[side] is not None and busy[side] <= now:
                    message = leaving[side][place[side]]
                    before[side] = 0.0
                    if message:
                        message.ready = busy[side]
                        ways[side].queue.append(message)
                        before[side] = handling(machines[side], ways[side], message)
                    if side == 'robot' and by_id[own[place[side]][0]].is_output:
                        ended['robot'] = busy[side]
                    free[side], busy[side] = busy[side], None
                    place[side] += 1
                    moved = True
                if busy[side] is None and place[side] < len(own):
                    lacks = reads[side][place[side]]
                    if there(lacks, incoming[side], now):
                        way, own_side = incoming[side], machines[side]
                        ready = free[side] + before[side]
                        for number, (_, operator, rows, message) in enumerate(way.arrivals):
                            if number not in taken[side] and rows & lacks.get(operator, set()):
                                taken[side].add(number)
                                ready += handling(own_side, way, message)
                        busy[side] = max(now, ready) + (own_side.resume_s if now > ready else 0.0)
                        busy[side] += seconds(profile, machines, side, own[place[side]])
                        moved = True
        for way in ways.values():
            way.work(now)
        later = [each for each in busy.values() if each is not None]
        for way in ways.values():
            later += [each[0] for each in way.arrivals if each[0] > now]
            if way.queue:
                later.append(way.free)
        later = [each for each in later if each > now and each < math.inf]
        if not later:
            break
        now = min(later)
    endless = any(math.isinf(each[0]) for way in ways.values() for each in way.arrivals)
    endless = endless or any(way.queue for way in ways.values())
    if any(place[side] < len(own) for side, own in lists.items()) and not endless:
        raise Refused
    latest = ended['robot']
    for operator, rows in reads['robot'][-1].items():
        for row in rows:
            when = [a[0] for a in ways['server'].arrivals if a[1] == operator and row in a[2]]
            latest = max([latest, *when]) if when else math.inf
    return latest, ways['robot'].amount, ways['server'].amount


def handling(machine, way, message):
    return machine.handling.fixed_s + machine.handling.s_per_byte * way.size(message)


def there(lacks, way, now):
    return all(
        any(when <= now and name == operator and row in got for when, name, got, _ in way.arrivals)
        for operator, rows in lacks.items()
        for row in rows
    )


def seconds(profile, machines, side, step):
    operator = {each.id: each for each in profile.operators}[step.operator]
    whole = operator.robot_s if side == 'robot' else operator.server_s
    launched = operator.robot_s > 0 or operator.server_s > 0
    share = (step.stop - step.start) / operator.width
    curve = machines[side].share_curve
    line = getattr(operator, f'{side}_part')
    if line and share < 1.0:
        return max(line[0] + line[1] * share, machines[side].floor_s if launched else 0.0)
    if curve and not line:
        for (x0, y0), (x1, y1) in itertools.pairwise(curve):
            if x0 <= share <= x1:
                share = y0 + (y1 - y0) * (share - x0) / (x1 - x0)
                break
    return max(whole * share, machines[side].floor_s if launched else 0.0)
