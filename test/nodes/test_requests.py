"""Requests and names that no robot of ours sends: refused with the reason, and the server lives."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
import json
from pathlib import Path
import struct
import time
from typing import Any

import numpy as np
import pytest
from stranger import Stranger, handshakes_of
from system import Listener, Process, new_domain, running, server, until, write_models

from offload_ros.msg import Handshake
from offload_ros.wire.codecs import ZSTD
from offload_ros.wire.codecs import encode as coded
from offload_ros.wire.exchange import Status
from offload_ros.wire.framing import MAX_HEADER_BYTES
from offload_ros.wire.handshake_messages import Hello, Runtime
from offload_ros.wire.incoming import State, TransferError

IMAGE = np.zeros((40, 40, 3), dtype=np.uint8)
ENTRY = ['image', 5, [40, 40, 3], 0, 4800]  # name, dtype, shape, codec, bytes


def frame(header: bytes, data: bytes = IMAGE.tobytes()) -> bytes:
    """A transfer as ``wire.framing`` lays it out."""
    start = struct.pack('<I', len(header)) + header
    return start + bytes(-len(start) % 64) + data


def request(number: int, data: bytes = IMAGE.tobytes(), **fields: Any) -> bytes:
    """A hand-made request on 'conv'; ``fields`` of its header replace those of a good one."""
    head = {
        'kind': 0,
        'seq': number,
        'model': 'conv',
        'hash': '',
        'budget_s': 10.0,
        'priority': 128,
        'tensors': [ENTRY],
        **fields,
    }
    return frame(json.dumps(head).encode(), data)


def with_entry(**changes: Any) -> dict[str, Any]:
    """Fields of a request whose only tensor is described in another way."""
    fields = dict(zip(('name', 'dtype', 'shape', 'codec', 'size'), ENTRY, strict=True))
    return {'tensors': [list({**fields, **changes}.values())]}


BOMB = bytes(coded(bytes(2 * 10**6), ZSTD))  # two megabytes in a few bytes
LARGE = 1_000_001
# By name: what the stranger sends (bytes, or fields of a request) and what the reply must say.
BAD_REQUESTS: dict[str, tuple[bytes | dict[str, Any], str]] = {
    'dtype': (with_entry(dtype=99), 'dtype code 99 is unknown'),
    'codec': (with_entry(codec=99), 'codec 99 is unknown'),
    'length': (with_entry(size=4799), 'needs 4800 bytes, the message has 4799'),
    'missing': (with_entry(size=4801), '4801 bytes, the message has 4800 left'),
    'huge': (with_entry(shape=[2**62, 2**62]), 'needs'),
    'axes': (with_entry(shape=[1] * 9), '9 axes, at most 8'),
    'model': ({'model': 'other'}, "no model 'other' here"),
    'hash': ({'hash': '00'}, 'differs'),
    'kind': ({'kind': 9}, 'kind 9 is unknown'),
    'budget': ({'budget_s': -1.0}, 'budget_s is -1.0, seconds are wanted'),
    'large': (
        {**with_entry(shape=[LARGE], size=LARGE), 'data': bytes(LARGE)},
        'at most 1000000 are allowed',
    ),
    'bomb': (
        {**with_entry(shape=[2 * 10**6], codec=ZSTD, size=len(BOMB)), 'data': BOMB},
        'at most 1000000 are allowed',
    ),
    'other size': (
        {**with_entry(shape=[9], codec=ZSTD, size=len(BOMB)), 'data': BOMB},
        'zstd: ',
    ),
    'many': ({'tensors': [ENTRY] * 17}, '17 tensors in one message, at most 16'),
    'double': (
        {'tensors': [['image', 5, [0], 0, 0]] * 2},
        "two tensors are named 'image'",
    ),
    'entry': ({'tensors': [ENTRY[:3]]}, 'described by name, dtype, shape, codec and size'),
    'shape': (with_entry(shape=[-1, 3]), 'whole numbers from 0'),
    'number': ({'seq': 7777}, 'request 7777 came as'),
    'no JSON': (frame(b'{"seq": 1'), 'header is no JSON'),
    'deep JSON': (frame(b'[' * 100_000), 'header is no JSON'),
    'no object': (frame(b'[]'), 'header has no list of tensors'),
    'long header': (
        frame(b' ' * (MAX_HEADER_BYTES + 1), b''),
        f'whose header has {MAX_HEADER_BYTES + 1}',
    ),
    'short': (b'xy', 'a message of 2 bytes'),
}


@pytest.fixture
def one_model_server(tmp_path: Path) -> Iterator[tuple[int, Process]]:
    """A server of 'conv' that takes at most 1 MB, and its domain."""
    models = write_models(
        tmp_path,
        "models: {conv: {source: {python: 'networks:Conv'}, inputs: [{name: image, topic: x}], "
        'outputs: [map, mean]}}',
    )
    params = tmp_path / 'server.yaml'
    params.write_text('/**: {ros__parameters: {max_message_mb: 1.0}}')
    domain = new_domain()
    process = server(domain, models, f'params_file:={params}')
    with running(process):
        process.wait_for('serving 1 model')
        yield domain, process
        assert process.stop() != 1


def test_bad_requests_get_error_replies_and_the_server_lives(
    one_model_server: tuple[int, Process],
) -> None:
    domain, process = one_model_server
    stranger = Stranger(domain, '/stranger')
    try:
        stranger.connect()
        for number, (name, (content, text)) in enumerate(BAD_REQUESTS.items(), 1000):
            stranger.send(
                number, content if isinstance(content, bytes) else request(number, **content)
            )
            reply = stranger.reply_to(number)
            assert reply.status == Status.ERROR, name
            assert text in reply.detail, f'{name}: {reply.detail}'
            assert not reply.outputs
        # More than may come at all is refused before memory is taken.
        sent = stranger.send(2000, bytes(9_000_000))
        with pytest.raises(TransferError, match='9000000 bytes, at most 8388624 are allowed'):
            sent.wait(20.0)
        assert sent.state is State.REFUSED
        # A good one is answered all the same, once.
        stranger.ask(3000, {'image': IMAGE}, model='conv', model_hash=conv_hash(stranger))
        reply = stranger.reply_to(3000)
        assert reply.status == Status.OK, reply.detail
        assert sorted(reply.outputs) == ['map', 'mean']
        numbers = [each.seq for each in stranger.replies]
        assert len(numbers) == len(set(numbers)) == len(BAD_REQUESTS) + 1
        assert 'Traceback' not in process.output
    finally:
        stranger.close()


def conv_hash(stranger: Stranger) -> str:
    """What the server that ``stranger`` is connected to says of its model."""
    (state,) = stranger.directory.alive()
    (content,) = state.models['conv']
    return content


def test_name_that_is_none_becomes_no_topic_of_the_server(
    one_model_server: tuple[int, Process],
) -> None:
    domain, process = one_model_server
    stranger = Stranger(domain, '/stranger')
    listener = Listener(domain)
    try:
        stranger.connect()
        door = handshakes_of(listener, '/offload_server')
        session = stranger.directory.alive()[0].session
        for index, name in enumerate(('no name!', '/a b', '/x//y', '/1', '/', 'a', '/a' * 120)):
            hello = Hello(
                name, f'{index:016x}', '/offload_server', session, '0' * 64, Runtime('2', 1)
            )
            door.publish(Handshake(data=array('B', hello.to_bytes())))
        process.wait_for('which is no node name')
        good = Hello('/late', f'{99:016x}', '/offload_server', session, '0' * 64, Runtime('2', 1))
        late = handshakes_of(listener, '/late')
        door.publish(Handshake(data=array('B', good.to_bytes())))
        until(
            lambda: (
                door.publish(Handshake(data=array('B', good.to_bytes())))
                or time.sleep(0.1)
                or late.recorded
            ),
            'an answer to a good name',
        )
        topics = {name for name, _ in listener.node.get_topic_names_and_types()}
        ours = {name for name in topics if 'handshake' in name}
        assert ours == {'/offload_server/handshake', '/stranger/handshake', '/late/handshake'}
    finally:
        listener.close()
        stranger.close()
