"""A request ends with its own reply, the loss of its server, a cancel, or the deadline."""

from concurrent.futures import ThreadPoolExecutor
import threading
import time
from types import SimpleNamespace

import pytest
import torch

from offload_ros.strategy import Frame
from offload_ros.wire.client import NoReply, OffloadClient, new_session
from offload_ros.wire.directory import ServerDirectory, ServerState
from offload_ros.wire.exchange import Kind, Reply, Status

MODEL = SimpleNamespace(
    name='vit', hash='abc', config=SimpleNamespace(opaque_inputs=frozenset({'image'}))
)
FRAME = Frame(7, {'image': torch.ones(2)}, 0.0)
LONG_S = 30.0  # a call that waits for this has failed its test


class Network:
    """Keeps what is sent; ``respond`` (if set) is called with each request in the sender's
    thread. ``bytes_up``: what it says that travelled."""

    bytes_up = 17

    def __init__(self):
        self.sent = []
        self.arrived = threading.Semaphore(0)
        self.respond = None

    def transmit(self, server, request):
        self.sent.append((server, request))
        self.arrived.release()
        if self.respond is not None:
            self.respond(server, request)
        return self.bytes_up

    def next_request(self):
        """Wait for the next request to be sent and return it."""
        assert self.arrived.acquire(timeout=LONG_S)
        return self.sent[-1][1]


def reply_to(request, server='/server', **fields):
    """Return the reply that a server gives to a request."""
    values = {
        'server': server,
        'server_session': request.server_session,
        'session': request.session,
        'seq': request.seq,
        'status': Status.OK,
        **fields,
    }
    return Reply(**values)


@pytest.fixture
def network():
    return Network()


@pytest.fixture
def directory(clock):
    return ServerDirectory(0.5, clock=clock)


@pytest.fixture
def client(directory, network):
    return OffloadClient('/robot', 'session1', directory, network.transmit)


@pytest.fixture
def server(directory):
    state = ServerState('/server', 's1', models={'vit': frozenset({'abc'})})
    directory.heard(state)
    return state


@pytest.fixture
def waiting_call(client, server, network):
    """Return a started call as a future, and its request."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(client.call, server, MODEL, FRAME, time.monotonic() + LONG_S)
        yield future, network.next_request()


def ends(future):
    """Return the error with which a call ends, long before its deadline."""
    error = future.exception(timeout=LONG_S / 3)
    assert isinstance(error, NoReply)
    return str(error)


def test_request_carries_who_what_and_how_long(client, server, network):
    deadline_s = time.monotonic() + 5.0
    network.respond = lambda _, request: client.on_reply(reply_to(request))
    client.call(server, MODEL, FRAME, deadline_s)
    to, request = network.sent[0]
    assert to is server
    assert (request.robot, request.session, request.server_session) == ('/robot', 'session1', 's1')
    assert (request.model, request.model_hash, request.kind) == ('vit', 'abc', Kind.INFER)
    assert request.inputs is FRAME.inputs
    assert request.buffers is FRAME.buffers
    assert request.opaque == {'image'}
    assert 0.0 < request.budget_s <= 5.0


def test_reply_is_returned_with_its_round_trip(waiting_call, client):
    future, request = waiting_call
    time.sleep(0.02)
    reply = reply_to(request)
    assert client.on_reply(reply)
    received, round_trip_s, bytes_up = future.result(LONG_S)
    assert received is reply
    assert bytes_up == Network.bytes_up
    assert 0.015 < round_trip_s < LONG_S


def test_deadline_ends_the_call(client, server):
    began_s = time.monotonic()
    with pytest.raises(NoReply, match='server /server did not answer in time'):
        client.call(server, MODEL, FRAME, began_s + 0.05)
    assert time.monotonic() - began_s >= 0.05


def test_deadline_in_the_past_ends_the_call_with_no_budget(client, server, network):
    with pytest.raises(NoReply, match='did not answer in time'):
        client.call(server, MODEL, FRAME, time.monotonic() - 1.0)
    assert network.sent[0][1].budget_s == 0.0


def test_late_reply_is_dropped(client, server, network):
    with pytest.raises(NoReply):
        client.call(server, MODEL, FRAME, time.monotonic())
    assert not client.on_reply(reply_to(network.sent[0][1]))


def test_doubled_reply_is_dropped(client, server, network):
    taken = []

    def respond(_, request):
        taken.append(client.on_reply(reply_to(request, detail='first')))
        taken.append(client.on_reply(reply_to(request, detail='second')))

    network.respond = respond
    reply, *_ = client.call(server, MODEL, FRAME, time.monotonic() + LONG_S)
    assert taken == [True, False]
    assert reply.detail == 'first'
    assert not client.on_reply(reply_to(network.sent[0][1]))


@pytest.mark.parametrize(
    'foreign',
    [
        {'session': 'session0'},
        {'server_session': 's0'},
        {'server': '/other'},
        {'seq': 10_000},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_foreign_reply_is_dropped_and_the_call_goes_on(waiting_call, client, foreign):
    future, request = waiting_call
    assert not client.on_reply(reply_to(request, **foreign))
    assert not future.done()
    assert client.on_reply(reply_to(request))
    assert future.result(LONG_S)[0].server == '/server'


def test_cancel_ends_the_call_at_once_and_drops_its_reply(waiting_call, client):
    future, request = waiting_call
    client.cancel(request.seq, 'the robot was faster')
    assert ends(future) == 'the robot was faster'
    assert not client.on_reply(reply_to(request))


def test_cancel_of_an_unknown_number_does_nothing(client):
    client.cancel(12345)


def test_number_is_known_before_the_request_is_sent(client, server, network):
    numbers = []

    def started(number):
        assert network.sent == []
        numbers.append(number)
        client.cancel(number)

    with pytest.raises(NoReply, match='cancelled'):
        client.call(server, MODEL, FRAME, time.monotonic() + LONG_S, started)
    assert numbers == [1]


def test_lost_server_ends_its_waiting_calls_at_once(waiting_call, directory, clock):
    future, _ = waiting_call
    clock.now_s += 1.0
    directory.expire()
    assert ends(future) == 'server /server is lost'


def test_restarted_server_ends_the_calls_of_its_old_session(waiting_call, directory, clock):
    future, _ = waiting_call
    clock.now_s += 0.3
    directory.heard(ServerState('/server', 's2'))
    assert ends(future) == 'server /server was restarted'


def test_loss_of_another_server_leaves_the_call_alone(waiting_call, directory, client, clock):
    future, request = waiting_call
    directory.heard(ServerState('/other', 's1'))
    clock.now_s += 0.3
    directory.heard(ServerState('/other', 's2'))
    client.on_reply(reply_to(request))
    assert future.result(LONG_S)[0].status == Status.OK


def test_server_lost_between_choice_and_call_ends_the_call_at_once(
    client, server, directory, clock, network
):
    clock.now_s += 1.0
    directory.expire()
    with pytest.raises(NoReply, match='server /server is lost'):
        client.call(server, MODEL, FRAME, time.monotonic() + LONG_S)
    assert network.sent == []


def test_request_that_cannot_be_sent_is_one_without_reply(client, server, network):
    def broken(*_):
        raise RuntimeError('publisher is gone')

    network.respond = broken
    # The robot then computes by itself: any other error would cost the frame its result.
    with pytest.raises(NoReply, match=r'cannot be sent to server /server: .*publisher is gone'):
        client.call(server, MODEL, FRAME, time.monotonic() + LONG_S)
    assert not client.on_reply(reply_to(network.sent[0][1]))


def test_reply_is_of_use_only_while_its_call_waits(waiting_call, client):
    future, request = waiting_call
    assert client.waits_for(request.seq)
    assert not client.waits_for(request.seq + 1)
    client.on_reply(reply_to(request))
    assert not client.waits_for(request.seq), 'a second one would be dropped'
    future.result(LONG_S)
    assert not client.waits_for(request.seq)


def test_cancelled_call_wants_no_reply(client, server, network):
    network.respond = lambda _, request: (
        client.cancel(request.seq) or wanted.append(client.waits_for(request.seq))
    )
    wanted = []
    with pytest.raises(NoReply):
        client.call(server, MODEL, FRAME, time.monotonic() + LONG_S)
    assert wanted == [False, False], 'nor does the withdrawal'


def test_server_that_no_packet_passes_to_ends_its_calls(waiting_call, directory):
    future, _ = waiting_call
    directory.connect('/server', 's1')
    directory.disconnect('/server', 's1', 'does not answer')
    assert ends(future) == 'server /server does not answer'


def test_sessions_are_told_apart():
    sessions = {new_session() for _ in range(100)}
    assert len(sessions) == 100
    assert all(len(each) == 16 and int(each, 16) >= 0 for each in sessions)


def test_preferred_server_is_asked_for(client, directory, server):
    for name in ('/server', '/b'):
        directory.heard(
            ServerState(name, 's1', queue_length=name == '/b', models={'vit': frozenset({'abc'})})
        )
        directory.connect(name, 's1')
    assert client.server_for(MODEL)[0].name == '/server'
    client.preferred_server = 'b'
    assert client.server_for(MODEL)[0].name == '/b'


def test_many_threads_each_get_their_own_reply(client, server, network):
    answering = ThreadPoolExecutor(4)

    def respond(_, request):
        # Replies come in other threads, doubled, and not in the order of the requests.
        for _ in range(2):
            answering.submit(client.on_reply, reply_to(request, detail=str(request.seq)))

    network.respond = respond
    mine = threading.local()

    def call(_):
        reply, *_ = client.call(
            server,
            MODEL,
            FRAME,
            time.monotonic() + LONG_S,
            started=lambda number: setattr(mine, 'number', number),
        )
        return reply.detail == str(mine.number)

    with answering, ThreadPoolExecutor(16) as calling:
        assert all(calling.map(call, range(400)))
    assert len({request.seq for _, request in network.sent}) == 400
    assert client._pending == {}


def test_server_is_told_that_nobody_waits_any_more(client, server, network):
    with pytest.raises(NoReply):
        client.call(server, MODEL, FRAME, time.monotonic())
    asked, withdrawn = (request for _, request in network.sent)
    assert withdrawn.kind == Kind.CANCEL
    assert (withdrawn.seq, withdrawn.session) == (asked.seq, asked.session)
    assert dict(withdrawn.inputs) == {}


def test_answered_call_is_not_withdrawn(client, server, network):
    network.respond = lambda _, request: client.on_reply(reply_to(request))
    client.call(server, MODEL, FRAME, time.monotonic() + LONG_S)
    assert [request.kind for _, request in network.sent] == [Kind.INFER]


def test_nothing_is_kept_of_calls_that_ended(client, server, network):
    for _ in range(5):
        with pytest.raises(NoReply):
            client.call(server, MODEL, FRAME, time.monotonic())
    assert client._pending == {}
