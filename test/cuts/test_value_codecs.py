"""Tensors that cross coded come out bit by bit; what is no coding of them is refused."""

from dataclasses import replace
import threading
import tracemalloc

from hypothesis import example, given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
import torch
import zstandard

from offload_ros.cuts.value_codecs import (
    NARROW,
    VALUE_CODECS,
    candidates,
    code_named,
    decode_value,
    encode_value,
    measure_codecs,
    pixel_channels,
)
from offload_ros.cuts.values import (
    HEAD_BYTES,
    MAX_UNKNOWN_BYTES,
    size_refusal,
    value_bytes,
    value_from_bytes,
    value_to_buffers,
)
from offload_ros.graph.graph import TensorSpec
from offload_ros.wire.codecs import BITS, BITS_ZSTD, DELTA_ZSTD, RAW, SHUFFLE_ZSTD, ZSTD
from offload_ros.wire.errors import WireError
from offload_ros.wire.tensors import DTYPE_OF_CODE, data_of

from ..draws import examples

DTYPES = sorted(DTYPE_OF_CODE.values(), key=str)
often = settings(max_examples=examples(300, 600))
CODEC_BYTE = 32  # of the head, behind eight extents


def sent(spec, tensor, codec):
    """All bytes of a value, (n,) uint8, writable as the channel gives them."""
    return np.frombuffer(
        b''.join(map(bytes, value_to_buffers(spec, tensor, codec))), np.uint8
    ).copy()


def bits_of(tensor):
    """Its bytes in the order of its elements."""
    return bytes(data_of(tensor))


def tensor_of(kind, shape, dtype, seed):
    """Elements of ``dtype``: any bytes, 0 and 1, or few values up to 255."""
    rng = np.random.default_rng(seed)
    count = int(np.prod(shape))
    if dtype == torch.bool or kind == 'binary':
        return torch.from_numpy(rng.random(count) < 0.2).reshape(shape).to(dtype)
    if kind == 'labels':
        picked = torch.from_numpy(rng.choice(np.array([0, 3, 100]), count)).reshape(shape)
        return picked.to(dtype)
    data = rng.integers(0, 256, count * dtype.itemsize, dtype=np.uint8)
    if not count:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(data, dtype=dtype).reshape(shape)


@st.composite
def cases(draw):
    """Draw (spec, tensor, codec) of odd sizes, in any order of memory."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = tuple(draw(st.lists(st.integers(0, 9), max_size=4)))
    tensor = tensor_of(
        draw(st.sampled_from(('any', 'binary', 'labels'))), shape, dtype, draw(st.integers(0, 999))
    )
    order = tuple(draw(st.permutations(range(len(shape)))))
    if order == tuple(range(len(shape))):
        order = None
    extents = tuple(None if draw(st.booleans()) else extent for extent in shape)
    return TensorSpec(extents, dtype, order), tensor, draw(st.sampled_from(sorted(VALUE_CODECS)))


@often
@given(cases())
def test_every_codec_gives_back_every_bit_of_every_tensor(case):
    spec, tensor, codec = case
    data = sent(spec, tensor, codec)
    received = value_from_bytes(spec, data)
    assert received.shape == tensor.shape and received.dtype == tensor.dtype
    assert bits_of(received) == bits_of(tensor)
    assert len(data) <= HEAD_BYTES + tensor.nbytes
    assert not size_refusal(spec, len(data))
    assert data[CODEC_BYTE] in (RAW, codec)


def damaged(case, draws):
    """A damaged value is refused, or a tensor of its spec."""
    spec, tensor, codec = case
    data = sent(spec, tensor, codec)
    for _ in range(draws.draw(st.integers(1, 3))):
        data[draws.draw(st.integers(0, len(data) - 1))] ^= draws.draw(st.integers(1, 255))
    try:
        received = value_from_bytes(spec, data)
    except WireError as error:
        assert '\n' not in str(error)
        return
    assert received.dtype == spec.dtype and received.ndim == len(spec.shape)
    if spec.dtype == torch.bool and received.numel():
        assert int(received.view(torch.uint8).max()) <= 1


@often
@given(cases(), st.data())
def test_a_damaged_value_is_refused_or_a_tensor_of_its_spec(case, draws):
    damaged(case, draws)


@pytest.mark.long
@settings(max_examples=20_000, deadline=None)
@given(cases(), st.data())
def test_many_damaged_values_are_refused_or_tensors_of_their_spec(case, draws):
    damaged(case, draws)


@often
@given(cases(), st.integers(0, 1 << 30), st.binary(min_size=1, max_size=9))
def test_a_truncated_or_longer_value_is_refused(case, seed, garbage):
    spec, tensor, codec = case
    data = sent(spec, tensor, codec)
    with pytest.raises(WireError):
        value_from_bytes(spec, data[: seed % len(data)])
    with pytest.raises(WireError):
        value_from_bytes(spec, np.append(data, np.frombuffer(garbage, np.uint8)))


@often
@given(st.binary(max_size=300), st.sampled_from(DTYPES), st.integers(0, 255), st.integers(0, 400))
@example(b'', torch.int64, NARROW, 8)
@example(b'\1', torch.float32, NARROW, 4)
@example(b'\1', torch.int64, NARROW | SHUFFLE_ZSTD, 8)
@example(b'\xff', torch.int64, NARROW | BITS, 8)
def test_any_bytes_decode_to_the_size_or_are_refused(data, dtype, codec, size):
    try:
        plain = decode_value(data, codec, dtype, size)
    except WireError as error:
        assert '\n' not in str(error)
    else:
        assert plain.shape == (size,) and plain.dtype == np.uint8


@pytest.mark.parametrize('extents', [(3000,), (None,)], ids=['known', 'unknown'])
@pytest.mark.parametrize('codec', [ZSTD, BITS_ZSTD, SHUFFLE_ZSTD, NARROW | ZSTD])
def test_a_bomb_is_refused_without_taking_its_memory(codec, extents):
    spec = TensorSpec(extents, torch.int64)
    bomb = zstandard.ZstdCompressor().compress(bytes(128 << 20))
    head = sent(spec, torch.zeros(3000, dtype=torch.int64), RAW)[:HEAD_BYTES]
    head[CODEC_BYTE] = codec
    head[40:48] = np.frombuffer(len(bomb).to_bytes(8, 'little'), np.uint8)
    data = np.concatenate([head, np.frombuffer(bomb, np.uint8)])
    assert extents[0] is None or not size_refusal(spec, len(data))
    tracemalloc.start()
    try:
        with pytest.raises(WireError):
            value_from_bytes(spec, data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_few_bytes_cannot_claim_an_extent_that_no_memory_holds():
    spec = TensorSpec((None,), torch.uint8)
    data = sent(spec, torch.zeros(1000, dtype=torch.uint8), ZSTD)
    data[0:4] = np.frombuffer((MAX_UNKNOWN_BYTES + 1).to_bytes(4, 'little'), np.uint8)
    with pytest.raises(WireError, match='more than'):
        value_from_bytes(spec, data)
    empty = sent(TensorSpec((None,) * 8, torch.uint8), torch.zeros([0] * 8, dtype=torch.uint8), RAW)
    empty[4:32] = 255
    with pytest.raises(WireError, match='shape'):
        value_from_bytes(TensorSpec((None,) * 8, torch.uint8), empty)


def test_what_a_transfer_may_weigh_is_told_before_memory_is_taken():
    spec = TensorSpec((10, 10), torch.float32)
    assert value_bytes(spec) == HEAD_BYTES + 400
    assert not size_refusal(spec, HEAD_BYTES + 400) and not size_refusal(spec, HEAD_BYTES + 1)
    assert 'at most' in size_refusal(spec, HEAD_BYTES + 401)
    assert 'head' in size_refusal(spec, HEAD_BYTES - 1)
    assert not size_refusal(replace(spec, shape=(None, 10)), 1 << 20)


def test_binary_voxels_of_2_mib_travel_as_262_kb():
    voxels = torch.from_numpy(np.random.default_rng(1).random((1, 256, 32, 256)) < 0.5)
    for dtype in (torch.uint8, torch.bool):
        spec = TensorSpec(tuple(voxels.shape), dtype)
        data = sent(spec, voxels.to(dtype), BITS)
        assert voxels.numel() == 2 << 20 and len(data) == HEAD_BYTES + 262_144
        assert bits_of(value_from_bytes(spec, data)) == bits_of(voxels.to(dtype))


def test_a_scene_with_one_other_value_travels_raw_and_whole():
    voxels = torch.zeros(64, 8, 64, dtype=torch.uint8)
    voxels[5, 3, 61] = 2
    spec = TensorSpec((64, 8, 64), torch.uint8)
    data = sent(spec, voxels, BITS)
    assert data[CODEC_BYTE] == RAW and len(data) == HEAD_BYTES + voxels.nbytes
    assert torch.equal(value_from_bytes(spec, data), voxels)


def test_labels_of_an_argmax_travel_as_less_than_a_byte_each():
    scores = torch.rand(12, 3, 16, 8, generator=torch.Generator().manual_seed(2))
    labels = torch.nn.functional.interpolate(scores, scale_factor=4).argmax(1)
    spec = TensorSpec(tuple(labels.shape), torch.int64)
    data = sent(spec, labels, NARROW | ZSTD)
    assert data[CODEC_BYTE] == NARROW | ZSTD and len(data) < HEAD_BYTES + labels.numel()
    assert torch.equal(value_from_bytes(spec, data), labels)
    for other in (-1, 256, 1 << 40):  # no single byte holds these
        labels[0, 0, 0] = other
        data = sent(spec, labels, NARROW | ZSTD)
        assert data[CODEC_BYTE] == RAW and torch.equal(value_from_bytes(spec, data), labels)


def test_negative_zeros_and_nans_keep_their_bits():
    floats = torch.tensor([0.0, -0.0, 1.0, torch.nan, torch.inf] * 40)
    floats.view(torch.int32)[3] = 0x7FC00001
    spec = TensorSpec((200,), torch.float32)
    for codec in VALUE_CODECS:
        assert bits_of(value_from_bytes(spec, sent(spec, floats, codec))) == bits_of(floats)


def test_noise_travels_raw_and_uncopied():
    noise = tensor_of('any', (1000,), torch.uint8, 5)
    spec = TensorSpec((1000,), torch.uint8)
    head, data = value_to_buffers(spec, noise, ZSTD)
    assert head[CODEC_BYTE] == RAW
    noise[0] += 1
    assert bytes(data) == bits_of(noise)


def test_a_channels_last_image_is_coded_by_its_pixels():
    ramp = torch.arange(96, dtype=torch.uint8).reshape(1, 1, 1, 96).expand(1, 3, 64, 96)
    image = (ramp + 5 * torch.arange(3, dtype=torch.uint8).reshape(1, 3, 1, 1)).contiguous()
    spec = TensorSpec((1, 3, 64, 96), torch.uint8, (0, 2, 3, 1))
    data = sent(spec, image, DELTA_ZSTD)
    assert data[CODEC_BYTE] == DELTA_ZSTD and data[HEAD_BYTES] == 3
    assert torch.equal(value_from_bytes(spec, data), image)
    assert pixel_channels((1, 64, 96, 3)) == 3 and pixel_channels((2, 64, 96, 3)) == 1


def test_codecs_have_names_and_fixed_codes():
    assert code_named('raw') == 0 and code_named('bits') == 1 and code_named('bits+zstd') == 4
    assert code_named('narrow') == 64 and code_named('narrow+zstd') == 67
    assert len(set(VALUE_CODECS.values())) == len(VALUE_CODECS) == 13
    with pytest.raises(ValueError, match='unknown; known: raw, bits'):
        code_named('jpeg')
    with pytest.raises(ValueError, match='unknown'):
        encode_value(b'12', torch.uint8, 99)


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_what_is_tried_for_a_dtype_is_known_and_measured_on_its_own_bytes(dtype):
    tensor = tensor_of('labels', (50, 41), dtype, 3)
    data = tensor.reshape(-1).view(torch.uint8).numpy()
    measured = measure_codecs(data, dtype)
    assert set(measured) <= set(candidates(dtype)) <= set(VALUE_CODECS)
    assert measured, 'few values get smaller by something'
    for code, each in measured.items():
        used, coded = encode_value(data, dtype, code)
        assert used == code and each.coded_share == len(coded) / len(data)
        assert each.encode_s_per_byte > 0.0 and each.decode_s_per_byte > 0.0


def test_codecs_that_do_not_apply_are_not_measured():
    assert measure_codecs(np.zeros(0, np.uint8), torch.uint8) == {}
    labels = np.frombuffer(np.array([0, 1, 2, 700] * 100), np.uint8)
    assert not any(code & NARROW for code in measure_codecs(labels, torch.int64))


def test_threads_that_code_at_the_same_time_do_not_disturb_each_other():
    spec, failures = TensorSpec((30_000,), torch.int64), []

    def work(seed):
        for index in range(20):
            tensor = tensor_of('labels', (30_000,), torch.int64, 100 * seed + index)
            for codec in (NARROW | ZSTD, SHUFFLE_ZSTD, NARROW | BITS_ZSTD):
                if not torch.equal(value_from_bytes(spec, sent(spec, tensor, codec)), tensor):
                    failures.append((seed, index, codec))

    threads = [threading.Thread(target=work, args=[seed]) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
