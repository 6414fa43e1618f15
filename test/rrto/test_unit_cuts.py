"""Recorded units that are cut between robot and server: the results stay equal."""

from functools import partial
import math
import random
import threading
import time

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
import torch

from offload_ros.cuts.client import link_on
from offload_ros.cuts.host import GraphHost
from offload_ros.graph import methods
from offload_ros.rrto import unit_cuts
from offload_ros.rrto.link import Loopback, on_this_machine
from offload_ros.rrto.options import PLACEMENTS, Options, cut_method
from offload_ros.rrto.outbox import Standby
from offload_ros.rrto.placement import BOTH, CUT, ROBOT, SERVER, PlacementPolicy
from offload_ros.rrto.shim import install, uninstall
from offload_ros.rrto.unit_cuts import UnitCuts
from offload_ros.strategy import LinkState
from offload_ros.wire.in_process import InProcessLink

from .random_programs import ACTIONS, INSTRUCTIONS, Instruction, program_of
from .sessions import Session, assert_equal, image, layers, on_cpu
from .test_standby import Losing

pytestmark = pytest.mark.usefixtures('settled')
OPTIONS = {
    'deadline': None,
    'database': None,
    'suppress_health_check': list(HealthCheck),
    'phases': [Phase.generate, Phase.shrink],
}
WARM, FRAMES = 12, 28
cut_runs = []
# What leaves something behind, or draws random numbers, stays on one side.
STAYS = """
rand randn_like bernoulli dropped_out normal carry take_carried count_up change_persistent
change_view_of_persistent turn_persistent out_to_persistent upload constant_of_host index_of_host
read_all read_kept unknown_shape positions changed_scalar of_frame
""".split()
CAN_BE_CUT = [place for place, (name, _) in enumerate(ACTIONS) if name not in STAYS]


def instructions(whens):
    """Instructions of units that can be cut."""
    return st.builds(
        Instruction,
        action=st.sampled_from(CAN_BE_CUT),
        a=st.integers(0, 3),
        b=st.integers(0, 3),
        k=st.integers(0, 7),
        when=st.sampled_from(whens),
    )


ANY = st.lists(INSTRUCTIONS, max_size=2)
CUTTABLE = st.lists(instructions([0] * 20 + [1, 2, 3, 4]), min_size=6, max_size=20)
PROGRAMS = st.builds(
    lambda first, middle, last: first + middle + last,
    CUTTABLE,
    st.one_of(st.just([]), st.just([]), ANY),
    st.lists(instructions([0]), min_size=2, max_size=4),
)


def at_random(problem):
    """Any cut, and of any cuts one with work on both sides."""
    operators = problem.profile.operators
    choose = random.Random(len(operators))
    on_server = np.array([not each.is_input and choose.random() < 0.5 for each in operators])
    movable = [place for place, each in enumerate(operators) if not each.is_input]
    if movable and not on_server.any():
        on_server[movable[-1]] = True
    if len(movable) > 1 and on_server.sum() == len(movable):
        on_server[movable[0]] = False
    return problem.plan(on_server)


@pytest.fixture(scope='module', autouse=True)
def methods_of_this_file():
    """Other tests are not to know them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(methods._METHODS, 'at_random', lambda: at_random)
        patch.setitem(methods._METHODS, 'behind_the_first', lambda: behind_the_first)
        yield


class Sides(PlacementPolicy):
    """Takes the sides in turn."""

    def __init__(self, sides=(CUT,)):
        super().__init__(forced=ROBOT)
        self._sides, self._at = sides, 0

    def choose(self, unit):
        self._at += 1
        return self._sides[self._at % len(self._sides)]


class Site:
    """A session whose units can be cut, and the server of the cuts."""

    def __init__(self, policy, link=Loopback, method='at_random', **shapes):
        self.policy = policy
        self.host = GraphHost(1 << 30)
        self.channels = InProcessLink(**shapes)
        self.hosted = self.host.serve(self.channels.server, '/robot')
        self.cuts = UnitCuts(method, lambda: link_on(self.channels.robot), policy._link)
        standby = Standby(on_this_machine, policy=policy, cuts=self.cuts)
        self.session = Session('replay', link, standby)
        install(self.session.client)

    def settle(self):
        """What goes on beside the program has ended."""
        end_s = time.monotonic() + 20
        mirror = self.session.client._outbox._mirror
        while mirror is not None and mirror._thread.is_alive():
            # A step towards a cut that was taken from the queue goes on yet.
            steps = any(unit.preparing for unit in list(self.cuts._units.values()))
            if mirror._work.empty() and not steps:
                break
            assert time.monotonic() < end_s
            time.sleep(0.0005)
        if self.cuts._worker.is_alive() and not self.cuts._closed:
            done = threading.Event()
            self.cuts._work.put(done.set)
            while not (done.wait(0.05) or self.cuts._closed):
                assert time.monotonic() < end_s

    def settled_frames(self, program):
        """``program`` waits after each frame."""

        def of(device):
            frame = program(device)

            def run(index):
                result = frame(index)
                self.settle()
                return result

            return run

        return of

    @property
    def cut_runs(self):
        return sum(times.runs[CUT] for times in self.policy._units.values())

    def close(self):
        self.session.close()
        uninstall()
        self.channels.close()
        self.host.close()


@pytest.fixture
def at_once(monkeypatch):
    """Steps towards a cut follow each other."""
    monkeypatch.setattr(unit_cuts, 'PASSES', 1)
    monkeypatch.setattr(unit_cuts, 'STEP_S', 0.0)
    monkeypatch.setattr(unit_cuts, 'PLAN_S', 0.0)
    monkeypatch.setattr(unit_cuts, 'LEAST_WAIT_S', 30.0)  # however slow the machine is


@pytest.fixture
def site(at_once):
    """``site(policy, ...)``, closed in the end."""
    opened = []

    def make(*args, **options):
        opened.append(Site(*args, **options))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


def check(instructions, sides, after):
    def program(device):
        frame = program_of(instructions)(device)
        # What happens in some frames only begins when there are plans.
        return lambda index: frame(index % 4 if index < WARM else index - WARM + 4)

    expected = on_cpu(program, FRAMES)
    site = Site(Sides(sides), partial(Losing, after=after))
    try:
        found = site.session.play(site.settled_frames(program), FRAMES)
        assert_equal(found, expected, f'{sides} of {instructions}')
        cut_runs.append(site.cut_runs)
        del program
        site.session.handles()
        site.settle()
        mirror = site.session.client._outbox._mirror
        if mirror is not None and mirror._session is not None:
            left = len(mirror._session.table)
            assert not left, f'{left} tensors are left on the robot'
    finally:
        site.close()


@settings(max_examples=24, derandomize=True, **OPTIONS)
@given(
    PROGRAMS,
    st.lists(st.sampled_from([CUT, CUT, ROBOT, SERVER, BOTH]), min_size=1, max_size=4),
    st.sampled_from([40, 1000, 1000]),
)
def test_random_programs_agree_when_their_units_are_cut(at_once, instructions, sides, after):
    check(instructions, sides, after)


@pytest.mark.long
@settings(max_examples=1000, **OPTIONS)
@given(
    PROGRAMS,
    st.lists(st.sampled_from([CUT, CUT, ROBOT, SERVER, BOTH]), min_size=1, max_size=4),
    st.integers(20, 200),
)
def test_many_random_programs_agree_when_their_units_are_cut(at_once, instructions, sides, after):
    check(instructions, sides, after)


def test_units_were_cut():
    assert sum(map(bool, cut_runs)) > len(cut_runs) / 4


class Program:
    """A network whose result is read, on the device and beside it."""

    def __init__(self, *sizes):
        self.here, self.there = layers(0, *sizes), layers(0, *sizes).to('cuda')
        self.first = sizes[0]

    def frame(self, index, rows=3):
        x = image(index, rows, self.first)
        assert torch.equal(self.there(x.to('cuda')).cpu(), self.here(x)), index

    def frames(self, site, count, first=0):
        for index in range(first, first + count):
            self.frame(index)
            site.settle()

    def until_cut(self, site, count, first=0):
        """Frames until so many in all were cut; the index of the next one."""
        end_s = time.monotonic() + 60.0
        while site.cut_runs < count:
            assert time.monotonic() < end_s, site.policy.lines(site.cuts.text)
            self.frames(site, 1, first)
            first += 1
        return first


def known(site):
    """The one unit that there is."""
    (unit,) = site.policy._units
    return site.policy.of(unit), site.cuts.of(unit)


def test_a_unit_is_measured_planned_and_cut(site):
    made = site(Sides())
    program = Program(6, 5, 4, 7)
    first = program.until_cut(made, 8)
    program.frames(made, 4, first)
    times, unit = known(made)
    assert not unit.why_not and times.runs[CUT] >= 12
    nodes = range(len(unit.made.graph.nodes))
    for passes in (unit.robot, unit.server):
        assert len(passes) >= 1
        for node_s, whole_s in passes:
            assert set(node_s) == set(nodes) and 0.0 < whole_s < math.inf
    robot, server = unit.current[0].cut.counts
    assert robot > 0 and server > 0 and robot + server == len(nodes)
    assert made.session.server.executed < made.session.statistics.replayed  # it was not asked
    (line,) = made.session.client._outbox._standby.lines()
    assert f'cut by at_random: {robot} on the robot and {server} on the server' in line


class SlowRobot(PlacementPolicy):
    """A robot that takes 60 ms longer for the whole unit."""

    def computed(self, unit, took_s):
        super().computed(unit, took_s + 0.06)


def behind_the_first(problem):
    """All but the first operator on the server."""
    movable = [place for place, each in enumerate(problem.profile.operators) if not each.is_input]
    on_server = np.zeros(len(problem.profile), dtype=bool)
    on_server[movable[1:]] = True
    return problem.plan(on_server)


def test_a_cut_is_chosen_only_while_it_is_predicted_to_be_clearly_faster(site):
    link = [LinkState(1e8, 1e8, 0.001)]
    made = site(
        SlowRobot(lambda: link[0]), partial(Loopback, round_trip_s=0.06), 'behind_the_first'
    )
    program = Program(6, 5, 4)
    program.frames(made, 30)
    times, unit = known(made)
    assert unit.measured and times.runs[CUT] > 5
    assert times.is_cut and math.isfinite(made.policy.predicted_cut_s(1))
    assert 'unit 1: cut (server' in made.policy.lines()[0]
    link[0] = LinkState(1e2, 1e2, 0.001)  # so slow that a tensor takes a second
    before = times.runs[CUT]
    program.frames(made, 12, 30)
    assert times.runs[CUT] <= before + 1  # the plan is looked at behind the first of them
    assert not times.is_cut


def test_a_program_that_goes_another_way_in_a_cut_unit_gets_its_own_results(site):
    made = site(Sides())
    here, there = layers(0, 6, 5, 4), layers(0, 6, 5, 4).to('cuda')

    def frame(index, another):
        x = image(index, 3, 6)
        ours, theirs = here[:2](x), there[:2](x.to('cuda'))
        if another:
            ours, theirs = ours * index, theirs * index
        assert torch.equal(there[2:](theirs).cpu(), here[2:](ours)), index
        made.settle()

    for index in range(16):
        frame(index, False)
    times, unit = known(made)
    assert times.runs[CUT] >= 4
    for index in range(16, 40):
        frame(index, index % 3 == 0)
    assert made.session.statistics.aborts >= 4
    assert times.runs[CUT] >= 20 and not unit.why_not


def test_weights_that_change_travel_again(site):
    made = site(Sides())
    program = Program(6, 5, 4)
    first = 0
    for round_ in range(3):
        first = program.until_cut(made, 4 * (round_ + 1), first)
        times, unit = known(made)
        assert unit.remade == round_ and times.runs[CUT] >= 4 * (round_ + 1)
        for each in (program.here, program.there):
            each[0].weight.data.mul_(1.5)
    graphs = made.host.store._graphs
    end_s = time.monotonic() + 10.0
    while sum(bool(each.users) for each in graphs.values()) > 1:  # the others are given back
        assert time.monotonic() < end_s
        time.sleep(0.01)


def test_weights_that_change_all_the_time_are_not_cut(site):
    made = site(Sides())
    program = Program(6, 5, 4)
    for index in range(60):
        program.frames(made, 1, index)
        if index > 8:
            for each in (program.here, program.there):
                each[0].weight.data.mul_(1.01)
    assert any('its weights change' in line for line in made.policy.lines(made.cuts.text))


def test_a_unit_whose_results_other_operators_need_is_not_cut(site):
    made = site(Sides())
    here, there = layers(0, 6, 5, 4), layers(0, 6, 5, 4).to('cuda')
    end_s, index = time.monotonic() + 60.0, 0
    while index < 30 or not (known(made)[1].why_not and made.policy._ended):
        assert time.monotonic() < end_s
        x = image(index, 3, 6)
        found, wanted = there(x.to('cuda')), here(x)
        assert torch.equal(found.cpu(), wanted)
        if made.cut_runs > 5:  # never the same operator
            assert torch.equal((found * index).cpu(), wanted * index)
        made.settle()
        index += 1
    times, unit = known(made)
    assert times.runs[CUT] >= 6
    assert unit.why_not == 'the program does more on the device while it holds its results'
    assert made.policy.lines()[-1].startswith('units stay on the server')


def test_a_server_that_takes_no_graphs_leaves_units_whole(site):
    made = site(Sides())
    made.host.store.memory_bytes = 0
    Program(6, 5, 4).frames(made, 12)
    assert not known(made)[0].runs[CUT]
    assert 'no cut: this server runs no graphs of robots' in made.policy.lines(made.cuts.text)[0]


def test_the_robot_computes_what_a_server_that_is_lost_in_a_cut_does_not(site):
    made = site(Sides())
    program = Program(6, 5, 4)
    program.until_cut(made, 4)
    _, unit = known(made)
    made.channels.close()
    program.frames(made, 6, 16)
    assert unit.why_not or not unit.opened


def test_a_server_that_does_not_answer_in_time_is_not_waited_for(site, monkeypatch):
    made = site(Sides())
    program = Program(6, 5, 4)
    program.until_cut(made, 4)
    _, unit = known(made)
    monkeypatch.setattr(unit_cuts, 'LEAST_WAIT_S', 0.1)
    monkeypatch.setattr(unit_cuts, 'MOST_TIMES', 0.0)
    free = threading.Event()
    made.host.lane.submit(lambda: free.wait(30.0))  # it is busy with something else
    program.frames(made, 1, 16)
    assert unit.failures == 1
    free.set()
    program.frames(made, 6, 17)


def test_threads_of_a_program_share_the_cuts(site):
    made = site(Sides())
    program = Program(6, 5, 4)
    failed = []

    def work(first):
        try:
            index, end_s = first, time.monotonic() + 60.0
            while index < first + 40 or (made.cut_runs <= 10 and time.monotonic() < end_s):
                program.frame(index)
                index += 1
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(100 * each,)) for each in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not failed
    assert made.cut_runs > 10


def test_placements_are_checked_before_a_program_starts():
    assert [cut_method(each) for each in PLACEMENTS] == ['', '', 'layer_cut']
    assert cut_method(Options(fallback='local', placement='auto:dsccs').placement) == 'dsccs'
    with pytest.raises(ValueError, match="placement 'cut' is not one of server, whole, auto"):
        Options(fallback='local', placement='cut')
    with pytest.raises(ValueError, match="there is no method 'nothing'; there are device, "):
        Options(fallback='local', placement='auto:nothing')
    with pytest.raises(ValueError, match='placement whole wants a copy on this machine'):
        Options(placement='whole')
