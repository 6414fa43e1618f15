"""Messages about patches: what is sent arrives, what is garbage is refused and takes no memory."""

import random
import struct
import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from offload_ros.amot.messages import (
    Answered,
    Cancel,
    Failed,
    More,
    Sample,
    Wanted,
    answer_from_bytes,
    answer_to_buffers,
    asked_from_bytes,
    asked_to_buffers,
    bytes_in,
    patches_of_message,
)
from offload_ros.wire.codecs import CODECS, DELTA_ZSTD, LZ4, RAW, ZSTD, encode
from offload_ros.wire.errors import WireError

from ..draws import examples

HASH = 'ab' * 32
SEEDS = st.integers(0, 2**32 - 1)


def single(value):
    """As it travels."""
    return struct.unpack('<f', struct.pack('<f', value))[0]


def asked_by(chance):
    """Any message of a robot."""
    data = memoryview(chance.randbytes(chance.randrange(200)))
    codec, number = chance.choice(sorted(CODECS)), chance.randrange(1 << 32)
    count = chance.randrange(1, 1 << 16)
    return chance.choice(
        (
            Sample(
                chance.randbytes(32).hex(), number, count, chance.randrange(1 << 16),
                chance.randrange(1 << 16), single(chance.uniform(-65536.0, 65536.0)),
                single(chance.random()), chance.randrange(1, 60_000) / 1000.0,
                chance.random() < 0.5, chance.random() < 0.5, codec, data,
            ),
            More(number, count, codec, data),
            Cancel(number),
        )
    )  # fmt: skip


def answered_by(chance):
    """Any message of a server."""
    times = (single(chance.random()), single(chance.uniform(0, 1e6)))
    count = chance.randrange(1, 40)
    values = np.array([chance.random() for _ in range(count)], np.float32)
    positions = np.array(chance.sample(range(1 << 16), count), np.uint16)
    text = ''.join(chr(chance.randrange(1, 0x800)) for _ in range(chance.randrange(60)))
    return chance.choice(
        (
            Answered(values, *times),
            Wanted(positions, single(chance.random()), *times),
            Failed(text),
        )
    )


def joined(buffers):
    return np.frombuffer(b''.join(buffers), np.uint8)


def fields(message):
    """For comparing: arrays by their bytes."""
    return [
        (name, value.tobytes() if isinstance(value, np.ndarray) else value)
        for name, value in vars(message).items()
    ]


@given(SEEDS)
@settings(max_examples=examples(50, 3000))
def test_what_a_robot_asks_arrives(seed):
    asked = asked_by(random.Random(seed))
    buffers = asked_to_buffers(asked)
    found = asked_from_bytes(joined(buffers))
    assert type(found) is type(asked) and fields(found) == fields(asked)
    assert bytes_in(buffers) == joined(buffers).size


@given(SEEDS)
@settings(max_examples=examples(50, 3000))
def test_what_a_server_answers_arrives(seed):
    answer = answered_by(random.Random(seed))
    found = answer_from_bytes(joined(answer_to_buffers(answer)))
    assert type(found) is type(answer)
    if isinstance(answer, Failed):
        shown = ''.join(each if each.isprintable() else ' ' for each in answer.why)
        assert found.why == shown
    else:
        assert fields(found) == fields(answer)


@given(SEEDS)
@settings(max_examples=examples(100, 20_000))
def test_damaged_messages_are_read_or_refused(seed):
    chance = random.Random(seed)
    buffers = chance.choice(
        (
            lambda: asked_to_buffers(asked_by(chance)),
            lambda: answer_to_buffers(answered_by(chance)),
            lambda: [chance.randbytes(chance.randrange(300))],
        )
    )()
    whole = bytearray(joined(buffers))
    for _ in range(chance.randrange(5) if whole else 0):
        whole[chance.randrange(len(whole))] = chance.randrange(256)
    data = bytes(whole[: chance.choice((None, chance.randrange(len(whole) + 1)))])
    for parse in (asked_from_bytes, answer_from_bytes):
        try:
            found = parse(np.frombuffer(data, np.uint8))
            if isinstance(found, (Sample, More)):
                assert patches_of_message(found, 64, 48).shape == (found.count, 48)
        except WireError as error:
            assert str(error)


@pytest.mark.parametrize('codec', [RAW, ZSTD, LZ4, DELTA_ZSTD])
def test_coded_patches_are_those_that_were_cut(codec):
    plain = np.arange(5 * 48, dtype=np.uint8).reshape(5, 48) // 48
    coded = encode(plain.reshape(-1), codec, 1, 3)
    assert codec == RAW or len(coded) < plain.nbytes
    for message in (sample(5, codec, coded), More(3, 5, codec, coded)):
        found = asked_from_bytes(joined(asked_to_buffers(message)))
        np.testing.assert_array_equal(patches_of_message(found, 9, 48), plain)


def sample(count, codec=RAW, data=b'', **changes):
    """As a robot would send it."""
    values = {
        'model': HASH, 'seed': 1, 'count': count, 'limit': 4, 'fixed': 2, 'granted': 1.0,
        'confidence': 0.8, 'budget_s': 1.0, 'codec': codec, 'data': memoryview(data), **changes,
    }  # fmt: skip
    return Sample(**values)


def test_a_head_is_small_beside_one_patch():
    """All that is sent counts against the budget."""
    assert bytes_in(asked_to_buffers(sample(5))) == 60
    assert bytes_in(asked_to_buffers(More(1, 5))) == 12
    assert bytes_in(answer_to_buffers(Wanted(np.arange(7), 0.5))) == 16 + 2 * 7


def test_more_patches_than_an_image_has_are_refused_before_memory_is_taken():
    bomb = encode(bytes(1 << 26), ZSTD)
    assert len(bomb) < 10_000
    tracemalloc.start()
    with pytest.raises(WireError, match='65535 patches of an image that has 64'):
        patches_of_message(sample(65_535, ZSTD, bomb), 64, 768)
    with pytest.raises(WireError, match='49152 bytes are wanted'):
        patches_of_message(sample(64, ZSTD, bomb), 64, 768)
    with pytest.raises(WireError, match='49152 bytes are wanted, 3 came'):
        patches_of_message(More(1, 64, RAW, memoryview(b'abc')), 64, 768)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


SAMPLE = bytes(joined(asked_to_buffers(sample(5, RAW, bytes(5)))))
ANSWER = bytes(joined(answer_to_buffers(Answered(np.array([0.5, 0.5], np.float32)))))
WANTED = bytes(joined(answer_to_buffers(Wanted(np.array([3, 4]), 0.5))))


@pytest.mark.parametrize(
    ('parse', 'data', 'text'),
    [
        (asked_from_bytes, b'\x01', 'of 1 bytes'),
        (asked_from_bytes, b'\x01\x09' + SAMPLE[2:], 'of version 9, 1 is understood'),
        (asked_from_bytes, b'\x63' + SAMPLE[1:], 'of kind 99'),
        (asked_from_bytes, SAMPLE[:40], '40 bytes ends in its head'),
        (asked_from_bytes, ANSWER, 'that only a server sends'),
        (asked_from_bytes, SAMPLE[:2] + b'\x4d' + SAMPLE[3:], 'codec 77'),
        (asked_from_bytes, SAMPLE[:3] + b'\xff' + SAMPLE[4:], 'flags 255'),
        (asked_from_bytes, SAMPLE[:8] + b'\0\0' + SAMPLE[10:], 'a sample of no patches'),
        (asked_from_bytes, SAMPLE[:20] + struct.pack('<f', 7.0) + SAMPLE[24:], 'confidence of 7'),
        (asked_from_bytes, SAMPLE[:16] + struct.pack('<f', 1e9) + SAMPLE[20:], 'are granted'),
        (
            asked_from_bytes,
            SAMPLE[:16] + struct.pack('<f', float('nan')) + SAMPLE[20:],
            'nan patches are granted',
        ),
        (answer_from_bytes, SAMPLE, 'that only a robot sends'),
        (answer_from_bytes, ANSWER[:-1], '2 values in 7 bytes'),
        (answer_from_bytes, ANSWER[:-4] + struct.pack('<f', -1.0), 'probabilities that are none'),
        (answer_from_bytes, WANTED[:-2] + WANTED[-4:-2], 'wants a patch twice'),
        (answer_from_bytes, ANSWER[:2] + b'\0\0' + ANSWER[4:16], 'without values'),
        (answer_from_bytes, ANSWER[:8] + struct.pack('<f', -1.0) + ANSWER[12:], 'took -1.0 s'),
    ],
)
def test_what_is_wrong_is_told(parse, data, text):
    with pytest.raises(WireError, match=text):
        parse(np.frombuffer(data, np.uint8))
