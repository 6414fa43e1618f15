"""An engine whose computing is done elsewhere: several at a time, and what dies is replaced."""

import threading
import time

import pytest
import torch

from offload_ros.models.errors import ModelError
from offload_ros.server.backend import InProcess, ReplicaLost
from offload_ros.server.batching import Batching
from offload_ros.server.engine import Engine
from offload_ros.wire.exchange import Status

from .asking import LONG_S, Answers, request


class Replicas(InProcess):
    """Two workers that compute when a test lets them, and die when it says so."""

    workers, remote = 2, True

    def __init__(self):
        self.gate, self.may_start = threading.Event(), threading.Event()
        self.gate.set()
        self.may_start.set()
        self.running, self.most, self.restored = 0, 0, []
        self.dies, self.known, self.closed = set(), [], False
        self.lock = threading.Lock()

    def add(self, model):
        self.known.append(model.name)

    def remove(self, model):
        self.known.remove(model.name)

    def run(self, worker, model, inputs):
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            assert self.gate.wait(LONG_S)
            if worker in self.dies or 'all' in self.dies:
                raise ReplicaLost(f'replica {worker} has died')
            return model.run(inputs)
        finally:
            with self.lock:
                self.running -= 1

    def restore(self, worker):
        if self.closed or not self.may_start.wait(0.05):
            return False
        self.restored.append(worker)
        return True

    def close(self):
        self.closed = True


def until(condition):
    end_s = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.001)


@pytest.fixture
def backend():
    return Replicas()


@pytest.fixture
def engine(model, backend):
    built = Engine('/server', 's', [model], queue_limit=8, backend=backend)
    yield built
    backend.gate.set()
    backend.may_start.set()
    built.close()


def test_as_many_run_at_a_time_as_there_are_replicas(engine, backend):
    answers = Answers()
    backend.gate.clear()
    for seq in range(5):
        engine.submit(request(seq, session=f'robot {seq}'), answers)
    until(lambda: backend.running == 2)
    assert engine.queue_length == 3
    backend.gate.set()
    assert sorted(reply.seq for reply in answers.wait_for(5)) == [0, 1, 2, 3, 4]
    assert {reply.status for reply in answers.replies} == {Status.OK}
    assert backend.most == 2


def test_lent_work_runs_beside_them(engine, backend):
    backend.gate.clear()
    for seq in (0, 1):
        engine.submit(request(seq), Answers())
    until(lambda: backend.running == 2)
    assert engine.lend(lambda: threading.current_thread().name) == 'lent'
    assert engine.lend(lambda: 7, in_turn=True) == 7


def test_busy_is_when_all_are_and_waits_are_shared(engine, backend):
    for _ in range(5):
        engine._computing.durations.add('hash1234567', 1, 10.0)
    backend.gate.clear()
    answers = Answers()
    engine.submit(request(0), answers)
    until(lambda: backend.running == 1)
    time.sleep(0.3)
    assert engine.busy_share() <= 0.55
    for seq in (1, 2, 3):  # 0 and 1 run, 2 and 3 follow
        engine.submit(request(seq, session=f'robot {seq}'), answers)
    engine.submit(request(4, budget_s=25.0), answers)
    assert (answers.replies[-1].seq, answers.replies[-1].status) == (4, Status.BUSY)
    engine.submit(request(5, budget_s=31.0), answers)
    assert len(answers.replies) == 1, 'it follows 2 and 3'
    until(lambda: engine.queue_length == 3)


def test_what_ran_in_one_that_dies_is_answered_and_the_other_goes_on(engine, backend, caplog):
    answers = Answers()
    backend.may_start.clear()
    backend.dies.add(0)
    backend.gate.clear()
    for seq in (0, 1):
        engine.submit(request(seq, session=f'robot {seq}'), answers)
    until(lambda: backend.running == 2)
    backend.gate.set()
    replies = answers.wait_for(2)
    errors = [reply for reply in replies if reply.status == Status.ERROR]
    assert [reply.detail for reply in errors] == ['replica 0 has died']
    for seq in range(2, 8):  # the other one does it all
        engine.submit(request(seq), answers)
        assert answers.wait_for(seq + 1)[-1].status == Status.OK
    backend.dies.clear()
    backend.may_start.set()
    until(lambda: backend.restored == [0])
    backend.gate.clear()
    for seq in (8, 9):
        engine.submit(request(seq, session=f'robot {seq}'), answers)
    until(lambda: backend.running == 2)
    assert 'replica 0 has died' in caplog.text


def test_without_any_replica_nobody_waits(engine, backend):
    answers = Answers()
    backend.may_start.clear()
    backend.dies.add('all')
    backend.gate.clear()
    for seq in range(4):
        engine.submit(request(seq, session=f'robot {seq}'), answers)
    until(lambda: backend.running == 2)
    backend.gate.set()
    replies = answers.wait_for(4)
    statuses = [reply.status for reply in replies]
    assert statuses.count(Status.BUSY) + statuses.count(Status.ERROR) == 4
    until(lambda: len(engine._down) == 2)
    engine.submit(request(5), answers)
    reply = answers.wait_for(5)[-1]
    assert (reply.status, reply.detail) == (
        Status.BUSY,
        'the replicas of the models are being started again',
    )
    backend.dies.clear()
    backend.may_start.set()
    until(lambda: not engine._down)
    engine.submit(request(6), answers)
    assert answers.wait_for(6)[-1].status == Status.OK


def test_close_does_not_wait_for_a_replica_that_does_not_start(model, backend):
    engine, answers = Engine('/server', 's', [model], backend=backend), Answers()
    backend.may_start.clear()
    backend.dies.add('all')
    engine.submit(request(0), answers)
    answers.wait_for(1)
    engine.close()
    assert backend.closed
    assert not any(thread.is_alive() for thread in engine._threads)


def test_a_batch_whose_replica_dies_is_answered_to_all(engine, backend, monkeypatch):
    answers = Answers()

    def ask(*seqs):
        before = len(answers.replies)
        backend.gate.clear()
        engine.batching = Batching(1)
        for seq in (100, 101):  # both are busy while the others gather
            engine.submit(request(seq + seqs[0], session=f'holder {seq}'), answers)
        until(lambda: backend.running == 2)
        engine.batching = Batching(4, 0.0)
        for seq in seqs:
            engine.submit(request(seq, session=f'robot {seq}'), answers)
        backend.gate.set()
        replies = answers.wait_for(before + 2 + len(seqs))
        return [reply for reply in replies if reply.seq in seqs]

    def die(worker, model, frames):
        raise ReplicaLost(f'replica {worker} has died')

    ask(1, 2, 3)
    until(
        lambda: (
            engine._computing._verdicts
            and all(each.tried for each in engine._computing._verdicts.values())
        )
    )
    monkeypatch.setattr(backend, 'run_batch', die)
    replies = ask(4, 5, 6)
    assert {reply.status for reply in replies} <= {Status.ERROR, Status.OK}
    assert Status.ERROR in {reply.status for reply in replies}
    assert all('has died' in r.detail for r in replies if r.status == Status.ERROR)


def test_models_are_told_to_the_backend_and_one_that_it_cannot_have_is_not_served(
    model, engine, backend, monkeypatch
):
    assert backend.known == ['tiny']
    assert engine.remove('tiny', model.variant)
    assert backend.known == []
    engine.add(model)
    assert engine.find('tiny', model.hash) is model

    def refuse(model):
        raise ModelError('no memory in replica 1')

    monkeypatch.setattr(backend, 'add', refuse)
    with pytest.raises(ModelError, match='no memory'):
        Engine('/server', 's', [model], backend=backend)
    assert backend.closed


def test_outputs_are_those_of_the_model(engine):
    answers = Answers()
    engine.submit(request(1), answers)
    assert torch.equal(answers.wait_for(1)[0].outputs['output'], torch.tensor([2.0, 4.0, 6.0]))
