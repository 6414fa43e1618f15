"""Server-only: a frame is sent whole, and whatever comes back instead of outputs is given up."""

from concurrent.futures import ThreadPoolExecutor
import time

import pytest
import torch
from torch import nn

from offload_ros.baselines.server import ServerStrategy, uplink_share
from offload_ros.models.config import InputSpec, ModelConfig, Source
from offload_ros.models.model import Model, runtime_description
from offload_ros.strategy import Frame, Link, LinkState, Unanswered
from offload_ros.wire.client import OffloadClient
from offload_ros.wire.directory import ServerDirectory, ServerState
from offload_ros.wire.exchange import Kind, Reply, Status

LONG_S = 30.0


class Server:
    """Answers requests at once with what a test says, or keeps them while ``answer`` is None."""

    def __init__(self, directory):
        self.state = ServerState(
            '/server', 's1', runtime_description(), models={'tiny': frozenset({'hash'})}
        )
        self.requests = []
        self.answer = {'outputs': {'output': torch.ones(3)}}
        self.client = OffloadClient('/robot', 'session', directory, self.transmit)

    def transmit(self, server, request):
        self.requests.append(request)
        if request.kind == Kind.INFER and self.answer is not None:
            fields = {'status': Status.OK, 'compute_s': 0.25, 'server_s': 0.5, **self.answer}
            size = sum(tensor.nbytes for tensor in fields.get('outputs', {}).values())
            fields.setdefault('tensor_bytes', size)
            self.client.on_reply(Reply('/server', 's1', 'session', request.seq, **fields))
        return sum(tensor.nbytes for tensor in request.inputs.values())

    def wait_for_request(self):
        until_s = time.monotonic() + LONG_S
        while not self.requests and time.monotonic() < until_s:
            time.sleep(0.001)
        assert self.requests


@pytest.fixture
def directory():
    return ServerDirectory(LONG_S)


@pytest.fixture
def server(directory):
    built = Server(directory)
    directory.heard(built.state)
    directory.connect('/server', 's1')
    return built


@pytest.fixture
def strategy(server):
    config = ModelConfig('tiny', Source(python='m:f'), inputs=(InputSpec('x', 'topic'),))
    built = ServerStrategy()
    built.prepare(Model(config, nn.Identity(), 'hash', True), Link(None, server.client))
    return built


def frame(seq=1):
    """Return a frame of 12 bytes."""
    return Frame(seq, {'x': torch.zeros(3)}, time.monotonic())


def run(strategy, seq=1):
    """Run one frame with all the time in the world."""
    return strategy.run(frame(seq), time.monotonic() + LONG_S)


def test_outputs_of_the_server_are_the_result(strategy, server):
    result = run(strategy)
    assert torch.equal(result.outputs['output'], torch.ones(3))
    assert result.plan == 'server /server'
    assert (result.bytes_up, result.bytes_down) == (12, 12)
    assert result.server_s == 0.5
    assert result.uplink_s >= 0.0
    assert result.uplink_s == pytest.approx(result.downlink_s), 'as many bytes each way'
    assert [request.kind for request in server.requests] == [Kind.INFER]


NAN = float('nan')


@pytest.mark.parametrize(
    ('link', 'sizes', 'share'),
    [
        (LinkState(), (30, 10), 0.75),
        (LinkState(), (0, 0), 0.5),
        (LinkState(1e6, NAN, 0.001), (30, 10), 0.75),
        (LinkState(1e6, 0.0, 0.001), (30, 10), 0.75),
        (LinkState(1e6, 1e6, NAN), (30, 10), 0.75),
        # 3 ms and 9 ms on the wires, half a round trip each.
        (LinkState(1e6, 1e6, 0.002), (2000, 8000), 0.25),
        (LinkState(1e6, 4e6, 0.0), (2000, 8000), 0.5),
        (LinkState(1e6, 1e6, 0.002), (0, 0), 0.5),
        (LinkState(1e6, 1e6, 0.0), (0, 0), 0.5),
    ],
)
def test_time_on_the_link_is_shared_by_what_each_way_takes(link, sizes, share):
    assert uplink_share(link, *sizes) == pytest.approx(share)


def test_link_state_of_the_server_in_use_is_asked(strategy, server):
    asked = []
    server.answer['server_s'] = 0.0
    server.client.link_state = lambda name: asked.append(name) or LinkState(1e3, 1e9, 0.0)
    result = run(strategy)
    assert asked == ['/server']
    assert result.uplink_s > 0.99 * (result.uplink_s + result.downlink_s)


def test_a_result_of_a_batch_says_so_and_is_not_exact(strategy, server):
    server.answer['batched_with'] = 2
    result = run(strategy)
    assert result.plan == 'server /server, in a batch of 3'
    assert (result.exact, result.tolerance) == (False, 1e-4)


def test_equal_runtimes_are_exact(strategy):
    result = run(strategy)
    assert (result.exact, result.tolerance) == (True, 0.0)


def test_other_runtime_is_within_a_tolerance(strategy, directory, server):
    directory.heard(ServerState('/server', 's1', 'torch of yesterday', models=server.state.models))
    result = run(strategy)
    assert (result.exact, result.tolerance) == (False, 1e-4)


def test_prediction_follows_what_was_measured(strategy):
    assert str(strategy.predict(LinkState()).latency_s) == 'nan'
    run(strategy)
    prediction = strategy.predict(LinkState())
    assert 0.0 < prediction.latency_s < LONG_S
    assert prediction.server_busy_s == 0.25


@pytest.mark.parametrize(
    ('answer', 'why'),
    [
        ({'status': Status.BUSY, 'detail': 'queue is full'}, 'server /server: queue is full'),
        ({'status': Status.ERROR, 'detail': 'no memory'}, 'server /server: no memory'),
        ({'status': Status.EXPIRED, 'detail': 'waited'}, 'server /server: waited'),
        ({'outputs': {'other': torch.ones(1)}}, r"answered with outputs \['other'\]"),
        ({'outputs': {}}, r'answered with outputs \[\]'),
    ],
)
def test_reply_without_the_outputs_is_given_up_with_its_reason(strategy, server, answer, why):
    server.answer = answer
    with pytest.raises(Unanswered, match=why):
        run(strategy)


def test_frame_without_a_server_is_given_up_at_once(strategy, directory, server):
    directory.leave('/server', 's1')
    with pytest.raises(Unanswered, match='no server is there'):
        run(strategy)
    assert server.requests == []


def test_silent_server_is_given_up_at_the_deadline(strategy, server):
    server.answer = None
    with pytest.raises(Unanswered, match='did not answer in time'):
        strategy.run(frame(), time.monotonic() + 0.02)


def test_cancel_ends_the_running_frame(strategy, server):
    server.answer = None
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, strategy, 5)
        server.wait_for_request()
        strategy.cancel(4)
        time.sleep(0.02)
        assert not running.done(), 'another frame was meant'
        strategy.cancel(5)
        assert isinstance(running.exception(LONG_S / 3), Unanswered)


def test_cancel_that_comes_before_the_frame_is_sent_counts(strategy, server):
    server.answer = None
    strategy.cancel(5)
    began_s = time.monotonic()
    with pytest.raises(Unanswered):
        run(strategy, 5)
    assert time.monotonic() - began_s < LONG_S / 3
    server.answer = {'outputs': {'output': torch.ones(3)}}
    assert run(strategy, 6).plan == 'server /server'


def test_close_ends_the_running_frame_and_those_that_come_later(strategy, server):
    server.answer = None
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, strategy, 1)
        server.wait_for_request()
        strategy.close()
        assert 'the strategy was closed' in str(running.exception(LONG_S / 3))
    with pytest.raises(Unanswered, match='the strategy was closed'):
        run(strategy, 2)
