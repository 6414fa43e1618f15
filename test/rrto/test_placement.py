"""Units run where they are predicted to be faster, and the results stay equal."""

from functools import partial
import time

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
import pytest
import torch

from offload_ros.rrto.link import Loopback, on_this_machine
from offload_ros.rrto.outbox import Standby
from offload_ros.rrto.placement import BOTH, LEAST_RUNS, PROBE_S, ROBOT, SERVER, PlacementPolicy
from offload_ros.rrto.shim import install, uninstall
from offload_ros.strategy import LinkState

from ..draws import examples
from .random_programs import PROGRAMS, program_of
from .sessions import Session, assert_equal, image, layers, on_cpu
from .test_standby import Losing

pytestmark = pytest.mark.usefixtures('settled')
OPTIONS = {
    'deadline': None,
    'database': None,
    'suppress_health_check': list(HealthCheck),
    'phases': [Phase.generate, Phase.shrink],
}
frames_on_robot = []
ROUND_TRIP_S = 0.06  # ten times what the robot takes and more


class Counting(PlacementPolicy):
    """Counts the runs of the robot."""

    runs = 0

    def computed(self, unit, took_s):
        super().computed(unit, took_s)
        self.runs += 1


class Sides(Counting):
    """Takes the sides in turn."""

    def __init__(self, sides):
        super().__init__(forced=ROBOT)
        self._sides, self._at = sides, 0

    def choose(self, unit):
        self._at += 1
        return self._sides[self._at % len(self._sides)]


def check(instructions, sides, after):
    program = program_of(instructions)
    expected = on_cpu(program, 12)
    policy = Sides(sides)
    standby = Standby(on_this_machine, policy=policy)
    session = Session('replay', partial(Losing, after=after), standby)
    install(session.client)
    try:
        assert_equal(session.play(program, 12), expected, f'{sides} of {instructions}')
        frames_on_robot.append(policy.runs)
    finally:
        session.close()
        uninstall()


@settings(max_examples=examples(50, 800), **OPTIONS)
@given(
    PROGRAMS,
    st.lists(st.sampled_from([ROBOT, ROBOT, SERVER, BOTH]), min_size=1, max_size=5),
    st.sampled_from([20, 30, 1000, 1000]),
)
def test_random_programs_agree_wherever_their_units_run(instructions, sides, after):
    check(instructions, sides, after)


def test_units_did_run_on_the_robot():
    assert sum(map(bool, frames_on_robot)) > len(frames_on_robot) / 4


@pytest.fixture
def placed():
    """``placed(policy, link)``: a session whose units may run on the robot."""
    opened = []

    def open_one(policy, link=Loopback):
        session = Session('replay', link, Standby(on_this_machine, policy=policy))
        install(session.client)
        opened.append(session)
        return session

    try:
        yield open_one
    finally:
        for each in opened:
            each.close()
        uninstall()


def run(session, frames, wait_s=0.0):
    model, same = layers(0, 6, 5, 4).to('cuda'), layers(0, 6, 5, 4)
    took_s = []
    for index in range(frames):
        x = image(index, 3, 6)
        began_s = time.monotonic()
        features = model(x.to('cuda'))  # held until the next frame has its own
        assert torch.equal(features.cpu(), same(x))
        took_s.append(time.monotonic() - began_s)
        time.sleep(wait_s)
    return took_s


def test_a_small_unit_moves_to_the_robot_when_the_server_is_far(placed):
    policy = Counting()
    session = placed(policy, partial(Loopback, round_trip_s=ROUND_TRIP_S))
    took_s = run(session, 60)
    assert policy.runs > 30
    assert sorted(took_s[-20:])[10] < ROUND_TRIP_S
    assert session.server.executed < 20 * 5 + 60
    (line,) = policy.lines()
    assert 'on the robot' in line


def test_a_unit_stays_on_a_server_that_is_faster(placed, monkeypatch):
    policy = Counting()
    session = placed(policy)
    computed = policy.computed
    monkeypatch.setattr(policy, 'computed', lambda unit, took_s: computed(unit, took_s + 0.5))
    run(session, 60, 0.002)
    assert 1 <= policy.runs <= 3  # it was tried
    assert policy.of(1).side == SERVER


def test_a_unit_that_changes_what_was_there_stays_on_the_server(placed):
    policy = Sides([ROBOT])
    session = placed(policy)
    model, same = layers(0, 6, 5, 4).to('cuda'), layers(0, 6, 5, 4)
    count, expected = torch.zeros(1, device='cuda'), 0.0
    for index in range(12):
        x = image(index, 3, 6)
        assert torch.equal(model(x.to('cuda')).cpu(), same(x))
        count += 1
        expected += 1
        assert count.item() == expected
    assert policy.runs == 0 and session.statistics.inferences >= 8


def test_weights_that_change_are_seen_on_the_robot(placed):
    policy = Sides([ROBOT])
    placed(policy)
    model, same = layers(0, 6, 5, 4).to('cuda'), layers(0, 6, 5, 4)
    for index in range(30):
        x = image(index, 3, 6)
        if index % 10 == 9:
            for each in (model, same):
                each[0].weight.data.mul_(1.5)
        assert torch.equal(model(x.to('cuda')).cpu(), same(x))
    assert policy.runs > 10


def test_the_prediction_follows_the_link():
    now_s, link = [0.0], [LinkState(1e6, 1e6, 0.01)]
    policy = PlacementPolicy(lambda: link[0], lambda: now_s[0])
    for base in range(LEAST_RUNS):
        policy.sent(base, 1, 7, 100_000)
        now_s[0] += 0.15
        policy.answered(base, 3, 10)
        policy.answered(base, 7, 10_000)
    # 0.1 s of sending, 0.01 s back, 0.01 s of round trip, and so 0.03 s of computing
    assert policy.predicted_server_s(1) == pytest.approx(0.15)
    assert policy.choose(1) == BOTH and policy.choose(1) == SERVER
    policy.computed(1, 0.2)
    assert policy.choose(1) == SERVER
    link[0] = LinkState(0.5e6, 1e6, 0.01)
    assert policy.predicted_server_s(1) == pytest.approx(0.25)
    assert policy.choose(1) == ROBOT
    link[0] = LinkState(1e6, 1e6, 0.01)
    assert policy.choose(1) == SERVER
    link[0] = LinkState(0.9e6, 1e6, 0.05)
    assert policy.predicted_server_s(1) == pytest.approx(0.2011, abs=1e-3)
    assert policy.choose(1) == SERVER  # not clearly slower
    link[0] = LinkState(0.0, 1e6, 0.05)
    assert policy.choose(1) == ROBOT
    now_s[0] += PROBE_S
    assert policy.choose(1) == BOTH
