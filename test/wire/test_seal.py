"""A sealed packet opens for the peer, once, as it was sealed; anything else does not open."""

import time

from hypothesis import given
from hypothesis import strategies as st
import pytest

from offload_ros.wire.packet import HEADER
from offload_ros.wire.seal import TAG_BYTES, ReplayWindow, Seal, SealError

KEY = bytes(range(32))
numbers = st.integers(0, 2**64 - 1)
headers = st.binary(min_size=HEADER.size, max_size=HEADER.size)


def flipped(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@given(headers, numbers, st.binary(max_size=300))
def test_what_is_sealed_opens_with_the_same_key(header, number, payload):
    sealed = Seal(KEY).seal(header, number, payload)
    assert len(sealed) == len(payload) + TAG_BYTES
    assert Seal(KEY).open(header, number, sealed) == payload


def test_views_of_a_packet_are_taken_as_they_are():
    packet = memoryview(bytearray(range(200)))
    sealed = Seal(KEY).seal(b'header', 7, packet[44:])
    received = memoryview(b'header' + sealed)
    assert Seal(KEY).open(b'header', 7, received[6:]) == packet[44:]


def test_the_cipher_is_aes_256_gcm():
    """Test case 14 of the GCM specification (McGrew and Viega): robot and server must agree."""
    sealed = Seal(bytes(32)).seal(b'', 0, bytes(16))
    assert sealed.hex() == 'cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919'


@given(headers, numbers, st.binary(max_size=60), st.data())
def test_any_changed_bit_is_noticed(header, number, payload, data):
    seal = Seal(KEY)
    sealed = seal.seal(header, number, payload)
    bit = data.draw(st.integers(0, 8 * len(sealed) - 1))
    with pytest.raises(SealError):
        seal.open(header, number, flipped(sealed, bit))
    bit = data.draw(st.integers(0, 8 * len(header) - 1))
    with pytest.raises(SealError):
        seal.open(flipped(header, bit), number, sealed)
    with pytest.raises(SealError):
        seal.open(header, number ^ 1 << data.draw(st.integers(0, 63)), sealed)
    with pytest.raises(SealError):
        Seal(flipped(KEY, data.draw(st.integers(0, 255)))).open(header, number, sealed)
    with pytest.raises(SealError):
        seal.open(header, number, sealed[: data.draw(st.integers(0, len(sealed) - 1))])


@given(st.binary(max_size=100), st.integers(-5, 2**65))
def test_strange_bytes_do_not_open(data, number):
    with pytest.raises(SealError):
        Seal(KEY).open(b'', number, data)


def test_a_number_is_never_used_twice():
    seal = Seal(KEY)
    seal.seal(b'', 0, b'first')
    seal.seal(b'', 5, b'second')
    for number in (5, 4, 0, -1, 2**64):
        with pytest.raises(ValueError, match='must rise'):
            seal.seal(b'', number, b'third')
    assert Seal(KEY).open(b'', 6, seal.seal(b'', 6, b'third')) == b'third'


def test_a_key_has_32_bytes():
    with pytest.raises(ValueError, match='32 bytes, this one 16'):
        Seal(KEY[:16])


def test_a_seal_does_not_show_its_key():
    assert KEY.hex() not in repr(vars(Seal(KEY))) and repr(KEY) not in repr(vars(Seal(KEY)))


@given(st.lists(st.integers(0, 40) | st.integers(0, 300) | numbers, max_size=80))
def test_each_number_of_the_window_is_fresh_once(came):
    window, marked, size = ReplayWindow(16), set(), 16
    for number in came:
        expected = number not in marked and number > max(marked, default=-1) - size
        assert window.fresh(number) == expected
        assert window.fresh(number) == expected  # asking marks nothing
        window.mark(number)
        marked |= {number} if expected else set()
        assert not window.fresh(number)


def test_the_window_reaches_back_by_its_size():
    window = ReplayWindow()
    window.mark(10_000)
    assert window.fresh(10_000 - 4095) and not window.fresh(10_000 - 4096)
    assert not window.fresh(-1)
    with pytest.raises(ValueError, match='at least 1'):
        ReplayWindow(0)


def test_a_jump_costs_no_time():
    window = ReplayWindow()
    begin = time.perf_counter()
    for exponent in range(64):
        window.mark(2**exponent)
    assert time.perf_counter() - begin < 5.0  # number by number it would take for ever
    assert not window.fresh(2**63) and not window.fresh(2**62) and window.fresh(2**63 - 1)
