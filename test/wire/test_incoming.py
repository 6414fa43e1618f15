"""Transfers are put together in place, read while they arrive, and never cost more than allowed."""

import threading

import numpy as np
import pytest

from offload_ros.wire import incoming as module
from offload_ros.wire.incoming import (
    IDLE_S,
    Incoming,
    Reassembly,
    ReceiveLimits,
    State,
    TransferError,
)
from offload_ros.wire.packet import Packet
from offload_ros.wire.received import MAX_GAPS, ReceivedNumbers
from offload_ros.wire.tensors import WireError

DATA = bytes(range(256)) * 4
TOTAL = len(DATA)


def piece(key, first, last, total=TOTAL, budget_ms=0):
    return Packet(0, key, first, total, budget_ms, data=DATA[first:last])


def transfer(total=TOTAL):
    return Incoming(1, total, np.zeros(total, np.uint8), float('inf'))


def tell(reassembly):
    calls, reassembly.to_tell = reassembly.to_tell, []
    for call in calls:
        call()


def test_rows_come_whole_and_in_order_while_pieces_arrive_in_any_order():
    whole = transfer()
    rows = whole.rows(100, start=24)
    whole.write(500, DATA[500:])
    with pytest.raises(TimeoutError, match='0 of 124'):
        whole.wait_for(124, 0.01)
    whole.write(0, DATA[:250])
    assert bytes(next(rows)) == DATA[24:224]
    whole.write(250, DATA[250:500])
    assert bytes(next(rows)) == DATA[224:]
    assert list(rows) == []


def test_several_threads_read_the_same_rows_as_they_arrive():
    whole, got = transfer(), [[], [], []]

    def read(into):
        into.extend(bytes(block) for block in whole.rows(64, timeout_s=5))

    threads = [threading.Thread(target=read, args=(into,)) for into in got]
    for thread in threads:
        thread.start()
    for first in range(0, len(DATA), 128):
        whole.write(first, DATA[first : first + 128])
    for thread in threads:
        thread.join(5)
    assert all(b''.join(blocks) == DATA for blocks in got)


def test_rows_that_do_not_fit_the_transfer_are_refused():
    with pytest.raises(ValueError, match='no whole rows of 100'):
        next(transfer().rows(100))


def test_what_is_there_is_not_written_again():
    whole = transfer()
    whole.write(100, DATA[100:200])
    assert not whole.write(0, bytes(300))  # overlaps: only the holes are filled
    assert whole.buffer[100:200].tobytes() == DATA[100:200]
    assert not whole.buffer[:100].any() and not whole.buffer[200:].any()
    assert whole.contiguous == 300


def test_an_ended_transfer_gives_what_came_and_then_the_reason():
    whole = transfer()
    whole.write(0, DATA[:300])
    whole.end(State.CANCELLED, 'not needed')
    rows = whole.rows(256)
    assert bytes(next(rows)) == DATA[:256]
    with pytest.raises(TransferError, match='not needed') as error:
        next(rows)
    assert error.value.state is State.CANCELLED


def test_a_failing_callback_does_not_keep_the_others_from_being_called(caplog):
    whole, called = transfer(), []
    whole.when_ended(lambda _: 1 / 0)
    whole.when_ended(called.append)
    whole.end(State.DONE)
    whole.when_ended(called.append)
    assert called == [whole, whole] and 'ZeroDivisionError' in caplog.text


def test_a_transfer_is_written_straight_into_its_destination():
    reassembly, around = Reassembly(ReceiveLimits()), np.zeros(len(DATA) + 20, np.uint8)
    reassembly.expect(1, around[10:-10])
    whole, new = reassembly.data(piece(1, 0, len(DATA)), 0.0)
    assert new and np.shares_memory(whole.buffer, around)
    assert around[10:-10].tobytes() == DATA and not around[:10].any() and not around[-10:].any()


@pytest.mark.parametrize(
    'destination',
    [
        np.zeros(4, np.float32),
        np.zeros((2, 2), np.uint8),
        np.zeros(8, np.uint8)[::2],
        np.frombuffer(b'abcd', np.uint8),
    ],
)
def test_a_destination_that_cannot_be_written_is_refused_at_once(destination):
    with pytest.raises(ValueError, match='a destination is'):
        Reassembly(ReceiveLimits()).expect(1, destination)


def test_a_destination_of_another_size_refuses_the_transfer():
    reassembly = Reassembly(ReceiveLimits())
    reassembly.expect(1, np.zeros(5, np.uint8))
    with pytest.raises(WireError, match='5 are wanted'):
        reassembly.data(piece(1, 0, 10), 0.0)
    assert 'are wanted' in str(reassembly.ended_unbegun(1))


def test_limits_hold_for_bytes_and_for_transfers():
    reassembly = Reassembly(ReceiveLimits(total_bytes=1500, transfers=2))
    with pytest.raises(WireError, match='at most 1500'):
        reassembly.data(piece(1, 0, 10, total=2**64 - 1), 0.0)
    reassembly.data(piece(2, 0, 10, total=1000), 0.0)
    with pytest.raises(WireError, match='1000 bytes are under way'):
        reassembly.data(piece(3, 0, 10, total=501), 0.0)
    reassembly.data(piece(4, 0, 10, total=500), 0.0)
    with pytest.raises(WireError, match='2 transfers are under way'):
        reassembly.data(piece(5, 0, 1, total=2), 0.0)
    assert reassembly.held_bytes == 1500
    reassembly.close('gone')
    assert reassembly.held_bytes == 0


def test_a_transfer_that_there_is_no_memory_for_is_refused_and_the_next_one_arrives(monkeypatch):
    def none(*arguments):
        raise MemoryError

    reassembly = Reassembly(ReceiveLimits())
    with monkeypatch.context() as patch:
        patch.setattr(module.np, 'empty', none)
        for _ in range(2):  # what is on its way comes all the same
            with pytest.raises(WireError, match='there is no memory for a transfer of 1024 bytes'):
                reassembly.data(piece(1, 0, 10), 0.0)
    assert reassembly.held_bytes == 0
    reassembly.data(piece(2, 0, TOTAL), 0.0)
    tell(reassembly)
    assert reassembly.held_bytes == 0


@pytest.mark.parametrize(
    ('offset', 'total', 'data'),
    [(2**64 - 1, 2**64 - 1, b'ab'), (9, 10, b'ab'), (0, 10, b''), (0, 0, b'a')],
)
def test_pieces_outside_their_transfer_are_refused(offset, total, data):
    with pytest.raises(WireError, match='of a transfer of'):
        Reassembly(ReceiveLimits()).data(Packet(0, 1, offset, total, data=data), 0.0)


def test_a_transfer_that_changes_its_size_is_refused_and_its_memory_freed():
    reassembly = Reassembly(ReceiveLimits())
    whole, _ = reassembly.data(piece(1, 0, 10, total=100), 0.0)
    with pytest.raises(WireError, match='now has 200'):
        reassembly.data(piece(1, 10, 20, total=200), 0.0)
    tell(reassembly)
    assert whole.state is State.REFUSED and reassembly.held_bytes == 0


def test_a_transfer_in_crumbs_is_refused_before_they_cost_memory(monkeypatch):
    monkeypatch.setattr(module, 'MAX_SPANS', 10)
    reassembly = Reassembly(ReceiveLimits())
    with pytest.raises(WireError, match='more than 10 pieces'):
        for at in range(0, 1000, 2):
            reassembly.data(piece(1, at, at + 1), 0.0)
    assert reassembly.held_bytes == 0


def test_deadlines_and_silence_end_a_transfer_and_free_its_memory():
    reassembly = Reassembly(ReceiveLimits())
    late, _ = reassembly.data(piece(1, 0, 10, budget_ms=500), 0.0)
    silent, _ = reassembly.data(piece(2, 0, 10), 1e-9)
    assert reassembly.next_expiry_s() == 0.5
    reassembly.expire(0.5)
    assert reassembly.held_bytes == len(DATA)
    reassembly.data(piece(2, 10, 20), 5.0)
    reassembly.expire(IDLE_S + 4.9)
    assert reassembly.held_bytes == len(DATA)
    reassembly.expire(IDLE_S + 5.0)
    tell(reassembly)
    assert (late.state, silent.state) == (State.EXPIRED, State.LOST)
    assert reassembly.held_bytes == 0 and reassembly.next_expiry_s() == float('inf')
    with pytest.raises(WireError, match='in time'):  # stale: not to be acknowledged
        reassembly.data(piece(1, 10, 20), 40.0)


def test_late_pieces_of_a_delivered_transfer_change_nothing():
    reassembly = Reassembly(ReceiveLimits())
    whole, _ = reassembly.data(piece(1, 0, len(DATA)), 0.0)
    assert reassembly.data(piece(1, 0, 10), 0.0) == (None, False)
    reassembly.end(1, State.CANCELLED, 'too late')
    tell(reassembly)
    assert whole.state is State.DONE


def test_numbers_are_new_once_and_the_oldest_are_forgotten_without_being_acknowledged():
    numbers = ReceivedNumbers()
    assert [numbers.add(n) for n in (0, 1, 3, 3, 2, 0, 2**64 - 1)] == [
        True, True, True, False, True, False, True,
    ]  # fmt: skip
    assert numbers.ranges() == [(2**64 - 1, 2**64 - 1), (0, 3)]
    for gap in range(2 * MAX_GAPS):
        assert numbers.add(10 + 2 * gap)
    assert not numbers.add(0) and not numbers.add(5)  # too old to tell
    assert 5 in numbers and all(first > 5 for first, _ in numbers.ranges())
