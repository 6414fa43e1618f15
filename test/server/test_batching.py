"""Requests of several robots are computed together: rightly, in turn, in time, and only where a
model can be."""

import logging
import threading
import time

import pytest
import torch
from torch import nn

from offload_ros.models.config import InputSpec, ModelConfig, Source
from offload_ros.models.model import Model
from offload_ros.server.batching import Batching
from offload_ros.server.engine import Engine
from offload_ros.wire.exchange import Status

from .asking import LONG_S, Answers, request


def made(network, name='tiny', content_hash='hash1234567'):
    """Return a model of any input."""
    scan = InputSpec('x', 'topic', 'sensor_msgs/msg/LaserScan')
    config = ModelConfig(name, Source(python='m:f'), inputs=(scan,))
    return Model(config, network.eval(), content_hash, True)


class Held(nn.Module):
    """Waits for its gate, then gives x + 1; counts its forwards."""

    def __init__(self):
        super().__init__()
        self.gate, self.began = threading.Event(), threading.Event()
        self.gate.set()
        self.forwards = 0

    def forward(self, x):
        self.forwards += 1
        self.began.set()
        assert self.gate.wait(LONG_S)
        return x + 1


class Server:
    """An engine and what robots ask of it; ``hold`` keeps it busy while they ask."""

    def __init__(self, network, *others, **batching):
        self.holder = Held()
        models = [made(network), made(self.holder, 'holder', 'hash of holder'), *others]
        self.engine = Engine('/server', 's', models, queue_limit=64)
        self.engine.batching = Batching(**batching)
        self.answers, self.asked = Answers(), {}

    def hold(self):
        self.holder.gate.clear()
        self.holder.began.clear()
        fields = {'model': 'holder', 'model_hash': 'hash of holder', 'session': 'holder'}
        self.engine.submit(request(0, **fields), lambda reply: None)
        assert self.holder.began.wait(LONG_S)

    def ask(self, seq, robot='', **fields):
        """One request; each robot is one of its own unless it is named."""
        x = torch.tensor([float(seq), 1.0, -2.0])
        values = {'session': robot or f'robot {seq}', 'inputs': {'x': x}, **fields}
        self.asked[seq] = values['inputs']['x']
        self.engine.submit(request(seq, **values), self.answers)

    def let_go(self, count):
        """The replies to all so far, by number, in the order in which they came."""
        self.holder.gate.set()
        return {reply.seq: reply for reply in self.answers.wait_for(count)}

    def together(self, *seqs, **fields):
        """The replies to requests that waited at the same time."""
        before = len(self.answers.replies)
        self.hold()
        for seq in seqs:
            self.ask(seq, **fields)
        replies = self.let_go(before + len(seqs))
        return [replies[seq] for seq in seqs]

    def close(self):
        self.holder.gate.set()
        self.engine.close()


@pytest.fixture
def serve():
    """Return what makes a server; all are closed."""
    servers = []

    def start(network, *others, **batching):
        servers.append(Server(network, *others, **batching))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def sizes(replies):
    return [reply.batched_with + 1 for reply in replies]


def right(server, replies, compute=lambda x: x * 2):
    """Whether each reply is to its own request."""
    assert [reply.status for reply in replies] == [Status.OK] * len(replies)
    for reply in replies:
        assert torch.equal(reply.outputs['output'], compute(server.asked[reply.seq]))


class Twice(nn.Module):
    """2 x, exactly in any batch; counts its forwards."""

    def __init__(self):
        super().__init__()
        self.forwards = 0

    def forward(self, x):
        self.forwards += 1
        return x * 2


def test_without_the_parameter_nothing_is_batched(serve):
    server = serve(Twice())
    for seqs in ((1, 2, 3), (4, 5)):
        replies = server.together(*seqs)
        right(server, replies)
        assert sizes(replies) == [1] * len(seqs)
    assert server.engine.batches == (0, 0)


def test_first_ones_are_computed_both_ways_and_later_ones_together(serve):
    network = Twice()
    server = serve(network, max_batch=8)
    first = server.together(1, 2, 3)
    right(server, first)
    assert sizes(first) == [1, 1, 1], 'what is answered is exact until it is known to agree'
    server.together()
    assert network.forwards == 4
    for seqs in ((4, 5), (6, 7, 8, 9, 10)):
        replies = server.together(*seqs)
        right(server, replies)
        assert sizes(replies) == [len(seqs)] * len(seqs)
    assert network.forwards == 6
    assert server.engine.batches == (2, 7)
    one = replies[0]
    assert 0.0 < one.compute_s <= one.server_s and 0.0 <= one.queue_s < one.server_s
    assert len({reply.compute_s for reply in replies}) == 1


def test_batches_are_as_large_as_allowed_and_the_rest_follows(serve):
    server = serve(Twice(), max_batch=3)
    server.together(1, 2)
    replies = server.together(*range(10, 17))
    right(server, replies)
    assert sizes(replies) == [3, 3, 3, 3, 3, 3, 1]


def test_parameters_hold_from_the_next_batch_on(serve):
    server = serve(Twice(), max_batch=8)
    server.together(1, 2)
    assert sizes(server.together(3, 4)) == [2, 2]
    server.engine.batching = Batching(1)
    assert sizes(server.together(5, 6)) == [1, 1]
    server.engine.batching = Batching(2)
    assert sizes(server.together(7, 8, 9)) == [2, 2, 1]


def test_models_and_shapes_are_not_mixed(serve):
    class Thrice(nn.Module):
        def forward(self, x):
            return x * 3

    server = serve(Twice(), made(Thrice(), 'other', 'other hash'), max_batch=8)
    other = {'model': 'other', 'model_hash': 'other hash'}
    large = {'inputs': {'x': torch.ones(5)}}
    double = {'inputs': {'x': torch.ones(3, dtype=torch.double)}}
    for turn in (0, 100):  # the first time each is tried
        server.hold()
        for seq in (1, 2, 3):
            server.ask(turn + seq)
            server.ask(turn + seq + 10, **other)
        for seq, fields in ((21, large), (22, large), (31, double)):
            server.ask(turn + seq, **fields)
        replies = server.let_go((turn // 100 + 1) * 9)
    right(server, [replies[101], replies[102], replies[103], replies[121], replies[131]])
    right(server, [replies[111], replies[112], replies[113]], lambda x: x * 3)
    found = sizes([replies[100 + seq] for seq in (1, 2, 3, 11, 12, 13, 21, 22, 31)])
    assert found == [3, 3, 3, 3, 3, 3, 2, 2, 1]


def test_a_cancelled_one_leaves_the_batch(serve):
    server = serve(Twice(), max_batch=8)
    server.together(1, 2)
    server.hold()
    for seq in (3, 4, 5):
        server.ask(seq)
    assert server.engine.cancel('robot 4', 4)
    server.engine.drop('robot 5')
    server.ask(6)
    replies = server.let_go(4)
    assert sorted(replies) == [1, 2, 3, 6]
    assert sizes([replies[3], replies[6]]) == [2, 2]


def test_one_that_is_too_late_is_not_computed_and_the_others_are(serve):
    server = serve(Twice(), max_batch=8)
    server.together(1, 2)
    server.hold()
    server.ask(3)
    server.ask(4, budget_s=0.05)
    server.ask(5)
    time.sleep(0.1)
    replies = server.let_go(5)
    assert replies[4].status == Status.EXPIRED
    right(server, [replies[3], replies[5]])
    assert sizes([replies[3], replies[5]]) == [2, 2]


def test_whoever_asks_much_is_in_a_batch_once_before_the_others(serve):
    server = serve(Twice(), max_batch=2)
    server.together(1, 2)
    server.hold()
    for seq in (10, 11, 12):
        server.ask(seq, robot='greedy')
    server.ask(20, robot='modest')
    replies = server.let_go(6)
    assert list(replies)[2:] == [10, 20, 11, 12]


class Picky(nn.Module):
    """2 x, together too, but fails on what is negative."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, x):
        self.calls.append(1)
        if x[0] < 0:
            raise ValueError('negative')
        return x * 2

    def batched(self, x):
        self.calls.append(len(x))
        if bool((x[:, 0] < 0).any()):
            raise ValueError('one is negative')
        return x * 2


def test_an_error_of_one_is_its_own(serve, caplog):
    network = Picky()
    server = serve(network, max_batch=8)
    server.together(1, 2)
    for turn in (10, 20, 30):
        server.hold()
        server.ask(turn)
        server.ask(turn + 1, inputs={'x': torch.tensor([-1.0, 0.0, 0.0])})
        server.ask(turn + 2)
        replies = server.let_go(len(server.answers.replies) + 3)
        assert replies[turn + 1].status == Status.ERROR
        assert replies[turn + 1].detail == "model 'tiny' failed: ValueError: negative"
        right(server, [replies[turn], replies[turn + 2]])
        assert sizes([replies[turn], replies[turn + 2]]) == [1, 1]
        if turn == 10:
            assert sizes(server.together(14, 15)) == [2, 2], 'a mistake of a robot is forgiven'
    # Not for ever: the others would pay for each batch that fails.
    assert sizes(server.together(40, 41)) == [1, 1]
    assert network.calls[-2:] == [1, 1]
    assert caplog.messages[0] == "model 'tiny' failed: ValueError: negative"
    assert len(caplog.records) == 2
    assert 'computed one by one, not in batches: ValueError: one is negative' in caplog.text


class Branches(nn.Module):
    """Goes another way for what is negative: no forward of several can do that."""

    def forward(self, x):
        return x * 2 if x[0] >= 0 else x * 3


class Lies(Twice):
    """Its batched form computes something else."""

    def batched(self, x):
        self.forwards += 1
        return x * 2.001


class Drops(Twice):
    """Its batched form forgets a frame."""

    def batched(self, x):
        return x[1:] * 2


@pytest.mark.parametrize(
    ('network', 'why'),
    [
        (Branches(), 'RuntimeError: vmap'),
        (Lies(), "something else: 'output' differs by up to"),
        (Drops(), "'output' is (1, 3) for 2 frames"),
    ],
)
def test_models_that_cannot_be_batched_are_found_out_once(serve, caplog, network, why):
    server = serve(network, max_batch=8, gather_s=LONG_S)
    for seqs in ((1, 2), (3, 4, 5), (6, 7)):
        replies = server.together(*seqs)
        right(server, replies)
        assert sizes(replies) == [1] * len(seqs)
    assert len(caplog.records) == 1
    assert caplog.records[0].levelno == logging.WARNING
    assert "model 'tiny' is computed one by one, not in batches: " in caplog.text
    assert why in caplog.text
    server.ask(8)  # nor does one wait for others
    assert server.answers.wait_for(8)[-1].queue_s < LONG_S


class Shapes(nn.Module):
    """As many outputs as the first value says: together only where all say the same."""

    def forward(self, x):
        return x.new_zeros(1)

    def batched(self, x):
        counts = {int(each) for each in x[:, 1]}
        assert len(counts) == 1, 'frames have different counts'
        return x.new_zeros(len(x), 1)


def test_a_model_that_passes_the_trial_and_fails_later_is_answered_all_the_same(serve, caplog):
    server = serve(Shapes(), max_batch=8)
    server.together(1, 2)
    assert sizes(server.together(3, 4)) == [2, 2]
    server.hold()
    server.ask(5)
    server.ask(6, inputs={'x': torch.tensor([6.0, 3.0, 0.0])})
    replies = server.let_go(6)
    right(server, [replies[5], replies[6]], lambda x: torch.zeros(1))
    assert sizes(server.together(7, 8)) == [1, 1]
    assert 'frames have different counts' in caplog.text


class Greedy(Twice):
    """Has memory for three."""

    def batched(self, x):
        if len(x) > 3:
            raise torch.cuda.OutOfMemoryError('CUDA out of memory')
        return x * 2


def test_without_memory_batches_become_smaller(serve, caplog):
    server = serve(Greedy(), max_batch=8)
    for first in (10, 20):
        right(server, server.together(*range(first, first + 5)))
    assert 'no memory for 5 frames together: 3 at most' in caplog.text
    replies = server.together(*range(30, 35))
    right(server, replies)
    assert sizes(replies) == [3, 3, 3, 2, 2]


def test_a_robot_alone_does_not_wait_for_others(serve):
    server = serve(Twice(), max_batch=8, gather_s=LONG_S)
    for seq in (1, 2, 3):
        server.ask(seq, robot='the only one')
        assert server.answers.wait_for(seq)[-1].queue_s < LONG_S / 2


def test_one_waits_for_those_who_asked_lately(serve):
    server = serve(Twice(), max_batch=8, gather_s=LONG_S)
    server.together(1, 2)
    server.engine.batching = Batching(8, 0.0)
    server.together(3, 4)  # both have asked within the last second now
    server.engine.batching = Batching(8, LONG_S)
    server.ask(5, robot='robot 3')
    time.sleep(0.05)
    assert len(server.answers.replies) == 4
    server.ask(6, robot='robot 4')
    replies = server.let_go(6)
    # Had a second passed by now, each would have gone alone.
    assert sizes([replies[5], replies[6]]) in ([2, 2], [1, 1])
    assert replies[6].queue_s < LONG_S / 2
    right(server, [replies[5], replies[6]])


def test_waiting_for_others_ends_within_the_budget(serve):
    server = serve(Twice(), max_batch=8, gather_s=LONG_S)
    server.together(1, 2)
    server.ask(3, robot='robot 1', budget_s=3.0)
    reply = server.answers.wait_for(3)[-1]
    assert reply.status == Status.OK
    assert reply.queue_s < 3.0


def test_what_waits_for_others_can_be_cancelled_and_is_answered_by_close(serve):
    server = serve(Twice(), max_batch=8, gather_s=LONG_S)
    server.together(1, 2, robot='one')
    # Never more than the budget allows, so that these wait for sure.
    server.engine._turns._heard_s[server_group(server), 'absent'] = time.monotonic() + LONG_S
    server.ask(3)
    server.ask(4)
    assert server.engine.queue_length == 2
    assert server.engine.cancel('robot 3', 3)
    server.engine.close()
    reply = server.answers.wait_for(3)[-1]
    assert (reply.seq, reply.status, reply.detail) == (4, Status.BUSY, 'server is closing')


def server_group(server):
    """Return the group of the requests that ``ask`` makes."""
    return next(group for group, _ in server.engine._turns._heard_s if group[0] == 'tiny')


def test_lent_work_and_other_models_are_not_held_up_by_waiting(serve):
    server = serve(Twice(), max_batch=8, gather_s=LONG_S)
    server.together(1, 2)
    server.engine._turns._heard_s[server_group(server), 'absent'] = time.monotonic() + LONG_S
    server.ask(3)
    assert server.engine.lend(lambda: 7) == 7
    right(server, [server.answers.wait_for(3)[-1]])
    server.ask(4)
    done = Answers()
    fields = {'model': 'holder', 'model_hash': 'hash of holder', 'session': 'holder'}
    server.engine.submit(request(50, **fields), done)
    assert done.wait_for(1)[0].status == Status.OK
    right(server, [server.answers.wait_for(4)[-1]])


def test_expected_waits_are_those_of_batches(serve):
    server = serve(Twice(), max_batch=4)
    server.together(1, 2)
    durations = server.engine._computing.durations
    for _ in range(5):
        durations.add('hash of holder', 1, 10.0)
        durations.add('hash1234567', 1, 10.0)
        durations.add('hash1234567', 4, 12.0)
    server.hold()
    for seq in (11, 12, 13):
        server.ask(seq, budget_s=100.0)
    # 10 s of what runs and 12 s of four together; one by one it would take 50 s.
    server.ask(14, budget_s=25.0)
    assert len(server.answers.replies) == 2
    server.ask(15, budget_s=25.0)  # the fifth is in the second batch
    reply = server.answers.replies[-1]
    assert (reply.seq, reply.status) == (15, Status.BUSY)
    assert reply.detail.startswith('server is busy: it would take ')
    server.engine.batching = Batching(1)
    server.ask(16, budget_s=35.0)
    assert server.answers.replies[-1].status == Status.BUSY
    replies = server.let_go(8)
    right(server, [replies[seq] for seq in (11, 12, 13, 14)])
    assert server.engine.busy_share() <= 1.0


def test_many_robots_are_answered_exactly_once_whatever_happens(serve):
    class Slow(Twice):
        def forward(self, x):
            time.sleep(0.002)
            return super().forward(x)

    server = serve(Slow(), max_batch=4, gather_s=0.001)

    def play(robot):
        for index in range(60):
            seq = robot * 1000 + index
            server.ask(seq, robot=f'robot {robot}', budget_s=0.0 if index % 9 == 0 else LONG_S)
            if index % 7 == 0:
                cancelled[robot] += server.engine.cancel(f'robot {robot}', seq)
            if index % 10 == 0:
                server.engine.batching = Batching(5 - index // 10 % 5, 0.0005 * (index // 10 % 3))

    cancelled = [0] * 6
    threads = [threading.Thread(target=play, args=(robot,)) for robot in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)
    replies = server.answers.wait_for(6 * 60 - sum(cancelled))
    server.engine.close()
    assert len({reply.seq for reply in server.answers.replies}) == len(server.answers.replies)
    assert len(replies) == 6 * 60 - sum(cancelled)
    right(server, [reply for reply in replies if reply.status == Status.OK])
    assert server.engine.batches[0] > 0
