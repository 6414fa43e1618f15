"""Each request is answered exactly once: computed, or with the cause why not."""

from collections import Counter
import sys
import threading
import time

import pytest
import torch

from offload_ros.models.errors import ModelError
from offload_ros.server.engine import Engine
from offload_ros.wire.exchange import Status

from .asking import LONG_S, Answers, X, request


@pytest.fixture
def answers():
    return Answers()


@pytest.fixture
def engine(model):
    built = Engine('/server', 'server session', [model], queue_limit=3)
    yield built
    model.network.open.set()
    built.close()


@pytest.fixture
def held(engine, gate, answers):
    """Hold the engine in its first request until the returned module's gate is opened."""
    gate.open.clear()
    gate.began.clear()
    engine.submit(request(0), answers)
    assert gate.began.wait(LONG_S)
    return gate


def test_request_is_computed_and_answered(engine, answers):
    engine.submit(request(7), answers)
    (reply,) = answers.wait_for(1)
    assert reply.status == Status.OK
    assert torch.equal(reply.outputs['output'], X * 2)
    assert (reply.server, reply.server_session) == ('/server', 'server session')
    assert (reply.session, reply.seq, reply.detail) == ('robot session', 7, '')
    assert 0.0 <= reply.queue_s <= reply.server_s < LONG_S
    assert 0.0 < reply.compute_s <= reply.server_s


def test_requests_run_in_one_thread_in_the_order_they_came(engine, held, answers):
    for seq in (1, 2, 3):
        engine.submit(request(seq), answers)
    assert engine.queue_length == 3
    held.open.set()
    assert [reply.seq for reply in answers.wait_for(4)] == [0, 1, 2, 3]
    assert held.threads == {'engine'}
    assert engine.queue_length == 0


def test_work_in_turn_takes_turns_with_requests(engine, held, answers):
    """Neither a full queue nor a row of such work holds the other up; other lent work waits."""
    order = []
    for seq in (1, 2):
        engine.submit(request(seq), lambda reply: order.append(reply.seq))

    def lend(name, in_turn):
        thread = threading.Thread(
            target=lambda: engine.lend(lambda: order.append(name), in_turn=in_turn)
        )
        thread.start()
        waiting = engine._in_turn if in_turn else engine._lent
        before_s = time.monotonic()
        while len(waiting) < expected[in_turn]:
            assert time.monotonic() - before_s < LONG_S
            time.sleep(0.001)
        return thread

    expected = {True: 1, False: 1}
    threads = [lend('lent', False), lend('a', True)]
    expected[True] = 2
    threads.append(lend('b', True))
    held.open.set()
    for thread in threads:
        thread.join(LONG_S)
    assert order == ['a', 1, 'b', 2, 'lent']


def test_full_queue_is_answered_with_busy_at_once(engine, held, answers):
    for seq in (1, 2, 3, 4):
        engine.submit(request(seq), answers)
    (reply,) = answers.replies
    assert (reply.seq, reply.status) == (4, Status.BUSY)
    assert reply.detail == 'queue is full (3 requests wait)'
    held.open.set()
    assert [reply.status for reply in answers.wait_for(5)[1:]] == [Status.OK] * 4


def test_request_that_waited_too_long_is_not_computed(engine, held, answers):
    engine.submit(request(1, budget_s=0.05), answers)
    time.sleep(0.1)
    held.began.clear()
    held.open.set()
    reply = answers.wait_for(2)[-1]
    assert (reply.seq, reply.status) == (1, Status.EXPIRED)
    assert reply.detail.startswith('waited ')
    assert reply.detail.endswith(' ms, the robot allowed 50 ms')
    assert reply.queue_s >= 0.1
    assert not held.began.is_set()


def test_request_without_budget_is_expired(engine, answers):
    engine.submit(request(budget_s=0.0), answers)
    assert answers.wait_for(1)[0].status == Status.EXPIRED


@pytest.mark.parametrize(
    ('wrong', 'text'),
    [
        (
            {'model': 'vit'},
            "no model 'vit' here (there are: tiny): add it to the server's models.yaml",
        ),
        (
            {'model_hash': 'abcdefghijk'},
            "model 'tiny' differs: hash1234 here, abcdefgh on the robot: "
            'use the same weights, source and preprocessing on both',
        ),
        ({'inputs': {'y': X}}, "model 'tiny' takes inputs ['x'], the frame has ['y']"),
        ({'inputs': {}}, "model 'tiny' takes inputs ['x'], the frame has []"),
        (
            {'inputs': {'x': torch.zeros(2, 2)}},
            "model 'tiny', input 'x': shape (2, 2) came, (3) is wanted",
        ),
    ],
    ids=['model', 'hash', 'input name', 'no inputs', 'shape'],
)
def test_request_that_cannot_run_here_is_refused_at_once_with_the_cause(
    engine, held, answers, wrong, text
):
    engine.submit(request(5, **wrong), answers)
    (reply,) = answers.replies
    assert (reply.seq, reply.status, reply.detail) == (5, Status.ERROR, text)


def test_server_without_models_says_so():
    engine, answers = Engine('/server', 's', []), Answers()
    engine.submit(request(), answers)
    engine.close()
    assert "no model 'tiny' here (there are: none)" in answers.replies[0].detail


def test_model_that_fails_becomes_an_error_reply_and_the_next_one_runs(engine, gate, answers):
    gate.error = RuntimeError('cuDNN\nis unhappy')
    engine.submit(request(1), answers)
    (reply,) = answers.wait_for(1)
    assert (reply.status, reply.detail) == (
        Status.ERROR,
        "model 'tiny' failed: RuntimeError: cuDNN",
    )
    assert dict(reply.outputs) == {}
    gate.error = None
    engine.submit(request(2), answers)
    assert answers.wait_for(2)[-1].status == Status.OK


@pytest.mark.parametrize(
    'error', [MemoryError(), torch.cuda.OutOfMemoryError('CUDA out of memory. Tried')]
)
def test_model_without_memory_is_told_to_robot_and_log_and_runs_again(
    engine, gate, answers, caplog, error
):
    gate.error = error
    for seq in range(1, 4):
        engine.submit(request(seq), answers)
    text = f"model 'tiny' failed: {type(error).__name__}: {error}"
    assert {(r.status, r.detail) for r in answers.wait_for(3)} == {(Status.ERROR, text)}
    assert caplog.messages == [text]  # not with every frame
    gate.error = None
    engine.submit(request(4), answers)
    assert answers.wait_for(4)[-1].status == Status.OK


def test_error_around_a_computation_is_answered_and_does_not_end_the_engine(
    engine, answers, monkeypatch
):
    def fail(*arguments):
        raise MemoryError('no memory for a reply')

    with monkeypatch.context() as patch:
        patch.setattr(engine._replies, 'computed', fail)
        engine.submit(request(1), answers)
        (reply,) = answers.wait_for(1)
    assert (reply.status, reply.detail) == (Status.ERROR, 'MemoryError: no memory for a reply')
    engine.submit(request(2), answers)
    assert answers.wait_for(2)[-1].status == Status.OK


def test_robot_whose_answer_cannot_be_given_does_not_end_the_engine(engine, answers):
    engine.submit(request(1), lambda reply: 1 / 0)
    engine.submit(request(2), answers)
    assert answers.wait_for(1)[0].status == Status.OK


def test_model_that_does_not_warm_up_does_not_end_the_engine(model, gate, answers, monkeypatch):
    def fail():
        raise monkeypatch_error

    monkeypatch_error = ModelError('no memory')
    monkeypatch.setattr(model, 'warm_up', fail)
    engine = Engine('/server', 's', [model])
    engine.submit(request(), answers)
    assert answers.wait_for(1)[0].status == Status.OK
    engine.close()


def test_close_answers_those_that_wait_and_the_running_one(engine, held, answers):
    for seq in (1, 2):
        engine.submit(request(seq), answers)
    closing = threading.Thread(target=engine.close)
    closing.start()
    replies = answers.wait_for(2)
    assert [(reply.seq, reply.status, reply.detail) for reply in replies] == [
        (1, Status.BUSY, 'server is closing'),
        (2, Status.BUSY, 'server is closing'),
    ]
    held.open.set()
    closing.join(LONG_S)
    assert not closing.is_alive()
    assert [(reply.seq, reply.status) for reply in answers.replies[2:]] == [(0, Status.OK)]


def test_closed_engine_answers_busy(engine, answers):
    engine.close()
    engine.close()
    engine.submit(request(), answers)
    assert [(reply.status, reply.detail) for reply in answers.replies] == [
        (Status.BUSY, 'server is closing')
    ]


def test_request_that_close_answers_while_it_is_submitted_is_answered_once(
    engine, held, answers, monkeypatch
):
    class ClosesAfterwards:
        """The engine's condition; the engine is closed as soon as submit lets go of it."""

        def __init__(self, condition):
            self.condition = condition
            self.closing = None

        def __enter__(self):
            return self.condition.__enter__()

        def notify_all(self):
            self.condition.notify_all()

        def __exit__(self, *error):
            self.condition.__exit__(*error)
            if self.closing is None:
                monkeypatch.setattr(engine, '_condition', self.condition)
                self.closing = threading.Thread(target=engine.close)
                self.closing.start()
                answers.wait_for(1)

    closes = ClosesAfterwards(engine._condition)
    monkeypatch.setattr(engine, '_condition', closes)
    engine.submit(request(1), answers)
    held.open.set()
    closes.closing.join(LONG_S)
    assert Counter(reply.seq for reply in answers.replies) == {0: 1, 1: 1}


def test_requests_of_many_threads_are_answered_exactly_once_also_by_close(model):
    answers = Answers()
    engine = Engine('/server', 's', [model], queue_limit=4)
    start = threading.Barrier(9)

    def send(robot):
        start.wait(LONG_S)
        for index in range(150):
            budget_s = 0.0 if index % 10 == 0 else LONG_S
            engine.submit(request(robot * 1000 + index, budget_s=budget_s), answers)
            if index % 20 == 0:
                time.sleep(0.001)

    threads = [threading.Thread(target=send, args=(robot,)) for robot in range(8)]
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        start.wait(LONG_S)
        time.sleep(0.03)
        engine.close()
        for thread in threads:
            thread.join(LONG_S)
    finally:
        sys.setswitchinterval(interval_s)
    counts = Counter(reply.seq for reply in answers.replies)
    assert len(counts) == 8 * 150
    assert set(counts.values()) == {1}
    assert all((reply.status == Status.OK) == bool(reply.outputs) for reply in answers.replies)
    assert Status.BUSY in {reply.status for reply in answers.replies}


def test_cancelled_request_is_neither_computed_nor_answered(engine, held, answers):
    for seq in (1, 2):
        engine.submit(request(seq), answers)
    assert engine.cancel('robot session', 1)
    assert not engine.cancel('robot session', 1)
    assert not engine.cancel('other session', 2)
    held.open.set()
    answers.wait_for(2)
    engine.close()
    assert [reply.seq for reply in answers.replies] == [0, 2]


def test_requests_of_a_robot_that_is_gone_are_dropped(engine, held, answers):
    engine.submit(request(1, session='gone'), answers)
    engine.submit(request(2), answers)
    engine.drop('gone')
    held.open.set()
    answers.wait_for(2)
    engine.close()
    assert [reply.seq for reply in answers.replies] == [0, 2]


def test_request_that_cannot_be_done_in_its_budget_is_refused_at_once(engine, gate, answers):
    gate.seconds = 0.2
    engine.submit(request(0), answers)
    answers.wait_for(1)
    gate.open.clear()
    gate.began.clear()
    engine.submit(request(1), answers)
    assert gate.began.wait(LONG_S)
    engine.submit(request(2, budget_s=0.1), answers)
    reply = answers.replies[-1]
    assert (reply.seq, reply.status) == (2, Status.BUSY)
    assert reply.detail.startswith('server is busy: it would take ')
    assert reply.detail.endswith(' ms, the robot allows 100 ms')
    gate.open.set()
    answers.wait_for(3)


def test_idle_engine_takes_what_it_could_not_do_in_time_before(engine, gate, answers):
    gate.seconds = 0.2
    engine.submit(request(0), answers)
    answers.wait_for(1)
    gate.seconds = 0.0
    for seq in range(1, 200):  # the thread goes idle a moment after its answer
        engine.submit(request(seq, budget_s=0.15), answers)
        if answers.wait_for(seq + 1)[-1].status == Status.OK:
            return
        time.sleep(0.01)
    pytest.fail('a slow spell shut the server for good')


def test_model_can_be_added_and_removed(engine, model, answers):
    assert engine.remove('tiny', 'default')
    assert not engine.remove('tiny', 'default')
    engine.submit(request(1), answers)
    assert "no model 'tiny' here" in answers.wait_for(1)[0].detail
    engine.add(model)
    engine.submit(request(2), answers)
    assert answers.wait_for(2)[-1].status == Status.OK


def test_model_that_is_removed_while_a_request_waits_is_an_error(engine, held, answers):
    engine.submit(request(1), answers)
    engine.remove('tiny', 'default')
    held.open.set()
    replies = answers.wait_for(2)
    assert [reply.status for reply in replies] == [Status.OK, Status.ERROR]
    assert replies[1].detail == "model 'tiny' was unloaded while the request waited"


def test_idle_engine_is_not_busy(engine):
    assert engine.busy_share() == 0.0


def test_busy_share_grows_while_a_long_request_runs_and_stays_within_one(engine, held, answers):
    time.sleep(0.25)
    assert 0.2 < engine.busy_share() <= 1.0, 'it counts before it ends'
    time.sleep(0.9)
    assert engine.busy_share() == 1.0
    held.open.set()
    answers.wait_for(1)
    assert 0.0 < engine.busy_share() <= 1.0


def test_busy_share_of_many_short_requests_is_within_one(engine, answers):
    for seq in range(30):
        engine.submit(request(seq), answers)
        assert 0.0 <= engine.busy_share() <= 1.0
    answers.wait_for(30)
    assert 0.0 < engine.busy_share() <= 1.0


def test_queue_limit_is_at_least_one():
    with pytest.raises(ValueError, match='limit must be at least 1'):
        Engine('/server', 's', [], queue_limit=0)


def test_lent_work_runs_when_no_request_waits(engine, held, answers):
    order, values = [], []
    work = threading.Thread(
        target=lambda: values.append(engine.lend(lambda: order.append('lent') or 7))
    )
    work.start()
    engine.submit(request(1), lambda reply: (order.append('request'), answers(reply)))
    held.open.set()
    answers.wait_for(2)
    work.join(LONG_S)
    assert values == [7]
    assert order == ['request', 'lent']


def test_an_error_of_lent_work_is_its_owners(engine, answers):
    with pytest.raises(ZeroDivisionError):
        engine.lend(lambda: 1 // 0)
    engine.submit(request(2), answers)
    assert answers.wait_for(1)[0].status == Status.OK


def test_lent_work_that_waits_ends_with_the_engine(engine, held):
    errors = []

    def lend():
        try:
            engine.lend(lambda: None)
        except RuntimeError as error:
            errors.append(str(error))

    work = threading.Thread(target=lend)
    work.start()
    end_s = time.monotonic() + LONG_S
    while not engine._lent:
        assert time.monotonic() < end_s
        time.sleep(0.001)
    closing = threading.Thread(target=engine.close)
    closing.start()
    work.join(LONG_S)
    held.open.set()
    closing.join(LONG_S)
    assert errors == ['the server is closing']
    with pytest.raises(RuntimeError, match='closing'):
        engine.lend(lambda: None)
