"""The robot's part of one inference: computes its own nodes while values come and go."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
import time
from typing import Any

import torch

from offload_ros.cuts.cut import Cut, run_segment
from offload_ros.cuts.errors import CutFailed
from offload_ros.cuts.messages import Answered
from offload_ros.cuts.robot_side import RobotSide, Send
from offload_ros.cuts.values import size_refusal, value_from_bytes, value_to_buffers
from offload_ros.graph.execute import Executor
from offload_ros.graph.graph import Input, Reference
from offload_ros.graph.stopwatch import Stopwatch
from offload_ros.intra_dp.run_timeline import Event, Kind, events_from_bytes, events_of_nodes
from offload_ros.robot.lane import DeviceLane
from offload_ros.wire.codecs import RAW
from offload_ros.wire.errors import WireError
from offload_ros.wire.incoming import Incoming, State


class RobotRun(RobotSide):
    """Of a layer cut. ``codecs``: by value, how it is coded where it goes to the server.
    ``recorded``: keep what happened when, as ``events``."""

    def __init__(
        self,
        cut: Cut,
        executor: Executor,
        lane: DeviceLane,
        send: Send,
        codecs: Mapping[Reference, int] | None = None,
        recorded: bool = False,
    ) -> None:
        super().__init__(lane, send)
        self.events: list[Event] = []
        self.server_events: tuple[Event, ...] = ()
        self._began_s = time.monotonic()
        self._watch = Stopwatch(executor.device) if recorded else None
        self.cut = cut
        self._executor = executor
        self._codecs = codecs or {}
        self._held: dict[Reference, torch.Tensor] = {}
        self._answer: Answered | None = None

    def work(self, inputs: Mapping[str, torch.Tensor], deadline_s: float) -> dict[str, Any]:
        """The outputs; ``CutFailed`` when the run was ended, or at ``deadline_s``."""
        graph = self.cut.graph
        with self._changed:
            self._held.update({Input(name): tensor for name, tensor in inputs.items()})
        for number, segment in enumerate(self.cut.robot):
            self._until(partial(self._holds, segment.waits), deadline_s)
            if segment.nodes:
                run = partial(run_segment, self._executor, segment, dict(self._held), self._watch)
                made = self._computed(number, run, deadline_s)
                with self._changed:
                    self._held.update(made)
            for reference in segment.sends:
                self._give(reference)
            with self._changed:
                for reference in segment.drops:
                    self._held.pop(reference, None)
        results = self._executor.run(self._held, (), graph.outputs.values())
        return {name: results[reference] for name, reference in graph.outputs.items()}

    def answered(self, answer: Answered) -> None:
        """See ``RobotSide``."""
        super().answered(answer)
        with self._changed:
            self._answer = answer
            self._changed.notify_all()

    def node_s(self, deadline_s: float) -> dict[int, float]:
        """Seconds of the server's nodes in a timed run, when it has told them; ``CutFailed``. All
        that it told is then in ``server_events``."""
        self._until(lambda: self._answer is not None, deadline_s)
        assert self._answer is not None
        try:
            self.server_events = events_from_bytes(self._answer.data)
        except WireError as error:
            raise CutFailed(f'the server sent bad times: {error}') from None
        nodes = [each for each in self.server_events if each.kind is Kind.NODE]
        return {each.number: each.stop_s - each.start_s for each in nodes}

    def refusal(self, place: int, total: int) -> str:
        """Why a value of this place and size is not taken; empty when it is."""
        if not len(self.cut.up) <= place < len(self.cut.crossings):
            return 'it does not come from the server'
        return size_refusal(self.cut.graph.spec_of(self.cut.crossings[place]), total)

    def take(self, place: int, incoming: Incoming) -> None:
        """A value of the server has ended."""
        reference = self.cut.crossings[place]
        if incoming.state is not State.DONE:
            self.end(f'a value of the server did not arrive: {incoming.why}')
            return
        try:
            tensor = value_from_bytes(self.cut.graph.spec_of(reference), incoming.buffer)
        except WireError as error:
            self.end(f'the server sent a bad value: {error}')
            return
        with self._changed:
            self._held[reference] = tensor
            self.bytes_down += incoming.total
            self._note(Kind.RECEIVE, place)
            self._changed.notify_all()

    def _holds(self, references: Collection[Reference]) -> bool:
        return all(each in self._held for each in references)

    def _give(self, reference: Reference) -> None:
        self._note(Kind.SEND, self.cut.places[reference])
        spec, codec = self.cut.graph.spec_of(reference), self._codecs.get(reference, RAW)
        buffers = value_to_buffers(spec, self._held[reference], codec)
        self.bytes_up += sum(map(len, buffers))
        self._send(self.cut.places[reference], buffers, self._on_sent)

    def _note(self, kind: Kind, place: int) -> None:
        if self._watch is not None:
            now_s = time.monotonic() - self._began_s
            self.events.append(Event(kind, place, now_s, now_s))

    def _computed(self, number: int, compute: Callable[[], Any], deadline_s: float) -> Any:
        job = self._submit(compute)
        self._finished(job, deadline_s)
        if job.error is not None:
            raise CutFailed(f'on the robot: {type(job.error).__name__}: {job.error}')
        if self._watch is not None and job.started_s is not None:
            start_s = job.started_s - self._began_s
            self.events.append(Event(Kind.COMPUTE, number, start_s, start_s + job.duration_s))
            self.events += events_of_nodes(start_s, self._watch.take())
        return job.value
