"""The robot's side of layer cuts on one channel: opens graphs, runs cuts, ends what must end."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
import itertools
import math
import threading
import time
from typing import Any, TypeVar
import weakref

import torch

from offload_ros.cuts.cut import Cut
from offload_ros.cuts.errors import CutFailed
from offload_ros.cuts.local_graph import LocalGraph
from offload_ros.cuts.measure import MessageCosts, measure_graph
from offload_ros.cuts.messages import (
    MAX_MESSAGE_BYTES,
    NUMBERS,
    PART_BYTES,
    PRIORITY,
    Answer,
    Answered,
    Ask,
    Asked,
    answered_from_bytes,
    asked_to_buffers,
    value_key,
)
from offload_ros.cuts.ran import Ran
from offload_ros.cuts.robot_run import RobotRun
from offload_ros.cuts.robot_side import Send
from offload_ros.cuts.sender import ValueSender
from offload_ros.graph.profile import ids_as_ranges
from offload_ros.graph.profile_store import MeasuredProfile
from offload_ros.graph.profiling import Progress
from offload_ros.intra_dp.lower import Work
from offload_ros.intra_dp.lower_steps import steps_bytes
from offload_ros.intra_dp.run_late import PATIENT, Patience
from offload_ros.intra_dp.run_robot import SplitRun
from offload_ros.intra_dp.run_timeline import joined
from offload_ros.robot.lane import DeviceLane
from offload_ros.wire.channel import Channel, key_of, number_of
from offload_ros.wire.errors import WireError
from offload_ros.wire.exchange import GRAPHS, VALUES
from offload_ros.wire.incoming import Incoming, State
from offload_ros.wire.outgoing import Outgoing

__all__ = ['OPEN_S', 'GraphLink', 'LocalGraph', 'Ran', 'link_on']
_Run = TypeVar('_Run', RobotRun, SplitRun)
REMEMBERED = 64
ANSWER_S = 0.5  # what the server says of a run whose outputs are there already
OPEN_S = 120.0  # a server may have to capture its model; large weights travel part by part
PARTS_UNDER_WAY = 2


class GraphLink:
    """Of one channel; safe between threads. ``link_on`` gives the one that it has."""

    def __init__(self, channel: Channel) -> None:
        # The channel holds this object by its listeners; the other way it would live for ever.
        self._channel: Any = weakref.proxy(channel)
        self._sender = ValueSender(self._channel)
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, _Waiting] = {}
        self._runs: dict[int, RobotRun | SplitRun] = {}
        self._plans: set[tuple[str, str]] = set()  # graph and plan that the server has
        self._ran_by: OrderedDict[int, tuple[str, str]] = OrderedDict()  # the last runs' plans
        self._lost = ''
        channel.listen(GRAPHS, self._on_message)
        channel.listen(VALUES, self._on_value)
        channel.when_closed(self._lose)

    def open(self, local: LocalGraph, timeout_s: float = OPEN_S) -> bool:
        """Make ``local`` usable on the server; whether it had to be sent. ``CutFailed``.

        May take as long as the weights need on the link."""
        with self._opening:  # a server takes one upload of a robot at a time
            end_s = time.monotonic() + timeout_s
            graph, parameters = local.files()
            asked = Asked(
                Ask.OPEN, local.key, len(graph), len(parameters), local.model, local.model_hash,
                inputs=local.inputs,
            )  # fmt: skip
            answer = self.ask(asked, end_s)
            sent = answer.answer is Answer.SEND
            if sent:
                self._upload(local.key, (graph, parameters))
                answer = self.ask(Asked(Ask.FINISH, local.key), time.monotonic() + timeout_s)
            if answer.answer is not Answer.READY:
                raise CutFailed(answer.why or f'the server answers {answer.answer.name}')
            return sent

    def release(self, key: str) -> None:
        """The graph is not needed any more, nor are its plans."""
        with self._lock:
            self._plans = {each for each in self._plans if each[0] != key}
        if not self._lost:
            self._send(next(self._numbers), Asked(Ask.RELEASE, key))

    def open_plan(self, local: LocalGraph, work: Work, timeout_s: float = OPEN_S) -> None:
        """Make ``work`` usable on the server, once; the graph is open. ``CutFailed``.

        A server keeps the last plans of a robot: what it forgot is opened again at its next run.
        """
        if (local.key, work.key) in self._plans:
            return
        asked = Asked(
            Ask.PLAN, local.key, plan=work.key, robot_steps=len(work.steps.robot),
            data=memoryview(steps_bytes(work.steps)),
        )  # fmt: skip
        answer = self.ask(asked, time.monotonic() + timeout_s)
        if answer.answer is not Answer.READY:
            raise CutFailed(answer.why or f'the server answers {answer.answer.name}')
        with self._lock:
            self._plans.add((local.key, work.key))

    def measure(
        self,
        local: LocalGraph,
        inputs: Mapping[str, torch.Tensor],
        lane: DeviceLane,
        repeats: int = 5,
        progress: Progress = lambda *_: None,
        message_costs: MessageCosts = lambda count: {},
    ) -> MeasuredProfile:
        """What ``local`` takes here and on the server; see ``measure.measure_graph``."""
        return measure_graph(self, local, inputs, lane, repeats, progress, message_costs)

    def run(
        self,
        local: LocalGraph,
        cut: Cut,
        inputs: Mapping[str, torch.Tensor],
        lane: DeviceLane,
        deadline_s: float = math.inf,
        began: Callable[[RobotRun], None] = lambda run: None,
        codecs: Mapping[int, int] | None = None,
        timed: bool = False,
        timeline: bool = False,
    ) -> Ran:
        """One inference of an open graph; ``CutFailed``, at the latest at ``deadline_s``.

        ``began`` gets the run, which any thread may ``end``. ``codecs``: how the output of an
        operator (or of an input: -1, -2, ...) is coded where it crosses
        (``value_codecs.VALUE_CODECS``). ``timed``: the server tells how long each of its nodes
        took, and the result waits for that. ``timeline``: record what happened when.
        """
        number, own = next(self._numbers), codecs or {}
        ids = {each: local.rows.id_of(each) for each in cut.up} if own else {}
        used = {each: own[id] for each, id in ids.items() if id in own}
        giver = self._giver(number, deadline_s)
        run = RobotRun(cut, local.executor, lane, giver, used, timeline)
        ranges = tuple((first, last) for first, last in ids_as_ranges(sorted(cut.on_server)))
        asked = Asked(
            Ask.RUN, local.key, nodes=ranges, codecs=tuple(own.items()),
            timeline=timed or timeline,
        )  # fmt: skip
        ran = self._ran(number, run, asked, inputs, deadline_s, began)
        if not asked.timeline:
            return ran
        try:
            node_s = run.node_s(deadline_s if timed else time.monotonic() + ANSWER_S)
        except CutFailed:
            if timed:
                raise
            node_s = {}  # the robot's own times are there
        finally:
            self._forget(number)
        found = joined(run.events, run.server_events) if timeline else None
        return replace(ran, server_s=run.server_s, node_s=node_s, timeline=found)

    def run_split(
        self,
        local: LocalGraph,
        work: Work,
        inputs: Mapping[str, torch.Tensor],
        lane: DeviceLane,
        deadline_s: float = math.inf,
        patience: Patience = PATIENT,
        began: Callable[[SplitRun], None] = lambda run: None,
        codecs: Mapping[int, int] | None = None,
        timeline: bool = False,
    ) -> Ran:
        """One inference by the steps of a plan (``local.lower``); see ``run``.

        The plan is opened first where that was not done before (``open_plan``): a round trip. Where
        pieces are late (``patience``), or the server fails or is lost during the run, the robot
        computes what is missing; see ``Ran.completed_locally``. ``timeline``: record what happened
        when. ``CutFailed`` when the run is ended, or is not over at ``deadline_s``, or the plan
        cannot be opened.
        """
        began_s = time.monotonic()
        self.open_plan(local, work, min(OPEN_S, deadline_s - began_s))
        number = next(self._numbers)
        giver = self._giver(number, deadline_s)
        run = SplitRun(work, local.executor, lane, giver, patience, codecs, timeline)
        asked = Asked(
            Ask.RUN, local.key, plan=work.key, codecs=tuple((codecs or {}).items()),
            timeline=timeline,
        )  # fmt: skip
        ran = self._ran(number, run, asked, inputs, deadline_s, began)
        found = None
        if timeline:
            if not run.why_local:
                run.wait_for_answer(ANSWER_S)
            self._forget(number)
            found = joined(run.events, run.server_events)
        return replace(
            ran, server_s=run.server_s, completed_locally=run.completed, why_local=run.why_local,
            timeline=found,
        )  # fmt: skip

    def _giver(self, number: int, deadline_s: float) -> Send:
        return lambda place, buffers, failed: self._sender.send(
            value_key(number, place), buffers, deadline_s, failed
        )

    def _ran(
        self,
        number: int,
        run: _Run,
        asked: Asked,
        inputs: Mapping[str, torch.Tensor],
        deadline_s: float,
        began: Callable[[_Run], None],
    ) -> Ran:
        began_s = time.monotonic()
        with self._lock:
            if self._lost:
                raise CutFailed(self._lost)
            self._runs[number] = run
            self._ran_by[number] = (asked.graph, asked.plan)
            if len(self._ran_by) > REMEMBERED:
                self._ran_by.popitem(last=False)
        finished = False
        try:
            began(run)
            budget_s = 0.0 if math.isinf(deadline_s) else max(0.001, deadline_s - began_s)
            self._send(number, replace(asked, budget_s=budget_s))
            outputs = run.work(inputs, deadline_s)
            total_s = time.monotonic() - began_s
            finished = not (isinstance(run, SplitRun) and run.why_local)
        finally:
            if not finished:
                self._withdraw(number)
            if not (finished and asked.timeline):  # else its last answer is waited for
                self._forget(number)
        return Ran(outputs, total_s, run.compute_s, run.server_s, run.bytes_up, run.bytes_down)

    def _forget(self, number: int) -> None:
        with self._lock:
            self._runs.pop(number, None)

    def _withdraw(self, number: int) -> None:
        """The server need not compute any more."""
        why = 'the run was given up'
        self._sender.withdraw(value_key(number, 0), value_key(number, 0xFFFF), why)
        if not self._lost:
            self._send(next(self._numbers), Asked(Ask.CANCEL, run=number))

    def _upload(self, key: str, files: tuple[bytes, bytes]) -> None:
        under_way: list[Outgoing] = []
        for asked in _parts(key, files):
            if len(under_way) >= PARTS_UNDER_WAY:
                self._arrived(under_way.pop(0))
            under_way.append(self._send(next(self._numbers), asked))
        for sent in under_way:
            self._arrived(sent)

    @staticmethod
    def _arrived(sent: Outgoing) -> None:
        try:
            sent.wait()  # it ends with the channel at the latest
        except Exception as error:
            raise CutFailed(f'a message did not reach the server: {error}') from None

    def tell(self, asked: Asked) -> None:
        """A message that is not answered, until it has arrived; ``CutFailed``."""
        self._arrived(self._send(next(self._numbers), asked))

    def ask(self, asked: Asked, end_s: float) -> Answered:
        """The answer; ``CutFailed`` when none comes by ``end_s`` (steady clock)."""
        number, waiting = next(self._numbers), _Waiting()
        with self._lock:
            if self._lost:
                raise CutFailed(self._lost)
            self._waiting[number] = waiting
        try:
            self._send(number, asked)
            waiting.event.wait(max(0.0, end_s - time.monotonic()))
        finally:
            with self._lock:
                self._waiting.pop(number, None)
        if waiting.answer is None:
            raise CutFailed(waiting.why or 'the server does not answer: is it as new as the robot?')
        return waiting.answer

    def _send(self, number: int, asked: Asked) -> Outgoing:
        priority = PRIORITY - 32 if asked.ask is Ask.PART else PRIORITY + 1
        buffers = asked_to_buffers(asked)
        sent: Outgoing = self._channel.send(key_of(GRAPHS, number), buffers, priority)
        return sent

    def _on_message(self, incoming: Incoming) -> None:
        if incoming.total > MAX_MESSAGE_BYTES:
            self._channel.refuse(incoming.key, 'an answer of so many bytes is not expected')
            return
        incoming.when_ended(self._on_answer)

    def _on_answer(self, incoming: Incoming) -> None:
        number = number_of(incoming.key) & (NUMBERS - 1)  # above: a second answer to a run
        with self._lock:
            waiting, run = self._waiting.get(number), self._runs.get(number)
        answer: Answered | None = None
        why = incoming.why
        if incoming.state is State.DONE:
            try:
                answer = answered_from_bytes(incoming.buffer)
            except WireError as error:
                why = f'the server sent a bad answer: {error}'
        if answer is not None and answer.answer is Answer.UNKNOWN:
            with self._lock:  # it may come when the robot has done without
                self._plans.discard(self._ran_by.get(number, ('', '')))
        if waiting is not None:
            waiting.answer, waiting.why = answer, why
            waiting.event.set()
        elif run is not None and answer is None:
            run.fail(why)
        elif run is not None and answer is not None:
            run.answered(answer)

    def _on_value(self, incoming: Incoming) -> None:
        number, place = number_of(incoming.key) >> 16, number_of(incoming.key) & 0xFFFF
        with self._lock:
            run = self._runs.get(number)
        refusal = run.refusal(place, incoming.total) if run is not None else 'nobody waits for it'
        if run is None or refusal:
            self._channel.refuse(incoming.key, refusal)
            if run is not None:
                run.fail(f'the server sent a value that does not fit: {refusal}')
            return
        incoming.when_ended(partial(run.take, place))

    def _lose(self, why: str) -> None:
        with self._lock:
            self._lost = why or 'the channel was closed'
            waiting, runs = list(self._waiting.values()), list(self._runs.values())
        for each in waiting:
            each.why = self._lost
            each.event.set()
        for run in runs:
            run.fail(self._lost)


_links: weakref.WeakKeyDictionary[Channel, GraphLink] = weakref.WeakKeyDictionary()
_making = threading.Lock()


def link_on(channel: Channel) -> GraphLink:
    """The link on ``channel``, made when it is asked for first: models share it."""
    with _making:
        if channel not in _links:
            _links[channel] = GraphLink(channel)
        return _links[channel]


class _Waiting:
    def __init__(self) -> None:
        self.event = threading.Event()
        self.answer: Answered | None = None
        self.why = ''


def _parts(key: str, files: tuple[bytes, bytes]) -> Iterator[Asked]:
    for of_parameters, data in enumerate(files):
        for offset in range(0, len(data), PART_BYTES):
            part: Any = memoryview(data)[offset : offset + PART_BYTES]
            yield Asked(Ask.PART, key, of_parameters=bool(of_parameters), offset=offset, data=part)
