"""A server's sessions of programs: admitted, apart from each other, and gone without a trace."""

import gc
import queue
import threading
import time
import weakref

import pytest
import torch

from offload_ros.rrto.calls import CallPacker
from offload_ros.rrto.channel_link import ChannelLink
from offload_ros.rrto.client import OperatorClient
from offload_ros.rrto.executor import OperatorSession
from offload_ros.rrto.host import OperatorHost
from offload_ros.rrto.link import ServerLost
from offload_ros.rrto.messages import Answer, Code, decode, encode
from offload_ros.rrto.shim import RemoteTensor, install, uninstall
from offload_ros.rrto.shim import tensor as shim_tensor
from offload_ros.wire.in_process import InProcessLink

LONG_S = 20.0
BIG = 300_000


class Program:
    """One program's end of a channel, and the server's session for it."""

    def __init__(self, host, name):
        self.channels = InProcessLink()
        self.hosted = host.serve(self.channels.server, name)
        self.link = ChannelLink(self.channels.robot)
        self.answers, self.lost = queue.Queue(), queue.Queue()
        self.link.listen(self._take, self.lost.put)

    def _take(self, data):
        message = decode(data)
        payloads = [bytes(each) for each in message.payloads]
        for command in message.commands:
            self.answers.put((*command, *payloads))

    def say(self, *commands, payloads=()):
        self.link.send(encode(commands, payloads))

    def ask(self, *commands, payloads=()):
        self.say(*commands, payloads=payloads)
        return self.answers.get(timeout=LONG_S)

    def ones(self, handle, count=3):
        """Make a tensor there; whether it is admitted."""
        args = ([count],)
        template, _, _ = CallPacker(RemoteTensor).pack(args, {'dtype': torch.float32})
        return self.ask(
            [Code.DEFINE, 0, 'aten::ones', template], [Code.CALL, 7, handle >> 16, 0, []]
        )

    def leave(self):
        """As a robot whose silence was noticed."""
        self.hosted.close()
        self.channels.close()


@pytest.fixture
def open_program():
    programs = []

    def make(host, name='/robot'):
        programs.append(Program(host, name))
        return programs[-1]

    yield make
    for each in programs:
        each.leave()


def wait_until(condition):
    end_s = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.005)


def test_programs_have_tensors_of_their_own(open_program):
    host = OperatorHost()
    one, two = open_program(host, '/one'), open_program(host, '/two')
    assert len(host) == 0  # none before its first operator
    assert one.ones(1 << 16)[:2] == (Answer.DONE, 7)
    assert two.ones(2 << 16)[:2] == (Answer.DONE, 7)
    assert len(host) == 2
    assert one.ask([Code.READ, 8, 1 << 16])[:2] == (Answer.TENSOR, 8)
    code, reply, kind, text = two.ask([Code.READ, 8, 1 << 16])
    assert (code, reply, kind) == (Answer.FAILED, 8, 'RuntimeError')
    assert 'does not exist' in text


@pytest.mark.parametrize(
    ('sessions', 'text'),
    [
        (0, 'this server runs no operators of programs (parameter rrto.sessions is 0)'),
        (1, '1 programs run on this server already (parameter rrto.sessions)'),
    ],
)
def test_program_that_is_not_admitted_is_told_why_once(open_program, sessions, text):
    host = OperatorHost(sessions=sessions)
    admitted = [open_program(host, f'/in{n}') for n in range(sessions)]
    for each in admitted:
        assert each.ones(1 << 16)[0] == Answer.DONE
    refused = open_program(host)
    assert refused.ones(1 << 16) == (Answer.ENDED, text)
    refused.say([Code.SYNCHRONIZE, 9])
    for each in admitted:
        assert each.ask([Code.SYNCHRONIZE, 9])[:2] == (Answer.VALUE, 9)
    assert refused.answers.empty()
    assert len(host) == sessions


def test_place_of_a_program_that_is_gone_is_free(open_program):
    host = OperatorHost(sessions=1)
    for _ in range(3):
        program = open_program(host)
        assert program.ones(1 << 16)[0] == Answer.DONE
        program.leave()
        wait_until(lambda: len(host) == 0)


def test_ended_program_frees_its_place_and_another_begins_on_the_same_channel(open_program):
    """As a manager does it whose strategy begins anew."""
    host = OperatorHost(sessions=1)
    program = open_program(host)
    for _ in range(3):
        assert program.ones(1 << 16)[0] == Answer.DONE
        program.link.restart()
        program.link.listen(program._take, program.lost.put)
        wait_until(lambda: len(host) == 0)
    assert program.ones(1 << 16)[0] == Answer.DONE
    code, _, kind, _ = program.ask([Code.READ, 8, 2 << 16])
    assert (code, kind) == (Answer.FAILED, 'RuntimeError')
    program.link.close()
    wait_until(lambda: len(host) == 0)


@pytest.mark.parametrize(
    'data',
    [
        b'xx',
        b'RR' + bytes(30),
        b''.join(encode([[99]], [])),
        b''.join(encode([[Code.CALL, 0, 1, 5, []]], [])),
        b''.join(encode([[Code.RUN]], [])),
        b''.join(encode([[Code.FREE, 'all']], [])),
    ],
)
def test_senseless_message_ends_its_own_session_only(open_program, data):
    host = OperatorHost()
    good, bad = open_program(host, '/good'), open_program(host, '/bad')
    assert good.ones(1 << 16)[0] == Answer.DONE
    assert bad.ones(1 << 16)[0] == Answer.DONE
    bad.link.send([data])
    assert bad.answers.get(timeout=LONG_S)[0] == Answer.ENDED
    wait_until(lambda: len(host) == 1)
    bad.say([Code.SYNCHRONIZE, 3])
    assert good.ask([Code.READ, 8, 1 << 16])[0] == Answer.TENSOR
    assert bad.answers.empty()


def test_fault_of_the_server_itself_is_told_and_frees(open_program, monkeypatch):
    def fail(self, data):
        raise AttributeError('a fault')

    host = OperatorHost()
    program = open_program(host)
    monkeypatch.setattr(OperatorSession, 'receive', fail)
    assert program.ask([Code.SYNCHRONIZE, 1]) == (
        Answer.ENDED,
        'the server failed: AttributeError: a fault',
    )
    wait_until(lambda: len(host) == 0)


def test_nothing_of_a_program_that_is_gone_stays(open_program, monkeypatch):
    """No tensor, no session, no thread; also of one that was refused, and one that only looked."""
    made = []
    real = OperatorSession.__init__

    def keep(self, *args, **kwargs):
        real(self, *args, **kwargs)
        made.append(weakref.ref(self))

    monkeypatch.setattr(OperatorSession, '__init__', keep)
    threads = set(threading.enumerate())
    host = OperatorHost(sessions=1)
    used, refused, idle = (open_program(host, f'/{n}') for n in range(3))
    assert used.ones(1 << 16, BIG)[0] == Answer.DONE
    assert refused.ones(1 << 16)[0] == Answer.ENDED
    for each in (used, refused, idle):
        each.leave()
    wait_until(lambda: not set(threading.enumerate()) - threads)
    assert len(host) == 0
    del used, refused, idle, each
    gc.collect()
    assert made and all(len(each().table) == 0 for each in made if each() is not None)


def test_robot_that_leaves_while_its_operators_run_is_forgotten_when_they_end(open_program):
    """And those that wait are not begun."""
    host = OperatorHost()
    program = open_program(host)
    assert program.ones(1 << 16)[0] == Answer.DONE
    session = program.hosted._session
    template, _, _ = CallPacker(RemoteTensor).pack(([700, 700],), {'dtype': torch.float32})
    commands = [[Code.DEFINE, 1, 'aten::rand', template]]
    commands += [[Code.CALL, 0, number, 1, []] for number in range(2, 400)]
    for _ in range(10):
        program.say(*commands)
        commands = commands[1:]
    program.leave()
    wait_until(lambda: len(host) == 0)
    assert session.executed < 3000
    assert len(session.table) == 0


def test_memory_of_a_program_is_limited(open_program):
    host = OperatorHost(memory_bytes=1_000_000)
    program = open_program(host)
    code, _, kind, text = program.ones(1 << 16, BIG)
    assert (code, kind) == (Answer.FAILED, 'OutOfMemoryError')
    assert 'rrto.memory_mb' in text
    assert program.ones(2 << 16, 1000)[0] == Answer.DONE
    program.link.send([bytes(host.max_message_bytes + 1)])
    assert 'a message of 19 MB, 19 MB are allowed' in program.lost.get(timeout=LONG_S)
    wait_until(lambda: len(host) == 0)


def test_real_client_over_a_channel(open_program):
    """Many operators and a replay; a cut of the channel is an error at once."""
    host = OperatorHost()
    program = open_program(host)
    client = OperatorClient(program.link, 'replay')
    install(client)
    try:
        weight = torch.rand(64, 64)
        there = weight.cuda()
        for number in range(12):
            x = torch.full((4, 64), float(number))
            torch.testing.assert_close((x.cuda() @ there).relu().cpu(), (x @ weight).relu())
        assert client.statistics.inferences > 5
        program.channels.robot.close('server /x is lost')
        began_s = time.monotonic()
        with pytest.raises(ServerLost, match='server /x is lost'):
            (there + 1).cpu()
        assert time.monotonic() - began_s < LONG_S / 2
        wait_until(lambda: shim_tensor.current() is client)
    finally:
        uninstall()
