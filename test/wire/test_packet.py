"""Packets are the serialised form of the message, and nothing of another connection passes."""

from hypothesis import given
from hypothesis import strategies as st
import pytest
from rclpy.serialization import deserialize_message

from offload_ros.msg import Packet as PacketMessage
from offload_ros.wire.packet import (
    MAX_RANGES,
    Ack,
    Kind,
    Packet,
    header_of,
    join,
    pack_ack,
    unpack,
    unpack_ack,
)
from offload_ros.wire.tensors import WireError

U64 = st.integers(0, 2**64 - 1)
PACKETS = st.builds(
    Packet,
    number=U64,
    key=U64,
    offset=U64,
    total=U64,
    budget_ms=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(Kind),
    priority=st.integers(0, 255),
    data=st.binary(max_size=40),
)
SALTS = st.integers(0, 2**32 - 1)


def packed(packet, salt=0):
    return join(header_of(packet, len(packet.data), salt), [packet.data])


@given(PACKETS, SALTS)
def test_a_packet_arrives_as_it_was_sent(packet, salt):
    header, received = unpack(packed(packet, salt), salt)
    assert received._replace(data=bytes(received.data)) == packet
    assert header == header_of(packet, len(packet.data), salt)


@given(PACKETS, SALTS, SALTS)
def test_a_packet_of_another_connection_is_refused(packet, salt, other):
    if salt != other:
        with pytest.raises(WireError, match='another connection'):
            unpack(packed(packet, salt), other)


@given(PACKETS)
def test_a_packet_is_the_message_as_ros_serialises_it(packet):
    message = deserialize_message(packed(packet), PacketMessage)
    assert (message.number, message.key, message.total) == (packet[0], packet[1], packet[3])
    assert bytes(message.data) == packet.data


def test_big_endian_and_short_and_long_packets_are_refused():
    whole = packed(Packet(1, data=b'abcdef'))
    for bad in (b'\x00\x00' + whole[2:], whole[:-1], whole + bytes(4), whole[:30], b''):
        with pytest.raises(WireError):
            unpack(bad)


def test_an_acknowledgement_tells_the_newest_ranges_that_it_has_room_for():
    ranges = [(10 * i, 10 * i + 3) for i in range(100, 0, -1)]
    ack = unpack_ack(pack_ack(Ack(1, 2, 3, ranges)))
    assert ack == Ack(1, 2, 3, ranges[:MAX_RANGES])
