"""Strategy auto: it learns what the others take, takes the best, and leaves what fails."""

from itertools import pairwise
import math
import threading
from types import SimpleNamespace

import pytest
import torch

from offload_ros.policy import auto
from offload_ros.policy.auto import AutoStrategy
from offload_ros.policy.choice import Board
from offload_ros.policy.goal import Goal, Objective
from offload_ros.policy.round_trips import RoundTrips
from offload_ros.robot.window import Window
from offload_ros.strategy import (
    Frame,
    LeftToRobot,
    LinkState,
    Prediction,
    Result,
    StrategyRefused,
    Unanswered,
    make_strategy,
)


class Clock:
    """Steady time that runs only where something computes or sends."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


class AtOnce:
    """A thread that beside everything else takes no time here."""

    def __init__(self, target, args, daemon):
        self.run = lambda: target(*args)
        self.robot = args[0].strategy.robot

    def start(self):
        clock, began = self.robot.clock, self.robot.clock.now
        self.run()
        self.robot.looks += 1
        clock.now = began

    def is_alive(self):
        return False


class Robot:
    """A robot whose link, server and own speed can be changed."""

    def __init__(self, monkeypatch):
        self.clock = Clock()
        monkeypatch.setattr(auto, 'time', self.clock)
        monkeypatch.setattr(auto, 'threading', SimpleNamespace(Lock=threading.Lock, Thread=AtOnce))
        self.looks = 0
        self.up, self.server_s, self.device_s, self.split_s = 1e7, 0.01, 0.1, 0.03
        self.there, self.answers = True, True
        self.refused = {'rrto', 'amot', 'intra_dp'}
        self.tuning = []
        self.ended = []
        monkeypatch.setattr(auto, 'make_strategy', lambda name: Fake(self, name))
        local = Window()
        local.add(self.device_s)
        self.link = SimpleNamespace(
            client=SimpleNamespace(
                server_for=lambda _: (
                    (SimpleNamespace(name='s'), '') if self.there else (None, 'no server is there')
                ),
                directory=SimpleNamespace(
                    alive=lambda: [SimpleNamespace(name='s')] if self.there else []
                ),
                link_state=lambda _: LinkState(self.up, self.up, 0.002),
            ),
            local={'m': local},
            board=Board(),
            amot={},
        )
        self.strategy = AutoStrategy()
        self.strategy.prepare(SimpleNamespace(name='m', device='cpu'), self.link)
        self.seq = 0

    def frame(self):
        """What ran, and what it took."""
        self.seq += 1
        began = self.clock.now
        self.robot_begins = []
        frame = Frame(
            self.seq,
            {'x': torch.zeros(1000, dtype=torch.uint8)},
            began,
            compute_at=lambda at_s: self.robot_begins.append(at_s - began),
        )
        try:
            result = self.strategy.run(frame, began + 1.0)
            used, reason = result.used, result.reason
        except LeftToRobot as error:
            self.clock.now += self.device_s
            self.link.local['m'].add(self.device_s)
            used, reason = error.used, error.reason
        except Unanswered:
            used, reason = 'fallback', ''
        took = self.clock.now - began
        self.clock.now = began + max(0.1, took)
        self.reason = reason
        return used, took

    def frames(self, count):
        return [self.frame()[0] for _ in range(count)]


class Fake:
    """A strategy whose inferences take what the robot's link and server say."""

    aims = True

    def __init__(self, robot, name):
        self.robot, self.name, self.trips = robot, name, RoundTrips()

    def aim(self, goal, answer_s):
        self.robot.tuning.append((self.name, goal.objective.value, answer_s))

    def prepare(self, model, link):
        if self.name in self.robot.refused:
            raise StrategyRefused(f'{self.name} cannot')

    def predict(self, state):
        if self.name == 'intra_dp':
            return Prediction(self.robot.split_s, robot_busy_s=0.01, energy_j=0.02)
        return self.trips.predict(state)

    def usable(self, goal):
        return self.robot.there

    def run(self, frame, deadline_s):
        robot = self.robot
        if not robot.answers:
            robot.clock.now += 0.5
            raise Unanswered('no answer')
        if self.name == 'intra_dp':
            robot.clock.now += robot.split_s
            return Result({})
        size = 100_000
        took = size / robot.up + 0.002 + robot.server_s
        robot.clock.now += took
        self.trips.add(took, robot.server_s, robot.server_s, size, 0)
        return Result({}, bytes_up=size)

    def cancel(self, seq):
        self.robot.ended.append((self.name, seq))

    def close(self):
        self.robot.ended.append((self.name, 'closed'))


@pytest.fixture
def robot(monkeypatch):
    return Robot(monkeypatch)


def test_it_tries_what_it_does_not_know_and_stays_with_the_best(robot):
    assert set(robot.frames(20)[1:]) == {'server'}
    assert 'server' in robot.reason and 'device 100 ms' in robot.reason
    robot.device_s = 0.005
    robot.link.local['m'] = window = Window()
    window.add(0.005)
    assert robot.frames(10)[-1] == 'device'


def test_a_link_that_gets_twenty_times_slower_is_left_with_the_next_frame(robot):
    robot.frames(10)
    robot.up /= 20
    assert robot.frame()[0] == 'device'
    assert set(robot.frames(20)) == {'device'}
    robot.up *= 20
    assert robot.frames(3)[-1] == 'server'


@pytest.mark.parametrize('alone', ['device', 'intra_dp'])
def test_it_notices_that_the_server_pays_again_though_the_link_was_not_measured(robot, alone):
    """Whether the robot computes for itself, or by a plan that sends nothing."""
    if alone == 'intra_dp':
        robot.refused.discard('intra_dp')
        robot.split_s = 0.09
    robot.clock.now += 20.0
    robot.frames(10)
    told = robot.link.client.link_state
    robot.link.client.link_state = lambda _: LinkState(5e5, 5e5, 0.002)  # and stays with that
    robot.up = 5e5
    assert robot.frames(30)[-1] == alone
    looks = robot.looks
    assert 0 < looks <= 8  # at most twice a second
    robot.up = 1e7
    robot.link.client.link_state = lambda _: (
        told(_) if robot.looks > looks else LinkState(5e5, 5e5, 0.002)
    )
    began = robot.clock.now
    while robot.frame()[0] != 'server':
        assert robot.clock.now - began < 2.0


def test_the_robot_begins_when_an_answer_is_overdue(robot):
    robot.frames(20)
    used, took = robot.frame()
    assert used == 'server'
    (begins_s,) = robot.robot_begins
    assert 1.5 * took <= begins_s <= 2.5 * took + 0.02, 'long before the deadline of 1 s'
    # What completes by itself what is late gets the time that the robot needs for all.
    robot.refused.discard('intra_dp')
    Fake.completes = True
    try:
        robot.split_s = 0.005
        robot.clock.now += 20.0
        robot.frames(10)
        used, took = robot.frame()
        assert used == 'intra_dp'
        assert robot.robot_begins[-1] >= 1.5 * took + robot.device_s
    finally:
        del Fake.completes


@pytest.mark.parametrize('objective', ['energy', 'weighted', 'accuracy'])
def test_the_robot_does_not_begin_early_where_latency_is_not_all(robot, objective):
    robot.strategy.aim(Goal(Objective(objective)), 0.5)
    robot.device_s = 0.4
    robot.frames(20)
    if robot.frame()[0] == 'server':
        assert robot.robot_begins == [math.inf]


def test_small_differences_do_not_make_it_switch_to_and_fro(robot):
    robot.frames(10)
    used = []
    for step in range(60):
        robot.server_s = 0.088 + (0.004 if step % 2 else -0.004)  # in all about the device's 100 ms
        used.append(robot.frame()[0])
    assert sum(a != b for a, b in pairwise(used)) <= 3


def test_the_difference_that_stays_is_taken(robot):
    robot.refused.discard('intra_dp')
    robot.clock.now += 20.0  # it looks again for strategies that were refused
    robot.split_s = 0.0205  # of the server's 22 ms
    used = robot.frames(40)
    assert used[-1] == 'intra_dp'


def test_no_frame_waits_for_a_server_that_is_not_there(robot):
    robot.frames(5)
    robot.there = False
    used, took = robot.frame()
    assert (used, took) == ('device', pytest.approx(0.1))
    assert 'no server is there' in robot.reason
    robot.there = True
    assert 'server' in robot.frames(10)


def test_a_server_that_does_not_answer_is_asked_once_a_second_at_most(robot):
    robot.frames(5)
    robot.answers = False
    used = robot.frames(100)
    assert 'fallback' in used
    spans = [i for i, each in enumerate(used) if each == 'fallback']
    assert len(spans) <= 20
    robot.answers = True
    began = robot.clock.now
    while robot.frame()[0] != 'server':
        assert robot.clock.now - began < 2.0


def test_a_trial_that_fails_costs_no_fallback(robot):
    robot.frames(5)
    robot.refused.discard('intra_dp')
    robot.clock.now += 20.0
    robot.split_s = float('nan')  # nothing is known of it

    class Fails(Fake):
        def run(self, frame, deadline_s):
            raise Unanswered('its plans are being made')

    robot.strategy._candidates.pop('intra_dp', None)
    robot.strategy._find_candidates()
    robot.strategy._candidates['intra_dp'].strategy = Fails(robot, 'intra_dp')
    used = robot.frames(20)
    assert set(used) == {'server'}


def test_it_is_for_what_it_is_told_to_be_for(robot):
    robot.refused.discard('intra_dp')
    robot.clock.now += 20.0
    robot.split_s = 0.05
    robot.strategy.aim(Goal.named('energy', 0.5), 1.0)
    assert robot.frames(30)[-1] == 'intra_dp'  # slower than the server, but 0.02 J
    assert ('intra_dp', 'energy', 1.0) in robot.tuning
    robot.strategy.aim(Goal.named('energy', 0.03), 1.0)
    assert robot.frames(30)[-1] == 'server'


class Own(Fake):
    """Anybody's strategy, without ``usable``, that fails where it is told to."""

    def __init__(self, robot, fails=''):
        super().__init__(robot, 'own')
        self.fails = fails

    aims, usable = False, None

    def prepare(self, model, link):
        assert self.fails != 'prepare'

    def predict(self, state):
        assert self.fails != 'predict'
        return Prediction(0.005, robot_busy_s=0.005)

    def run(self, frame, deadline_s):
        self.robot.clock.now += 0.005
        if self.fails == 'run':
            raise ZeroDivisionError('its own fault')
        if self.fails == 'leave':
            raise LeftToRobot('its plan')
        return Result({})


@pytest.fixture
def robot_with(robot, monkeypatch):
    def start(fails=''):
        names = [*auto.automatic_strategies(), 'own']
        monkeypatch.setattr(auto, 'automatic_strategies', lambda: names)
        make = auto.make_strategy
        monkeypatch.setattr(
            auto, 'make_strategy', lambda name: Own(robot, fails) if name == 'own' else make(name)
        )
        robot.strategy._find_candidates()
        return robot

    return start


def test_a_strategy_of_somebody_is_taken_where_it_is_the_best(robot_with):
    robot = robot_with()
    assert robot.frames(20)[-1] == 'own'
    assert 'own 5 ms' in robot.reason
    robot.there = False  # it says nothing of servers
    assert robot.frame()[0] == 'own'


@pytest.mark.parametrize('fails', ['prepare', 'predict', 'run'])
def test_a_strategy_of_somebody_that_fails_is_left_alone(robot_with, fails):
    used = robot_with(fails).frames(100)
    assert set(used[5:]) <= {'server', 'fallback'}
    assert used.count('fallback') <= (8 if fails == 'run' else 0)  # ever longer pauses


def test_a_frame_that_somebodys_strategy_leaves_to_the_robot_says_so(robot_with):
    robot = robot_with('leave')
    assert 'own' in robot.frames(5)


@pytest.mark.parametrize(
    ('name', 'there', 'has_model', 'objective', 'usable'),
    [
        ('server', True, True, 'latency', True),
        ('server', True, False, 'latency', False),
        ('server', False, False, 'latency', False),
        ('intra_dp', True, False, 'latency', True),
        ('intra_dp', False, False, 'latency', False),
        ('rrto', True, True, 'latency', False),
        ('rrto', True, False, 'latency', True),
        ('rrto', False, False, 'latency', False),
        ('amot', True, True, 'accuracy', True),
        ('amot', True, True, 'latency', False),
        ('amot', False, False, 'accuracy', True),
    ],
)
def test_strategies_of_the_package_say_when_they_are_usable(
    name, there, has_model, objective, usable
):
    strategy = make_strategy(name)
    strategy._client = SimpleNamespace(
        server_for=lambda _: ('s', '') if has_model else (None, 'none'),
        directory=SimpleNamespace(alive=lambda: ['s'] if there else []),
    )
    strategy._model, strategy._link = None, SimpleNamespace(client=strategy._client)
    assert strategy.usable(Goal.named(objective)) is usable


def test_cancel_reaches_who_runs_and_close_all(robot):
    robot.frames(3)
    robot.strategy._running = robot.strategy._candidates['server']
    robot.strategy.cancel(99)
    assert ('server', 99) in robot.ended
    with pytest.raises(Unanswered):
        robot.strategy.run(Frame(98, {}, 0.0), 1.0)
    robot.strategy.close()
    assert ('server', 'closed') in robot.ended


def test_what_it_expects_is_that_of_the_strategy_it_would_run(robot):
    assert robot.strategy.predict(LinkState()) == Prediction()
    robot.frames(10)
    found = robot.strategy.predict(LinkState(1e7, 1e7, 0.002))
    assert found.latency_s == pytest.approx(0.022, rel=0.05)
