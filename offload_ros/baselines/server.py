"""Server-only: inputs go to one server whole, outputs come back whole."""

from __future__ import annotations

from pathlib import Path
import threading
from typing import NamedTuple

from offload_ros.cuts.whole_record import WholeRecorder
from offload_ros.models.model import Model
from offload_ros.policy.goal import Goal
from offload_ros.policy.round_trips import RoundTrips
from offload_ros.strategy import Frame, Link, LinkState, Prediction, Result, Unanswered, register
from offload_ros.wire.client import NoReply
from offload_ros.wire.directory import HeldModel, ServerState
from offload_ros.wire.exchange import Status

# Agreed with the package's equality tests: unequal versions or instruction sets, and batches, order
# sums differently.
TOLERANCE = 1e-4


class ServedVariant(NamedTuple):
    """Another variant of the model, which a server holds, and its outputs by name."""

    held: HeldModel
    outputs: tuple[str, ...]


@register('server', automatic=True)
class ServerStrategy:
    """Sends each frame's inputs, in the sensor's own dtype, to the least loaded server that has
    the model."""

    def __init__(self) -> None:
        self._round_trips = RoundTrips()
        self._lock = threading.Lock()
        self._running: dict[int, int] = {}  # frame seq -> request number
        self._cancelled_seq = 0  # a cancel may come before the request has its number
        self._closed = False

    def prepare(self, model: Model, link: Link) -> None:
        # Deferred: the model's runtime never changes, but describing it asks torch.
        from offload_ros.models.model import runtime_description

        self._model = model
        self._client = link.client
        self._recorder = WholeRecorder(model)
        self._runtime = runtime_description(str(model.device))

    def predict(self, state: LinkState) -> Prediction:
        """See ``Strategy``; by the last inferences."""
        return self._round_trips.predict(state)

    def usable(self, goal: Goal) -> bool:
        """See ``Strategy``; while a server is there that has the model."""
        return self._client.server_for(self._model)[0] is not None

    def run(self, frame: Frame, deadline_s: float) -> Result:
        server, why = self._client.server_for(self._model)
        if server is None:
            raise Unanswered(why)
        return self.ask(server, frame, deadline_s)

    def ask(
        self,
        server: ServerState,
        frame: Frame,
        deadline_s: float,
        served: ServedVariant | None = None,
    ) -> Result:
        """One frame to this server, for the model or another variant of it; as ``run``."""
        try:
            reply, round_trip_s, bytes_up = self._client.call(
                server,
                self._model,
                frame,
                deadline_s,
                started=lambda number: self._started(frame.seq, number),
                model_hash=served.held.hash if served else '',
            )
        except NoReply as error:
            raise Unanswered(str(error)) from None
        finally:
            with self._lock:
                self._running.pop(frame.seq, None)
        if reply.status != Status.OK:
            raise Unanswered(f'server {server.name}: {reply.detail}')
        wanted = served.outputs if served else self._model.config.outputs
        if set(reply.outputs) != set(wanted):
            raise Unanswered(f'server {server.name} answered with outputs {sorted(reply.outputs)}')
        bytes_down = reply.tensor_bytes
        self._round_trips.add(round_trip_s, reply.server_s, reply.compute_s, bytes_up, bytes_down)
        # Two machines' clocks are never compared: what the server did not spend was the link's.
        link_s = max(0.0, round_trip_s - reply.server_s)
        state = self._client.link_state(server.name)
        up_share = uplink_share(state, bytes_up, bytes_down)
        exact = server.runtime == self._runtime and not reply.batched_with
        batch = f', in a batch of {reply.batched_with + 1}' if reply.batched_with else ''
        result = Result(
            reply.outputs,
            plan=f'server {server.name}{batch}',
            exact=exact,
            tolerance=0.0 if exact else TOLERANCE,
            uplink_s=link_s * up_share,
            server_s=reply.server_s,
            downlink_s=link_s * (1.0 - up_share),
            bytes_up=bytes_up,
            bytes_down=bytes_down,
        )
        if served is None:
            self._recorder.on_server(frame.inputs, state, round_trip_s, result)
        return result

    def record(self, path: Path) -> None:
        """Write what happens when in the next inference to ``path``."""
        self._recorder.ask(path)

    def cancel(self, seq: int) -> None:
        with self._lock:
            self._cancelled_seq = max(self._cancelled_seq, seq)
            number = self._running.get(seq)
        if number is not None:
            self._client.cancel(number)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            numbers = list(self._running.values())
        for number in numbers:
            self._client.cancel(number, 'the strategy was closed')

    def _started(self, seq: int, number: int) -> None:
        with self._lock:
            self._running[seq] = number
            cancelled, closed = seq <= self._cancelled_seq, self._closed
        if closed:
            self._client.cancel(number, 'the strategy was closed')
        elif cancelled:
            self._client.cancel(number)


def uplink_share(link: LinkState, bytes_up: int, bytes_down: int) -> float:
    """Share of the link's time that was spent on the way up, 0 to 1.

    By what each way takes on the link as it was measured; by bytes alone until that is known.
    """
    up, down = float(bytes_up), float(bytes_down)
    if link.up_bytes_per_s > 0.0 and link.down_bytes_per_s > 0.0 and link.round_trip_s >= 0.0:
        up = 0.5 * link.round_trip_s + up / link.up_bytes_per_s
        down = 0.5 * link.round_trip_s + down / link.down_bytes_per_s
    return up / (up + down) if up + down else 0.5
