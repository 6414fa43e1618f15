"""What two link monitors say to each other over their channel, and the probes of an idle link."""

from __future__ import annotations

from itertools import count
import logging

from offload_ros.wire.channel import Channel, key_of
from offload_ros.wire.errors import WireError
from offload_ros.wire.exchange import PROBES, REPORTS
from offload_ros.wire.incoming import Incoming, State
from offload_ros.wire.link_monitor import LinkEstimate, LinkMonitor
from offload_ros.wire.outgoing import URGENT_PRIORITY

TICK_S = 0.5


class LinkExchange:
    """Both ends of a channel have one, and call ``tick`` each ``TICK_S``."""

    def __init__(self, channel: Channel, monitor: LinkMonitor) -> None:
        self.monitor = monitor
        self._channel = channel
        self._numbers = count()
        channel.listen(PROBES, lambda probe: None)  # it has done its work by arriving
        channel.listen(REPORTS, lambda report: report.when_ended(self._on_report))

    def state(self) -> LinkEstimate:
        """The link now."""
        return self.monitor.state(self._channel.in_flight_bytes)

    def tick(self) -> None:
        """Report to the peer; send a probe when the link has been idle for long.

        The report is small, so its acknowledgement tells the round trip.
        """
        in_flight_bytes = self._channel.in_flight_bytes
        size = 0 if in_flight_bytes else self.monitor.wants_probe()
        report = self.monitor.report(in_flight_bytes)
        self._channel.send(key_of(REPORTS, next(self._numbers)), report, URGENT_PRIORITY)
        if size:
            self._channel.send(key_of(PROBES, next(self._numbers)), bytes(size), priority=0)

    def _on_report(self, report: Incoming) -> None:
        if report.state is State.DONE:
            try:
                self.monitor.on_report(report.buffer.data)
            except WireError as error:
                logging.getLogger(__name__).warning('the peer sent %s', error)
