"""A live fleet: what comes and goes, what is measured, what is loaded before whom is told."""

from dataclasses import replace
import math

import pytest

from offload_ros.fleet.assignment import Assignment, Route
from offload_ros.fleet.changes import Change, Changes
from offload_ros.fleet.j3o import J3oOptions, j3o
from offload_ros.fleet.live import LiveFleet, LiveOptions, TaskSeen
from offload_ros.fleet.observed import Drift, Rate
from offload_ros.fleet.plan import (
    FleetPlan,
    LoadedModel,
    PlannedRoute,
    PlannedTask,
    one_variant_each,
    planned_nodes,
    planned_tasks,
)
from offload_ros.fleet.planner import LivePlanner, PlannerOptions
from offload_ros.fleet.problem import Demand, Link, Model, Node, Problem, Task
from offload_ros.fleet.solving import planned, with_what_is_held
from offload_ros.fleet.verify import violations
from offload_ros.wire.directory import HeldModel, ServerState

TICK_S = 0.05
SMALL, LARGE = LoadedModel('detect', 'small'), LoadedModel('detect', 'large')
MANAGER = '/r1/offload_manager'
# The robot answers 5 of 10 frames per s with the small model by itself; a server holds one of both,
# and answers 20 per s with the large one.
FILE = Problem(
    nodes=(
        Node('r1', 'robot', 100.0, 1.0, 0.5),
        Node('r2', 'robot', 100.0, 1.0, 0.5),
        Node('e1', 'server', 250.0, 10.0),
        Node('e2', 'server', 250.0, 10.0),
    ),
    links=tuple(
        Link(robot, server, 1e5, 0.01) for robot in ('r1', 'r2') for server in ('e1', 'e2')
    ),
    tasks=(Task('detect', 2.0),),
    models=(
        Model('small', 100.0, {'detect': 0.5}, 0.05, 0.05),
        Model('large', 200.0, {'detect': 0.9}, 0.25, 0.25),
    ),
    demand=(Demand('r1', 'detect', 10.0, 1000.0), Demand('r2', 'detect', 10.0, 1000.0)),
)


class World:
    """A clock, nodes that tell what they hold as often as real ones, and what the planner did.

    ``loads``: whether nodes do as they are asked, or what they answer; None: nothing.
    """

    def __init__(self, file=FILE, **options):
        self.now_s = 100.0
        self.fleet = LiveFleet(file, LiveOptions(**options), self.clock)
        self.file = file
        self.servers: dict[str, set[LoadedModel]] = {}
        self.robots: dict[str, str] = {}  # and the variant loaded
        self.hz = dict.fromkeys([each.robot for each in file.demand], 10.0)
        self.up = {}
        self.strategy = 'fleet'
        self.loads = lambda change: ''
        self.asked: list[Change] = []
        self.plans: list[tuple[float, FleetPlan]] = []
        self.held_when_told = []
        self._frames = dict.fromkeys(self.hz, 0.0)
        self._answers = []
        chosen = PlannerOptions(load_s=20.0, unload_s=5.0)
        self.planner = LivePlanner('/planner', 's', self.fleet, self, chosen, self.clock)

    def clock(self):
        return self.now_s

    def change(self, change, done):
        self.asked.append(change)
        self._answers.append((self.now_s + 0.3, change, done))

    def publish(self, plan):
        self.plans.append((self.now_s, plan))
        self.held_when_told.append({name: set(held) for name, held in self.servers.items()})

    def run(self, seconds):
        """Real time passes; heartbeats at 10 Hz, status at 1 Hz."""
        for _ in range(round(seconds / TICK_S)):
            self.now_s += TICK_S
            tick = round(self.now_s / TICK_S)
            for robot, hz in self.hz.items():
                self._frames[robot] += hz * TICK_S
            if tick % 2 == 0:
                for name, held in self.servers.items():
                    variants = {each: HeldModel('hash', True) for each in held}
                    self.fleet.heard_server(ServerState(f'/{name}', 's1', variants=variants))
            if tick % 20 == 0:
                for name, variant in self.robots.items():
                    seen = TaskSeen(variant, self.strategy, int(self._frames[name]))
                    manager = self.file.node[name].address
                    self.fleet.heard_robot(manager, {'detect': seen}, self.up.get(name, {}))
            for answer in [each for each in self._answers if each[0] <= self.now_s]:
                self._answers.remove(answer)
                self._carry_out(*answer[1:])
            self.fleet.look()
            self.planner.step()

    def _carry_out(self, change, done):
        said = self.loads(change)
        name = next(e.name for e in self.file.nodes if e.address == change.address)
        if said == '':
            if name in self.robots:
                self.robots[name] = change.model.variant
            elif name in self.servers and change.loaded:
                self.servers[name].add(change.model)
            elif name in self.servers:
                self.servers[name].discard(change.model)
        if said is not None:
            done(said)

    @property
    def plan(self):
        return self.plans[-1][1]

    def routes(self, robot='r1'):
        """(server, variant): share, of the last plan."""
        manager = self.file.node[robot].address
        task = next(each for each in self.plan.tasks if each.robot == manager)
        return {(each.server, each.variant): each.share for each in task.routes}

    def since(self, began_s):
        return [plan for at_s, plan in self.plans if at_s > began_s]


def two_servers(held=(SMALL, LARGE), **options):
    """A world in which all is there and was planned for."""
    world = World(**options)
    world.servers = {'e1': set(held), 'e2': set(held)}
    world.robots = {'r1': 'small', 'r2': 'small'}
    world.run(20.0)
    return world


def used(world):
    """Servers of the last plan's routes."""
    return {each.server for task in world.plan.tasks for each in task.routes if each.server}


def test_plan_of_a_whole_fleet_keeps_all_limits_and_what_it_does_not_need_is_unloaded():
    world = two_servers()
    assert world.plan.accuracy == pytest.approx(0.9)
    assert world.servers == {'e1': {LARGE}, 'e2': {LARGE}} or world.servers == {
        'e1': {LARGE},
        'e2': set(),
    }
    assert all(
        world.routes(robot).keys() <= {('/e1', 'large'), ('/e2', 'large')} for robot in world.robots
    )
    assert [change.loaded for change in world.asked] == [False] * len(world.asked)
    assert world.robots == {'r1': 'small', 'r2': 'small'}, 'robots keep what they answer with'


def test_nothing_is_told_to_robots_before_it_is_loaded():
    world = two_servers(held=())
    assert world.asked
    assert all(change.loaded for change in world.asked)
    for (_, plan), held in zip(world.plans, world.held_when_told, strict=True):
        for task in plan.tasks:
            for route in task.routes:
                if route.server:
                    assert LoadedModel(task.task, route.variant) in held[route.server[1:]], plan
    assert world.plan.accuracy == pytest.approx(0.9)


def test_lost_server_is_planned_without_within_two_seconds():
    world = two_servers()
    world.hz = {'r1': 20.0, 'r2': 20.0}
    world.run(12.0)
    assert used(world) == {'/e1', '/e2'}, 'both are needed'
    del world.servers['e1']
    began_s = world.now_s
    world.run(2.0)
    assert world.since(began_s)
    assert 'e1 is lost' in world.since(began_s)[0].reason
    assert all(
        '/e1' not in {r.server for t in p.tasks for r in t.routes} for p in world.since(began_s)
    )
    assert [each.name for each in world.plan.nodes] == ['r1', 'r2', 'e2']
    assert 'not there: e1' in world.plan.remarks


def test_server_that_comes_back_is_used_within_two_seconds():
    world = two_servers()
    kept = world.servers.pop('e1')
    world.servers.pop('e2')
    world.run(5.0)
    assert world.plan.accuracy == pytest.approx(0.25), 'the robots by themselves: 5 of 10 at 0.5'
    world.servers['e1'] = {LARGE} | kept
    began_s = world.now_s
    world.run(2.0)
    assert 'e1 is there' in world.since(began_s)[0].reason
    assert used(world) == {'/e1'}


def test_while_models_load_robots_are_told_what_is_there_meanwhile():
    world = two_servers(held=())
    world.servers = {'e2': set()}
    world.loads = lambda change: None
    began_s = world.now_s
    world.run(2.0)
    assert world.since(began_s)
    first = world.since(began_s)[0]
    assert first.reason.endswith('models load')
    assert {r.server for t in first.tasks for r in t.routes} == {''}


def test_server_that_does_not_load_is_planned_without_that_model_and_asked_again_later():
    world = World(refused_s=30.0)
    world.loads = lambda change: 'no memory' if change == Change('/e1', LARGE, True) else ''
    world.servers = {'e1': set()}
    world.robots = {'r1': 'small'}
    world.run(10.0)
    assert world.asked.count(Change('/e1', LARGE, True)) == 1
    assert world.servers == {'e1': {SMALL}}
    assert world.routes() == {('/e1', 'small'): 1.0}
    assert 'e1 does without large: no memory' in world.plan.remarks
    world.loads = lambda change: ''
    world.run(35.0)
    assert world.routes() == {('/e1', 'large'): 1.0}


def test_server_that_never_answers_is_given_up():
    world = World()
    world.loads = lambda change: None if change.loaded else ''
    world.servers = {'e1': set()}
    world.robots = {'r1': 'small'}
    world.run(45.0)
    assert world.routes() == {('', 'small'): pytest.approx(0.5)}
    assert any('not loaded within 20 s' in each for each in world.plan.remarks)


def test_short_change_of_demand_is_not_planned_for_and_a_lasting_one_is():
    world = two_servers()
    before = world.plan.version
    world.hz['r1'] = 11.0  # within 20 %
    world.run(15.0)
    assert world.plan.version == before
    world.hz['r1'] = 20.0
    world.run(1.0)
    world.hz['r1'] = 11.0
    world.run(15.0)
    assert world.plan.version == before
    world.hz['r1'] = 30.0
    world.run(15.0)
    assert world.plan.version > before
    assert 'demand[r1, detect]' in world.plan.reason
    task = next(each for each in world.plan.tasks if each.robot == MANAGER)
    assert task.queries_per_s == pytest.approx(30.0, rel=0.2)


def test_camera_that_pauses_keeps_a_tenth_of_its_demand():
    world = two_servers()
    world.hz['r1'] = 0.0
    world.run(20.0)
    task = next(each for each in world.plan.tasks if each.robot == MANAGER)
    assert task.queries_per_s == pytest.approx(1.0)
    assert world.routes()


def test_thin_link_is_planned_for_and_more_than_enough_is_no_news():
    world = two_servers()
    world.up = {'r1': {'/e1': 1e9, '/e2': math.nan}}
    world.run(10.0)
    assert world.plan.reason == 'links[r1 to e1] 1e+05 to 5e+05 bytes/s', 'enough for all frames'
    before = world.plan.version
    world.up = {'r1': {'/e1': 9e9, '/e2': math.nan}}
    world.run(10.0)
    assert world.plan.version == before
    world.up = {'r1': {'/e1': 2000.0, '/e2': 1000.0}}
    world.run(10.0)
    assert 'links[r1 to e1]' in ' '.join(plan.reason for _, plan in world.plans)
    sent = sum(share for (server, _), share in world.routes().items() if server)
    assert sent <= 0.31, 'three of ten frames of 1000 bytes'
    assert sent > 0.2


def test_model_that_somebody_else_unloads_is_loaded_again():
    world = two_servers()
    world.servers = {name: set() for name in world.servers}
    began_s = world.now_s
    world.run(3.0)
    first = world.since(began_s)[0]
    assert 'no longer holds what was planned' in first.reason
    assert not any(r.server for t in first.tasks for r in t.routes), 'until it is there again'
    assert used(world)
    assert world.plan.accuracy == pytest.approx(0.9)


def test_robot_is_switched_to_the_planned_variant_before_it_is_told():
    alone = replace(
        FILE,
        nodes=(replace(FILE.nodes[0], memory_bytes=200.0, speed=20.0), *FILE.nodes[1:]),
        demand=FILE.demand[:1],
    )
    world = World(alone)
    world.robots = {'r1': 'small'}
    world.run(5.0)
    assert world.asked == [Change(MANAGER, LARGE, True)]
    assert [routes.variant for routes in world.plans[0][1].tasks[0].routes] == ['small']
    assert world.routes() == {('', 'large'): 1.0}
    world.robots = {'r1': 'small'}  # started again
    world.run(5.0)
    assert world.robots == {'r1': 'large'}
    assert world.routes() == {('', 'large'): 1.0}


def test_robot_that_falls_silent_is_planned_without():
    world = two_servers()
    del world.robots['r2']
    world.run(6.0)
    assert 'r2 is lost' in world.plan.reason
    assert [each.robot for each in world.plan.tasks] == [MANAGER]


def test_robot_with_another_strategy_is_not_planned_for_and_that_is_said():
    world = two_servers()
    world.strategy = 'server'
    world.run(3.0)
    assert world.plan.tasks == ()
    assert 'demand[r1, detect] is not planned for: its strategy is server' in world.plan.remarks
    assert LARGE in world.servers['e1'] | world.servers['e2'], 'others may use what is there'


def test_why_nothing_can_be_answered_is_said():
    slow = replace(FILE, tasks=(Task('detect', 0.01),))
    world = World(slow)
    world.servers, world.robots = {'e1': {LARGE}}, {'r1': 'small'}
    world.run(5.0)
    assert world.routes() == {}
    assert world.plan.accuracy == 0.0
    assert any('takes' in each and 'ms of 10 ms' in each for each in world.plan.remarks)


def test_strangers_and_other_managers_are_of_no_interest():
    world = World()
    world.fleet.heard_server(ServerState('/stranger', 's'))
    world.fleet.heard_server(ServerState(MANAGER, 's'))
    world.fleet.heard_robot('/e1', {}, {})
    world.fleet.heard_robot('/nobody', {}, {})
    world.run(1.0)
    assert world.plans == []
    assert world.fleet.there() == []


def test_a_pause_of_the_planner_itself_is_not_the_nodes_silence():
    world = two_servers()
    before = world.plan.version
    world.now_s += 30.0
    world.run(1.0)
    assert world.plan.version == before


def test_server_that_ends_in_order_is_planned_without_at_once():
    world = two_servers()
    began_s = world.now_s
    del world.servers['e1']
    world.fleet.heard_server(ServerState('/e1', 's1'), closing=True)
    world.run(0.2)
    assert 'e1 ended' in world.since(began_s)[0].reason


def test_what_is_loaded_stays_where_another_loading_is_hardly_better():
    problem = replace(
        FILE,
        models=(*FILE.models, Model('larger', 200.0, {'detect': 0.905}, 0.25, 0.25)),
    )
    held = {'e1': {LARGE}, 'e2': {LARGE}, 'r1': {SMALL}}
    assert {route.model for route in planned(problem, held, 1.0).routes} == {'large'}
    better = {'e1': {SMALL}, 'e2': {SMALL}, 'r1': {SMALL}}
    assert 'larger' in {route.model for route in planned(problem, better, 1.0).routes}


def test_servers_that_hold_more_than_they_may_are_not_planned_with_all_of_it():
    busy = replace(FILE, demand=(Demand('r1', 'detect', 30.0, 1000.0),))
    held = {'e1': {SMALL, LARGE}}
    assert with_what_is_held(busy, held).loaded['e1'].keys() == {'small', 'large'}
    assert violations(busy, planned(busy, held, 1.0)) == []


def test_without_loading_only_what_is_held_is_used():
    found = with_what_is_held(FILE, {'e1': {SMALL}, 'r1': {SMALL}, 'r2': set()})
    ways = {(route.node, route.model) for route in found.routes}
    assert ways <= {('e1', 'small'), ('r1', 'small')}
    assert found.value(FILE) == pytest.approx(10.0)
    assert violations(FILE, found) == []
    assert with_what_is_held(FILE, {}).routes == ()


def test_robot_gets_one_variant_of_a_task_and_no_limit_is_exceeded():
    both = Assignment(
        {'r1': {'small': 1, 'tiny': 1}, 'e1': {'small': 1}},
        (
            Route('detect', ('r1',), 'small', 2.0),
            Route('detect', ('r1',), 'tiny', 3.0),
            Route('detect', ('r1', 'e1'), 'small', 5.0),
        ),
    )
    problem = replace(
        FILE,
        models=(*FILE.models, Model('tiny', 10.0, {'detect': 0.4}, 0.01, 0.01)),
    )
    found = one_variant_each(problem, both)
    assert found.loaded == {'r1': {'tiny': 1}, 'e1': {'small': 1}}
    assert {(r.node, r.model): r.queries_per_s for r in found.routes} == {
        ('r1', 'tiny'): 5.0,
        ('e1', 'small'): 5.0,
    }
    roomy = replace(problem, nodes=(replace(FILE.nodes[0], memory_bytes=200.0), *FILE.nodes[1:]))
    assert violations(roomy, found) == []


def test_planned_shares_add_up_and_name_ros_nodes():
    nodes = (replace(FILE.nodes[0], address='/a/manager'), *FILE.nodes[1:])
    problem = replace(FILE, nodes=nodes)
    assignment = j3o(problem, J3oOptions(batching=False)).assignment
    tasks = planned_tasks(problem, assignment)
    assert [each.robot for each in tasks] == ['/a/manager', '/r2/offload_manager']
    assert all(sum(r.share for r in each.routes) == pytest.approx(1.0) for each in tasks)
    there = planned_nodes(problem, assignment, {'e1', 'r1'})
    assert [(each.name, each.address) for each in there] == [('r1', '/a/manager'), ('e1', '/e1')]


ROUTE = PlannedRoute('/e1', 'large', 0.5)
PLAN = FleetPlan('/planner', 's', 1, 1.0, 3.0, (PlannedTask(MANAGER, 'detect', 10.0, (ROUTE,)),))


@pytest.mark.parametrize(
    ('make', 'why'),
    [
        (lambda: replace(ROUTE, share=0.0), 'share of a route'),
        (lambda: replace(ROUTE, share=1.1), 'share of a route'),
        (lambda: replace(ROUTE, share=math.nan), 'share of a route'),
        (lambda: replace(ROUTE, variant=''), 'no variant'),
        (lambda: replace(PLAN.tasks[0], routes=(ROUTE, ROUTE)), 'one route is there twice'),
        (
            lambda: replace(PLAN.tasks[0], routes=(ROUTE, replace(ROUTE, server='', share=0.6))),
            'add up to 1.1',
        ),
        (lambda: replace(PLAN.tasks[0], queries_per_s=math.inf), 'queries per s'),
        (lambda: replace(PLAN, tasks=PLAN.tasks * 2), 'is there twice'),
        (lambda: replace(PLAN, session=''), 'not empty'),
        (lambda: replace(PLAN, beat_s=math.nan), 'beat_s'),
        (lambda: replace(PLAN, silent_s=0.5), 'beat_s'),
        (lambda: replace(PLAN, silent_s=1e6), 'beat_s'),
        (lambda: LiveOptions(change=0.0), 'change'),
        (lambda: LiveOptions(least_demand=2.0), 'least_demand'),
    ],
)
def test_plans_and_options_that_make_no_sense_are_refused(make, why):
    with pytest.raises(ValueError, match=why):
        make()


def test_rate_is_that_of_the_last_seconds_and_survives_a_restart():
    rate = Rate()
    assert math.isnan(rate.per_s)
    for second in range(20):
        rate.count(10 * second, float(second))
    assert rate.per_s == 10.0
    rate.count(3, 20.0)
    assert math.isnan(rate.per_s), 'its source was started again'
    for second in range(21, 24):
        rate.count(3 + 2 * (second - 20), float(second))
    assert rate.per_s == 2.0


def test_drift_is_due_when_it_lasts():
    drift = Drift(10.0)
    for now_s, value in ((0.0, 13.0), (1.0, 13.0), (2.0, 11.0), (3.0, 13.0), (5.0, math.nan)):
        drift.seen(value, 0.2, now_s)
        assert not drift.due(3.0, now_s)
    assert drift.due(3.0, 6.0)
    assert drift.take() == 13.0
    assert not drift.due(3.0, 100.0)


class Asked:
    """What was sent, and the ways to answer it."""

    def __init__(self):
        self.sent = []
        self.changes = Changes(lambda change, done: self.sent.append((change, done)))

    def settled(self, *held):
        return self.changes.settled({'/e1': set(held)})['/e1']


LOAD, UNLOAD = Change('/e1', LARGE, True), Change('/e1', LARGE, False)


def test_model_that_is_being_unloaded_is_not_held_and_is_again_once_it_was_loaded_again():
    asked = Asked()
    asked.changes.ask(UNLOAD)
    asked.changes.ask(UNLOAD)
    assert len(asked.sent) == 1
    assert asked.settled(LARGE) == set()
    asked.changes.ask(LOAD)
    assert asked.settled(LARGE) == set(), 'the unloading has not been done yet'
    asked.sent[0][1]('')
    assert asked.settled() == set()
    asked.sent[1][1]('')
    assert asked.settled() == set()
    assert asked.settled(LARGE) == {LARGE}
    asked.changes.ask(UNLOAD)
    assert len(asked.sent) == 3, 'it may be asked for again'


def test_unloading_whose_answer_was_lost_ends_with_a_later_loading():
    asked = Asked()
    asked.changes.ask(UNLOAD)
    assert asked.settled() == set()
    asked.changes.ask(LOAD)
    asked.sent[1][1]('')
    asked.settled(LARGE)
    assert asked.settled(LARGE) == {LARGE}


def test_failure_is_told_once_and_asked_for_again():
    asked = Asked()
    asked.changes.ask(LOAD)
    asked.sent[0][1]('no memory')
    assert asked.settled() == set()
    assert asked.changes.failed([LOAD]) == {LOAD: 'no memory'}
    assert asked.changes.failed([LOAD]) == {}
    asked.changes.ask(LOAD)
    assert len(asked.sent) == 2
    asked.sent[1][1]('no memory')
    asked.changes.forget_failures()
    assert asked.changes.failed([LOAD]) == {}


def test_node_that_is_gone_is_not_waited_for():
    asked = Asked()
    asked.changes.ask(UNLOAD)
    assert asked.changes.settled({}) == {}
    assert asked.settled(LARGE) == {LARGE}
