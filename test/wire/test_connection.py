"""The connection by hand: what is sent, acknowledged, lost, refused and given up, and when."""

import math

import numpy as np
import pytest

from offload_ros.wire.connection import ACK_DELAY_S, MAX_REFUSALS, Connection
from offload_ros.wire.incoming import IDLE_S, ReceiveLimits, State
from offload_ros.wire.outgoing import URGENT_PRIORITY, Outgoing
from offload_ros.wire.packet import Ack, Kind, Packet, header_of, join, pack_ack, unpack
from offload_ros.wire.window import REMEMBERED_LOST, Credit

CHUNK = 1024


def connection(**options):
    return Connection(credit=Credit(max_chunk_bytes=CHUNK, max_window_bytes=4 * CHUNK), **options)


def data_of(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8).tobytes()


def packets(sender, now_s):
    """All that it publishes now."""
    out = []
    while (packet := sender.next_packet(now_s)) is not None:
        out.append(packet)
    assert sender.next_s() > now_s
    return out


def kinds(out):
    return [Kind(unpack(packet)[1].kind) for packet in out]


def exchange(one, other, now_s, rounds=50):
    """Let both talk until neither has anything to say, 1 ms each way."""
    for _ in range(rounds):
        for sender, receiver in ((one, other), (other, one)):
            for packet in packets(sender, now_s):
                receiver.receive(packet, now_s + 0.001)
            now_s += 0.001
    return now_s


def news(receiver):
    arrivals, to_tell = receiver.take_news()
    for tell in to_tell:
        tell()
    return arrivals


def raw(number, kind=Kind.DATA, key=1, total=10, data=b'0123456789'):
    packet = Packet(number, key, 0, total, kind=kind)
    return join(header_of(packet, len(data)), [data])


def test_a_transfer_of_several_buffers_arrives_as_one():
    one, other, data = connection(), connection(), data_of(9000)
    sent = Outgoing(7, [data[:10], b'', np.frombuffer(data[10:], np.uint8)])
    one.send(sent)
    exchange(one, other, 1.0)
    [came] = news(other)
    assert came.wait(0).tobytes() == data and came.state is State.DONE
    assert sent.state is State.DONE and one.idle and one.in_flight_bytes == 0


def test_a_transfer_without_bytes_arrives():
    one, other = connection(), connection()
    sent = Outgoing(7, [b''])
    one.send(sent)
    exchange(one, other, 1.0)
    [came] = news(other)
    assert (came.total, came.state, sent.state) == (0, State.DONE, State.DONE)


def test_no_more_is_in_flight_than_the_window_and_a_packet():
    one = connection()
    one.send(Outgoing(1, [data_of(50_000)]))
    packets(one, 1.0)
    assert 4 * CHUNK <= one.in_flight_bytes <= 5 * (CHUNK + 100)


def test_what_is_urgent_passes_a_full_window_and_what_is_not_waits():
    one = connection()
    one.send(Outgoing(1, [data_of(50_000)]))
    packets(one, 1.0)
    one.send(Outgoing(2, [b'later'], URGENT_PRIORITY - 1))
    assert packets(one, 1.01) == []
    one.send(Outgoing(3, [b'now'], URGENT_PRIORITY))
    [packet] = packets(one, 1.01)
    assert unpack(packet)[1].key == 3


def test_transfers_of_equal_priority_take_turns_and_higher_ones_go_first():
    one = connection()
    for key, priority in ((1, 100), (2, 100), (3, 200)):
        one.send(Outgoing(key, [data_of(1500)], priority))
    keys = [unpack(packet)[1].key for packet in packets(one, 1.0)]
    assert keys[:2] == [3, 3] and sorted(keys[2:4]) == [1, 2]


def test_a_key_is_used_once():
    one = connection()
    one.send(Outgoing(1, [b'a']))
    with pytest.raises(ValueError, match='key 1 was used before'):
        one.send(Outgoing(1, [b'b']))


@pytest.mark.parametrize(
    ('options', 'match'),
    [
        ({'key': 2**64}, 'key'),
        ({'key': -1}, 'key'),
        ({'priority': 255}, 'priority'),
        ({'deadline_s': math.nan}, 'deadline_s'),
        ({'buffers': [memoryview(bytes(10))[::2]]}, 'contiguous'),
    ],
)
def test_bad_arguments_are_refused_where_they_are_given(options, match):
    with pytest.raises(ValueError, match=match):
        Outgoing(**{'key': 1, 'buffers': [b'']} | options)


def test_a_lost_piece_is_sent_again_when_later_ones_have_arrived():
    one, other, data = connection(), connection(), data_of(20_000)
    one.send(Outgoing(1, [data]))
    for packet in packets(one, 1.0)[1:]:
        other.receive(packet, 1.001)
    exchange(one, other, 1.002)
    [came] = news(other)
    assert came.wait(0).tobytes() == data and one.counters.lost == 1


def test_a_lost_tail_is_sent_again_after_one_probe():
    one, other, data = connection(), connection(), data_of(4 * CHUNK)
    one.send(Outgoing(1, [data]))
    assert len(packets(one, 1.0)) == 4  # all lost
    assert one.next_s() == pytest.approx(1.5)
    exchange(one, other, 1.5)
    [came] = news(other)
    assert came.wait(0).tobytes() == data


def test_probes_during_a_cut_are_few_and_never_stop():
    one = connection()
    one.send(Outgoing(1, [data_of(50_000)]))
    packets(one, 0.0)
    times = []
    while one.next_s() < 60.0:
        times.append(one.next_s())
        packets(one, times[-1])
    assert 25 < len(times) < 40 and max(np.diff(times)) <= 2.1


def test_a_cancellation_is_told_soon_also_when_all_that_was_in_flight_is_lost():
    one, other = connection(), connection()
    one.send(Outgoing(1, [data_of(50_000)]))
    other.receive(packets(one, 1.0)[0], 1.0)
    one.cancel(1, 'not needed')
    packets(one, 1.0)  # lost too
    exchange(one, other, 1.6)
    [came] = news(other)
    assert came.state is State.CANCELLED and 'not needed' in came.why
    assert other.reassembly.held_bytes == 0 and one.idle


def test_a_transfer_that_never_left_is_cancelled_without_a_word():
    one = connection()
    one.send(Outgoing(1, [b'a']))
    assert one.cancel(1) and not one.cancel(1)
    assert packets(one, 1.0) == []


def test_a_deadline_ends_a_transfer_at_both_ends_and_frees_the_memory():
    one, other = connection(), connection()
    sent = Outgoing(1, [data_of(50_000)], deadline_s=2.0)
    one.send(sent)
    for packet in packets(one, 1.0):
        other.receive(packet, 1.001)
    packets(other, 1.0)
    [came] = news(other)
    assert other.reassembly.held_bytes == 50_000 and other.next_s() <= 2.1
    packets(one, 2.0)
    packets(other, 2.1)  # nothing came from the sender
    news(other)
    assert (sent.state, came.state) == (State.EXPIRED, State.EXPIRED)
    assert other.reassembly.held_bytes == 0


def test_the_receiver_does_not_give_up_before_the_sender():
    transfer = Outgoing(1, [b'a'], deadline_s=1.0004)
    assert transfer.budget_ms(1.0) == 1 and transfer.budget_ms(0.9) == 101
    assert Outgoing(1, [b'a'], deadline_s=1e12).budget_ms(0.0) < 2**32
    assert Outgoing(1, [b'a']).budget_ms(0.0) == 0


def test_a_refused_transfer_ends_at_the_sender_and_its_credit_is_free():
    one, other = connection(), connection()
    sent = Outgoing(1, [data_of(50_000)])
    one.send(sent)
    first = packets(one, 1.0)
    other.receive(first[0], 1.001)
    other.refuse(1, 'not needed')
    for packet in first[1:]:
        other.receive(packet, 1.001)
    for packet in packets(other, 1.002):
        one.receive(packet, 1.003)
    assert sent.state is State.REFUSED and 'not needed' in sent.why
    assert one.in_flight_bytes == 0
    [came] = news(other)
    assert came.state is State.REFUSED


def test_a_transfer_too_big_for_the_receiver_is_refused_with_the_reason():
    one, other = connection(), connection(limits=ReceiveLimits(total_bytes=100))
    sent = Outgoing(1, [data_of(101)])
    one.send(sent)
    exchange(one, other, 1.0)
    assert sent.state is State.REFUSED and 'at most 100' in sent.why


def test_a_sender_never_takes_for_delivered_what_the_receiver_gave_up():
    one, other = connection(), connection()
    sent = Outgoing(1, [data_of(2 * CHUNK)])
    one.send(sent)
    first, _ = packets(one, 1.0)
    other.receive(first, 1.0)
    late_s = 1.0 + IDLE_S + 1.0
    packets(other, late_s)  # gives it up; its acknowledgement is lost
    for _ in range(2):  # its first refusal is lost, too
        for packet in packets(one, late_s):
            other.receive(packet, late_s)
        packets(other, late_s)
    exchange(one, other, late_s + 2.0, rounds=600)
    assert sent.state is State.REFUSED and 'nothing of it came' in sent.why


def test_a_late_acknowledgement_of_an_old_refusal_leaves_the_new_one_alone():
    one = connection()
    one.refuse(1, 'no')
    [refusal] = packets(one, 1.0)
    packets(one, 1.5)  # sent again
    for number, (newest, at_s) in enumerate([(1, 1.6), (0, 1.7)]):
        ack = pack_ack(Ack(0, 0, 0, [(newest, newest)]))
        one.receive(raw(number, Kind.ACK, 0, 0, ack), at_s)
        one.refuse(1, 'no')
    assert unpack(refusal)[1].number == 0
    assert kinds(packets(one, 1.8)) == [Kind.REFUSE]


def test_refusals_that_wait_are_bounded_but_cancellations_are_all_told():
    one = connection(limits=ReceiveLimits(total_bytes=1))
    for number in range(1000):
        one.receive(raw(number, key=number), 1.0)
    assert kinds(packets(one, 1.0)).count(Kind.REFUSE) == MAX_REFUSALS
    one = connection()
    for key in range(MAX_REFUSALS + 10):
        one.send(Outgoing(key, [b'a'], URGENT_PRIORITY))
    packets(one, 1.0)
    for key in range(MAX_REFUSALS + 10):
        one.cancel(key)
    assert kinds(packets(one, 1.0)).count(Kind.CANCEL) == MAX_REFUSALS + 10


def test_an_acknowledgement_of_what_was_not_sent_is_ignored():
    one = connection()
    sent = Outgoing(1, [b'a'])
    one.send(sent)
    packets(one, 1.0)
    one.receive(raw(0, Kind.ACK, 0, 0, pack_ack(Ack(0, 0, 0, [(5, 2**64 - 1)]))), 1.0)
    assert one.counters.bad == 1 and sent.state is State.ACTIVE
    ranges = [(2**63, 2**64 - 1), (0, 0)]  # what did come is believed all the same
    one.receive(raw(0, Kind.ACK, 0, 0, pack_ack(Ack(0, 0, 0, ranges))), 1.0)
    assert sent.state is State.DONE


def test_a_packet_that_came_before_is_counted_and_changes_nothing():
    one = connection()
    for _ in range(2):
        one.receive(raw(0), 1.0)
    one.receive(raw(0, key=2), 1.0)  # another packet under the same number
    assert one.counters.doubled == 2 and len(news(one)) == 1


def test_what_is_not_understood_is_counted_and_changes_nothing():
    one = connection()
    for bad in (b'', bytes(60), raw(0)[:-1], raw(0, kind=9), raw(0, Kind.ACK, 0, 0, b'abc')):
        one.receive(bad, 1.0)
    assert one.counters.bad == 5 and one.idle and news(one) == [] and one.next_s() == math.inf


def test_small_packets_are_acknowledged_together_and_pings_at_once():
    one = connection()
    one.receive(raw(0), 1.0)
    one.receive(raw(1, key=2), 1.001)
    assert one.next_packet(1.002) is None and one.next_s() == pytest.approx(1.0 + ACK_DELAY_S)
    one.receive(raw(2, Kind.PING, 0, 0, b''), 1.003)
    assert kinds(packets(one, 1.003)) == [Kind.ACK]


def test_a_ping_measures_the_round_trip():
    samples = []
    one, other = connection(on_sample=samples.append), connection()
    one.ping()
    [ping] = packets(one, 1.0)
    other.receive(ping, 1.01)
    [ack] = packets(other, 1.01)
    one.receive(ack, 1.02)
    assert samples[0].round_trip_s == pytest.approx(0.02)


def test_closing_ends_everything_and_asks_for_nothing_more():
    one, other = connection(), connection()
    sent = Outgoing(1, [data_of(50_000)])
    ended = []
    sent.when_ended(ended.append)
    one.send(sent)
    other.receive(packets(one, 1.0)[0], 1.0)
    for each in (one, other):
        each.close('gone')
    [came] = news(other)
    news(one)
    assert (came.state, sent.state, ended) == (State.LOST, State.LOST, [sent])
    assert one.next_s() == other.next_s() == math.inf and one.idle


def test_lost_packets_are_remembered_only_so_far():
    one = connection()
    one.send(Outgoing(1, [data_of(4000 * CHUNK)]))
    packets(one, 0.0)
    now_s = 0.0
    while now_s < 3000:
        now_s = one.next_s()
        packets(one, now_s)
    assert one.counters.lost > 1000 and len(one._in_flight._lost) <= REMEMBERED_LOST
