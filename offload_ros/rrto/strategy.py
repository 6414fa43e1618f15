"""Strategy ``rrto``: the robot runs the model's own program, and its operators run on the server.

Nothing of the model is on the server beforehand: its weights travel once, as the operators of a
program that loads them onto its device would.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
import contextlib
import copy
from functools import partial
import gc
import math
import threading
import time
from typing import Any

import torch

from offload_ros.baselines.server import TOLERANCE
from offload_ros.models.errors import InputError, ModelError
from offload_ros.models.model import Model, runtime_description
from offload_ros.policy.goal import Goal
from offload_ros.policy.round_trips import RoundTrips
from offload_ros.rrto.channel_link import ChannelLink
from offload_ros.rrto.client import OperatorClient
from offload_ros.rrto.link import ServerLost
from offload_ros.rrto.outbox import Standby
from offload_ros.rrto.shim import tensor
from offload_ros.rrto.shim.install import install
from offload_ros.strategy import (
    Frame,
    Link,
    LinkState,
    Prediction,
    Result,
    StrategyRefused,
    Unanswered,
    register,
)
from offload_ros.wire.channel import Channel
from offload_ros.wire.client import OffloadClient
from offload_ros.wire.directory import ServerState

NO_SERVER = 'no server is there'
AGAIN_S = 1.0  # after a server refused, it is asked again


class SharedDevice:
    """The one offloaded device of this process, on the channel to one session of one server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._client: OperatorClient | None = None
        self._channel: Channel | None = None
        self._links: dict[Channel, ChannelLink] = {}  # one for each, while it is open
        self._standby: Standby | None = None
        self._opened_s = -math.inf

    def on(self, robot: OffloadClient) -> tuple[OperatorClient, ServerState]:
        """The device, on a server that is there now; ``Unanswered`` when none is."""
        with self._lock:
            servers, wanted = robot.directory.alive(), robot.preferred_server.strip('/')
            if wanted:
                servers = [state for state in servers if state.name.strip('/') == wanted]
            open_ones = [
                (state, channel)
                for state in sorted(servers, key=lambda each: each.queue_length)
                if (channel := robot.channel_to(state.name)) is not None
            ]
            # What is on a server stays there for as long as it can.
            open_ones.sort(key=lambda each: each[1] is not self._channel)
            if not open_ones:
                raise Unanswered(f'server {wanted} is not there' if wanted else NO_SERVER)
            state, channel = open_ones[0]
            return self._on(robot, state.name, channel), state

    def units(self) -> list[str]:
        """Where recorded units run, for the status."""
        return self._standby.lines() if self._standby is not None else []

    def _on(self, robot: OffloadClient, server: str, channel: Channel) -> OperatorClient:
        if self._client is not None and channel is self._channel:
            lost = self._client.answers.lost
            if not lost:
                return self._client
            if time.monotonic() - self._opened_s < AGAIN_S:
                raise Unanswered(lost)
        link = self._links.get(channel)
        try:
            if link is None:
                link = ChannelLink(channel)
            else:
                link.restart()
            self._leave(channel)
        except ServerLost as error:
            raise Unanswered(str(error)) from None
        self._links[channel] = link
        if self._standby is not None:
            self._standby.close()
        self._standby = self._placing(robot, server)
        made = OperatorClient(link, standby=self._standby)
        before, self._client, self._channel = self._client, made, channel
        self._opened_s = time.monotonic()
        if before is None:
            install(self._client)
        else:
            # Whoever still computes with tensors of the session before finds that they are gone.
            self._client.reserve(before.reserve(0))
            tensor.bind(self._client)
        return self._client

    @staticmethod
    def _placing(robot: OffloadClient, server: str) -> Standby | None:
        """When the server is lost, the manager itself computes."""
        if robot.placement == 'server':
            return None
        standby = Standby(None)
        link, channel = partial(robot.link_state, server), partial(robot.channel_to, server)
        standby.place(robot.placement, link, channel)
        return standby

    def _leave(self, channel: Channel) -> None:
        """End the session on another server, if that is still there."""
        self._links = {each: link for each, link in self._links.items() if not link.lost}
        link = self._links.get(self._channel) if self._channel is not None else None
        if link is not None and self._channel is not channel:
            with contextlib.suppress(ServerLost):
                link.restart()


_shared = SharedDevice()


@register('rrto', automatic=True)
class RrtoStrategy:
    """Runs each frame in a thread of its own, which records and replays."""

    def __init__(self) -> None:
        self._round_trips = RoundTrips()
        self._lock = threading.Lock()
        self._running: tuple[int, Future[Any]] | None = None
        self._over = threading.Event()
        self._cancelled_seq = 0
        self._copy: tuple[OperatorClient, Model] | None = None
        self._worker = ThreadPoolExecutor(1, thread_name_prefix='rrto')
        self._closed = False

    def prepare(self, model: Model, link: Link) -> None:
        """See ``Strategy``. Refused where there is a CUDA device already."""
        if model.device.type != 'cpu':
            raise StrategyRefused(
                f"strategy 'rrto' needs a robot that computes on its CPU, model '{model.name}' is "
                f'on {model.device}: use strategy server'
            )
        self._model = model
        self._client = link.client
        self._runtime = runtime_description(str(model.device))

    def predict(self, state: LinkState) -> Prediction:
        """See ``Strategy``; by the last inferences."""
        return self._round_trips.predict(state)

    def usable(self, goal: Goal) -> bool:
        """See ``Strategy``; where servers are, but none that has the model."""
        server, _ = self._client.server_for(self._model)
        return server is None and bool(self._client.directory.alive())

    def run(self, frame: Frame, deadline_s: float) -> Result:
        """See ``Strategy``."""
        with self._lock:
            if self._closed or frame.seq <= self._cancelled_seq:
                raise Unanswered('cancelled')
            if self._running is not None and not self._running[1].done():
                raise Unanswered('the server is still busy with an earlier frame')
            self._over = over = threading.Event()
            job = self._worker.submit(self._infer, frame)
            self._running = (frame.seq, job)
        job.add_done_callback(lambda _: over.set())
        over.wait(max(0.0, deadline_s - time.monotonic()))
        if not job.done():
            cancelled = self._closed or frame.seq <= self._cancelled_seq
            raise Unanswered('cancelled' if cancelled else 'the deadline has passed')
        try:
            result: Result = job.result()
        except ServerLost as error:
            raise Unanswered(str(error)) from None
        except (ModelError, RuntimeError) as error:
            raise Unanswered(f'on the server: {error}') from None
        return result

    def cancel(self, seq: int) -> None:
        """What runs on the server ends by itself; its result is dropped."""
        with self._lock:
            self._cancelled_seq = max(self._cancelled_seq, seq)
            if self._running is not None and self._running[0] <= seq:
                self._over.set()

    def close(self) -> None:
        """Free the model on the server, when what runs there has ended."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._over.set()
            self._worker.submit(self._free)
        self._worker.shutdown(wait=False)

    def _infer(self, frame: Frame) -> Result:
        device, server = _shared.on(self._client)
        begin_s = time.monotonic()
        model = self._model_on(device)
        here, statistics = device.recording_here(), device.statistics
        up, down, blocking = statistics.bytes_up, device.answers.bytes, statistics.blocking
        replays, aborts = here.replays, here.aborts
        try:
            outputs = model.run(frame.inputs)
        except InputError as error:
            raise Unanswered(str(error)) from None
        except ModelError as error:
            if isinstance(error.__cause__, ServerLost):
                raise error.__cause__ from None
            raise
        device.flush()
        took_s = time.monotonic() - begin_s
        up, down = statistics.bytes_up - up, device.answers.bytes - down
        link = self._client.link_state(server.name)
        on_link_s = up / link.up_bytes_per_s + down / link.down_bytes_per_s + link.round_trip_s
        # Where the link is not known, all of it may have been the link's.
        served_s = max(0.0, took_s - on_link_s) if math.isfinite(on_link_s) else 0.0
        self._round_trips.add(took_s, served_s, served_s, up, down)
        how = 'replayed' if here.replays > replays else 'operator by operator'
        sizes = here.unit_sizes()
        operators = f' of {", ".join(map(str, sizes))} operators' if sizes else ''
        exact = server.runtime == self._runtime
        return Result(
            outputs,
            plan=f'server {server.name}, mode {device.mode}: {how}, {len(sizes)} units{operators}, '
            f'{statistics.blocking - blocking} RPCs, {up} bytes up, {down} down, '
            f'{here.aborts - aborts} aborts ({here.aborts} in all)'
            + ''.join(f'; {line}' for line in _shared.units()),
            exact=exact,
            tolerance=0.0 if exact else TOLERANCE,
            server_s=took_s,
            bytes_up=up,
            bytes_down=down,
        )

    def _model_on(self, device: OperatorClient) -> Model:
        """The model with its weights on the server; they travel when it is another session."""
        if self._copy is None or self._copy[0] is not device:
            self._copy = None
            model = self._model
            network = copy.deepcopy(model.network)
            with torch.inference_mode(False):
                made = Model(
                    model.config, network, model.hash, model.weights_trained, 'cuda', model.remark
                )
            self._copy = (device, made)
        return self._copy[1]

    def _free(self) -> None:
        if self._copy is None:
            return
        device, self._copy = self._copy[0], None
        gc.collect()  # modules refer to each other
        with contextlib.suppress(ServerLost), device.lock:
            device.recording_here().interrupt()  # what the last replay needs is kept until then
            device.flush()
