"""Messages in order over a channel: with loss, in parts, within limits, and to the end."""

import queue
import random
import threading
import time

import numpy as np
import pytest

from offload_ros.rrto import channel_link
from offload_ros.rrto.channel_link import (
    LEAST_BYTES,
    MAX_WAITING_BYTES,
    PART_BYTES,
    ROOM_BYTES,
    ChannelLink,
    OrderedMessages,
)
from offload_ros.rrto.link import ServerLost
from offload_ros.wire.channel import key_of
from offload_ros.wire.connection import Connection
from offload_ros.wire.exchange import CREDITS, OPERATORS
from offload_ros.wire.in_process import InProcessLink
from offload_ros.wire.incoming import ReceiveLimits
from offload_ros.wire.shaper import LinkShape

LONG_S = 30.0


class End:
    """One end with what it has received."""

    def __init__(self, channel, max_message_bytes=1 << 30):
        self.received = queue.Queue()
        self.lost = queue.Queue()
        self.arrived = 0
        self.go = threading.Event()
        self.go.set()
        self.messages = OrderedMessages(
            channel,
            self._take,
            self.lost.put,
            on_arrival=self._arrive,
            on_begin=lambda: self.received.put('begin'),
            max_message_bytes=max_message_bytes,
        )

    def _arrive(self, data):
        self.arrived += 1

    def _take(self, data):
        self.go.wait(LONG_S)
        self.received.put(bytes(data))

    def next(self):
        return self.received.get(timeout=LONG_S)


@pytest.fixture
def pair(request):
    """Two ends; ``pair(up=..., down=...)`` shapes the link, ``total_bytes`` is what may come."""
    made = []

    def make(total_bytes=ROOM_BYTES + (1 << 20), max_message_bytes=1 << 30, **shapes):
        limits = ReceiveLimits(total_bytes, 96)
        link = InProcessLink(connection=lambda: Connection(limits), **shapes)
        ends = End(link.robot), End(link.server, max_message_bytes)
        made.append((link, *ends))
        return link, *ends

    yield make
    for link, *ends in made:
        for end in ends:
            end.go.set()
        link.close()


def message(number, size):
    """Bytes that no other number has."""
    return number.to_bytes(4, 'big') + random.Random(number).randbytes(size - 4)


@pytest.mark.parametrize('loss', [0.0, 0.1])
def test_messages_arrive_whole_and_in_order_both_ways(pair, loss):
    """Of many sizes, on a link that loses packets, so that later ones overtake."""
    shape = LinkShape(bytes_per_s=40e6, delay_s=0.002, loss=loss)
    _, robot, server = pair(up=shape, down=shape)
    chance = random.Random(1)
    sizes = [chance.choice((4, 50, 700, 5000, 70_000)) for _ in range(200)]
    for number, size in enumerate(sizes):
        data = message(number, size)
        robot.messages.send([data[: size // 2], memoryview(data)[size // 2 :]])
        server.messages.send([data[::-1]])
    for number, size in enumerate(sizes):
        assert server.next() == message(number, size), number
        assert robot.next() == message(number, size)[::-1]
    assert robot.lost.empty() and server.lost.empty()


def test_large_messages_travel_in_parts(pair):
    _, robot, server = pair()
    large = np.random.default_rng(0).bytes(3 * PART_BYTES + 12345)
    view = memoryview(large)
    robot.messages.send([b'before'])
    robot.messages.send([view[:100], view[100 : PART_BYTES + 7], view[PART_BYTES + 7 :]])
    robot.messages.send([b'after'])
    robot.messages.send([large[: 2 * PART_BYTES]])
    assert [server.next() == each for each in (b'before', large, b'after')] == [True] * 3
    assert server.next() == large[: 2 * PART_BYTES]


def test_two_threads_do_not_mix_their_parts(pair):
    _, robot, server = pair()
    larges = [bytes([n]) * (PART_BYTES + 1000 * n) for n in (1, 2)]
    threads = [threading.Thread(target=robot.messages.send, args=([each],)) for each in larges]
    for thread in threads:
        thread.start()
    assert sorted((server.next() for _ in larges), key=len) == larges
    for thread in threads:
        thread.join()


def test_message_that_is_too_large_ends_the_stream_before_memory_is_taken(pair):
    _, robot, server = pair(max_message_bytes=PART_BYTES)
    robot.messages.send([b'fine'])
    robot.messages.send([bytes(PART_BYTES + 1)])
    assert server.next() == b'fine'
    for end in (server, robot):  # it must not wait for an answer
        assert 'a message of 8 MB, 8 MB are allowed' in end.lost.get(timeout=LONG_S)
    assert server.messages._whole is None


def test_sender_waits_for_a_receiver_that_is_slow(pair):
    """Never more than agreed waits there, however small the messages are."""
    _, robot, server = pair()
    server.go.clear()
    count = MAX_WAITING_BYTES // LEAST_BYTES
    done = threading.Event()

    def send():
        for number in range(count + 500):
            robot.messages.send([message(number, 10)])
        done.set()

    thread = threading.Thread(target=send)
    thread.start()
    end_s = time.monotonic() + LONG_S
    while server.arrived < count and time.monotonic() < end_s:
        time.sleep(0.01)
    assert not done.wait(0.2)
    assert server.arrived == count
    server.go.set()
    assert [server.next() for _ in range(count + 500)] == [
        message(number, 10) for number in range(count + 500)
    ]
    thread.join(LONG_S)
    assert done.is_set() and server.lost.empty()


def test_more_than_agreed_ends_the_stream(pair):
    """A sender that does not wait, or a message that never comes while others do."""
    link, _robot, server = pair(total_bytes=1 << 30)
    part = bytes(PART_BYTES)
    for number in range(1, MAX_WAITING_BYTES // PART_BYTES + 2):  # 0 is missing
        link.robot.send(key_of(OPERATORS, number), part).when_ended(lambda _: None)
    assert 'more is sent than was agreed' in server.lost.get(timeout=LONG_S)
    assert server.messages._early == {}
    assert server.received.empty()
    with pytest.raises(ServerLost, match='more is sent than was agreed'):
        server.messages.send([b'x'])


def test_piece_that_is_too_large_is_refused(pair):
    link, _, server = pair(total_bytes=1 << 30)
    link.robot.send(key_of(OPERATORS, 0), bytes(PART_BYTES + 1000))
    assert 'bytes, 8388608 are allowed' in server.lost.get(timeout=LONG_S)


@pytest.mark.parametrize(
    'parts',
    [
        [b'RP' + bytes(6) + (10).to_bytes(8, 'little') + bytes(11)],
        [
            b'RP' + bytes(6) + (10).to_bytes(8, 'little') + bytes(5),
            b'RP' + bytes(6) + (11).to_bytes(8, 'little') + bytes(5),
        ],
    ],
)
def test_parts_that_do_not_fit_end_the_stream(pair, parts):
    link, robot, server = pair()
    for number, part in enumerate([*parts, b'later']):
        link.robot.send(key_of(OPERATORS, number), part)
    for end in (server, robot):
        assert 'do not fit together' in end.lost.get(timeout=LONG_S)
    assert server.received.empty()


@pytest.mark.parametrize('note', [b'', b'x' * 8, bytes(8), b'x' * 100])
def test_credit_that_makes_no_sense_is_not_believed(pair, note):
    link, robot, server = pair()
    link.server.send(key_of(CREDITS, 1 << 20), note)
    for number in range(50):
        robot.messages.send([message(number, 100)])
    assert [server.next() for _ in range(50)] == [message(n, 100) for n in range(50)]
    assert robot.messages._done_bytes == 0


def test_closed_channel_ends_both_waits_and_sends(pair):
    """Also where nothing is under way: who waits for an answer must not wait for ever."""
    link, robot, server = pair()
    robot.messages.send([b'question'])
    assert server.next() == b'question'
    robot.messages.wait_sent(LONG_S)
    link.robot.close('server /x is lost')
    assert robot.lost.get(timeout=LONG_S) == 'server /x is lost'
    with pytest.raises(ServerLost, match='server /x is lost'):
        robot.messages.send([b'more'])
    late = End(link.robot)
    assert late.lost.get(timeout=LONG_S) == 'server /x is lost'


def test_send_that_waits_for_room_ends_with_the_link(pair):
    link, robot, _server = pair(up=LinkShape(bytes_per_s=1e6))
    failed = queue.Queue()

    def send():
        try:
            robot.messages.send([bytes(2 * MAX_WAITING_BYTES)])
        except ServerLost as error:
            failed.put(str(error))

    threading.Thread(target=send, daemon=True).start()
    time.sleep(0.2)
    assert failed.empty()
    link.robot.close('cut')
    assert failed.get(timeout=LONG_S) == 'cut'
    assert robot.lost.get(timeout=LONG_S) == 'cut'


def test_what_has_arrived_is_delivered_before_the_loss(pair):
    link, robot, server = pair()
    server.go.clear()
    for number in range(20):
        robot.messages.send([message(number, 10)])
    robot.messages.wait_sent(LONG_S)
    link.server.close('gone')
    assert server.lost.empty()
    server.go.set()
    assert server.lost.get(timeout=LONG_S) == 'gone'
    assert [server.received.get_nowait() for _ in range(20)] == [
        message(number, 10) for number in range(20)
    ]


def test_no_thread_before_the_first_message_and_none_after_the_end(pair):
    def threads():
        return [each.name for each in threading.enumerate() if each.name == 'operators']

    before = len(threads())
    link, robot, server = pair()
    assert len(threads()) == before
    robot.messages.send([b'x'])
    server.next()
    assert len(threads()) == before + 1
    link.close()
    robot.lost.get(timeout=LONG_S)
    server.lost.get(timeout=LONG_S)
    end_s = time.monotonic() + LONG_S
    while len(threads()) > before and time.monotonic() < end_s:
        time.sleep(0.01)
    assert len(threads()) == before


def test_beginning_anew_drops_answers_to_what_was_before(pair):
    """A new client on the same channel must not take them for its own."""
    link = InProcessLink()
    server = End(link.server)
    program = ChannelLink(link.robot)
    old, new, lost = [], queue.Queue(), queue.Queue()
    program.listen(lambda data: old.append(bytes(data)), lost.put)
    program.send([b'question'])
    assert server.next() == b'question'
    server.messages.send([b'answer'])
    end_s = time.monotonic() + LONG_S
    while not old and time.monotonic() < end_s:
        time.sleep(0.005)
    for _ in range(2):
        program.restart()
        program.listen(lambda data: new.put(bytes(data)), lost.put)
        assert server.next() == 'begin'
    server.messages.send([b'stale'])
    server.messages.begin()
    server.messages.send([b'stale, too'])
    server.messages.begin()
    server.messages.send([b'fresh'])
    assert new.get(timeout=LONG_S) == b'fresh'
    assert old == [b'answer'] and new.empty()
    program.close()
    assert server.next() == 'begin'
    assert lost.empty()
    with pytest.raises(ServerLost, match='closed'):
        program.send([b'x'])
    link.close()


def test_who_listens_late_learns_of_the_loss(pair, monkeypatch):
    link = InProcessLink()
    program = ChannelLink(link.robot)
    link.close()
    lost = queue.Queue()
    program.listen(lambda data: None, lost.put)
    assert lost.get(timeout=LONG_S)
    assert program.lost
    monkeypatch.setattr(channel_link, 'LAST_WORDS_S', LONG_S)
    began_s = time.monotonic()
    program.close()
    assert time.monotonic() - began_s < LONG_S / 2, 'there is nobody to say last words to'
