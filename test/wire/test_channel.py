"""Channels between threads: nobody waits for the link who need not, and who waits is told."""

import threading
import time

import numpy as np
import pytest

from offload_ros.wire.channel import MAX_UNCLAIMED, Channel, key_of, number_of
from offload_ros.wire.connection import Connection
from offload_ros.wire.in_process import InProcessLink
from offload_ros.wire.incoming import ReceiveLimits, State, TransferError
from offload_ros.wire.outgoing import URGENT_PRIORITY
from offload_ros.wire.shaper import LinkShape

WIFI = LinkShape(bytes_per_s=93e6 / 8, delay_s=0.002)
CUT = LinkShape(cut=True)
ENDS_S = 20.0


def data_of(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8).tobytes()


def until(condition, timeout_s=ENDS_S):
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, 'it never came true'
        time.sleep(0.002)


@pytest.fixture
def link():
    """Make links that are closed in the end."""
    made = []

    def make(*shapes, **options):
        made.append(InProcessLink(*shapes, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def blocked():
    """A channel whose transport blocks from the second packet on until the event is set."""
    count, go = [], threading.Event()

    def publish(packet):
        count.append(packet)
        if len(count) > 1:
            go.wait(ENDS_S)

    channel = Channel(publish)
    yield channel, count, go
    go.set()
    channel.close()


def test_keys_hold_their_stream_and_number():
    assert number_of(key_of(3, 77)) == 77 and key_of(3, 77) >> 48 == 3
    with pytest.raises(ValueError, match='below'):
        key_of(1 << 16, 0)


def test_rows_are_read_by_several_threads_while_they_arrive(link):
    both, data, early = link(WIFI, WIFI), data_of(2_000_000), []
    sent = both.robot.send(1, [data[:999], memoryview(data)[999:]])
    incoming = both.server.incoming(1, ENDS_S)
    got = [[], []]

    def read(into):
        for block in incoming.rows(1000, timeout_s=ENDS_S):
            into.append(bytes(block))
            early.append(incoming.state is State.ACTIVE)

    threads = [threading.Thread(target=read, args=(into,)) for into in got]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(ENDS_S)
    sent.wait(ENDS_S)
    assert [b''.join(each) for each in got] == [data, data] and sum(early) > 10


def test_an_array_is_sent_as_it_is_and_written_where_it_is_expected(link):
    both, array = link(), np.arange(100_000, dtype=np.float32)
    there = np.zeros_like(array)
    both.server.expect(1, there.view(np.uint8))
    both.robot.send(1, array).wait(ENDS_S)
    assert np.array_equal(there, array)
    both.robot.send(2, b'').wait(ENDS_S)
    assert both.server.incoming(2, ENDS_S).wait(ENDS_S).size == 0


def test_what_is_urgent_is_there_long_before_a_tensor_that_fills_the_link(link):
    both = link(LinkShape(bytes_per_s=2e6), WIFI)
    tensor = both.robot.send(1, bytes(20_000_000))
    until(lambda: both.robot.in_flight_bytes > 100_000)
    begin_s = time.monotonic()
    both.robot.send(2, b'stop', URGENT_PRIORITY)
    both.server.incoming(2, ENDS_S).wait(ENDS_S)
    assert time.monotonic() - begin_s < 2.5  # what is in flight is before it: 10 s for the tensor
    assert tensor.state is State.ACTIVE
    with pytest.raises(ValueError, match='at most 16384'):
        both.robot.send(3, bytes(20_000), URGENT_PRIORITY)


def test_two_transfers_share_the_link_fairly(link):
    both = link(LinkShape(bytes_per_s=8e6), WIFI)
    both.robot.send(1, bytes(3_000_000))
    both.robot.send(2, bytes(3_000_000))
    first, second = (both.server.incoming(key, ENDS_S) for key in (1, 2))
    first.wait_for(600_000, ENDS_S)  # both are under way
    before = first.contiguous, second.contiguous
    first.wait_for(2_200_000, ENDS_S)
    shares = first.contiguous - before[0], second.contiguous - before[1]
    # One after the other would be 0; a lost chunk holds up what is contiguous.
    assert 0.5 < shares[1] / shares[0] < 2.0


def test_cancelling_and_refusing_in_mid_transfer_end_it_at_both_ends(link):
    both = link(LinkShape(bytes_per_s=4e6), WIFI)
    cancelled = both.robot.send(1, bytes(4_000_000))
    incoming = both.server.incoming(1, ENDS_S)
    incoming.wait_for(50_000, ENDS_S)
    assert both.robot.cancel(1, 'a newer frame') and not both.robot.cancel(1)
    with pytest.raises(TransferError, match='a newer frame'):
        incoming.wait(ENDS_S)
    with pytest.raises(TransferError):
        cancelled.wait(ENDS_S)
    refused = both.robot.send(2, bytes(4_000_000))
    both.server.incoming(2, ENDS_S)
    both.server.refuse(2, 'no memory')
    with pytest.raises(TransferError, match='no memory') as error:
        refused.wait(ENDS_S)
    assert error.value.state is State.REFUSED


def test_who_waits_for_a_refused_transfer_is_told_why(link):
    both = link(connection=lambda: Connection(ReceiveLimits(total_bytes=1000)))
    both.robot.send(1, bytes(2000))
    with pytest.raises(TransferError, match='at most 1000'):
        both.server.incoming(1, ENDS_S)


def test_closing_ends_everybody_who_waits(link):
    both, ended = link(LinkShape(bytes_per_s=1e5), WIFI), []
    sent = both.robot.send(1, bytes(4_000_000))
    incoming = both.server.incoming(1, ENDS_S)

    def waits(call):
        with pytest.raises(TransferError, match='enough'):
            call(ENDS_S)
        ended.append(call)

    calls = (sent.wait, incoming.wait, lambda timeout_s: both.server.incoming(9, timeout_s))
    threads = [threading.Thread(target=waits, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    both.robot.close('enough')
    both.server.close('enough')
    for thread in threads:
        thread.join(ENDS_S)
    assert len(ended) == 3
    assert both.robot.send(2, b'a').state is State.LOST


def test_listeners_may_send_cancel_and_close_from_within(link):
    both, answers = link(WIFI, WIFI), []

    def on_request(incoming):
        both.server.cancel(77)
        both.server.send(key_of(2, number_of(incoming.key)), b'begun')
        incoming.when_ended(lambda it: both.server.send(key_of(3, number_of(it.key)), it.buffer))

    def on_reply(incoming):
        answers.append(incoming.wait(ENDS_S).tobytes())
        both.robot.close('answered')

    both.server.listen(1, on_request)
    both.robot.listen(3, lambda incoming: incoming.when_ended(on_reply))
    data = data_of(300_000)
    both.robot.send(key_of(1, 5), data)
    until(lambda: answers)
    assert answers == [data]
    until(lambda: not both.robot._thread.is_alive())


def test_a_failing_listener_does_not_end_the_channel(link, caplog):
    both = link()
    both.server.listen(0, lambda _: 1 / 0)
    for key in (1, 2):
        both.robot.send(key, b'a').wait(ENDS_S)
    assert caplog.text.count('ZeroDivisionError') == 2


def test_a_listener_gets_what_came_before_it_listened(link):
    both, came = link(), []
    both.robot.send(key_of(4, 1), b'a').wait(ENDS_S)
    both.server.listen(4, came.append)
    assert [each.key for each in came] == [key_of(4, 1)]


def test_what_nobody_asks_for_is_bounded_in_number_and_in_bytes(link):
    both = link(connection=lambda: Connection(ReceiveLimits(total_bytes=100_000)))
    for key in range(2 * MAX_UNCLAIMED):
        both.robot.send(key, b'a').wait(ENDS_S)
    assert len(both.server._unclaimed) == MAX_UNCLAIMED
    for key in range(1000, 1010):
        both.robot.send(key, bytes(40_000)).wait(ENDS_S)
    assert list(both.server._unclaimed) == [1008, 1009]


def test_a_transport_that_fails_ends_the_channel_with_its_reason(caplog):
    def publish(packet):
        raise OSError('destroyed')

    channel, ended = Channel(publish), []
    sent = channel.send(1, b'a')
    sent.when_ended(lambda it: (ended.append(it), channel.close()))
    with pytest.raises(TransferError, match='OSError: destroyed'):
        sent.wait(ENDS_S)
    until(lambda: ended == [sent] and not channel._thread.is_alive())
    with pytest.raises(TransferError, match='destroyed'):
        channel.incoming(3, ENDS_S)


def test_a_transport_that_blocks_blocks_only_the_thread_of_the_channel(blocked):
    channel, published, go = blocked
    channel.send(1, bytes(1_000_000))
    until(lambda: len(published) == 2)
    begin_s = time.monotonic()
    sent = channel.send(2, b'a')
    channel.send(3, b'b', URGENT_PRIORITY)
    channel.ping()
    channel.receive(published[0])
    assert channel.cancel(2) and sent.state is State.CANCELLED
    with pytest.raises(TimeoutError):
        channel.incoming(9, 0.01)
    assert time.monotonic() - begin_s < ENDS_S / 2 and len(published) == 2
    go.set()
    until(lambda: len(published) > 3)


def longest_gap(stop, gaps):
    """How late a thread is that wants to run each millisecond."""
    last_s = time.monotonic()
    while not stop.is_set():
        time.sleep(0.001)
        now_s = time.monotonic()
        gaps.append(now_s - last_s)
        last_s = now_s


@pytest.fixture
def ticks():
    """Gaps of a 1 ms ticker, in s; grows."""
    gaps, stop = [], threading.Event()
    thread = threading.Thread(target=longest_gap, args=(stop, gaps))
    thread.start()
    yield gaps
    stop.set()
    thread.join()


def test_a_link_cut_for_4_s_blocks_no_thread_and_the_transfer_resumes(link, ticks):
    """On a shared machine single ticks are late without any channel, too: by far less than the
    cut lasts, and not often."""
    both, data = link(WIFI, WIFI), data_of(4_000_000)
    sent = both.robot.send(1, data)
    late = both.robot.send(2, data, deadline_s=time.monotonic() + 2.0)
    incoming, stale = (both.server.incoming(key, ENDS_S) for key in (1, 2))
    incoming.wait_for(1_000_000, ENDS_S)
    there = incoming.contiguous
    both.up.shape = both.down.shape = CUT
    time.sleep(3.0)
    assert incoming.contiguous < there + 1_000_000 and sent.state is State.ACTIVE
    assert (late.state, stale.state) == (State.EXPIRED, State.EXPIRED)  # each end by itself
    assert both.server._connection.reassembly.held_bytes == len(data)
    time.sleep(1.0)
    both.up.shape = both.down.shape = WIFI
    begin_s = time.monotonic()
    assert incoming.wait(ENDS_S).tobytes() == data
    assert time.monotonic() - begin_s < 12.0  # probes are up to 2 s apart
    sent.wait(ENDS_S)
    blocked_s = [each for each in ticks if each > 0.02]
    assert max(blocked_s, default=0.0) < 1.0
    assert sum(blocked_s) < 0.25 * sum(ticks), sorted(blocked_s)
