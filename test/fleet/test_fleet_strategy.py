"""Strategy fleet: frames go where the plan has their turn, and nowhere for nothing."""

from dataclasses import replace
from fractions import Fraction
import threading
import time

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
import torch
from torch import nn

from offload_ros.fleet.followed import FollowedPlan
from offload_ros.fleet.plan import FleetPlan, PlannedRoute, PlannedTask
from offload_ros.fleet.strategy import FleetStrategy
from offload_ros.fleet.turns import LEFT, Turns
from offload_ros.models.config import InputSpec, ModelConfig, Source
from offload_ros.models.model import Model, runtime_description
from offload_ros.robot.lane import DeviceLane
from offload_ros.robot.pipeline import Pipeline
from offload_ros.strategy import Frame, LeftToRobot, Link, Unanswered
from offload_ros.wire.client import OffloadClient
from offload_ros.wire.directory import HeldModel, ServerDirectory, ServerState
from offload_ros.wire.exchange import Kind, Reply, Status

from ..draws import examples

LONG_S = 30.0
ROBOT = '/r1/offload_manager'
INPUTS = (InputSpec('x', 'topic'),)
CONFIG = ModelConfig(
    'tiny',
    Source(python='m:small'),
    variant='small',
    inputs=INPUTS,
    strategy='fleet',
    deadline_ms=20_000.0,
    alternatives=(
        ModelConfig('tiny', Source(python='m:large'), variant='large', inputs=INPUTS),
        ModelConfig(
            'tiny', Source(python='m:wide'), variant='wide', inputs=(InputSpec('x', 'other'),)
        ),
        ModelConfig(
            'tiny', Source(python='m:two'), variant='two', inputs=INPUTS, outputs=('a', 'b')
        ),
    ),
)
HELD = {
    ('tiny', 'small'): HeldModel('hash', True),
    ('tiny', 'large'): HeldModel('hash of large', False),
    ('tiny', 'wide'): HeldModel('hash of wide', True),
    ('tiny', 'two'): HeldModel('hash of two', True),
}
LARGE = PlannedRoute('/a', 'large', 0.5)


class Fleet:
    """Servers that answer at once with a number of their own, or as ``answer`` says."""

    def __init__(self):
        self.now_s = 100.0
        self.directory = ServerDirectory(LONG_S)
        self.client = OffloadClient(ROBOT, 'session', self.directory, self.transmit)
        self.requests = []
        self.answer = {}  # by server
        self.followed = FollowedPlan(ROBOT, (CONFIG,), lambda: self.now_s)
        self.model = Model(CONFIG, nn.Identity(), 'hash', True)
        self.lane = None
        for at, name in enumerate(('/a', '/b', '/c')):
            self.start(name, number=float(at))

    def start(self, name, number=0.0, **values):
        hashes = {'tiny': frozenset(each.hash for each in HELD.values())}
        fields = {'variants': HELD, 'models': hashes, **values}
        self.directory.heard(ServerState(name, 's1', runtime_description(), **fields))
        self.directory.connect(name, 's1')
        outputs = {'output': torch.full((3,), number)}
        self.answer[name] = {'status': Status.OK, 'outputs': outputs}

    def transmit(self, server, request):
        self.requests.append((server.name, request))
        fields = self.answer[server.name]
        if request.kind == Kind.INFER and fields is not None:
            said = Reply(server.name, 's1', 'session', request.seq, **fields)
            self.client.on_reply(said)
        return 12

    def plan(self, *routes, version=1, session='s', planner='/planner', robot=ROBOT, task='tiny'):
        """Take a plan for this robot; what is warned of."""
        tasks = (PlannedTask(robot, task, 10.0, routes),)
        return self.followed.take(FleetPlan(planner, session, version, 1.0, 3.0, tasks))

    def strategy(self):
        built = FleetStrategy()
        built.prepare(self.model, Link(self.lane, self.client, fleet=self.followed))
        return built


@pytest.fixture
def fleet():
    return Fleet()


def run(strategy, seq=1, limit_s=LONG_S):
    now_s = time.monotonic()
    return strategy.run(Frame(seq, {'x': torch.zeros(3)}, now_s), now_s + limit_s)


def asked(fleet):
    """(server, hash) of each request."""
    return [(name, each.model_hash) for name, each in fleet.requests if each.kind == Kind.INFER]


# ---- shares


@settings(max_examples=examples(60, 500))
@given(st.lists(st.integers(1, 40), min_size=1, max_size=7), st.integers(0, 30))
def test_counts_equal_shares_exactly_whenever_they_can(parts, left):
    total = sum(parts) + left
    turns = Turns([part / total for part in parts])
    for _ in range(3):
        got = [turns.next()[0] for _ in range(total)]
        assert [got.count(at) for at in range(len(parts))] == parts
        assert got.count(LEFT) == left


@settings(max_examples=examples(40, 400))
@given(st.lists(st.integers(1, 40), min_size=2, max_size=6), st.integers(1, 200))
def test_counts_are_near_their_shares_at_any_time(parts, frames):
    turns = Turns([part / sum(parts) for part in parts])
    had = [0] * len(parts)
    for turn in range(1, frames + 1):
        had[turns.next()[0]] += 1
        for part, count in zip(parts, had, strict=True):
            # The largest deficit is below 1 for two shares, and never grows with the turns.
            behind = Fraction(part * turn, sum(parts)) - count
            assert -1 < behind < len(parts) - 1


def test_a_turn_names_the_others_too_and_without_shares_all_is_left():
    assert sorted(Turns([0.5, 0.25]).next()) == [LEFT, 0, 1]
    assert sorted(Turns([0.75, 0.25]).next()) == [0, 1], 'nothing is left'
    assert Turns([]).next() == [LEFT]
    assert Turns([0.1] * 10).next() == list(range(10))


# ---- where frames go


def test_frames_go_to_the_planned_servers_and_variants_in_exact_shares(fleet):
    fleet.plan(LARGE, PlannedRoute('/b', 'small', 0.3), PlannedRoute('/c', 'large', 0.2), version=7)
    strategy = fleet.strategy()
    results = [run(strategy, seq) for seq in range(1, 101)]
    sent = asked(fleet)
    assert sent.count(('/a', 'hash of large')) == 50
    assert sent.count(('/b', 'hash')) == 30
    assert sent.count(('/c', 'hash of large')) == 20
    for result, (server, content_hash) in zip(results, sent, strict=True):
        variant = 'small' if content_hash == 'hash' else 'large'
        assert result.plan == f'fleet plan 7: server {server}, variant {variant}'
        assert result.held == HELD['tiny', variant]
        assert result.outputs['output'][0] == '/a/b/c'.index(server) // 2
        assert (result.used, result.reason, result.exact) == ('', '', True)


def test_beats_and_plans_with_the_same_routes_do_not_begin_anew(fleet):
    routes = (LARGE, PlannedRoute('/b', 'large', 0.5))
    strategy = fleet.strategy()
    for version in range(1, 11):
        fleet.plan(*routes, version=version)
        run(strategy, version)
    assert [name for name, _ in asked(fleet)] == ['/a', '/b'] * 5


@pytest.mark.parametrize(
    ('stop', 'why'),
    [
        (lambda fleet: fleet.directory.leave('/a', 's1'), 'server /a is not there'),
        (lambda fleet: fleet.start('/a', variants={}), "does not hold 'tiny' as 'large'"),
        (
            lambda fleet: fleet.answer.update({'/a': {'status': Status.BUSY, 'detail': 'full'}}),
            'server /a: full',
        ),
        (
            lambda fleet: fleet.directory.disconnect('/a', 's1', 'is mute'),
            'server /a is connecting',
        ),
        (
            lambda fleet: setattr(fleet.client, 'preferred_server', 'b'),
            'server.name allows no other server than b',
        ),
    ],
)
def test_frame_of_a_server_that_fails_goes_to_the_next_route_at_once(fleet, stop, why):
    fleet.plan(LARGE, PlannedRoute('/b', 'small', 0.5))
    stop(fleet)
    strategy = fleet.strategy()
    first, second = run(strategy, 1), run(strategy, 2)
    assert first.plan.startswith('fleet plan 1: server /b, variant small (')
    assert why in first.plan
    assert second.plan == 'fleet plan 1: server /b, variant small'
    assert first.outputs['output'][0] == 1.0


def test_server_that_is_lost_while_it_computes_is_replaced_at_once(fleet):
    fleet.plan(LARGE, PlannedRoute('/b', 'small', 0.5))
    fleet.answer['/a'] = None
    timer = threading.Timer(0.05, fleet.directory.leave, ('/a', 's1'))
    timer.start()
    began_s = time.monotonic()
    result = run(fleet.strategy())
    assert 'server /b' in result.plan
    assert 'server /a ended' in result.plan
    assert time.monotonic() - began_s < LONG_S / 3


def test_frame_without_any_route_left_is_unanswered_with_all_reasons(fleet):
    fleet.plan(LARGE, PlannedRoute('/b', 'small', 0.5))
    fleet.directory.leave('/a', 's1')
    fleet.answer['/b'] = {'status': Status.BUSY, 'detail': 'full'}
    with pytest.raises(Unanswered, match='server /a is not there; server /b: full'):
        run(fleet.strategy())


def test_no_other_route_is_tried_after_the_deadline_a_cancel_or_the_end(fleet):
    fleet.plan(LARGE, PlannedRoute('/b', 'small', 0.5))
    fleet.answer['/a'] = None
    strategy = fleet.strategy()
    with pytest.raises(Unanswered, match='did not answer in time'):
        run(strategy, 1, 0.05)
    assert [name for name, _ in asked(fleet)] == ['/a']
    run(strategy, 2)
    for seq, end in ((3, lambda: strategy.cancel(3)), (5, strategy.close)):
        fleet.requests.clear()
        threading.Timer(0.05, end).start()
        began_s = time.monotonic()
        with pytest.raises(Unanswered):
            run(strategy, seq)
        assert time.monotonic() - began_s < LONG_S / 3
        assert [name for name, _ in asked(fleet)] == ['/a']
        if seq == 3:
            run(strategy, 4)


def test_frames_that_the_plan_has_no_place_for_are_the_robots(fleet):
    fleet.plan(PlannedRoute('/a', 'small', 0.75))
    strategy, left = fleet.strategy(), 0
    for seq in range(1, 101):
        try:
            run(strategy, seq)
        except LeftToRobot:
            raise
        except Unanswered as error:
            assert str(error) == 'fleet plan 1 has no place for 25.0 % of the frames'
            left += 1
    assert left == 25
    assert len(asked(fleet)) == 75


# ---- other variants


def test_variant_that_the_robot_does_not_know_or_with_other_inputs_is_refused(fleet):
    warned = fleet.plan(PlannedRoute('/a', 'huge', 0.5), PlannedRoute('/b', 'wide', 0.5))
    assert len(warned) == 2
    assert "models.yaml has no variant 'huge' of 'tiny' here" in warned[0]
    assert "variant 'wide' of 'tiny' has other inputs" in warned[1]
    with pytest.raises(Unanswered, match=r"no variant 'huge'.*has other inputs"):
        run(fleet.strategy())
    assert asked(fleet) == []


def test_other_weights_under_the_robots_own_variant_are_refused(fleet):
    fleet.start('/a', variants={('tiny', 'small'): HeldModel('other', True)})
    fleet.plan(PlannedRoute('/a', 'small', 1.0))
    with pytest.raises(Unanswered, match="has another 'tiny' as 'small'"):
        run(fleet.strategy())
    assert asked(fleet) == []


def test_outputs_are_those_of_the_variant(fleet):
    fleet.plan(PlannedRoute('/a', 'two', 1.0))
    with pytest.raises(Unanswered, match=r"answered with outputs \['output'\]"):
        run(fleet.strategy())
    outputs = {'a': torch.ones(1), 'b': torch.ones(2)}
    fleet.answer['/a'] = {'status': Status.OK, 'outputs': outputs}
    assert run(fleet.strategy()).outputs.keys() == {'a', 'b'}


# ---- no plan


def unplanned(fleet, why):
    result = run(fleet.strategy())
    assert (result.used, result.held) == ('server', None)
    assert result.plan == 'server /a', 'the least loaded, as strategy server'
    assert why in result.reason


def test_without_a_plan_it_is_strategy_server_and_says_why(fleet):
    unplanned(fleet, 'no plan of a fleet planner has come yet')
    fleet.followed.refuse('a fleet plan of /x is refused: shares add up to 2')
    unplanned(fleet, 'shares add up to 2')
    fleet.plan(LARGE, robot='/r2/offload_manager')
    unplanned(fleet, "plan 1 of /planner says nothing of 'tiny' here")


def test_silent_planner_is_not_followed_until_it_beats_again(fleet):
    fleet.plan(LARGE)
    for _ in range(4):
        fleet.now_s += 2.9
        fleet.plan(LARGE)
        assert run(fleet.strategy()).used == ''
    fleet.now_s += 3.1
    unplanned(fleet, 'fleet planner /planner is silent since 3.1 s')
    assert fleet.followed.main_server('tiny') is None
    fleet.plan(LARGE)
    assert run(fleet.strategy()).used == ''
    assert fleet.followed.main_server('tiny') == '/a'


def test_unplanned_frame_without_a_server_says_both_reasons(fleet):
    for name in ('/a', '/b', '/c'):
        fleet.directory.leave(name, 's1')
    with pytest.raises(Unanswered, match=r'no plan of a fleet planner.*; no server is there'):
        run(fleet.strategy())


def test_one_planner_is_followed_at_a_time(fleet):
    other = PlannedRoute('/b', 'large', 0.5)
    fleet.plan(LARGE)
    assert 'two fleet planners' in fleet.plan(other, session='t', planner='/other')[0]
    assert fleet.plan(other, session='t') == [], 'the same one, started again'
    assert fleet.followed.main_server('tiny') == '/a'
    fleet.now_s += 3.1
    fleet.plan(other, session='t')
    assert fleet.followed.main_server('tiny') == '/b'
    fleet.plan(LARGE, version=0, session='t')
    assert fleet.followed.main_server('tiny') == '/b', 'an older one of the same planner'


def test_model_that_the_robot_does_not_have_is_warned_of(fleet):
    assert 'no such model (there are: tiny)' in fleet.plan(LARGE, task='other')[0]


# ---- in the pipeline


@pytest.fixture
def pipeline(fleet):
    """A function that runs one frame, with the lane of a robot."""
    fleet.lane = DeviceLane()
    runs = []

    def ask(count=1):
        answers, done = [], threading.Event()

        def publish(answer, _):
            answers.append(answer)
            done.set()

        link = Link(fleet.lane, fleet.client, fleet=fleet.followed)
        runs.append(Pipeline(fleet.model, link, lambda x: ({'x': x}, {}), publish))
        for _ in range(count):
            done.clear()
            runs[-1].offer(torch.arange(3.0))
            assert done.wait(LONG_S)
        return answers

    yield ask
    for each in runs:
        each.close()
    fleet.lane.close()


def test_result_names_the_model_that_answered(fleet, pipeline):
    fleet.plan(replace(LARGE, share=1.0))
    (answer,) = pipeline()
    assert (answer.model_hash, answer.weights_trained) == ('hash of large', False)
    assert (answer.strategy_used, answer.reason, answer.fallback) == ('fleet', '', False)
    assert answer.plan == 'fleet plan 1: server /a, variant large'


def test_frames_for_the_robot_are_computed_there_and_are_no_fallback(fleet, pipeline):
    fleet.plan(LARGE, PlannedRoute('', 'small', 0.5))
    answers = pipeline(20)
    here = [each for each in answers if each.bytes_up == 0]
    assert len(here) == 10
    for answer in here:
        assert answer.plan == 'fleet plan 1: robot cpu, variant small'
        assert (answer.strategy_used, answer.fallback, answer.reason) == ('fleet', False, '')
        assert (answer.model_hash, answer.weights_trained) == ('hash', True)
        assert torch.equal(answer.outputs['output'], torch.arange(3.0))


def test_robot_runs_what_it_has_until_the_planned_variant_is_there(fleet, pipeline):
    fleet.plan(PlannedRoute('', 'large', 1.0))
    (answer,) = pipeline()
    assert answer.plan == 'fleet plan 1: robot cpu, variant small, not yet large'
    assert answer.model_hash == 'hash'


def test_frames_without_a_place_are_fallbacks_with_the_reason(fleet, pipeline):
    fleet.plan()
    (answer,) = pipeline()
    assert (answer.strategy_used, answer.fallback) == ('device', True)
    assert answer.reason == 'fleet plan 1 has no place for 100.0 % of the frames'


def test_result_without_a_plan_says_that_strategy_server_ran(fleet, pipeline):
    (answer,) = pipeline()
    assert (answer.strategy_requested, answer.strategy_used) == ('fleet', 'server')
    assert answer.reason == 'no plan of a fleet planner has come yet'
    assert not answer.fallback
