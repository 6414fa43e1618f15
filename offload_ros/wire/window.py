"""How much may be in flight, and in which pieces: the credit of a connection's sender."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
import math
from typing import NamedTuple

from offload_ros.wire.outgoing import Outgoing
from offload_ros.wire.packet import Kind

MIN_RTT_SPAN_S = 10.0
RATE_GAIN = 0.25  # of a new rate in the running estimate
LEAST_SPAN_S = 0.002  # shorter intervals between two arrivals tell the scheduler's noise
LEAST_CHUNK_BYTES, FIRST_CHUNK_BYTES = 6_000, 60_000
DELIVERY_S = 0.05  # what arrived in so long is the least that the link carries
LEAST_TELLING_BYTES = 16_000  # a single packet of less says little about the rate
REMEMBERED_LOST = 128  # packets thought lost that may still be acknowledged


@dataclass(frozen=True)
class AckSample:
    """What one acknowledgement told. Times in seconds; ``now_s`` and ``sent_s`` on the sender's
    steady clock, ``arrived_s`` on the receiver's, for differences only.

    ``round_trip_s``: of the newest packet, NaN if unknown; ``held_s``: how long the receiver held
    the acknowledgement back, contained in it. ``delivered_bytes``: arrived so far, up to the newest
    packet. ``after_idle``: nothing was in flight when that was sent; ``more``: something still is.
    """

    now_s: float
    sent_s: float
    round_trip_s: float
    held_s: float
    acked_bytes: int
    arrived_s: float
    delivered_bytes: int
    newest_bytes: int
    after_idle: bool
    more: bool


class Credit:
    """Window and chunk size from the rate at which packets arrive, and the shortest round trip.

    Window: three bandwidth-delay products (TCP below, which waits for what was lost, still has
    something to send) and four chunks. At most ``max_window_bytes``, which must stay below the
    transport's socket buffer, so that publishing never blocks. A chunk is what the link carries in
    ``chunk_s``, at most ``max_chunk_bytes``: what is urgent waits for little else.
    """

    def __init__(
        self,
        max_chunk_bytes: int = 60_000,
        max_window_bytes: int = 720_000,
        chunk_s: float = 0.008,
    ) -> None:
        if max_chunk_bytes < 1024:
            raise ValueError('max_chunk_bytes: at least 1024')
        self.max_chunk_bytes = max_chunk_bytes
        self.max_window_bytes = max(max_window_bytes, 3 * max_chunk_bytes)
        self.chunk_s = chunk_s
        self.bytes_per_s = math.nan
        self.round_trip_s = 0.0  # the shortest of late; 0: unknown
        self._shortest_s = math.inf  # of the span that is under way
        self._span_ends_s = -math.inf
        self._last: AckSample | None = None
        self._delivery: AckSample | None = None

    def chunk_bytes(self) -> int:
        """How much of a transfer one packet takes now."""
        if math.isnan(self.bytes_per_s):
            return min(self.max_chunk_bytes, FIRST_CHUNK_BYTES)
        fitting = int(self.bytes_per_s * self.chunk_s)
        return min(self.max_chunk_bytes, max(fitting, LEAST_CHUNK_BYTES))

    def window_bytes(self) -> int:
        """How much may be sent and not acknowledged."""
        window = 4 * self.chunk_bytes()
        if not math.isnan(self.bytes_per_s):
            window += int(3.0 * self.bytes_per_s * self.round_trip_s)
        return min(self.max_window_bytes, window)

    def on_ack(self, sample: AckSample) -> None:
        """Learn from an acknowledgement."""
        self._learn_round_trip(sample)
        self._learn_delivery(sample)
        last = self._last
        if sample.after_idle or last is None or not last.more:
            self._last = sample
            self._learn_single(sample)
            return
        span_s = sample.arrived_s - last.arrived_s
        if span_s < LEAST_SPAN_S:
            return  # a longer interval, from the same beginning
        # Only while packets queued for the link: the newest left before the last one arrived.
        delivered = sample.delivered_bytes - last.delivered_bytes
        if delivered > 0 and sample.sent_s <= last.now_s - 0.5 * self.round_trip_s:
            self._learn_rate(delivered / span_s)
        self._last = sample

    def _learn_delivery(self, sample: AckSample) -> None:
        """A window that has become too small for a faster link lets no packets queue: then what
        arrives, although less than the link could carry, makes it grow."""
        first = self._delivery
        if first is None or sample.after_idle:  # what was idle delivered nothing
            self._delivery = sample
            return
        span_s = sample.arrived_s - first.arrived_s
        if 0 <= span_s < DELIVERY_S:
            return
        if span_s > 0:
            bytes_per_s = (sample.delivered_bytes - first.delivered_bytes) / span_s
            if bytes_per_s > self.bytes_per_s:
                self.bytes_per_s = bytes_per_s
        self._delivery = sample

    def _learn_single(self, sample: AckSample) -> None:
        """From a large packet that was alone: how much longer than a small one it took."""
        took_s = sample.round_trip_s - sample.held_s
        if sample.after_idle and sample.newest_bytes >= LEAST_TELLING_BYTES and took_s > 0:
            self._learn_rate(
                sample.newest_bytes / max(took_s - self.round_trip_s, took_s / 2, LEAST_SPAN_S / 8)
            )

    def _learn_rate(self, bytes_per_s: float) -> None:
        if math.isnan(self.bytes_per_s):
            self.bytes_per_s = bytes_per_s
        else:
            self.bytes_per_s += RATE_GAIN * (bytes_per_s - self.bytes_per_s)

    def _learn_round_trip(self, sample: AckSample) -> None:
        round_trip_s = sample.round_trip_s - sample.held_s
        if not round_trip_s > 0:
            return
        if sample.now_s > self._span_ends_s:
            # The shortest of the last span holds until the new one has its own.
            self.round_trip_s = min(self._shortest_s, round_trip_s)
            self._shortest_s = round_trip_s
            self._span_ends_s = sample.now_s + MIN_RTT_SPAN_S
        self._shortest_s = min(self._shortest_s, round_trip_s)
        self.round_trip_s = min(self.round_trip_s, round_trip_s)


class SentPacket(NamedTuple):
    """A packet that is to be acknowledged: ``size`` bytes in all, ``length`` of its transfer."""

    number: int
    transfer: Outgoing | None  # None: a ping
    offset: int
    length: int
    size: int
    sent_s: float
    first: bool  # nothing else was in flight: the link was idle before it


class InFlight:
    """Packets that were sent and not yet acknowledged; of late, also those thought lost."""

    def __init__(self) -> None:
        self.size = 0  # bytes in flight
        self._packets: OrderedDict[int, SentPacket] = OrderedDict()
        self._lost: OrderedDict[int, SentPacket] = OrderedDict()  # or late

    def __len__(self) -> int:
        return len(self._packets)

    def add(self, sent: SentPacket) -> None:
        """It leaves."""
        self._packets[sent.number] = sent
        self.size += sent.size

    def oldest(self) -> int:
        """The number of the packet that waits for the longest."""
        return next(iter(self._packets))

    def older_than(self, number: int, sent_s: float) -> list[int]:
        """Numbers in flight below ``number``, or sent before ``sent_s``."""
        packets = self._packets.values()
        return [each.number for each in packets if each.number < number or each.sent_s < sent_s]

    def acknowledged(
        self, ranges: Sequence[tuple[int, int]]
    ) -> tuple[list[SentPacket], SentPacket | None]:
        """Take out what is in ``ranges`` (newest first, of any size): those packets, and the newest
        of them that was in flight."""
        oldest_first = ranges[::-1]
        found, newest = [], None
        for sent in (*self._lost.values(), *self._packets.values()):
            position = bisect_right(oldest_first, (sent.number, math.inf))
            if not position or oldest_first[position - 1][1] < sent.number:
                continue
            found.append(sent)
            if self._packets.pop(sent.number, None) is None:
                del self._lost[sent.number]
            else:
                self.size -= sent.size
                newest = sent
        return found, newest

    def lose(self, number: int) -> SentPacket:
        """It seems not to have arrived; its acknowledgement may come all the same."""
        sent = self._lost[number] = self._packets.pop(number)
        self.size -= sent.size
        if len(self._lost) > REMEMBERED_LOST:
            self._lost.popitem(last=False)
        return sent

    def forget(self, key: int) -> None:
        """Transfer ``key`` is refused: its packets are not acknowledged any more."""
        for sent in list(self._packets.values()):
            transfer = sent.transfer
            if transfer is not None and (transfer.kind, transfer.key) == (Kind.DATA, key):
                del self._packets[sent.number]
                self.size -= sent.size
