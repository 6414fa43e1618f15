"""Hostile links: whatever happens to packets, a transfer arrives exactly or ends with a reason.

Two connections and a virtual clock, without threads: a stream is a few transfers in both directions
over a link that loses, doubles, reorders, cuts off, flips bits, replays and forges. Then the link
is good again, and everything must have ended, at both ends, within bounded virtual time.
"""

from collections import Counter
from dataclasses import dataclass
import heapq
import itertools
import math
import random
import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from offload_ros.wire.connection import Connection
from offload_ros.wire.incoming import IDLE_S, ReceiveLimits, State
from offload_ros.wire.outgoing import URGENT_PRIORITY, Outgoing
from offload_ros.wire.packet import (
    OVERHEAD,
    Ack,
    Kind,
    Packet,
    header_of,
    join,
    pack_ack,
    unpack,
    unpack_ack,
)
from offload_ros.wire.seal import KEY_BYTES, Seal
from offload_ros.wire.tensors import WireError
from offload_ros.wire.window import Credit

from ..draws import examples

LIMITS = ReceiveLimits(total_bytes=12_000, transfers=5)
HOSTILE_S = 3.0  # and good from then on
ENDED_S = HOSTILE_S + IDLE_S + 15.0  # a cut may begin late; probes are up to 2 s apart
GUARD = 64  # bytes around a destination that nobody may touch
REAL_KEYS = 1 << 32  # forgers that know the salt use keys above: only a seal protects the others
FORGED_NUMBER = 1 << 40
MAX_FORGED = 24  # of the right salt; an acknowledgement has room for 32 ranges


@dataclass(frozen=True)
class Hostility:
    """How likely each of these is, for one packet."""

    loss: float
    double: float
    reorder: float
    damage: float
    forge: float
    replay: float
    sealed: bool
    cut: bool
    restart: bool


SHARES = st.sampled_from([0.0, 0.02, 0.1, 0.3])
HOSTILITIES = st.builds(
    Hostility,
    loss=st.sampled_from([0.0, 0.02, 0.1, 0.3, 0.6]),
    double=SHARES,
    reorder=SHARES,
    damage=SHARES,
    forge=SHARES,
    replay=SHARES,
    sealed=st.sampled_from([False, False, False, True]),
    cut=st.booleans(),
    restart=st.sampled_from([False, False, True]),
)


class End:
    """One end of the link, with what it sent and what came."""

    def __init__(self, connection):
        self.connection = connection
        self.sent = {}  # key: (transfer, its bytes, whether it was ended on purpose)
        self.came = {}
        self.guarded = {}

    def take_up(self):
        """Do what a channel does with news."""
        arrivals, to_tell = self.connection.take_news()
        for transfer in arrivals:
            assert transfer.key not in self.came, 'delivered twice'
            self.came[transfer.key] = transfer
        for tell in to_tell:
            tell()


class Stream:
    """One random stream, played from a seed."""

    def __init__(self, hostility, seed):
        self.hostility = hostility
        self.chance = random.Random(seed)
        self.now_s = 100.0
        self.good_s = self.now_s + HOSTILE_S
        self.order = itertools.count()
        self.events = []  # (time, order, what to do)
        self.seen = []  # (packet, to whom) that once were on the link
        self.forged = 0
        self.cut = (math.inf, math.inf)
        self.counts = Counter(streams=1)
        self.ends = self.open()
        self.past = []

    def open(self):
        """Two connected ends, of a salt of their own."""
        self.salt = self.chance.getrandbits(32)
        keys = [self.chance.randbytes(KEY_BYTES) for _ in range(2)]
        ends = []
        for side in range(2):
            seals = [None, None]
            if self.hostility.sealed:
                seals = [Seal(keys[side]), Seal(keys[1 - side])]
            credit = Credit(max_chunk_bytes=1024, max_window_bytes=8192)
            ends.append(End(Connection(LIMITS, credit, *seals, salts=(self.salt, self.salt))))
        return ends

    def at(self, when_s, what):
        heapq.heappush(self.events, (when_s, next(self.order), what))

    def play(self):
        """Run it; returns what happened how often."""
        chance = self.chance
        if self.hostility.cut:
            begin_s = self.now_s + chance.random() * 0.5
            self.cut = (begin_s, begin_s + chance.choice([0.2, 1.0, 4.0, IDLE_S + 4.0]))
        for key in chance.sample(range(REAL_KEYS), chance.randint(1, 5)):
            self.at(self.now_s + chance.choice([0.0, 0.0, chance.random()]), self.sender(key))
        if self.hostility.restart:
            self.at(self.now_s + chance.random() * 0.3, self.restart)
        end_s = max(self.good_s, self.cut[1] if self.hostility.cut else 0) + ENDED_S - HOSTILE_S
        for _ in range(20_000):
            self.pump()
            timers = [end.connection.next_s() for end in self.ends]
            assert min(timers) > self.now_s, 'a busy loop'
            next_s = min(*timers, self.events[0][0] if self.events else math.inf)
            if next_s > end_s:
                break
            self.now_s = next_s
            while self.events and self.events[0][0] <= self.now_s:
                heapq.heappop(self.events)[2]()
        else:
            raise AssertionError('it does not come to rest')
        assert all(end.connection.idle for end in self.ends)
        for ends in [*self.past, self.ends]:
            self.check(ends, complete=ends is self.ends)
        return self.counts

    def sender(self, key):
        side, size = self.chance.randrange(2), self.chance.choice([0, 1, 700, 3000, 9000])
        size = self.chance.randint(0, size)

        def send():
            chance, end, peer = self.chance, self.ends[side], self.ends[1 - side]
            data, split = chance.randbytes(size), chance.randint(0, size)
            priority = chance.choice([0, 100, 100, 100, URGENT_PRIORITY])
            deadline_s = self.now_s + chance.choice([math.inf] * 3 + [chance.random() * 2])
            if chance.random() < 0.3:
                around = np.full(size + 2 * GUARD, 7, np.uint8)
                peer.connection.reassembly.expect(key, around[GUARD : GUARD + size])
                peer.guarded[key] = around
            transfer = Outgoing(key, [data[:split], data[split:]], priority, deadline_s)
            end.connection.send(transfer)
            end.sent[key] = [transfer, data, math.isfinite(deadline_s)]
            if chance.random() < 0.15:
                self.at(self.now_s + chance.random() * 0.2, lambda: stop(end, peer))

        def stop(end, peer):
            if (end, peer) != (self.ends[side], self.ends[1 - side]):
                return  # restarted
            end.sent[key][2] = True
            if self.chance.random() < 0.5:
                end.connection.cancel(key)
            else:
                peer.connection.refuse(key, 'not needed')

        return send

    def restart(self):
        """Both ends begin anew; what is on the link is of the old session, its keys used again."""
        for end in self.ends:
            end.connection.close('restarted')
            end.take_up()
        self.past.append(self.ends)
        keys = [key for end in self.ends for key in end.sent]
        self.ends = self.open()
        for key in keys:
            self.sender(key)()
        self.counts['restarts'] += 1

    def pump(self):
        """Put what the ends have to say on the link."""
        for side, end in enumerate(self.ends):
            for _ in range(1000):
                packet = end.connection.next_packet(self.now_s)
                if packet is None:
                    break
                self.carry(packet, 1 - side)
            else:
                raise AssertionError('it never stops sending')
            end.take_up()

    def carry(self, packet, to):
        chance, hostility, delay_s = self.chance, self.hostility, 0.005
        if self.cut[0] <= self.now_s < self.cut[1]:
            return
        if self.now_s < self.good_s:
            self.seen.append((packet, to))
            if chance.random() < hostility.forge:
                self.deliver(self.forgery(), to, chance.random() * 0.05)
            if chance.random() < hostility.replay:
                self.deliver(*chance.choice(self.seen), chance.random())
            if chance.random() < hostility.double:
                self.deliver(packet, to, delay_s + chance.random() * 0.1)
            if chance.random() < hostility.loss:
                self.counts['lost'] += 1
                return
            if chance.random() < hostility.damage:
                self.counts['damaged'] += 1
                packet = self.damaged(packet)
            if chance.random() < hostility.reorder:
                delay_s += chance.choice([0.01, 0.1, 0.8]) * chance.random()
        self.deliver(packet, to, delay_s)

    def deliver(self, packet, to, delay_s):
        def arrive():
            end = self.ends[to]
            end.connection.receive(packet, self.now_s)
            assert end.connection.reassembly.held_bytes <= LIMITS.total_bytes
            end.take_up()

        self.at(self.now_s + delay_s, arrive)

    def damaged(self, packet):
        kind = self.chance.randrange(3)
        if kind == 0:
            return packet[: self.chance.randrange(len(packet))]
        if kind == 1:
            return packet + self.chance.randbytes(self.chance.choice([1, 3, 4, 500]))
        flipped = bytearray(packet)
        reach = len(packet) if self.hostility.sealed else OVERHEAD
        for _ in range(self.chance.randint(1, 3)):
            flipped[self.chance.randrange(reach)] ^= 1 << self.chance.randrange(8)
        return bytes(flipped)

    def forgery(self):
        """A packet of somebody else: of another salt, any; of this one, of other keys."""
        chance = self.chance
        known = self.forged < MAX_FORGED and not self.hostility.sealed and chance.random() < 0.5
        self.forged += known
        self.counts['forged'] += 1
        salt = self.salt if known else self.salt ^ chance.randint(1, 2**32 - 1)
        data = chance.randbytes(chance.choice([0, 1, 700]))
        kind = chance.choice([*Kind, Kind.DATA, Kind.DATA, 0, 77])
        if kind == Kind.ACK:
            last = chance.randint(FORGED_NUMBER, 2**64 - 1)
            data = pack_ack(Ack(huge(chance), huge(chance), huge(chance), [(last - 2, last)]))
        key = chance.choice([*self.ends[0].sent, *self.ends[1].sent, 5])
        packet = Packet(
            number=chance.randint(FORGED_NUMBER, 2**64 - 1) if known else huge(chance),
            key=chance.randint(REAL_KEYS, 2**64 - 1) if known else key,
            offset=huge(chance),
            total=huge(chance),
            budget_ms=chance.getrandbits(32),
            kind=kind,
            priority=chance.getrandbits(8),
        )
        length = chance.choice([len(data)] * 5 + [2**32 - 1])
        return join(header_of(packet, length, salt), [data])

    def check(self, ends, complete):
        for end, peer in (ends, ends[::-1]):
            assert end.connection.reassembly.held_bytes == 0
            assert all(each.state is not State.ACTIVE for each in end.came.values())
            for key, (transfer, data, on_purpose) in end.sent.items():
                incoming = peer.came.get(key)
                self.counts[transfer.state] += 1
                assert transfer.state is not State.ACTIVE
                if transfer.state is State.DONE:
                    assert incoming is not None and incoming.state is State.DONE
                elif complete and not on_purpose:
                    assert transfer.state is State.REFUSED
                    full = 'under way' in transfer.why  # the peer's memory was
                    assert full or (self.hostility.cut and 'nothing of it came' in transfer.why)
                else:
                    assert transfer.why
                if incoming is not None:
                    assert incoming.total == len(data)
                    there = incoming.contiguous
                    assert incoming.buffer[:there].tobytes() == data[:there]
                    assert there == len(data) if incoming.state is State.DONE else incoming.why
                if key in peer.guarded:
                    around = peer.guarded[key]
                    assert (around[:GUARD] == 7).all() and (around[-GUARD:] == 7).all()
            assert all(key in peer.sent or key >= REAL_KEYS for key in end.came)


def huge(chance):
    """A number below 2^64 of a random number of bits."""
    return chance.getrandbits(chance.randint(0, 64))


def play(draws, streams):
    """Play ``draws`` kinds of hostility with ``streams`` streams each; what happened."""
    counts = Counter()

    @settings(max_examples=draws, database=None)
    @given(HOSTILITIES, st.integers(0, 2**32 - 1))
    def run(hostility, seed):
        for index in range(streams):
            try:
                counts.update(Stream(hostility, seed + index).play())
            except Exception as error:
                raise AssertionError(f'Stream({hostility}, {seed + index})') from error

    run()
    return counts


def test_4000_hostile_streams_deliver_exactly_or_end_with_a_reason():
    counts = play(draws=100, streams=40)
    assert counts['streams'] >= 4_000
    # The fuzz means something: most arrive, and each way to fail occurs.
    assert counts[State.DONE] > 4_000
    for what in (State.CANCELLED, State.EXPIRED, State.REFUSED, State.LOST):
        assert counts[what] > 40
    for what in ('lost', 'damaged', 'forged', 'restarts'):
        assert counts[what] > 40


@pytest.mark.long
def test_200000_hostile_streams_deliver_exactly_or_end_with_a_reason():
    assert play(draws=2000, streams=100)['streams'] >= 200_000


def test_random_bytes_are_refused_with_one_kind_of_error():
    chance = random.Random(1)
    packet = join(header_of(Packet(5, key=3, total=4), 4, 9), [b'abcd'])
    for _ in range(20_000):
        made = chance.randbytes(chance.randint(0, 200))
        changed = bytearray(packet)
        changed[chance.randrange(4, OVERHEAD)] ^= chance.randint(1, 255)
        for each in (made, packet[:4] + made, bytes(changed)):
            with pytest.raises(WireError):
                unpack(each, 9)
    assert unpack(packet, 9)[1].data == b'abcd'


def test_random_acknowledgements_are_refused_or_in_order():
    chance, taken = random.Random(2), 0
    for _ in range(20_000):
        numbers = sorted(chance.sample(range(40), 4))
        if chance.random() < 0.5:
            chance.shuffle(numbers)
        a, b, c, d = numbers
        ranges = [(c, d), (a, b)]
        data = pack_ack(Ack(huge(chance), 0, huge(chance), ranges))
        data = data[: len(data) - chance.choice([0, 0, 1, 16, 32])]
        try:
            ack = unpack_ack(data)
        except WireError:
            continue
        taken += 1
        assert ack.ranges == ranges[: len(ack.ranges)]
        assert all(first <= last for first, last in ack.ranges)
        assert len(ack.ranges) == 1 or b + 1 < c
    assert 1000 < taken < 19_000
    for _ in range(20_000):
        with pytest.raises(WireError):
            unpack_ack(chance.randbytes(chance.choice([0, 23, 24, 39, 41, 24 + 33 * 16])))


PACKETS = examples(8_000, 20_000)


def test_memory_stays_bounded_whatever_sizes_packets_claim():
    chance, connection = random.Random(3), Connection(ReceiveLimits(1 << 20, 16))
    tracemalloc.start()
    try:
        for number in range(PACKETS):
            total = huge(chance) if number % 2 else chance.randint(1, 1 << 18)
            offset = chance.choice([0, huge(chance), max(0, total - 10)])
            packet = Packet(number, chance.getrandbits(64), offset, total, kind=Kind.DATA)
            connection.receive(join(header_of(packet, 10), [b'0123456789']), 1.0 + number * 1e-3)
            connection.next_packet(1.0 + number * 1e-3)
            assert connection.reassembly.held_bytes <= 1 << 20
            for tell in connection.take_news()[1]:
                tell()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert connection.counters.packets_in == PACKETS
    assert peak < 6 << 20  # the limit, and what is remembered of 4096 refused ones
