"""Requests and replies as transfers: what arrives is what was sent, and nonsense is told apart."""

from array import array
import json
import math
import struct

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
import torch

from offload_ros.wire.codecs import ZSTD
from offload_ros.wire.codecs import encode as coded
from offload_ros.wire.exchange import Kind, Reply, Request, Status
from offload_ros.wire.framing import (
    ALIGNMENT,
    MAX_HEADER_BYTES,
    MAX_TEXT,
    frame_reply,
    frame_request,
    parse_reply,
    parse_request,
)
from offload_ros.wire.tensors import CODE_OF_DTYPE, Limits, WireError

LIMITS = Limits(tensors=4, total_bytes=1 << 20)
HEAD = {
    'kind': 0,
    'seq': 7,
    'model': 'vit',
    'hash': 'abc',
    'budget_s': 0.5,
    'priority': 128,
    'tensors': [],
}
REPLY_HEAD = {
    'seq': 7,
    'status': 0,
    'detail': '',
    'queue_s': 0.0,
    'compute_s': 0.0,
    'server_s': 0.0,
    'batched_with': 0,
    'tensors': [],
}


def joined(buffers):
    """Return the bytes of a transfer as a receiver has them, (n,) uint8."""
    return np.frombuffer(b''.join(buffers), np.uint8).copy()


def received(head, data=b''):
    """Return a hand-made transfer whose tensors' bytes are all ``data``."""
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    start = struct.pack('<I', len(text)) + text
    return joined([start, b'\0' * (-len(start) % ALIGNMENT), data])


def request_in(buffer, limits=LIMITS):
    return parse_request(buffer, limits, '/robot', 'session', 'server session')


def reply_in(buffer, limits=LIMITS):
    return parse_reply(buffer, limits, '/server', 'server session', 'session')


# What may enter a log: no line breaks, no control sequences.
TEXT = st.text(st.characters(categories=['L', 'N', 'P', 'S']), max_size=20)


@st.composite
def tensors(draw):
    """Up to four tensors of any dtype, also empty ones and such with axes of no stride."""
    made = {}
    for name in draw(st.lists(TEXT, max_size=4, unique=True)):
        dtype = draw(st.sampled_from(sorted(CODE_OF_DTYPE, key=str)))
        shape = draw(st.lists(st.integers(0, 5), max_size=4))
        raw = torch.randint(0, 2 if dtype == torch.bool else 100, shape)
        made[name] = raw.to(dtype).transpose(0, -1) if shape else raw.to(dtype)
    return made


def assert_same(ours, theirs):
    assert list(ours) == list(theirs)
    for name, tensor in ours.items():
        assert theirs[name].dtype == tensor.dtype
        assert theirs[name].shape == tensor.shape
        assert torch.equal(theirs[name], tensor)


@settings(max_examples=100, deadline=None)
@given(
    inputs=tensors(),
    seq=st.integers(0, 2**48 - 1),
    model=TEXT,
    budget_s=st.floats(0, 1e8),
    priority=st.integers(0, 255),
    kind=st.sampled_from(Kind),
)
def test_request_arrives_as_it_was_sent(inputs, seq, model, budget_s, priority, kind):
    request = Request(
        '/robot', 'session', 'server session', seq, model, 'h', budget_s, inputs, {},
        frozenset(), priority, kind,
    )  # fmt: skip
    framed = frame_request(request)
    assert framed.tensor_bytes == sum(tensor.nbytes for tensor in inputs.values())
    parsed = request_in(joined(framed.buffers))
    assert_same(inputs, parsed.inputs)
    for name in ('robot', 'session', 'server_session', 'seq', 'model', 'model_hash', 'budget_s'):
        assert getattr(parsed, name) == getattr(request, name)
    assert (parsed.priority, parsed.kind) == (priority, kind)


@settings(max_examples=100, deadline=None)
@given(
    outputs=tensors(),
    status=st.sampled_from(Status),
    detail=TEXT,
    batched_with=st.integers(0, (1 << 16) - 1),
)
def test_reply_arrives_as_it_was_sent(outputs, status, detail, batched_with):
    sent = Reply(
        '/server', 'server session', 'session', 9, status, detail, 0.1, 0.2, 0.3, outputs,
        batched_with=batched_with,
    )  # fmt: skip
    parsed = reply_in(joined(frame_reply(sent).buffers))
    assert_same(outputs, parsed.outputs)
    assert parsed.tensor_bytes == sum(tensor.nbytes for tensor in outputs.values())
    names = ('server', 'server_session', 'session', 'seq', 'status', 'detail', 'batched_with')
    for name in names:
        assert getattr(parsed, name) == getattr(sent, name)
    assert (parsed.queue_s, parsed.compute_s, parsed.server_s) == (0.1, 0.2, 0.3)


def test_camera_message_is_sent_without_a_copy_and_used_where_it_arrived():
    image = array('B', range(256)) * 3
    tensor = torch.frombuffer(image, dtype=torch.uint8).reshape(16, 16, 3)
    framed = frame_request(Request('r', 's', 't', 1, inputs={'i': tensor}, buffers={'i': image}))
    assert any(isinstance(part, memoryview) and part.obj is image for part in framed.buffers)
    arrived = joined(framed.buffers)
    parsed = request_in(arrived).inputs['i']
    offset = parsed.data_ptr() - arrived.ctypes.data
    assert 0 < offset < arrived.nbytes
    assert offset % ALIGNMENT == 0
    arrived[offset] = 99
    assert parsed[0, 0, 0] == 99


def test_every_tensor_begins_at_a_multiple_of_the_alignment():
    odd = {str(size): torch.full((size,), size, dtype=torch.uint8) for size in (1, 63, 64, 65)}
    arrived = joined(frame_request(Request('r', 's', 't', 1, inputs=odd)).buffers)
    for tensor in request_in(arrived).inputs.values():
        assert (tensor.data_ptr() - arrived.ctypes.data) % ALIGNMENT == 0


def test_coder_decides_what_travels_and_knows_what_is_coded_already():
    plain, photo = torch.zeros(5000, dtype=torch.uint8), torch.arange(9, dtype=torch.uint8)
    asked = []

    def coder(name, tensor, data, opaque):
        asked.append((name, opaque))
        return (0, data) if opaque else (ZSTD, memoryview(coded(data, ZSTD, 1)))

    framed = frame_request(
        Request('r', 's', 't', 1, inputs={'plain': plain, 'photo': photo}, opaque={'photo'}), coder
    )
    assert asked == [('plain', False), ('photo', True)]
    assert framed.tensor_bytes < 9 + 500
    assert_same({'plain': plain, 'photo': photo}, request_in(joined(framed.buffers)).inputs)


def test_tensor_that_cannot_travel_is_refused_by_the_sender():
    with pytest.raises(ValueError, match=r"'z' has dtype torch\.complex64"):
        frame_request(Request('r', 's', 't', 1, inputs={'z': torch.zeros(1, dtype=torch.cfloat)}))
    wrong = {'inputs': {'i': torch.zeros(4, dtype=torch.uint8)}, 'buffers': {'i': array('B', b'x')}}
    with pytest.raises(ValueError, match="'i' needs 4 bytes, its buffer has 1"):
        frame_request(Request('r', 's', 't', 1, **wrong))


def test_endless_budget_and_long_detail_travel_as_what_a_receiver_takes():
    endless = frame_request(Request('r', 's', 't', 1, budget_s=math.inf))
    assert request_in(joined(endless.buffers)).budget_s == 0.0
    long = frame_reply(Reply('a', 'b', 'c', 1, Status.ERROR, 'x' * 5000))
    assert reply_in(joined(long.buffers)).detail == 'x' * MAX_TEXT


def test_text_of_a_peer_cannot_write_lines_of_its_own_into_a_log():
    told = frame_reply(Reply('a', 'b', 'c', 1, Status.ERROR, 'no\n[ERROR] fire\x1b[31m'))
    assert reply_in(joined(told.buffers)).detail == 'no [ERROR] fire [31m'


FLOAT = ['x', 1, [2], 0, 8]
BAD_HEADS = [
    ({'seq': -1}, 'seq is -1, a whole number'),
    ({'seq': 2**48}, 'a whole number below'),
    ({'seq': 1.0}, 'seq is 1.0'),
    ({'seq': True}, 'seq is True'),
    ({'seq': None}, 'seq is None'),
    ({'kind': 2}, 'kind 2 is unknown'),
    ({'kind': '0'}, "kind '0' is unknown"),
    ({'priority': 256}, 'priority is 256'),
    ({'model': 7}, 'model is 7, a text is wanted'),
    ({'hash': 'x' * (MAX_TEXT + 1)}, 'hash is'),
    ({'budget_s': -1}, 'budget_s is -1, seconds are wanted'),
    ({'budget_s': math.nan}, 'budget_s is nan'),
    ({'budget_s': math.inf}, 'budget_s is inf'),
    ({'budget_s': True}, 'budget_s is True'),
    ({'budget_s': 10**400}, 'budget_s is 1000'),
    ({'tensors': None}, 'no list of tensors'),
    ({'tensors': {}}, 'no list of tensors'),
    ({'tensors': [FLOAT] * 5}, '5 tensors in one message, at most 4 are allowed'),
    ({'tensors': [FLOAT, FLOAT]}, "two tensors are named 'x'"),
    ({'tensors': [7]}, 'described by name, dtype, shape, codec and size'),
    ({'tensors': [FLOAT[:4]]}, 'described by name'),
    ({'tensors': [[None, 1, [2], 0, 8]]}, 'no name or no shape'),
    ({'tensors': [['x' * 1001, 1, [2], 0, 8]]}, 'no name or no shape'),
    ({'tensors': [['x', 1, 2, 0, 8]]}, 'no name or no shape'),
    ({'tensors': [['x\n', 1, [2], 0, 8]]}, r"named 'x\n', only printable characters"),
    ({'tensors': [['x', 1, [-2], 0, 8]]}, 'whole numbers from 0'),
    ({'tensors': [['x', 1, [2.0], 0, 8]]}, 'whole numbers from 0'),
    ({'tensors': [['x', 1, [2], 0, 2**63]]}, 'whole numbers from 0'),
    ({'tensors': [['x', 99, [2], 0, 8]]}, 'dtype code 99 is unknown'),
    ({'tensors': [['x', 1, [2], 99, 8]]}, 'codec 99 is unknown'),
    ({'tensors': [['x', 1, [3], 0, 8]]}, 'needs 12 bytes, the message has 8'),
    ({'tensors': [['x', 1, [2], 0, 800]]}, '800 bytes, the message has'),
    ({'tensors': [['x', 1, [2**62, 2**62], 0, 8]]}, 'needs'),
    ({'tensors': [['x', 5, [2**40], ZSTD, 8]]}, 'at most 1048576 are allowed'),
    ({'tensors': [['x', 1, [1] * 9, 0, 4]]}, '9 axes'),
    ({'tensors': [['x', 10, [8], 0, 8]]}, 'bool has the byte 255'),
]


@pytest.mark.parametrize(('fields', 'text'), BAD_HEADS, ids=[text for _, text in BAD_HEADS])
def test_bad_request_is_refused_and_the_text_says_what_is_wrong(fields, text):
    buffer = received({**HEAD, **fields}, b'\xff' * 128)
    with pytest.raises(WireError) as error:
        request_in(buffer)
    assert text in str(error.value)
    assert len(str(error.value)) < 1200
    assert request_in(received(HEAD)).seq == 7, 'only that was wrong'


@pytest.mark.parametrize(
    ('fields', 'text'),
    [
        ({'status': 4}, 'status 4 is unknown'),
        ({'detail': None}, 'detail is None'),
        ({'queue_s': 'x'}, "queue_s is 'x'"),
        ({'compute_s': -0.5}, 'compute_s is -0.5'),
        ({'server_s': 1e9}, 'server_s is 1000000000.0'),
        ({'batched_with': -1}, 'batched_with is -1'),
        ({'batched_with': True}, 'batched_with is True'),
        ({'batched_with': 1 << 16}, 'a whole number below 65536'),
    ],
)
def test_bad_reply_is_refused_and_the_text_says_what_is_wrong(fields, text):
    with pytest.raises(WireError, match=text):
        reply_in(received({**REPLY_HEAD, **fields}))
    assert reply_in(received(REPLY_HEAD)).status == Status.OK


def test_reply_that_does_not_say_whether_it_is_of_a_batch_is_refused():
    head = {name: value for name, value in REPLY_HEAD.items() if name != 'batched_with'}
    with pytest.raises(WireError, match='batched_with is None'):
        reply_in(received(head))


@pytest.mark.parametrize(
    ('content', 'text'),
    [
        (b'', 'a message of 0 bytes'),
        (b'\1\0\0', 'a message of 3 bytes'),
        (struct.pack('<I', 1), 'whose header has 1'),
        (struct.pack('<I', 2**32 - 1) + b'{}', 'whose header has 4294967295'),
        (struct.pack('<I', 2) + b'[]', 'no list of tensors'),
        (struct.pack('<I', 2) + b'{x', 'no JSON'),
        (struct.pack('<I', 2) + b'\xff\xfe', 'no JSON'),
        (struct.pack('<I', 100_000) + b'[' * 100_000, 'no JSON'),
        (struct.pack('<I', 5_005) + b'{"seq":' + b'1' * 4_998, 'no JSON'),
        (
            struct.pack('<I', MAX_HEADER_BYTES + 1) + b' ' * (MAX_HEADER_BYTES + 1),
            f'whose header has {MAX_HEADER_BYTES + 1}',
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else '',
)
def test_header_that_is_none_is_refused(content, text):
    with pytest.raises(WireError, match=text):
        request_in(np.frombuffer(content, np.uint8).copy())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=10,
)
ENTRY = st.lists(JSON | st.sampled_from([0, 1, 5, 10, 64, 2**62, [8], [2, 4], 'x']), max_size=6)


@settings(max_examples=300, deadline=None)
@given(
    fields=st.dictionaries(st.sampled_from([*HEAD, *REPLY_HEAD]), JSON, max_size=3),
    entries=st.none() | st.lists(ENTRY, max_size=3),
    data=st.binary(max_size=200),
    cut=st.integers(0, 400),
)
def test_whatever_arrives_is_parsed_or_refused(fields, entries, data, cut):
    head = {**HEAD, **REPLY_HEAD, **fields}
    if entries is not None:
        head['tensors'] = entries
    whole = received(head, data)
    for buffer in (whole, whole[:cut].copy()):
        for parse in (request_in, reply_in):
            try:
                parsed = parse(buffer)
            except WireError:
                continue
            carried = parsed.inputs if parse is request_in else parsed.outputs
            assert sum(tensor.nbytes for tensor in carried.values()) <= LIMITS.total_bytes


@settings(max_examples=200, deadline=None)
@given(flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 255)), min_size=1))
def test_damaged_request_is_another_one_or_refused(flips):
    inputs = {'image': torch.arange(192, dtype=torch.uint8).reshape(8, 8, 3)}
    buffer = joined(frame_request(Request('r', 's', 't', 3, 'vit', 'abc', 1.0, inputs)).buffers)
    for position, flip in flips:
        buffer[position % len(buffer)] ^= flip
    try:
        parsed = request_in(buffer)
    except WireError:
        return
    assert all(tensor.nbytes <= len(buffer) for tensor in parsed.inputs.values())
