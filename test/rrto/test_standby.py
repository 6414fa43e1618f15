"""The server is lost at any moment, and the program goes on in a session of the robot."""

from functools import partial
import threading
import time

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
import pytest
import torch

from offload_ros.rrto import journal
from offload_ros.rrto.executor import OperatorSession
from offload_ros.rrto.link import Loopback
from offload_ros.rrto.messages import Answer, encode
from offload_ros.rrto.outbox import Standby
from offload_ros.rrto.shim import install, uninstall

from .random_programs import ACTIONS, PROGRAMS, Instruction, program_of
from .sessions import Session, assert_equal, image, layers, on_cpu

pytestmark = pytest.mark.usefixtures('settled')
FRAMES = 12
OPTIONS = {
    'deadline': None,
    'database': None,
    'suppress_health_check': list(HealthCheck),
    'phases': [Phase.generate, Phase.shrink],
}
fell = []


class Losing(Loopback):
    """A server that is lost when so many messages have gone to it; ``arrives``: the last one is
    still carried out, and some of its answers come."""

    def __init__(self, session_of, after, arrives=False):
        super().__init__(session_of)
        self._after, self._arrives = after, arrives

    def send(self, buffers):
        if self.messages_up + 1 < self._after or self._lost:
            super().send(buffers)
            return
        if self._arrives:
            super().send(buffers)
        self.lose('the link is cut')


class Robot:
    """Makes sessions that take over."""

    def __init__(self):
        self.links, self.told = [], []
        self.standby = Standby(self._open, self.told.append)

    def _open(self):
        self.links.append(Loopback(OperatorSession))
        return self.links[-1]


@pytest.fixture
def losing():
    """``losing(mode, after)``: a session that is lost, and the robot that takes over."""
    opened = []

    def open_one(mode='replay', **options):
        robot = Robot()
        session = Session(mode, partial(Losing, **options), robot.standby)
        install(session.client)
        opened.append(session)
        return session, robot

    try:
        yield open_one
    finally:
        for each in opened:
            each.close()
        uninstall()


def check(instructions, after, arrives, mode):
    program = program_of(instructions)
    expected = on_cpu(program, FRAMES)
    robot = Robot()
    session = Session(mode, partial(Losing, after=after, arrives=arrives), robot.standby)
    install(session.client)
    try:
        assert_equal(session.play(program, FRAMES), expected, f'{mode} of {instructions}')
        fell.append(len(robot.told))
        del program
        left = session.handles()
        if robot.links:
            session.handles()  # the first time it may have been the lost one that answered
            left = len(robot.links[-1].session.table)
        assert left == 0, 'tensors are left in the session'
    finally:
        session.close()
        uninstall()


MOMENTS = st.integers(1, 60), st.booleans()


@pytest.fixture(scope='module')
def short():
    """Journals are swept, and replaced by checkpoints, at every opportunity."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, 'SWEEP_ENTRIES', 4)
        patch.setattr(journal, 'CHECKPOINT_ENTRIES', 2)
        yield


@settings(max_examples=50, derandomize=True, **OPTIONS)
@given(PROGRAMS, *MOMENTS, st.sampled_from(['replay', 'replay', 'pipelined', 'rpc']))
@pytest.mark.usefixtures('short')
def test_random_programs_go_on(instructions, after, arrives, mode):
    check(instructions, after, arrives, mode)


def test_the_random_programs_did_lose_their_server():
    assert sum(fell) > len(fell) / 3


def test_a_program_without_state_leaves_a_journal_of_its_weights_and_one_frame(losing):
    session, robot = losing(after=10_000)
    weights = layers(0, 6, 5, 4)
    model = weights.to('cuda')
    for index in range(100):
        model(image(index, 3, 6).to('cuda')).cpu()
    notes = session.client._outbox.journal
    notes.sweep()
    assert len(notes) <= 2 * 4 + 3
    assert (
        notes.payload_bytes
        == sum(4 * each.numel() for each in layers(0, 6, 5, 4).parameters()) + 72
    )
    assert not robot.links


def test_state_of_many_frames_is_fetched_now_and_then_and_not_computed_again(losing, short):
    session, robot = losing(after=10_000)
    total, expected = torch.zeros(3, 4, device='cuda'), torch.zeros(3, 4)
    model, same = layers(0, 6, 5, 4).to('cuda'), layers(0, 6, 5, 4)
    for index in range(60):
        x = image(index, 3, 6)
        total += model(x.to('cuda'))
        expected += same(x)
        assert torch.equal(total.cpu(), expected)
        if index == 50:
            entries = len(session.client._outbox.journal)
            session.link.lose('the link is cut')
    assert entries < 30
    assert robot.told == ['the link is cut']
    standby = robot.links[0].session
    assert standby.executed < 15 * 20  # of 50 frames of 5 operators: those since the last fetch


def test_threads_that_wait_go_on(losing, monkeypatch):
    session, robot = losing(after=10_000)
    model, same = layers(0, 6, 5, 4).to('cuda'), layers(0, 6, 5, 4)
    halt, results = threading.Event(), {}
    receive = session.server.receive
    waiting = threading.Semaphore(0)

    def stuck(data):
        waiting.release()
        halt.wait(10.0)
        receive(data)

    def work(number):
        results[number] = model(image(number, 3, 6).to('cuda')).cpu()

    monkeypatch.setattr(session.server, 'receive', stuck)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for each in threads:
        each.start()
    assert waiting.acquire(timeout=10.0)
    session.link.lose('the link is cut')
    for each in threads:
        each.join(10.0)
        assert not each.is_alive()
    halt.set()
    for number in range(3):
        assert torch.equal(results[number], same(image(number, 3, 6)))
    assert len(robot.links) == 1


def test_replay_goes_on_in_the_standby(losing):
    session, robot = losing(after=10_000)
    model, same = layers(0, 6, 5, 4).to('cuda'), layers(0, 6, 5, 4)
    for index in range(12):
        if index == 6:
            session.link.lose('the link is cut')
        found = session.measured(lambda: model(image(index, 3, 6).to('cuda')).cpu())  # noqa: B023
        assert torch.equal(found, same(image(index, 3, 6)))
    assert session.statistics.inferences == 10 and session.statistics.aborts == 0
    assert session.statistics.fallbacks == 1 and len(robot.links) == 1


@pytest.mark.long
@settings(max_examples=1500, **OPTIONS)
@given(PROGRAMS, st.integers(1, 200), st.booleans(), st.sampled_from(['replay', 'pipelined']))
def test_many_random_programs_go_on(instructions, after, arrives, mode):
    check(instructions, after, arrives, mode)


def test_a_server_that_ends_the_session_is_a_lost_one(losing):
    session, robot = losing(after=10_000)
    model, same = layers(0, 6, 5, 4).to('cuda'), layers(0, 6, 5, 4)
    for index in range(8):
        if index == 5:
            session.link._answer(encode([[Answer.ENDED, 'too many programs']], []))
        assert torch.equal(model(image(index, 3, 6).to('cuda')).cpu(), same(image(index, 3, 6)))
    for _ in range(1500):
        if robot.told:
            break
        time.sleep(0.02)
    assert robot.told == ['the server ended the session: too many programs']


@pytest.mark.parametrize('after', [30, 38, 40, 46])
def test_what_a_replay_gave_is_freed_behind_those_that_read_it(losing, after):
    names = [name for name, _ in ACTIONS]
    relu, read, carry = (names.index(each) for each in ('relu', 'read_item', 'carry'))
    instructions = [Instruction(relu, 0, 0, 0, 0)] * 7
    instructions += [Instruction(read, 0, 0, 0, 0), Instruction(carry, 0, 0, 0, 1)]
    program = program_of(instructions)
    expected = on_cpu(program, 20)
    session, robot = losing(after=after)
    assert_equal(session.play(program, 20), expected)
    assert robot.told
