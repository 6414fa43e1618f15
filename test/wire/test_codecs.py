"""Codecs give back every byte; whatever is no coding of the wanted size is refused."""

from array import array
import threading
import tracemalloc

from hypothesis import example, given, settings
from hypothesis import strategies as st
import lz4.block
import numpy as np
import pytest
import zstandard

from offload_ros.wire.codecs import (
    BITS,
    BITS_ZSTD,
    CODECS,
    DELTA_ZSTD,
    LZ4,
    SHUFFLE_ZSTD,
    ZSTD,
    NotBinaryError,
    channels_of,
    decode,
    encode,
)
from offload_ros.wire.tensors import RAW, WireError

from ..draws import examples

CODED = sorted(set(CODECS) - {RAW})
ITEMSIZES = (1, 2, 4, 8)
often = settings(max_examples=examples(800, 5000))


def make(kind, size, seed):
    """Return ``size`` bytes, (size,) uint8: noise, few values, 0 and 1, or runs."""
    rng = np.random.default_rng(seed)
    if kind == 'noise':
        return rng.integers(0, 256, size, dtype=np.uint8)
    if kind == 'binary':
        return (rng.random(size) < 0.1).astype(np.uint8)
    if kind == 'few':
        return rng.choice(np.array([0, 7, 250], np.uint8), size)
    return np.repeat(rng.integers(0, 256, size // 9 + 1, dtype=np.uint8), 9)[:size]


@st.composite
def cases(draw, max_values=700):
    """Draw (data, code, itemsize, channels) that fit together."""
    code = draw(st.sampled_from(CODED))
    itemsize = draw(st.sampled_from(ITEMSIZES))
    channels = draw(st.integers(1, 5)) if code == DELTA_ZSTD else 1
    kind = (
        'binary'
        if CODECS[code].filter == 'bits'
        else draw(st.sampled_from(['noise', 'few', 'runs']))
    )
    size = draw(st.integers(0, max_values)) * itemsize * channels
    return make(kind, size, draw(st.integers(0, 2**32))), code, itemsize, channels


@often
@given(cases())
def test_round_trip_gives_back_every_byte(case):
    data, code, itemsize, channels = case
    coded = encode(data, code, itemsize, channels)
    plain = decode(coded, code, itemsize, data.size)
    assert plain.dtype == np.uint8
    assert plain.tobytes() == data.tobytes()
    assert plain.flags.writeable


@often
@given(cases(), st.data())
def test_damaged_data_is_refused_or_has_the_wanted_size(case, draws):
    data, code, itemsize, channels = case
    coded = bytearray(encode(data, code, itemsize, channels))
    for _ in range(draws.draw(st.integers(1, 3))):
        if coded:
            at = draws.draw(st.integers(0, len(coded) - 1))
            coded[at] ^= draws.draw(st.integers(1, 255))
    try:
        plain = decode(coded, code, itemsize, data.size)
    except WireError as error:
        assert '\n' not in str(error)
    else:
        assert plain.shape == (data.size,)


@often
@given(cases(), st.integers(0, 2**32))
def test_truncated_data_is_refused(case, seed):
    data, code, itemsize, channels = case
    coded = encode(data, code, itemsize, channels)
    if len(coded):
        with pytest.raises(WireError):
            decode(coded[: seed % len(coded)], code, itemsize, data.size)


@often
@given(cases(), st.binary(min_size=1, max_size=20))
def test_trailing_bytes_are_refused_or_never_make_more_than_the_size(case, garbage):
    data, code, itemsize, channels = case
    coded = bytes(encode(data, code, itemsize, channels)) + garbage
    if CODECS[code].compressor == 'lz4' and data.size:
        # LZ4's block format has no end mark: appended bytes may read as a longer block's rest.
        try:
            assert decode(coded, code, itemsize, data.size).size == data.size
        except WireError:
            return
    else:
        with pytest.raises(WireError):
            decode(coded, code, itemsize, data.size)


@often
@given(cases(), st.integers(-300, 300))
def test_another_size_than_the_coded_is_refused(case, values):
    data, code, itemsize, channels = case
    wrong = data.size + values * itemsize * channels
    if CODECS[code].filter == 'bits':
        wrong = data.size + 8 * values * itemsize
    if wrong == data.size:
        return
    with pytest.raises(WireError):
        decode(encode(data, code, itemsize, channels), code, itemsize, wrong)


@settings(max_examples=examples(800, 5000))
@given(
    st.binary(max_size=200),
    st.integers(-1, 255),
    st.sampled_from((0, *ITEMSIZES)),
    st.integers(-8, 4000),
)
@example(b'\x28\xb5\x2f\xfd', ZSTD, 1, 100)
@example(b'\x50\x2a\x4d\x18\x00\x00\x00\x00', ZSTD, 1, 100)  # a skippable frame
@example(b'', DELTA_ZSTD, 1, 3)
@example(b'\x00', DELTA_ZSTD, 1, 3)
def test_any_bytes_decode_to_the_size_or_are_refused(data, code, itemsize, size):
    try:
        plain = decode(data, code, itemsize, size)
    except WireError as error:
        assert '\n' not in str(error)
    else:
        assert plain.size == size


BOMB = 64 << 20


@pytest.mark.parametrize(
    ('code', 'data'),
    [
        (ZSTD, zstandard.ZstdCompressor().compress(bytes(BOMB))),
        (SHUFFLE_ZSTD, zstandard.ZstdCompressor().compress(bytes(BOMB))),
        (BITS_ZSTD, zstandard.ZstdCompressor().compress(bytes(BOMB))),
        (DELTA_ZSTD, b'\x03' + zstandard.ZstdCompressor().compress(bytes(BOMB))),
        (ZSTD, zstandard.ZstdCompressor(write_content_size=False).compress(bytes(BOMB))),
        (LZ4, lz4.block.compress(bytes(BOMB), store_size=False)),
        (BITS, bytes(BOMB // 8)),
    ],
)
def test_bomb_is_refused_without_taking_its_memory(code, data):
    tracemalloc.start()
    try:
        with pytest.raises(WireError):
            decode(data, code, 4, 12_000)
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()


def test_frame_that_understates_its_content_is_refused():
    frame = bytearray(zstandard.ZstdCompressor().compress(make('runs', 5000, 1).tobytes()))
    assert zstandard.get_frame_parameters(bytes(frame)).content_size == 5000
    at = bytes(frame).index((5000 - 256).to_bytes(2, 'little'))  # RFC 8878, 3.1.1.1.4
    frame[at : at + 2] = (4000 - 256).to_bytes(2, 'little')
    with pytest.raises(WireError, match='no coding of 4000 bytes'):
        decode(frame, ZSTD, 1, 4000)


def test_two_frames_are_refused():
    frame = bytes(encode(make('few', 400, 1), ZSTD))
    with pytest.raises(WireError):
        decode(frame + frame, ZSTD, 1, 400)


def test_codes_on_the_wire_are_fixed():
    assert tuple(range(7)) == (RAW, BITS, LZ4, ZSTD, BITS_ZSTD, SHUFFLE_ZSTD, DELTA_ZSTD)
    assert set(CODECS) == set(range(7))


def test_bytes_on_the_wire_are_fixed():
    assert bytes(encode(b'\1\0\0\0\0\0\0\1\1', BITS)) == b'\x81\x80'
    coded = bytes(encode(bytes([10, 20, 30, 12, 21, 33]), DELTA_ZSTD, 1, 3))
    assert coded[0] == 3
    # Differences 10 20 30, 2 1 3; red and blue less green.
    assert zstandard.ZstdDecompressor().decompress(coded[1:]) == bytes([246, 20, 10, 1, 1, 2])
    coded = encode(bytes([1, 2, 3, 4, 5, 6]), SHUFFLE_ZSTD, 2)
    assert zstandard.ZstdDecompressor().decompress(coded) == bytes([1, 3, 5, 2, 4, 6])


def test_bits_after_the_last_value_are_refused():
    assert decode(b'\x80', BITS, 1, 1).tolist() == [1]
    with pytest.raises(WireError, match='bits after the last'):
        decode(b'\xc0', BITS, 1, 1)


@pytest.mark.parametrize('code', [BITS, BITS_ZSTD])
def test_bits_refuse_what_is_not_binary(code):
    with pytest.raises(NotBinaryError, match='has 2'):
        encode(b'\0\1\2', code)


def test_raw_is_not_copied():
    data = array('B', range(200))
    data[0] = 77
    assert encode(data, RAW)[0] == 77
    plain = decode(data, RAW, 1, 200)
    data[1] = 99
    assert plain[1] == 99


@pytest.mark.parametrize(
    ('arguments', 'says'),
    [
        ((b'123', 99), 'codec 99 is unknown'),
        ((b'123', LZ4, 2), 'no whole values of 2'),
        ((b'1234', DELTA_ZSTD, 1, 3), 'no whole pixels of 3'),
        ((b'1234', DELTA_ZSTD, 1, 0), 'no whole pixels of 0'),
    ],
)
def test_encoder_names_what_does_not_fit(arguments, says):
    with pytest.raises(ValueError, match=says):
        encode(*arguments)


def test_decoder_names_an_unknown_code():
    with pytest.raises(WireError, match='codec 200 is unknown'):
        decode(b'123', 200, 1, 3)


@pytest.mark.parametrize(
    ('shape', 'channels'),
    [
        ((48, 64, 3), 3),
        ((48, 64, 1), 1),
        ((48, 64), 1),
        ((3, 48, 64), 1),
        ((1, 2, 48, 3), 1),
        ((), 1),
    ],
)
def test_channels_follow_from_the_shape_of_an_image(shape, channels):
    assert channels_of(shape) == channels


def test_each_filter_shrinks_what_it_is_for():
    y, x = np.mgrid[:120, :160]
    noise = np.random.default_rng(0).integers(0, 4, (120, 160, 1))
    image = (np.stack([x, x + y, y], -1) + noise).astype(np.uint8)
    assert len(encode(image, DELTA_ZSTD, 1, 3)) < 0.7 * len(encode(image, ZSTD))
    smooth = np.sin(np.linspace(0, 6, 20_000)).astype(np.float32)
    data = smooth.view(np.uint8)
    assert len(encode(data, SHUFFLE_ZSTD, 4)) < 0.8 * len(encode(data, ZSTD, 4))
    voxels = make('binary', 80_000, 0)
    assert len(encode(voxels, BITS_ZSTD)) < 0.8 * len(encode(voxels, BITS)) == 8000


def test_threads_do_not_disturb_each_other():
    failures = []

    def work(seed):
        for index in range(60):
            data = make('few', 60_000, 100 * seed + index)
            for code in (ZSTD, LZ4, DELTA_ZSTD):
                if not np.array_equal(decode(encode(data, code), code, 1, data.size), data):
                    failures.append((seed, index, code))

    threads = [threading.Thread(target=work, args=[seed]) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
