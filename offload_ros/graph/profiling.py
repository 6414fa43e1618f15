"""Measuring a model on a robot and its server while both go on serving.

``ProfilingHost`` answers on either machine, one small stage per call; ``Survey`` asks both and
makes the profile. What carries the calls is not here (``offload_ros.nodes.profile``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
import json
from statistics import median
import threading
import time
from typing import Any

import safetensors
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from offload_ros.graph.classify import SplitGraph, classify
from offload_ros.graph.coding_walk import CodingSample, merged_codings
from offload_ros.graph.execute import Executor
from offload_ros.graph.graph import Graph, GraphError
from offload_ros.graph.measure import NodeTimes, profile_of
from offload_ros.graph.measuring import (
    CODINGS,
    OPERATORS,
    PARTS,
    RESUME,
    SHARES,
    WHOLE,
    Measuring,
)
from offload_ros.graph.measuring import (
    ProfilingError as ProfilingError,
)
from offload_ros.graph.of_model import capture_model, graph_hash
from offload_ros.graph.profile import ProfileError, Side, TransferCost, require
from offload_ros.graph.profile_store import MeasuredProfile
from offload_ros.graph.shares import ShareFit, ShareSample, fit_shares
from offload_ros.graph.stopwatch import Lend
from offload_ros.graph.wire_form import graph_from_json, graph_to_json
from offload_ros.models.errors import InputError, ModelError
from offload_ros.models.model import Model

OPEN, MESSAGES, CLOSE = 'open', 'messages', 'close'  # and the stages of ``Measuring``
ECHOES = 20
MAX_REPEATS = 1000
MAX_EXAMPLE_BYTES = 256 << 20
IDLE_S = 60.0  # after which a model that nobody goes on to measure is let go


@dataclass(frozen=True)
class Request:
    """One call. ``stage``: see above. ``part``: of ``PARTS``. ``graph``, ``model_hash`` and
    ``example`` (safetensors): the robot's, for 'open' on a server. ``server``: to which messages
    are measured; empty for the one in use."""

    model: str
    stage: str
    part: int = 0
    repeats: int = 1
    graph: str = ''
    model_hash: str = ''
    example: bytes = b''
    server: str = ''


@dataclass(frozen=True)
class Reply:
    """``report``: by stage. ``graph``, ``example``: of 'open'."""

    report: Mapping[str, Any] = field(default_factory=dict)
    graph: str = ''
    example: bytes = b''


@dataclass(frozen=True)
class Subject:
    """A loaded model and the device that it runs on: ``lend`` runs a piece of work there,
    ``slowdown`` is that of a paced device. ``inputs``: an example, not needed on a server.
    ``message_costs``: on a robot, what messages to the server of this name cost
    (``intra_dp.message_costs``)."""

    model: Model
    lend: Lend
    slowdown: float = 1.0
    inputs: Mapping[str, Tensor] | None = None
    message_costs: Callable[[str, int], Mapping[str, Sequence[float]]] = lambda server, count: {}


class _Session:
    """One model that is being measured."""

    def __init__(self, subject: Subject, request: Request) -> None:
        self.name = request.model
        self._message_costs = subject.message_costs
        model = subject.model
        inputs = subject.inputs
        if request.graph:
            inputs = _tensors(request.example)
        if inputs is None:
            raise ProfilingError(
                f"model '{model.name}' has seen no frame yet, and models.yaml does not tell the "
                'shape of its inputs: start its sensors, or give shape'
            )
        graph, parameters = capture_model(model, inputs)
        if request.graph:
            graph = _agreed(graph, graph_from_json(request.graph.encode()))
        executor = Executor(
            graph, {name: parameters[name] for name in graph.parameters}, model.device
        )
        self.measuring = Measuring(executor, inputs, subject.lend, subject.slowdown)
        self.model_hash = model.hash

    def opened(self) -> Reply:
        measuring = self.measuring
        report = {
            'graph_hash': graph_hash(measuring.graph),
            'model_hash': self.model_hash,
            'machine': measuring.machine,
            'operators': len(measuring.graph.nodes),
        }
        return Reply(report, graph_to_json(measuring.graph).decode(), _bytes(measuring.inputs))

    def messages(self, server: str, count: int) -> Reply:
        return Reply({'messages': dict(self._message_costs(server, count))})


class ProfilingHost:
    """Measures one model at a time on this machine. ``find``: the model by name and (on a server)
    content hash; raises ``ProfilingError`` when it is not there."""

    def __init__(self, find: Callable[[str, str], Subject], idle_s: float = IDLE_S) -> None:
        self._find, self._idle_s = find, idle_s
        self._lock = threading.Lock()
        self._session: _Session | None = None
        self._used_s = 0.0

    def answer(self, request: Request) -> Reply:
        """Takes as long as the stage does; ``ProfilingError`` with the reason otherwise."""
        if not 1 <= request.repeats <= MAX_REPEATS:
            raise ProfilingError(f'repeats must lie in 1 to {MAX_REPEATS}, not {request.repeats}')
        if not self._lock.acquire(blocking=False):
            raise ProfilingError('another measurement is under way here: wait until it is done')
        try:
            return self._answer(request)
        except (GraphError, InputError, ModelError, ProfileError) as error:
            raise ProfilingError(str(error)) from error
        finally:
            self._used_s = time.monotonic()
            self._lock.release()

    def expire(self) -> None:
        """Free what was left open; called now and then."""
        if self._session is not None and self._lock.acquire(blocking=False):
            try:
                if time.monotonic() - self._used_s > self._idle_s:
                    self._session = None
            finally:
                self._lock.release()

    def close(self) -> None:
        """Free what is held; a call under way ends by itself."""
        self._session = None

    def _answer(self, request: Request) -> Reply:
        if request.stage == OPEN:
            self._session = None  # before another one takes memory
            subject = self._find(request.model, request.model_hash)
            self._session = _Session(subject, request)
            return self._session.opened()
        session = self._session
        if session is None or session.name != request.model:
            raise ProfilingError(
                f"model '{request.model}' is not being measured (any more): start again"
            )
        if request.stage == MESSAGES:
            return session.messages(request.server, request.repeats)
        if request.stage == CLOSE:
            self._session = None
            return Reply()
        return Reply(session.measuring.report(request.stage, request.part, request.repeats))


Ask = Callable[[Request], Reply]
Progress = Callable[[str, int, int], None]  # what, steps done, of how many


@dataclass
class _Answers:
    """What came of one machine."""

    passes: list[dict[int, float]] = field(default_factory=list)
    wholes_s: list[float] = field(default_factory=list)
    nbytes: dict[int, int] = field(default_factory=dict)
    samples: list[ShareSample] = field(default_factory=list)
    codings: list[CodingSample] = field(default_factory=list)
    messages: dict[str, list[float]] = field(default_factory=dict)
    resumes_s: list[float] = field(default_factory=list)

    def take(self, report: Mapping[str, Any]) -> None:
        if 'whole_s' in report:
            self.wholes_s.append(float(report['whole_s']))
        if 'node_s' in report:
            self.passes.append({int(node): float(each) for node, each in report['node_s'].items()})
            self.nbytes = {int(node): int(each) for node, each in report['nbytes'].items()}
        if 'resume_s' in report:
            self.resumes_s.append(float(report['resume_s']))
        for key, costs in report.get('messages', {}).items():
            self.messages[str(key)] = [float(each) for each in costs]
        for node, length, extent, seconds in report.get('samples', ()):
            self.samples.append(ShareSample(int(node), int(length), int(extent), float(seconds)))
        for operator, codec, size, encode_s, decode_s in report.get('codings', ()):
            times = float(encode_s), float(decode_s)
            self.codings.append(CodingSample(int(operator), str(codec), int(size), *times))

    @property
    def times(self) -> NodeTimes:
        return NodeTimes.of_passes(self.passes, self.wholes_s, self.nbytes)

    @property
    def shares(self) -> ShareFit | None:
        return fit_shares(self.samples) if self.samples else None


class Survey:
    """Measures a model on ``robot`` and ``server``, in ``repeats`` passes; either is asked by a
    function. ``server_name``: for the messages to it; empty for the one in use."""

    def __init__(
        self, model: str, robot: Ask, server: Ask, repeats: int, server_name: str = ''
    ) -> None:
        require(1 <= repeats <= MAX_REPEATS, f'repeats must lie in 1 to {MAX_REPEATS}')
        self._model, self._repeats, self._server_name = model, repeats, server_name
        self._asks = {'robot': robot, 'server': server}
        self._answers = {'robot': _Answers(), 'server': _Answers()}

    def run(self, progress: Progress = lambda *_: None, measured_at: str = '') -> MeasuredProfile:
        """The profile; ``ProfilingError`` or ``ProfileError`` with the reason otherwise."""
        steps = list(self._steps())
        total = len(steps) + 2
        progress('robot: capture', 0, total)
        first = self._asks['robot'](Request(self._model, OPEN))
        hashes = first.report['model_hash'], first.report['graph_hash']
        progress('server: capture', 1, total)
        opened = Request(self._model, OPEN, 0, 1, first.graph, hashes[0], first.example)
        second = self._asks['server'](opened)
        if second.report['graph_hash'] != hashes[1]:
            raise ProfilingError('the server measures another graph than the robot')
        try:
            for done, (side, request) in enumerate(steps, 2):
                progress(f'{side}: {request.stage}', done, total)
                self._answers[side].take(self._asks[side](request).report)
        finally:
            self._close()
        progress('done', total, total)
        graph = graph_from_json(first.graph.encode())
        return self._profile(graph, first.report, second.report, measured_at)

    def _steps(self) -> Iterator[tuple[str, Request]]:
        """In turn, so that what disturbs a machine for a while disturbs everything alike."""
        for _ in range(self._repeats):
            for side in self._asks:
                yield side, Request(self._model, WHOLE)
                yield side, Request(self._model, OPERATORS)
                yield side, Request(self._model, RESUME)
        yield 'robot', Request(self._model, MESSAGES, repeats=ECHOES, server=self._server_name)
        repeats = max(3, self._repeats // 2)
        for side in self._asks:
            for part in range(PARTS):
                yield side, Request(self._model, SHARES, part, repeats)
            for part in range(PARTS):
                yield side, Request(self._model, CODINGS, part)

    def _close(self) -> None:
        for ask in self._asks.values():
            try:
                ask(Request(self._model, CLOSE))
            except ProfilingError:
                continue  # that machine lets go by itself; the first error is the one to tell

    def _side(self, name: str, runtime: str) -> Side:
        messages = self._answers['robot'].messages
        costs_s, handling = messages.get('fixed_s', []), messages.get(f'{name}_handling', [])
        resumes_s = self._answers[name].resumes_s
        # Of either direction; which part of it is whose is not known, and makes no difference.
        half = TransferCost(median(costs_s) / 2.0 if costs_s else 0.0)
        return Side(
            runtime,
            encode=half,
            decode=half,
            handling=TransferCost(*handling),
            resume_s=max(0.0, median(resumes_s)) if resumes_s else 0.0,
        )

    def _profile(
        self, graph: Graph, robot: Mapping[str, Any], server: Mapping[str, Any], measured_at: str
    ) -> MeasuredProfile:
        split: SplitGraph = classify(graph)
        fits = [each.shares for each in self._answers.values()]
        times = [each.times for each in self._answers.values()]
        sides = (
            self._side('robot', robot['machine']['runtime']),
            self._side('server', server['machine']['runtime']),
        )
        codings = merged_codings(*(each.codings for each in self._answers.values()))
        profile = profile_of(graph, split, times[0], times[1], fits[0], fits[1], sides, codings)
        return MeasuredProfile(
            replace(profile, model=self._model),
            graph_hash(graph),
            robot['model_hash'],
            robot['machine'],
            server['machine'],
            {
                side: fit.report()
                for side, fit in zip(self._answers, fits, strict=True)
                if fit is not None
            },
            measured_at,
        )


def _agreed(own: Graph, robots: Graph) -> Graph:
    """The robot's graph, if this machine's parameters are its parameters."""
    differing = [
        name for name, spec in robots.parameters.items() if own.parameters.get(name) != spec
    ]
    if differing:
        raise ProfilingError(
            f'robot and server capture different graphs ({differing[0]} and '
            f'{len(differing) - 1} more parameters): give both the same torch'
        )
    return robots


def _bytes(inputs: Mapping[str, Tensor]) -> bytes:
    data: bytes = save_tensors({name: each.cpu().contiguous() for name, each in inputs.items()})
    return data


def _tensors(data: bytes) -> dict[str, Tensor]:
    if len(data) > MAX_EXAMPLE_BYTES:
        raise ProfilingError(f'the example takes {len(data)} bytes, {MAX_EXAMPLE_BYTES} may come')
    try:
        found: dict[str, Tensor] = load_tensors(data)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise ProfilingError(f'the example is not safetensors: {error}') from None
    return found


def to_json(report: Mapping[str, Any]) -> str:
    """A report for the wire."""
    return json.dumps(report, allow_nan=False)
