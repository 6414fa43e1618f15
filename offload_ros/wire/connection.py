"""One connection between a robot and a server: chunks, credit, acknowledgements, losses.

A state machine without threads, clocks or transport: ``receive`` takes what came, ``next_packet``
gives what is to be published now, ``next_s`` tells when to ask again. The caller passes the steady
time in seconds.

Why credit on top of reliable DDS: measured, a tensor published at once is sent twice, storms on a
link without back-pressure, and blocks ``publish`` for seconds when the link is cut. With no more in
flight than the link holds, none of that happens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
import math
from typing import Protocol

from offload_ros.wire.incoming import Incoming, Reassembly, ReceiveLimits, State
from offload_ros.wire.outgoing import PROTOCOL_PRIORITY, URGENT_PRIORITY, Outgoing, SendQueue
from offload_ros.wire.packet import (
    Ack,
    Kind,
    Packet,
    header_of,
    join,
    pack_ack,
    unpack,
    unpack_ack,
)
from offload_ros.wire.received import ReceivedNumbers
from offload_ros.wire.tensors import WireError
from offload_ros.wire.window import AckSample, Credit, InFlight, SentPacket

REORDERED = 3  # a packet is lost when one sent so many later has arrived,
REORDERED_S = 0.05  # or one sent so much later (RFC 9002, section 6.1)
PROBE_S, MAX_PROBE_S = 0.5, 2.0  # without any acknowledgement, the oldest packet is sent again
ACK_DELAY_S = 0.004  # an acknowledgement may wait so long for others to go with it
ACK_AT_ONCE_BYTES = 4096  # packets of so many need credit
MAX_REFUSALS = 64  # that wait to be told to a peer


class SealLike(Protocol):
    """Encrypts and authenticates one direction (``wire.seal``)."""

    def seal(self, header: bytes, number: int, payload: bytes) -> bytes: ...

    def open(self, header: bytes, number: int, sealed: memoryview) -> bytes: ...


@dataclass
class Counters:
    """Since the connection was opened."""

    packets_out: int = 0
    packets_in: int = 0
    bytes_out: int = 0
    bytes_in: int = 0
    lost: int = 0
    bad: int = 0  # not understood or not authentic
    doubled: int = 0


class Connection:
    """Both directions with one peer. Not safe between threads (``wire.channel`` adds that)."""

    def __init__(
        self,
        limits: ReceiveLimits | None = None,
        credit: Credit | None = None,
        seal_out: SealLike | None = None,
        seal_in: SealLike | None = None,
        on_sample: Callable[[AckSample], None] | None = None,
        salts: tuple[int, int] = (0, 0),
    ) -> None:
        self.credit = credit or Credit()
        self.counters = Counters()
        self.reassembly = Reassembly(limits or ReceiveLimits())
        self._arrivals: list[Incoming] = []
        self._seal_out, self._seal_in = seal_out, seal_in
        self._on_sample = on_sample
        self._salt_out, self._salt_in = salts
        self._queue = SendQueue()
        self._next_number = 0
        self._in_flight = InFlight()
        self._probe_s, self._probes = math.inf, 0
        self._probing = False  # the next packet may exceed the credit
        self._pings = 0
        self._received = ReceivedNumbers()
        self._ack_s = math.inf  # when what came must be acknowledged
        self._unacknowledged = 0  # large packets
        self._more_to_come = False  # of the transfer that the last packet is of
        self._arrived_ns = 0
        self.active_s = -math.inf  # when something came last

    # Sending

    def send(self, transfer: Outgoing) -> None:
        """Queue a transfer; ``ValueError`` when one of this key is under way."""
        self._queue.add(transfer)

    def cancel(self, key: int, why: str = 'cancelled') -> bool:
        """Send no more of an outgoing transfer; False when it is not under way."""
        transfer = self._queue.get(key)
        if transfer is not None:
            self._stop(transfer, State.CANCELLED, why)
        return transfer is not None

    def refuse(self, key: int, why: str) -> None:
        """Receive no more of an incoming transfer, and tell the peer."""
        self.reassembly.end(key, State.REFUSED, why)
        self._control(Kind.REFUSE, key, why)

    def ping(self) -> None:
        """Measure the round trip with the next packet."""
        self._pings = min(self._pings + 1, 4)

    def has_credit_for(self, size: int) -> bool:
        """Whether a transfer of ``size`` bytes would leave now, as one packet."""
        room = self.credit.window_bytes() - self._in_flight.size
        return size <= min(room, self.credit.chunk_bytes()) and not self._queue.waits()

    @property
    def idle(self) -> bool:
        """Nothing is in flight nor waits."""
        return not self._in_flight and not self._queue.active() and not self._pings

    @property
    def in_flight_bytes(self) -> int:
        """Sent and not yet acknowledged."""
        return self._in_flight.size

    def next_packet(self, now_s: float) -> bytes | None:
        """What to publish now, or None."""
        self._keep_time(now_s)
        # A refusal goes before the acknowledgement of what is refused.
        if now_s >= self._ack_s and self._queue.first(PROTOCOL_PRIORITY) is None:
            return self._acknowledge(now_s)
        if self._pings:
            self._pings -= 1
            return self._publish(Packet(self._number(), kind=Kind.PING), None, (), now_s, 0)
        full = self._in_flight.size >= self.credit.window_bytes() and not self._probing
        # What controls other transfers is small, and must not wait for their credit.
        transfer = self._queue.first(URGENT_PRIORITY if full else 0)
        if transfer is None:
            return None
        self._probing = False
        offset, length = transfer.next_chunk(self.credit.chunk_bytes())
        packet = Packet(
            self._number(),
            transfer.key,
            offset,
            transfer.total,
            transfer.budget_ms(now_s) if transfer.kind == Kind.DATA else 0,
            transfer.kind,
            transfer.priority,
        )
        pieces = tuple(transfer.pieces(offset, length))
        return self._publish(packet, transfer, pieces, now_s, length)

    def next_s(self) -> float:
        """When ``next_packet`` must be asked again although nothing happens."""
        return min(
            self._ack_s,
            self._probe_s,
            self._queue.next_deadline_s(),
            self.reassembly.next_expiry_s(),
        )

    def wanted_s(self) -> float:
        """When ``next_packet`` has something; long past: now."""
        full = self._in_flight.size >= self.credit.window_bytes()
        if self._pings or self._queue.waits(URGENT_PRIORITY if full else 0):
            return -math.inf
        return self.next_s()

    # Receiving

    def receive(self, received: bytes, now_s: float) -> None:
        """Take up one packet, whatever it is; a bad one is counted and changes nothing."""
        try:
            header, packet = unpack(received, self._salt_in)
            # Before its number is believed: it must be the peer's.
            if self._seal_in is not None:
                opened = self._seal_in.open(header, packet.number, packet.data)  # type: ignore[arg-type]
                packet = packet._replace(data=opened)
            kind = Kind(packet.kind)
            ack = unpack_ack(packet.data) if kind == Kind.ACK else None
            if ack is not None and ack.ranges[-1][0] >= self._next_number:
                raise WireError('an acknowledgement of what was not sent')
        except ValueError:  # WireError, SealError, an unknown kind
            self.counters.bad += 1
            return
        if packet.number in self._received:
            self.counters.doubled += 1
            if kind != Kind.ACK:
                self._ack_s = min(self._ack_s, now_s)  # the acknowledgement may have been lost
            return
        self.counters.packets_in += 1
        self.counters.bytes_in += len(received)
        self._arrived_ns = round(now_s * 1e9)
        self.active_s = now_s
        self._more_to_come = False
        if kind == Kind.DATA and not self._on_data(packet, now_s):
            return  # not acknowledged: the sender must not take it for delivered
        self._received.add(packet.number)
        if ack is not None:
            self._on_ack(ack, now_s)
            return
        # What waits for credit must hear at once. The last piece of a transfer must not: writing
        # the acknowledgement would hold up those who now compute with it.
        self._unacknowledged += len(received) >= ACK_AT_ONCE_BYTES
        at_once = self._more_to_come or self._unacknowledged > 1 or kind == Kind.PING
        self._ack_s = min(self._ack_s, now_s if at_once else now_s + ACK_DELAY_S)
        if kind == Kind.CANCEL:
            why = 'the sender cancelled it' + _text(packet.data)
            self.reassembly.end(packet.key, State.CANCELLED, why)
        elif kind == Kind.REFUSE:
            self._on_refusal(packet.key, 'the receiver refused it' + _text(packet.data), now_s)

    def take_news(self) -> tuple[list[Incoming], list[Callable[[], None]]]:
        """Transfers that began to arrive, and what is to be called because some ended: by a caller
        who holds no lock, as it may send."""
        arrivals, self._arrivals = self._arrivals, []
        to_tell, self.reassembly.to_tell = self.reassembly.to_tell, []
        self.reassembly.ended_early = False
        return arrivals, to_tell

    @property
    def has_news(self) -> bool:
        """Whether ``take_news`` has something."""
        reassembly = self.reassembly
        return bool(self._arrivals or reassembly.to_tell or reassembly.ended_early)

    def close(self, why: str) -> None:
        """The peer is gone: all transfers end."""
        for transfer in self._queue.active():
            self._end(transfer, State.LOST, why)
        self._in_flight = InFlight()
        self._pings = 0
        self._probe_s = self._ack_s = math.inf
        self.reassembly.close(why)

    def _on_data(self, packet: Packet, now_s: float) -> bool:
        """False when its transfer is refused."""
        try:
            transfer, new = self.reassembly.data(packet, now_s)
        except WireError as error:
            self._control(Kind.REFUSE, packet.key, str(error))
            return False
        if new and transfer is not None:
            self._arrivals.append(transfer)
        large = len(packet.data) >= ACK_AT_ONCE_BYTES
        self._more_to_come = large and transfer is not None and transfer.contiguous < transfer.total
        return True

    def _on_refusal(self, key: int, why: str, now_s: float) -> None:
        transfer = self._queue.get(key)
        if transfer is not None:
            self._end(transfer, State.REFUSED, why)
        # The receiver acknowledges no more of it.
        self._in_flight.forget(key)
        if not self._in_flight:
            self._set_probe(now_s)

    def _on_ack(self, ack: Ack, now_s: float) -> None:
        # Numbers from the next one on were not sent: somebody else made the receiver believe them.
        largest = next(
            min(last, self._next_number - 1)
            for first, last in ack.ranges
            if first < self._next_number
        )
        before_bytes = self._in_flight.size
        acknowledged, newest = self._in_flight.acknowledged(ack.ranges)
        acked_bytes = before_bytes - self._in_flight.size
        for sent in acknowledged:
            if sent.transfer is not None and sent.transfer.acknowledged(sent.offset):
                self._end(sent.transfer, State.DONE)
        sent_before_s = -math.inf if newest is None else newest.sent_s - REORDERED_S
        for number in self._in_flight.older_than(largest - REORDERED, sent_before_s):
            self._declare_lost(number)
        if newest is not None:
            self._probes = 0
            sample = AckSample(
                now_s=now_s,
                sent_s=newest.sent_s,
                round_trip_s=now_s - newest.sent_s if newest.number == largest else math.nan,
                held_s=max(0.0, (ack.sent_ns - ack.arrived_ns) / 1e9),
                acked_bytes=acked_bytes,
                arrived_s=ack.arrived_ns / 1e9,
                delivered_bytes=ack.delivered_bytes,
                newest_bytes=newest.size,
                after_idle=newest.first,
                more=bool(self._in_flight),
            )
            self.credit.on_ack(sample)
            if self._on_sample is not None:
                self._on_sample(sample)
        if newest is not None or not self._in_flight:
            self._set_probe(now_s)

    def _declare_lost(self, number: int) -> None:
        sent = self._in_flight.lose(number)
        self.counters.lost += 1
        if sent.transfer is not None:
            sent.transfer.lost(sent.offset, sent.length)

    def _keep_time(self, now_s: float) -> None:
        for transfer in self._queue.expired(now_s):
            self._stop(transfer, State.EXPIRED, 'its deadline has passed')
        self.reassembly.expire(now_s)
        if now_s >= self._probe_s and self._in_flight:
            self._declare_lost(self._in_flight.oldest())
            while self._in_flight and not self._queue.waits():  # of what has ended: nothing to send
                self._declare_lost(self._in_flight.oldest())
            self._probing = True
            self._probes = min(self._probes + 1, 8)
            self._set_probe(now_s)

    def _set_probe(self, now_s: float) -> None:
        if not self._in_flight:
            self._probe_s = math.inf
            return
        wait_s = max(PROBE_S, 4.0 * self.credit.round_trip_s)
        self._probe_s = now_s + min(wait_s * 2**self._probes, max(MAX_PROBE_S, wait_s))

    def _acknowledge(self, now_s: float) -> bytes:
        self._ack_s, self._unacknowledged = math.inf, 0
        ack = Ack(
            self.counters.bytes_in, self._arrived_ns, round(now_s * 1e9), self._received.ranges()
        )
        packet = Packet(self._number(), kind=Kind.ACK)
        data = pack_ack(ack)
        return self._packed(packet, (data,), len(data))

    def _publish(
        self,
        packet: Packet,
        transfer: Outgoing | None,
        pieces: Sequence[bytes | memoryview],
        now_s: float,
        length: int,
    ) -> bytes:
        """A packet that is to be acknowledged."""
        packed = self._packed(packet, pieces, length)
        first = not self._in_flight
        self._in_flight.add(
            SentPacket(packet.number, transfer, packet.offset, length, len(packed), now_s, first)
        )
        if first or math.isinf(self._probe_s):
            self._set_probe(now_s)
        return packed

    def _packed(self, packet: Packet, pieces: Sequence[bytes | memoryview], length: int) -> bytes:
        if self._seal_out is not None:
            header = header_of(packet, length + SEAL_BYTES, self._salt_out)
            sealed = self._seal_out.seal(header, packet.number, b''.join(pieces))
            packed = join(header, (sealed,))
        else:
            packed = join(header_of(packet, length, self._salt_out), pieces)
        self.counters.packets_out += 1
        self.counters.bytes_out += len(packed)
        return packed

    def _number(self) -> int:
        self._next_number += 1
        return self._next_number - 1

    def _stop(self, transfer: Outgoing, state: State, why: str) -> None:
        begun = transfer.begun and transfer.kind == Kind.DATA
        self._end(transfer, state, why)
        if begun:
            self._control(Kind.CANCEL, transfer.key, why)

    def _end(self, transfer: Outgoing, state: State, why: str = '') -> None:
        self._queue.remove(transfer)
        transfer.end(state, why)
        self.reassembly.to_tell.append(transfer.tell)

    def _control(self, kind: Kind, key: int, why: str) -> None:
        if self._queue.get(key, kind) is not None:
            return
        if kind == Kind.REFUSE:  # a peer can cause any number of these, and asks again
            refusals = sum(each.kind == kind for each in self._queue.active())
            if refusals >= MAX_REFUSALS:
                return
        text = why.encode(errors='replace')[:200]
        self._queue.add(Outgoing(key, [text], PROTOCOL_PRIORITY, kind=kind))


SEAL_BYTES = 16  # of the tag


def _text(data: bytes | memoryview) -> str:
    return ': ' + bytes(data[:200]).decode(errors='replace') if len(data) else ''
