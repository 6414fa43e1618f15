"""Strategy ``rrto``: a robot's model whose operators run on a server, over channels in one
process."""

from concurrent.futures import ThreadPoolExecutor
import gc
import re
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from offload_ros.cuts.host import GraphHost
from offload_ros.graph import methods
from offload_ros.models.config import InputSpec, ModelConfig, Source
from offload_ros.models.model import Model, runtime_description
from offload_ros.rrto import strategy as module
from offload_ros.rrto import unit_cuts
from offload_ros.rrto.host import OperatorHost
from offload_ros.rrto.placement import CUT, ROBOT, PlacementPolicy
from offload_ros.rrto.shim import uninstall
from offload_ros.rrto.strategy import RrtoStrategy, SharedDevice
from offload_ros.strategy import Frame, Link, LinkState, StrategyRefused, Unanswered
from offload_ros.wire.client import OffloadClient
from offload_ros.wire.directory import ServerDirectory, ServerState
from offload_ros.wire.in_process import InProcessLink

LONG_S = 20.0


class Network(nn.Module):
    """(H, W, 3) uint8 to (5,)."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten()
        )
        self.last = nn.Linear(54, 5)

    def forward(self, image):
        x = image.permute(2, 0, 1).unsqueeze(0).float() / 255.0
        return self.last(self.layers(x))[0]


def model_of(network, device='cpu'):
    spec = InputSpec('image', 'cam')
    config = ModelConfig('tiny', Source(python='a:B'), inputs=(spec,), outputs=('output',))
    return Model(config, network, 'hash', True, device)


class Site:
    """A robot's client, and servers that come and go."""

    def __init__(self):
        self.directory = ServerDirectory(LONG_S)
        self.client = OffloadClient('/robot', 'session', self.directory, lambda *_: 0)
        self.channels, self.links, self.hosts, self.hosted = {}, {}, {}, {}
        self.client.channel_to = self.channels.get

        self.strategies = []
        self._sessions = 0

    def start(self, name='/server', queue_length=0, **limits):
        self._sessions += 1
        link = self.links[name] = InProcessLink()
        host = self.hosts[name] = OperatorHost(**limits)
        self.hosted[name] = host.serve(link.server, '/robot')
        session = f's{self._sessions}'
        state = ServerState(name, session, runtime_description(), queue_length=queue_length)
        self.directory.heard(state)
        self.directory.connect(name, session)
        self.channels[name] = link.robot
        return host

    def stop(self, name='/server'):
        """It dies; the robot has noticed."""
        state = next(each for each in self.directory.alive() if each.name == name)
        self.directory.leave(name, state.session)
        self.channels.pop(name)
        self.hosted[name].close()
        self.links.pop(name).close()

    def strategy(self, network, cuda=False):
        made = RrtoStrategy()
        self.strategies.append(made)
        made.prepare(model_of(network), Link(None, self.client))
        return made

    def close(self):
        for each in self.strategies:
            each.close()
        for name in list(self.links):
            self.stop(name)
        # A thread that still computes when Python ends takes the process down.
        wait_until(lambda: not any(map(len, self.hosts.values())))


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setattr(module, '_shared', SharedDevice())
    made = Site()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield made
    made.close()
    torch.set_num_threads(threads)
    uninstall()


def frames(count, first=1):
    generator = torch.Generator().manual_seed(first)
    for seq in range(first, first + count):
        pixels = torch.randint(0, 256, (24, 20, 3), dtype=torch.uint8, generator=generator)
        yield Frame(seq, {'image': pixels}, time.monotonic())


def run(strategy, frame, limit_s=LONG_S):
    return strategy.run(frame, time.monotonic() + limit_s)


def wait_until(condition, limit_s=LONG_S):
    end_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.005)


def test_results_are_those_of_the_robot_and_the_plan_tells_how(site):
    site.start()
    network = Network(0).eval()
    alone, strategy = model_of(network), site.strategy(network)
    for frame in frames(8):
        result = run(strategy, frame)
        want = alone.run(frame.inputs)['output']
        assert torch.equal(result.outputs['output'], want)
        assert type(result.outputs['output']) is torch.Tensor
        assert result.exact and result.tolerance == 0.0
        if frame.seq == 1:
            assert 'mode replay: operator by operator, 0 units, ' in result.plan
            assert result.bytes_up > sum(p.nbytes for p in network.parameters())
    assert result.plan.startswith('server /server, mode replay: replayed, 1 units of ')
    # No wait is counted where the answer was there before the read.
    assert re.search(' operators, [01] RPCs, ', result.plan)
    assert f' {result.bytes_up} bytes up, {result.bytes_down} down, 0 aborts (0 in all)' in (
        result.plan
    )
    assert 24 * 20 * 3 < result.bytes_up < 24 * 20 * 3 + 1024
    assert 0.0 < strategy.predict(LinkState()).latency_s < LONG_S
    assert all(not parameter.is_cuda for parameter in network.parameters())


def test_two_models_at_once(site):
    site.start()
    networks = [Network(1).eval(), Network(2).eval()]
    alone = [model_of(each) for each in networks]
    strategies = [site.strategy(each) for each in networks]

    def play(index):
        for frame in frames(30, first=1 + index):
            result = run(strategies[index], frame)
            want = alone[index].run(frame.inputs)['output']
            assert torch.equal(result.outputs['output'], want), f'{index}: {frame.seq}'
        return result.plan

    with ThreadPoolExecutor(2) as pool:
        assert all(': replayed, ' in plan for plan in pool.map(play, range(2)))
    assert len(site.hosts['/server']) == 1


def test_server_dies_and_another_comes(site):
    network = Network(3).eval()
    alone, strategy = model_of(network), site.strategy(network)
    given = frames(12)
    with pytest.raises(Unanswered, match='no server is there'):
        run(strategy, next(given))
    for _ in range(2):
        site.start()
        for _ in range(4):
            frame = next(given)
            assert torch.equal(
                run(strategy, frame).outputs['output'], alone.run(frame.inputs)['output']
            )
        site.stop()
        with pytest.raises(Unanswered, match='no server is there'):
            run(strategy, next(given))


def test_server_dies_in_the_middle(site):
    """The frame in hand is given up at once."""
    host = site.start()
    network = Slow().eval()
    strategy = site.strategy(network)
    first, second = frames(2)
    run(strategy, first)
    Slow.rounds = 400
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(run, strategy, second)
        time.sleep(0.3)
        assert not job.done()
        site.stop()
        # What ends by itself has a result; which of the threads tells first is chance.
        with pytest.raises(Unanswered, match=r'gone|closed'):
            job.result(LONG_S)
    wait_until(lambda: len(host) == 0, 20.0)


class Slow(nn.Module):
    """Takes as long as ``rounds`` say."""

    rounds = 1

    def forward(self, image):
        x = torch.full((600, 600), 0.001, device=image.device)
        for _ in range(self.rounds):
            x = x @ x + image[0, 0, 0]
        return x[0, :5]


def test_deadline_and_cancel_end_run_in_time(site):
    site.start()
    strategy = site.strategy(Slow())
    given = frames(20)
    Slow.rounds = 1
    run(strategy, next(given))
    Slow.rounds = 250
    # Each is said only while the server still computes: nobody waited for it.
    with pytest.raises(Unanswered, match='the deadline has passed'):
        run(strategy, next(given), 0.1)
    with pytest.raises(Unanswered, match='still busy with an earlier frame'):
        run(strategy, next(given))
    wait_until(strategy._running[1].done, LONG_S)

    frame = next(given)
    threading.Timer(0.1, strategy.cancel, [frame.seq]).start()
    with pytest.raises(Unanswered, match='cancelled'):
        run(strategy, frame)
    with pytest.raises(Unanswered, match='cancelled'):
        run(strategy, frame)
    Slow.rounds = 1
    wait_until(strategy._running[1].done, LONG_S)
    assert run(strategy, next(given)).outputs['output'].shape == (5,)

    Slow.rounds = 250
    threading.Timer(0.1, strategy.close).start()
    with pytest.raises(Unanswered, match='cancelled'):
        run(strategy, next(given))


def test_refusal_of_the_server_is_told_and_asked_again(site, monkeypatch):
    host = site.start(sessions=0)
    network = Network(4).eval()
    strategy = site.strategy(network)
    given = frames(6)
    for _ in range(2):
        with pytest.raises(Unanswered, match=r'rrto\.sessions is 0'):
            run(strategy, next(given))
    host.limit = 1
    monkeypatch.setattr(module, 'AGAIN_S', 0.0)
    frame = next(given)
    want = model_of(network).run(frame.inputs)['output']
    assert torch.equal(run(strategy, frame).outputs['output'], want)


def test_too_much_memory_is_an_answer_too(site):
    site.start(memory_bytes=1000)
    with pytest.raises(Unanswered, match=r'parameter rrto\.memory_mb'):
        run(site.strategy(Network(5).eval()), next(frames(1)))


def test_preferred_server_is_used_and_the_other_one_freed(site):
    one, two = site.start('/one'), site.start('/two', queue_length=3)
    network = Network(6).eval()
    alone, strategy = model_of(network), site.strategy(network)
    given = frames(20)
    for preferred, used in (('', one), ('/two', two), ('/one', one), ('two', two)):
        site.client.preferred_server = preferred
        for _ in range(3):
            frame = next(given)
            result = run(strategy, frame)
            assert torch.equal(result.outputs['output'], alone.run(frame.inputs)['output'])
        wait_until(lambda used=used: len(used) == 1 and len(one) + len(two) == 1)
    site.client.preferred_server = '/three'
    with pytest.raises(Unanswered, match='server three is not there'):
        run(strategy, next(given))


def test_closed_strategy_leaves_nothing_on_the_server(site):
    site.start()
    session = None
    kept = site.strategy(Network(7).eval())
    run(kept, next(frames(1)))
    session = site.hosted['/server']._session
    run(kept, next(frames(1, 2)))
    gc.collect()
    before = len(session.table)
    for round_ in range(3):
        passing = site.strategy(Network(8 + round_).eval())
        for frame in frames(5):
            run(passing, frame)
        assert len(session.table) > before
        passing.close()
        wait_until(lambda: len(session.table) <= before + 1)


def test_cuda_robot_is_refused(site):
    model = SimpleNamespace(device=torch.device('cuda'), name='tiny')
    with pytest.raises(StrategyRefused, match='on cuda: use strategy server'):
        RrtoStrategy().prepare(model, Link(None, site.client))


def test_units_of_the_strategy_are_cut_where_that_is_faster(site, monkeypatch):
    def behind_the_third(problem):
        operators = problem.profile.operators
        on_server = np.zeros(len(operators), dtype=bool)
        on_server[[place for place, each in enumerate(operators) if not each.is_input][3:]] = True
        return problem.plan(on_server)

    monkeypatch.setitem(methods._METHODS, 'layer_cut', lambda: behind_the_third)
    monkeypatch.setattr(PlacementPolicy, 'choose', lambda self, unit: CUT)  # one machine is both
    for name in ('STEP_S', 'PLAN_S'):
        monkeypatch.setattr(unit_cuts, name, 0.0)
    site.client.placement = 'auto'
    network = Network(3).eval()
    alone, strategy = model_of(network), site.strategy(network)
    given = frames(200)
    graphs = GraphHost(1 << 30)
    for _ in range(2):
        site.start()
        hosted = graphs.serve(site.links['/server'].server, '/robot')
        text = ''
        while not re.search(r', [1-9]\d* cut;', text):
            frame = next(given)
            result = run(strategy, frame)
            assert torch.equal(result.outputs['output'], alone.run(frame.inputs)['output']), (
                frame.seq
            )
            text = result.plan
            time.sleep(0.02)
        assert re.search('cut by layer_cut: 3 on the robot and [1-9]', text)
        hosted.close()
        site.stop()
        with pytest.raises(Unanswered, match='no server is there'):
            run(strategy, next(given))
    graphs.close()


def test_a_server_that_dies_while_units_may_run_on_the_robot_gives_no_answer(site, monkeypatch):
    monkeypatch.setattr(PlacementPolicy, 'choose', lambda self, unit: ROBOT)
    monkeypatch.setattr(PlacementPolicy, 'interested', lambda self, unit: True)
    host = site.start()
    site.client.placement = 'whole'
    strategy = site.strategy(Slow())
    given = frames(30)
    Slow.rounds = 1
    for _ in range(8):
        result = run(strategy, next(given))
    assert re.search(r'unit 1: .*\d robot', result.plan)
    Slow.rounds = 400  # operators that are sent one by one
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(run, strategy, next(given))
        time.sleep(0.3)
        assert not job.done()
        site.stop()
        with pytest.raises(Unanswered, match=r'gone|closed'):
            job.result()
    wait_until(lambda: len(host) == 0, 20.0)
    Slow.rounds = 1
    site.start()
    assert run(strategy, next(given)).outputs['output'].shape == (5,)
