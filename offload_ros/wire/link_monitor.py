"""What the link carries now: bandwidth each way, round trip, and how sure that is.

Evidence is the spacing, on the receiver's clock, of packets that queued for the link
(packet-pair dispersion, Keshav 1991, over whole busy periods). A packet has queued when it was sent
before the one in front of it had left the link, which follows from how much longer than the
shortest that one was under way; what was sent later says how much there was to send, and nothing
about the link.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
import math
import struct
import threading
import time
from typing import NamedTuple

from offload_ros.strategy import LinkState
from offload_ros.wire.errors import WireError
from offload_ros.wire.window import LEAST_CHUNK_BYTES, AckSample

FORGET_S = 0.1  # evidence so much older than the newest weighs 1/e of its bytes
KEPT = 64  # pieces of evidence
PIECE_S, LEAST_PIECE_S, SLOW_PIECE_S = 0.010, 0.004, 0.050  # of a busy period
PIECE_ARRIVALS = 3  # a receiver that woke late takes several packets at once: all in one piece
TCP_IDLE_S = 0.2  # after that, TCP begins again with a small window ...
RAMP_ROUND_TRIPS = 5  # ... and needs so many to fill the link
SINGLES, SINGLE_BYTES, SINGLE_S = 8, 16_000, 0.002  # packets that were alone on the link
SMALL_BYTES = 4_000
BASE_SPAN_S = 10.0  # the shortest round trip of so long is the link's own
SILENCE_S = 0.3  # longer than TCP's first retransmission timeout, 0.2 s
CHUNK_S, MAX_CHUNK_BYTES = 0.008, 60_000  # what a connection sends at once
FRESH_S = 0.5
WIDER_PER_ROOT_S = 0.25  # of the logarithm of the bounds, per square root of a second
LEAST_WIDTH = 0.05  # headers that are not counted, and clocks
PROBE_AFTER_S, PROBE_SHARE = 2.0, 0.01
LONGEST_PROBE_PAUSE_S = 6.0  # of the least probe: slow links are often fast again soon
# Five chunks: fewer packets tell nothing where TCP's window is small after a pause.
PROBE_S, LEAST_PROBE_BYTES, MAX_PROBE_BYTES, FIRST_PROBE_BYTES = 0.04, 36_000, 1_120_000, 120_000
DELIVERY_S, CLEARLY = 0.1, 1.25  # so much faster than the estimate over so long
REPORT_VERSION = 1
_REPORT = struct.Struct('<Bdddd')


@dataclass(frozen=True)
class LinkEstimate(LinkState):
    """``LinkState`` with its uncertainty: 10 and 90 % quantiles in bytes/s, and the age in seconds
    of the newest evidence (infinite: there is none)."""

    up_low_bytes_per_s: float = math.nan
    up_high_bytes_per_s: float = math.nan
    up_age_s: float = math.inf
    down_low_bytes_per_s: float = math.nan
    down_high_bytes_per_s: float = math.nan
    down_age_s: float = math.inf


class Bandwidth(NamedTuple):
    """One direction: median and 10 and 90 % quantiles in bytes/s (NaN: unknown), age in seconds of
    the newest evidence (infinite: there is none)."""

    bytes_per_s: float = math.nan
    low_bytes_per_s: float = math.nan
    high_bytes_per_s: float = math.nan
    age_s: float = math.inf


class _Piece(NamedTuple):
    """Of a busy period."""

    now_s: float
    bytes_per_s: float
    weight: float  # bytes


class LinkMonitor:
    """One peer's link, as the robot sees it: outgoing is up.

    ``on_sample`` is for the channel's acknowledgements (``Connection(on_sample=...)``); it takes a
    few microseconds. All methods may be called from any thread. ``clock``: steady, in seconds.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        max_probe_bytes: int = MAX_PROBE_BYTES,
    ) -> None:
        self._clock = clock
        self._max_probe_bytes = max_probe_bytes
        self._lock = threading.Lock()
        self._pieces: deque[_Piece] = deque(maxlen=KEPT)
        self._last: AckSample | None = None
        self._queued_s = 0.0  # how much longer than an empty packet on an idle link that took
        self._span_s, self._bytes, self._arrivals = 0.0, 0, 0  # of the piece that is under way
        self._ramp_s = 0.0  # of the busy period, still to come
        self._singles: list[float] = []
        self._waiting_since_s = math.inf  # for an acknowledgement, as far as was asked
        self._base_s, self._shortest_s, self._base_until_s = math.inf, math.inf, -math.inf
        self._report = Bandwidth()
        self._reported_s = -math.inf
        self._probed_s = -math.inf
        self._probe_longer = 1
        self._delivery: AckSample | None = None

    def on_sample(self, sample: AckSample) -> None:
        """Learn from one acknowledgement."""
        with self._lock:
            self._learn(sample)

    def _learn(self, sample: AckSample) -> None:
        self._waiting_since_s = sample.now_s if sample.more else math.inf
        # Also where an acknowledgement of ours was what arrived last, then a little too long.
        took_s = max(0.0, sample.now_s - sample.sent_s - sample.held_s)
        self._learn_base(took_s, sample)
        last, self._last = self._last, sample
        self._learn_delivery(sample)
        queued_s = took_s - self._base_s
        if last is None or sample.after_idle:
            self._begin_busy(sample, last, queued_s)
        else:
            self._follow(sample, last, queued_s)
        if not sample.more:
            self._end_piece(sample.now_s, at_least=self._ramp_s > 0)

    def _begin_busy(self, sample: AckSample, last: AckSample | None, queued_s: float) -> None:
        """A packet that found the link idle."""
        if last is not None:
            self._end_piece(last.now_s, at_least=self._ramp_s > 0)
        idle_s = math.inf if last is None else sample.sent_s - last.now_s
        self._ramp_s = RAMP_ROUND_TRIPS * self._base_s if idle_s > TCP_IDLE_S else 0.0
        self._queued_s = queued_s
        if not sample.more and not math.isnan(sample.round_trip_s):
            self._learn_single(sample, queued_s)

    def _follow(self, sample: AckSample, last: AckSample, queued_s: float) -> None:
        """A packet that found others on their way."""
        span_s = sample.arrived_s - last.arrived_s
        sent_apart_s = sample.sent_s - last.sent_s
        if sent_apart_s > self._queued_s or span_s < 0:
            self._end_piece(last.now_s, at_least=self._ramp_s > 0)
        else:
            self._extend(span_s, sample.delivered_bytes - last.delivered_bytes, sample.now_s)
        # Lindley's recursion, each difference on one clock. The way back may have been slow, too.
        self._queued_s = min(max(self._queued_s + span_s - sent_apart_s, 0.0), queued_s)

    def outgoing(self, in_flight_bytes: int = 0) -> Bandwidth:
        """To the peer. ``in_flight_bytes``: what the channel waits to hear of; if that takes long,
        it tells how little the link carries."""
        now_s = self._clock()
        with self._lock:
            pieces = list(self._pieces)
            newest_bytes = 0 if self._last is None else self._last.newest_bytes
            since_s = min(self._waiting_since_s, now_s) if in_flight_bytes else math.inf
            self._waiting_since_s = since_s
        if not pieces:
            return Bandwidth()
        low, median, high = _quantiles(pieces, (0.1, 0.5, 0.9))
        age_s = max(0.0, now_s - pieces[-1].now_s)
        found = _widened(Bandwidth(median, low, high, 0.0), age_s)
        chunk = min(max(CHUNK_S * median, LEAST_CHUNK_BYTES), MAX_CHUNK_BYTES)
        # What is in flight may have been cut when the link was faster.
        chunk = min(max(chunk, newest_bytes), in_flight_bytes)
        silent_s = now_s - since_s
        if silent_s < max(SILENCE_S, 3 * chunk / median):
            return found
        most = chunk / silent_s  # not even one has passed
        return Bandwidth(min(median, most), 0.0, min(found.high_bytes_per_s, 2 * most), 0.0)

    def incoming(self) -> Bandwidth:
        """From the peer, as it reported it last."""
        since_s = self._clock() - self._reported_s
        return _widened(self._report, max(0.0, since_s))

    def state(self, in_flight_bytes: int = 0) -> LinkEstimate:
        """All that is known now; ``in_flight_bytes`` as for ``outgoing``."""
        up, down = self.outgoing(in_flight_bytes), self.incoming()
        return LinkEstimate(
            up.bytes_per_s,
            down.bytes_per_s,
            self._base_s if math.isfinite(self._base_s) else math.nan,
            up.low_bytes_per_s,
            up.high_bytes_per_s,
            up.age_s,
            down.low_bytes_per_s,
            down.high_bytes_per_s,
            down.age_s,
        )

    def report(self, in_flight_bytes: int = 0) -> bytes:
        """The outgoing direction, for the peer, whose incoming one it is."""
        return _REPORT.pack(REPORT_VERSION, *self.outgoing(in_flight_bytes))

    def on_report(self, data: bytes | memoryview) -> None:
        """Take up the peer's ``report``; ``WireError`` when it is none."""
        if len(data) != _REPORT.size:
            raise WireError(f'a link report of {len(data)} bytes, {_REPORT.size} are needed')
        version, *values = _REPORT.unpack(data)
        if version != REPORT_VERSION:
            raise WireError(f'a link report of version {version}, {REPORT_VERSION} is understood')
        told = Bandwidth(*values)
        known = 0 <= told.low_bytes_per_s <= told.bytes_per_s <= told.high_bytes_per_s < math.inf
        unknown = all(math.isnan(value) for value in values[:3])
        if not (known and 0 <= told.age_s < math.inf) and not (unknown and told.age_s == math.inf):
            raise WireError(f'a link report that is none: {", ".join(map(str, values))}')
        self._report, self._reported_s = told, self._clock()

    def wants_probe(self) -> int:
        """How many bytes to send now only to learn what the link carries; 0: none.

        To be asked while the channel is idle. At most ``PROBE_SHARE`` of the bandwidth, or where
        that is little (5 Mbit/s and less) 48 kbit/s; while they tell nothing, 144 kbit/s.
        """
        now_s = self._clock()
        found = self.outgoing()
        since_s = now_s - self._probed_s
        if min(since_s, found.age_s) < PROBE_AFTER_S:
            return 0
        known = not math.isnan(found.bytes_per_s)
        # One that told nothing was over too soon: the link is faster than it was.
        longer = 2 * self._probe_longer if since_s <= found.age_s and since_s < math.inf else 1
        usual = int(PROBE_S * found.bytes_per_s) if known else FIRST_PROBE_BYTES
        size = min(longer * max(usual, LEAST_PROBE_BYTES), self._max_probe_bytes)
        least_per_s = LEAST_PROBE_BYTES / LONGEST_PROBE_PAUSE_S
        pause_s = size / max(PROBE_SHARE * found.bytes_per_s, least_per_s) if known else 0.0
        if since_s < (pause_s if longer == 1 else min(pause_s, longer * PROBE_AFTER_S)):
            return 0
        self._probed_s, self._probe_longer = now_s, longer
        return size

    def _learn_base(self, took_s: float, sample: AckSample) -> None:
        """The shortest round trip of late. Only a small packet on an idle link can raise it."""
        self._base_s = min(self._base_s, took_s)
        if sample.after_idle and sample.newest_bytes <= SMALL_BYTES:
            self._shortest_s = min(self._shortest_s, took_s)
            if sample.now_s > self._base_until_s:
                self._base_s, self._shortest_s = self._shortest_s, math.inf
                self._base_until_s = sample.now_s + BASE_SPAN_S

    def _extend(self, span_s: float, count: int, now_s: float) -> None:
        """The busy period went on."""
        if self._ramp_s > 0:
            self._ramp_s -= span_s
            if self._ramp_s <= 0:  # what came so far shows TCP's window, not the link
                self._end_piece(now_s, at_least=True)
                return
        self._span_s += span_s
        self._bytes += count
        self._arrivals += 1
        enough = self._span_s >= PIECE_S and self._arrivals >= PIECE_ARRIVALS
        if self._ramp_s <= 0 and (enough or self._span_s >= SLOW_PIECE_S):
            self._end_piece(now_s)

    def _end_piece(self, now_s: float, at_least: bool = False) -> None:
        span_s, count, arrivals = self._span_s, self._bytes, self._arrivals
        self._span_s, self._bytes, self._arrivals = 0.0, 0, 0
        # Few packets may owe their pace to a shaper's burst: no reason to change one's mind.
        few = arrivals < (PIECE_ARRIVALS if at_least else 2) and span_s < SLOW_PIECE_S
        if span_s >= LEAST_PIECE_S and not (few and self._pieces):
            weight = count * min(1.0, span_s / PIECE_S)
            self._add(_Piece(now_s, count / span_s, weight), at_least)

    def _add(self, piece: _Piece, at_least: bool = False) -> None:
        if at_least and self._pieces:
            (median,) = _quantiles(list(self._pieces), (0.5,))
            if piece.bytes_per_s < CLEARLY * median:
                return
        self._pieces.append(piece)
        self._singles.clear()

    def _learn_delivery(self, sample: AckSample) -> None:
        """Whether or not packets queued, the link carries at least what it did carry. It matters
        where the connection's window has become too small to fill the link."""
        first = self._delivery
        if first is None or sample.after_idle:  # what was idle delivered nothing
            self._delivery = sample
            return
        span_s = sample.arrived_s - first.arrived_s
        if 0 <= span_s < DELIVERY_S:
            return
        self._delivery = sample
        if span_s > 0 and self._pieces and self._pieces[-1].now_s < first.now_s:
            count = sample.delivered_bytes - first.delivered_bytes
            (median,) = _quantiles(list(self._pieces), (0.5,))
            if count / span_s > CLEARLY * median:
                self._add(_Piece(sample.now_s, count / span_s, count))

    def _learn_single(self, sample: AckSample, queued_s: float) -> None:
        """A packet that was alone: its own time on the link, if that is long. The fastest of
        several, as anything may have held up one of them."""
        if sample.newest_bytes < SINGLE_BYTES or queued_s < SINGLE_S:
            return
        self._singles.append(sample.newest_bytes / queued_s)
        if len(self._singles) >= SINGLES or not self._pieces:
            self._add(_Piece(sample.now_s, max(self._singles), sample.newest_bytes))


def _quantiles(pieces: list[_Piece], shares: tuple[float, ...]) -> list[float]:
    """Of the rates, weighted by bytes and age."""
    newest_s = pieces[-1].now_s
    ranked = sorted(
        (piece.bytes_per_s, piece.weight * math.exp((piece.now_s - newest_s) / FORGET_S))
        for piece in pieces
    )
    total = sum(weight for _, weight in ranked)
    found = []
    for share in shares:
        left = share * total
        for rate, weight in ranked:
            left -= weight
            if left <= 0:
                found.append(rate)
                break
        else:  # rounding
            found.append(ranked[-1][0])
    return found


def _widened(found: Bandwidth, later_s: float) -> Bandwidth:
    """The same, ``later_s`` later: the older, the less sure."""
    age_s = found.age_s + later_s
    if math.isnan(found.bytes_per_s):
        return found
    stale_s = max(0.0, age_s - FRESH_S) - max(0.0, found.age_s - FRESH_S)
    factor = math.exp(min(WIDER_PER_ROOT_S * math.sqrt(stale_s), math.log(100.0)))
    low = min(found.low_bytes_per_s, found.bytes_per_s * (1 - LEAST_WIDTH))
    high = max(found.high_bytes_per_s, found.bytes_per_s * (1 + LEAST_WIDTH))
    return Bandwidth(found.bytes_per_s, low / factor, high * factor, age_s)
