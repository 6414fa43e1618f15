"""A server runs what is on its list, within a session's memory, and survives any message."""

import random
import struct

import msgpack
import pytest
import torch

from offload_ros.rrto.calls import (
    CONSTANT,
    DEVICE,
    DTYPE,
    GENERATOR,
    PAYLOAD,
    TENSOR,
    UnsupportedArgument,
    code_of,
)
from offload_ros.rrto.executor import OperatorSession
from offload_ros.rrto.messages import Answer, Code, decode, encode
from offload_ros.rrto.operators import AllowedOperators
from offload_ros.rrto.random_generators import MAX_GENERATORS
from offload_ros.wire.errors import WireError

from .sessions import MODES, image, layers

EMPTY = msgpack.packb([[[2, 3]], {'device': msgpack.ExtType(DEVICE, b'cuda')}])


def packed(*args, **kwargs):
    return msgpack.packb([list(args), kwargs])


def hole(shape, stride=None, offset=0):
    stride = stride or list(torch.empty(shape).stride())
    fields = [list(shape), stride, offset, code_of(torch.float32)]
    return msgpack.ExtType(TENSOR, msgpack.packb(fields))


class Server:
    """A session driven by commands; ``answers`` is what it sent."""

    def __init__(self, **options):
        self.answers = []
        self.session = OperatorSession(self._take, **options)

    def _take(self, buffers):
        message = decode(memoryview(b''.join(buffers)))
        self.answers += [(each, message.payloads) for each in message.commands]

    def send(self, *commands, payloads=()):
        """One message; the answers that it led to."""
        before = len(self.answers)
        data = b''.join(encode(commands, payloads))
        self.session.receive(memoryview(bytearray(data)))
        return [answer for answer, _ in self.answers[before:]]

    def make(self, number=1):
        """A tensor of (2, 3) zeros with the handle ``number << 16``."""
        self.send([Code.DEFINE, 100, 'aten::empty.memory_format', EMPTY])
        self.send([Code.DEFINE, 101, 'aten::zero_', packed(hole([2, 3]))])
        self.send(
            [Code.CALL, 0, number, 100, []], [Code.CALL, 0, 1000 + number, 101, [number << 16]]
        )


@pytest.fixture
def server():
    return Server()


# --- which operators


@pytest.mark.parametrize(
    'name',
    [
        'aten::from_file',
        'aten::_print',
        'aten::load',
        'aten::save',
        'aten::set_.source_Storage',
        'prim::Print',
        'profiler::_record_function_enter_new',
        'inductor::_alloc_from_pool',
        'c10d::allreduce_',
        'aten::no_such_operator',
        'aten::relu.no_such_overload',
        'aten::__class__',
        'aten::__init__',
        '__main__::relu',
        'os::system',
        'aten',
        'aten::',
        '::relu',
        'aten::relu; import os',
        'aten::' + 'a' * 500,
        '',
    ],
)
def test_operators_that_are_not_on_the_list_are_refused(server, name):
    server.make()
    server.send([Code.DEFINE, 1, name, packed(hole([2, 3]))])
    ((code, reply, kind, text),) = server.send([Code.CALL, 7, 2, 1, [1 << 16]])
    assert (code, reply, kind) == (Answer.FAILED, 7, 'NotImplementedError')
    assert 'operator' in text
    assert server.session.executed == 2


def test_the_owner_of_a_server_adds_operators():
    with pytest.raises(WireError, match=r'can add it to the parameter rrto\.operators'):
        AllowedOperators().find('prims::sin')
    assert AllowedOperators(['prims::sin']).find('prims::sin').name == 'prims::sin'
    assert AllowedOperators(['prims::sin']).find('aten::relu').name == 'aten::relu'


def test_a_program_goes_on_after_an_operator_that_is_refused(session):
    tensor = torch.ones(3, device='cuda')
    with pytest.raises(NotImplementedError, match='is not among those that this server runs'):
        torch.ops.prims.sin(tensor)
    assert (tensor + 1).cpu().tolist() == [2.0] * 3


def test_arguments_of_unknown_types_do_not_travel(session):
    class Strange:
        pass

    tensor = torch.ones(3, device='cuda')
    with pytest.raises((UnsupportedArgument, TypeError, RuntimeError)):
        torch.add(tensor, Strange())
    with pytest.raises(RuntimeError, match='same device'):
        torch.mm(torch.eye(3).to_sparse(), torch.ones(3, 3, device='cuda'))
    assert tensor.sum().item() == 3


# --- errors


@pytest.mark.parametrize('mode', MODES)
def test_errors_keep_their_class_and_text(open_session, mode):
    open_session(mode, memory_bytes=1 << 20)
    tensor = torch.arange(12.0).reshape(3, 4).to('cuda')
    cases = [
        (lambda x: x @ x, RuntimeError),
        (lambda x: x[7], IndexError),
        (lambda x: x.sum(5), IndexError),
        (lambda x: x.reshape(5, 5), RuntimeError),
        (lambda x: torch.cat([x, x.t()]), RuntimeError),
        (lambda x: x.index_select(0, torch.tensor([9]).to(x.device)).sum().item(), Exception),
        (lambda x: torch.linalg.cholesky(-(x @ x.t())).sum().item(), torch.linalg.LinAlgError),
        (torch.linalg.inv, RuntimeError),
        (lambda x: x.to(torch.int32).rsqrt_(), RuntimeError),
        (lambda x: torch.nn.functional.conv2d(x, x), RuntimeError),
    ]
    for action, kind in cases:
        with pytest.raises(kind) as expected:
            action(tensor.cpu())
        with pytest.raises(type(expected.value)) as found:
            action(tensor)
        assert type(found.value) is type(expected.value)
        assert str(found.value).split('\n')[0] == str(expected.value).split('\n')[0]
    assert tensor.sum().item() == 66


def test_an_operator_without_a_kernel_is_not_implemented(session):
    tensor = torch.ones(3, dtype=torch.complex64, device='cuda')
    with pytest.raises((NotImplementedError, RuntimeError)) as expected:
        torch.floor(torch.ones(3, dtype=torch.complex64))
    with pytest.raises(type(expected.value)):
        torch.floor(tensor)


@pytest.mark.parametrize('mode', MODES)
def test_memory_beyond_the_limit_is_refused_before_it_is_taken(open_session, mode):
    session = open_session(mode, memory_bytes=1 << 20)
    kept = torch.zeros(1000, 200, device='cuda')
    with pytest.raises(torch.cuda.OutOfMemoryError, match=r'rrto\.memory_mb'):
        torch.empty(1 << 40, device='cuda')
    with pytest.raises(torch.cuda.OutOfMemoryError, match=r'rrto\.memory_mb'):
        torch.zeros(1000, 200, device='cuda') + 1
    assert kept.sum().item() == 0
    free, total = torch.cuda.mem_get_info()
    assert (free, total) == ((1 << 20) - 800_000, 1 << 20)
    del kept
    assert session.handles() == 0
    assert torch.zeros(1000, 200, device='cuda').sum().item() == 0


def test_memory_that_runs_out_in_a_replay_is_told(open_session):
    session = open_session(memory_bytes=1 << 20)
    model, kept = layers(0, 6, 5).to('cuda'), []
    with pytest.raises(torch.cuda.OutOfMemoryError):
        for index in range(100):
            kept.append(
                torch.zeros(10_000, device='cuda') + model(image(index, 1, 6).to('cuda'))[0, 0]
            )
            kept[-1][:2].cpu()
    assert session.statistics.inferences > 5
    kept.clear()
    assert model(image(0, 1, 6).to('cuda')).cpu().shape == (1, 5)


# --- sessions do not see each other


def test_two_sessions_have_tensors_and_random_numbers_of_their_own(open_session):
    one = open_session()
    torch.cuda.manual_seed(5)
    first = torch.rand(3, device='cuda').cpu()
    handles = len(one.server.table)
    other = open_session()
    torch.cuda.manual_seed(5)
    assert torch.equal(torch.rand(3, device='cuda').cpu(), first)
    torch.rand(3, device='cuda').cpu()
    assert len(one.server.table) == handles
    one.make_current()
    generator = torch.Generator().manual_seed(5)
    torch.rand(3, generator=generator)
    assert torch.equal(torch.rand(3, device='cuda').cpu(), torch.rand(3, generator=generator))
    other.make_current()


def test_random_operators_leave_the_generator_of_the_process_alone(session):
    before = torch.get_rng_state()
    values = torch.ones(50, device='cuda')
    torch.nn.functional.dropout(values, 0.5).cpu()
    torch.rand(3, device='cuda').cpu()
    torch.multinomial(values, 3).cpu()
    torch.native_dropout(values, 0.5, True)[0].cpu()
    assert torch.equal(before, torch.get_rng_state())


def test_generators_are_limited_and_freed(session):
    kept = [torch.Generator('cuda') for _ in range(MAX_GENERATORS - 1)]
    assert torch.rand(2, device='cuda', generator=kept[-1]).cpu().shape == (2,)
    kept.clear()
    for _ in range(3 * MAX_GENERATORS):
        generator = torch.Generator('cuda')
        torch.rand(2, device='cuda', generator=generator).cpu()


# --- messages


def test_each_truncation_of_a_message_is_refused(server):
    commands = [[Code.DEFINE, 1, 'aten::empty.memory_format', EMPTY]]
    data = b''.join(encode(commands, [b'x' * 100, b'y' * 64]))
    for length in range(len(data)):
        with pytest.raises(WireError):
            Server().session.receive(memoryview(bytearray(data[:length])))


@pytest.mark.parametrize('length', [1, 1000, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1])
@pytest.mark.parametrize('field', ['commands', 'payloads', 'length'])
def test_lengths_that_lie_are_refused_before_memory_is_taken(server, field, length):
    data = bytearray(b''.join(encode([[Code.SYNCHRONIZE, 1]], [b'abc'])))
    if field == 'length':
        struct.pack_into('<Q', data, 12, length)
    else:
        struct.pack_into('<I', data, 4 if field == 'commands' else 8, length % 2**32)
    if (field, length) == ('length', 1):
        server.session.receive(memoryview(data))  # shorter: the rest is padding
        return
    if (field, length % 2**32) == ('payloads', 1):
        return
    with pytest.raises(WireError):
        server.session.receive(memoryview(data))


SENSELESS = [
    [99],
    [0],
    [-1],
    [Code.DEFINE],
    [Code.DEFINE, 1, 'aten::relu'],
    [Code.DEFINE, 1, 5, b''],
    [Code.DEFINE, 1, 'aten::relu', b'\xc1'],
    [Code.DEFINE, 1, 'aten::relu', msgpack.packb(5)],
    [Code.DEFINE, 1, 'aten::relu', msgpack.packb([[], {'no_such': 1}])],
    [Code.DEFINE, 1, 'aten::relu', msgpack.packb([[], {'self) or (1': 1}])],
    [Code.DEFINE, 1, 'aten::relu', packed(msgpack.ExtType(77, b''))],
    [Code.DEFINE, 1, 'aten::relu', packed(msgpack.ExtType(DTYPE, b'\xff'))],
    [Code.DEFINE, 1, 'aten::relu', packed(msgpack.ExtType(DEVICE, b'xpu'))],
    [Code.DEFINE, 1, 'aten::relu', packed(msgpack.ExtType(TENSOR, b''))],
    [Code.DEFINE, 1, 'aten::relu', packed(hole([2], [-1]))],
    [Code.DEFINE, 1, 'aten::relu', packed(hole([1 << 63], [1]))],
    [Code.DEFINE, 1, 'aten::relu', packed(msgpack.ExtType(CONSTANT, msgpack.packb([[9], 1, b''])))],
    [Code.DEFINE, 1, 'aten::relu', packed(msgpack.ExtType(PAYLOAD, msgpack.packb(['x', 1])))],
    [Code.DEFINE, 1, 'aten::relu', packed(msgpack.ExtType(GENERATOR, msgpack.packb('x')))],
    [Code.DEFINE, 1, 'aten::relu', packed({'a': {'b': 1}})],
    [Code.CALL, 1, 2, 55, []],
    [Code.CALL, 1, 2, 'x', []],
    [Code.CALL, 1, 2, [], []],
    [Code.INSTALL, 1, [], [], 0],
    [Code.INSTALL, 1, 5, [], 0],
    [Code.INSTALL, 1, [[101, False, [[0, 0, 0]]]], [], 0],
    [Code.INSTALL, 1, [[101, False, [[0, -1, 0]]]], [], 0],
    [Code.INSTALL, 1, [[101, False, [[1, 65536, 3]]]], [], 0],
    [Code.INSTALL, 1, [[101, False, [[2, 0]]]], [], 0],
    [Code.INSTALL, 1, [[101, False, [[7, 0]]]], [], 0],
    [Code.INSTALL, 1, [[101, False, [[]]]], [], 0],
    [Code.INSTALL, 1, [[101, False, [['x', 1]]]], [], 0],
    [Code.INSTALL, 1, [[101, False, []]], [], 0],
    [Code.INSTALL, 1, [[101, False]], [], 0],
    [Code.INSTALL, 1, [[101, False, [[1, 65536]]]], [[0]], 0],
    [Code.INSTALL, 1, [[55, False, []]], [], 0],
    [Code.KEEP, 9, [[0, 0]]],
    [Code.RUN, 0, 50, 9, 1, True, [], 0],
    [Code.RUN, 0, 50, 8, 2, True, [], 0],
    [Code.RUN, 0, 50, 8, -1, True, [], 0],
    [Code.RUN, 0, 50, 8, 1, True, [65536], 0],
    [Code.RUN, 0, 50, 8, 1, True, [], 3],
    [Code.RUN, 0, 50, 8, 1, True, [], -1],
    [Code.RUN, 0, 50, 8, 1, True, [], 'x'],
    [Code.RUN, [], 50, 8, 1, True, [], 0],
    [Code.ABORT, 77, 0, []],
    [Code.ABORT, [], 0, []],
    [Code.FREE, 5],
    [Code.FREE, ['x']],
    [Code.SEED, 0, 'x'],
    [Code.SEED, 0],
    [Code.SET_RANDOM_STATE, 0],
    [Code.GET_RANDOM_STATE, 1, 'x'],
]


@pytest.mark.parametrize('command', SENSELESS, ids=lambda each: str(each)[:60])
def test_commands_that_make_no_sense_end_the_session_with_a_reason(server, command):
    server.make()
    server.send([Code.INSTALL, 8, [[101, False, [[1, 65536]]]], [], 0])
    with pytest.raises(WireError):
        server.send(command)
        if command[:1] == [Code.GET_RANDOM_STATE]:
            raise WireError('answered')
    server.session.close()


def test_unknown_handles_are_an_error_of_the_operator_and_not_of_the_session(server):
    server.make()
    ((code, _, kind, _),) = server.send([Code.CALL, 3, 5, 101, [99 << 16]])
    assert (code, kind) == (Answer.FAILED, 'RuntimeError')
    ((code, _, kind, _),) = server.send([Code.READ, 4, 98 << 16])
    assert (code, kind) == (Answer.FAILED, 'RuntimeError')
    ((code, reply, _),) = server.send([Code.READ, 5, 1 << 16])
    assert (code, reply) == (Answer.TENSOR, 5)


def test_handles_of_another_shape_than_announced_are_refused(server):
    server.make()
    server.send([Code.DEFINE, 1, 'aten::relu', packed(hole([300, 300]))])
    ((code, _, kind, _),) = server.send([Code.CALL, 3, 5, 1, [1 << 16]])
    assert (code, kind) == (Answer.FAILED, 'WireError')


def test_views_cannot_reach_beyond_their_storage(server):
    server.make()
    for name in ('aten::as_strided', 'aten::_reshape_alias'):
        server.send([Code.DEFINE, 1, name, packed(hole([2, 3]), [1000, 1000], [1000, 1])])
        ((code, _, kind, _),) = server.send([Code.CALL, 3, 5, 1, [1 << 16]])
        assert (code, kind) == (Answer.FAILED, 'RuntimeError')


def test_random_bytes_in_a_conversation_never_do_more_than_end_it(server):
    chance = random.Random(11)
    commands = [
        [Code.DEFINE, 1, 'aten::empty.memory_format', EMPTY],
        [Code.CALL, 1, 1, 1, []],
        [Code.DEFINE, 2, 'aten::add.Tensor', packed(hole([2, 3]), hole([2, 3]), alpha=2)],
        [Code.INSTALL, 1, [[2, False, [[1, 65536], [1, 65536]]], [-1, True, [[0, 0, 0]]]], [], 0],
        [Code.RUN, 0, 10, 1, 2, True, [], 0],
        [Code.ABORT, 10, 1, [10 << 16]],
        [Code.READ, 2, 10 << 16],
    ]
    messages = [b''.join(encode([each], [])) for each in commands]
    ended = answered = 0
    for _ in range(600):
        victim = Server(memory_bytes=1 << 20)
        try:
            for data in messages:
                data = bytearray(data)
                for _ in range(chance.choice([0, 0, 0, 0, 0, 0, 0, 0, 1, 2])):
                    data[chance.randrange(len(data))] = chance.randrange(256)
                victim.session.receive(memoryview(data))
            answered += 1
        except WireError:
            ended += 1
        assert victim.session.table.used_bytes <= 1 << 20
    assert ended > 100 and answered > 100
