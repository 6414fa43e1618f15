"""A server's side of layer cuts: the graphs and runs of each robot, by its channel."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
import logging
import math
import threading
import time
from typing import TYPE_CHECKING

import torch

from offload_ros.cuts.hosted_measure import MeasureDesk
from offload_ros.cuts.hosted_plans import HostedPlans
from offload_ros.cuts.hosted_run import HostedRun
from offload_ros.cuts.hosted_side import HostedSide
from offload_ros.cuts.messages import (
    MAX_MESSAGE_BYTES,
    NUMBERS,
    PRIORITY,
    Answer,
    Answered,
    Ask,
    Asked,
    answered_to_buffers,
    asked_from_bytes,
    ids_of,
    value_key,
)
from offload_ros.cuts.sender import ValueSender
from offload_ros.cuts.store import GraphStore, HostedGraph, StoreRefused, Upload
from offload_ros.cuts.values import size_refusal, value_to_buffers
from offload_ros.graph.graph import GraphError, TensorSpec, Value
from offload_ros.graph.split_plan import PlanError
from offload_ros.intra_dp.lower_steps import steps_from_bytes
from offload_ros.intra_dp.run_server import HostedSplit
from offload_ros.robot.lane import DeviceLane
from offload_ros.wire.channel import Channel, key_of, number_of
from offload_ros.wire.codecs import RAW
from offload_ros.wire.errors import WireError
from offload_ros.wire.exchange import GRAPHS, VALUES
from offload_ros.wire.incoming import Incoming, State
from offload_ros.wire.outgoing import Outgoing

if TYPE_CHECKING:
    from offload_ros.models.model import Model
    from offload_ros.robot.pacing import Pacer

log = logging.getLogger(__name__)
MAX_OPENINGS = 8  # of one robot that wait: each may capture a model
MAX_RUNS = 16  # of one robot at a time: one of each of its models
# Values may overtake the message that begins their run: so many wait for it.
MAX_EARLY, MAX_EARLY_BYTES = 64, 64 << 20
CODED_ASIDE_BYTES = 64 << 10  # less takes no longer than to tell another thread
REMEMBERED = 256  # runs that have ended, for what still comes of them


class GraphHost:
    """Serves graphs to all robots of a server; see ``GraphStore`` for ``memory_bytes`` and
    ``find_model``. ``pacer`` makes it a slower accelerator, for benchmarks. ``after_robot`` is
    called when what a robot used was freed."""

    def __init__(
        self,
        memory_bytes: int,
        device: str = 'cpu',
        find_model: Callable[[str, str], Model | None] = lambda name, key: None,
        pacer: Pacer | None = None,
        after_robot: Callable[[], None] = lambda: None,
    ) -> None:
        self.store = GraphStore(memory_bytes, device, find_model)
        self.lane = DeviceLane(pacer)
        self.desk = MeasureDesk(self.store, self.lane)
        self.after_robot = after_robot
        self._worker = ThreadPoolExecutor(1, 'graphs')

    def serve(self, channel: Channel, robot: str) -> HostedGraphs:
        """Answer what a robot asks on its channel."""
        return HostedGraphs(self, channel, robot)

    def later(self, work: Callable[[], None]) -> None:
        """Do what takes long, one after another, in another thread."""
        self._worker.submit(work)

    def close(self) -> None:
        """End all runs; sessions are closed by whoever has them."""
        self.desk.close()
        self.lane.close()
        self._worker.shutdown(wait=False, cancel_futures=True)


class HostedGraphs:
    """One robot's graphs, uploads and runs, until ``close``."""

    def __init__(self, host: GraphHost, channel: Channel, robot: str) -> None:
        self._host, self._store = host, host.store
        self._channel = channel
        self._robot = robot
        self._sender = ValueSender(channel)
        self._lock = threading.RLock()
        self._runs: dict[int, HostedSide] = {}
        self._over: OrderedDict[int, None] = OrderedDict()
        self._cancelled: OrderedDict[int, None] = OrderedDict()
        self._early: dict[int, list[Incoming]] = {}  # by run
        self._plans = HostedPlans()
        self._upload: Upload | None = None
        self._waiting = 0  # for the worker
        self._closed = False
        channel.listen(GRAPHS, self._on_incoming)
        channel.listen(VALUES, self._on_value)
        channel.when_closed(lambda why: self.close())

    @property
    def runs(self) -> int:
        """Under way."""
        return len(self._runs)

    def close(self) -> None:
        """The robot is gone: so is all that it used."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            runs, self._runs = list(self._runs.values()), {}
            self._early, self._upload = {}, None
        for run in runs:
            run.end('the robot is gone', tell=False)
        self._plans.forget()
        self._host.desk.leave(self)
        self._store.release(self)
        self._host.after_robot()

    # --- messages

    def _on_incoming(self, incoming: Incoming) -> None:
        if incoming.total > MAX_MESSAGE_BYTES:
            self._channel.refuse(incoming.key, f'at most {MAX_MESSAGE_BYTES} bytes are allowed')
            return
        incoming.when_ended(self._on_message)

    def _on_message(self, incoming: Incoming) -> None:
        if incoming.state is not State.DONE:
            return
        number = number_of(incoming.key)
        try:
            if number >= NUMBERS:
                raise WireError(f'message {number}: numbers are below {NUMBERS}')
            asked = asked_from_bytes(incoming.buffer)
            answer = self._answered(number, asked)
        except (WireError, GraphError, StoreRefused, PlanError) as error:
            log.warning('robot %s, graphs: %s', self._robot, error)
            answer = Answered(Answer.REFUSED, str(error))
        if answer is not None:
            with self._lock:  # had it been a run, what comes of it is not waited for
                self._early.pop(number, None)
                self._remember(number)
            self._tell(number, answer)

    def _answered(self, number: int, asked: Asked) -> Answered | None:
        """None where the answer comes later, or none is needed."""
        if asked.ask is Ask.OPEN:
            if self._store.memory_bytes < 1:
                raise StoreRefused(
                    'this server runs no graphs of robots (parameter graphs.memory_mb is 0)'
                )
            self._later(partial(self._open, number, asked))
        elif asked.ask is Ask.PART:
            with self._lock:
                if self._upload is None or self._upload.key != asked.graph:
                    raise StoreRefused('a part of a graph whose upload was not begun')
                self._upload.write(asked.of_parameters, asked.offset, asked.data)
        elif asked.ask is Ask.FINISH:
            with self._lock:
                upload, self._upload = self._upload, None
            if upload is None or upload.key != asked.graph:
                raise StoreRefused('the end of an upload that was not begun')
            self._later(partial(self._finish, number, upload))
        elif asked.ask is Ask.RUN:
            return self._begin_run(number, asked)
        elif asked.ask is Ask.CANCEL:
            self._cancel(asked.run)
        elif asked.ask is Ask.MEASURE:
            return self._host.desk.answer(self, asked, partial(self._tell, number))
        elif asked.ask is Ask.PLAN:
            self._later(partial(self._plan, number, asked))
        else:
            self._plans.forget(asked.graph)
            self._store.release(self, asked.graph)
        return None

    def _later(self, work: Callable[[], None]) -> None:
        with self._lock:
            if self._waiting >= MAX_OPENINGS:
                raise StoreRefused(f'{MAX_OPENINGS} graphs of this robot are being opened')
            self._waiting += 1
        self._host.later(work)

    def _open(self, number: int, asked: Asked) -> None:
        def work() -> Answered:
            found = self._store.use(asked.graph, self) or self._store.of_model(
                self, asked.graph, asked.model, asked.model_hash, asked.inputs
            )
            if found is not None:
                return Answered(Answer.READY)
            upload = self._store.begin(self, asked.graph, asked.graph_bytes, asked.parameter_bytes)
            with self._lock:
                self._upload = upload
            return Answered(Answer.SEND)

        self._do(number, work)

    def _plan(self, number: int, asked: Asked) -> None:
        def work() -> Answered:
            hosted = self._store.use(asked.graph, self)
            if hosted is None:
                return Answered(Answer.UNKNOWN, 'the graph is not open on this server')
            if self._plans.get(asked.graph, asked.plan) is None:
                steps = steps_from_bytes(asked.data, asked.robot_steps)
                lowered = hosted.lower(steps, self._store.memory_bytes)
                if lowered.key != asked.plan:
                    raise StoreRefused(
                        'the plan is not what its hash names here: robot and server have other '
                        'versions of this package or of PyTorch'
                    )
                self._plans.add(asked.graph, lowered)
            return Answered(Answer.READY)

        self._do(number, work)

    def _finish(self, number: int, upload: Upload) -> None:
        def work() -> Answered:
            graph = self._store.finish(self, upload)
            log.info('robot %s brought graph %s (%s)', self._robot, graph.graph.name, graph.key[:8])
            return Answered(Answer.READY)

        self._do(number, work)

    def _do(self, number: int, work: Callable[[], Answered]) -> None:
        """In the worker: whatever happens, the robot gets an answer."""
        with self._lock:
            self._waiting -= 1
        if self._closed:
            return
        try:
            answer = work()
        except (StoreRefused, PlanError) as error:
            answer = Answered(Answer.REFUSED, str(error))
        except Exception as error:  # of one graph, not of the server
            log.exception('a graph of robot %s', self._robot)
            answer = Answered(Answer.REFUSED, f'{type(error).__name__}: {error}')
        if self._closed:  # while it was made
            self._store.release(self)
            return
        if answer.answer is Answer.REFUSED:
            log.warning('robot %s, graphs: %s', self._robot, answer.why)
        self._tell(number, answer)

    def _tell(self, number: int, answer: Answered) -> None:
        try:
            self._channel.send(key_of(GRAPHS, number), answered_to_buffers(answer), PRIORITY + 1)
        except ValueError:  # it was answered before
            log.debug('robot %s: message %d has an answer', self._robot, number)

    # --- runs

    def _begin_run(self, number: int, asked: Asked) -> Answered | None:
        hosted = self._store.use(asked.graph, self)
        if hosted is None:
            return Answered(Answer.UNKNOWN, 'the graph is not open on this server')
        run = self._made(number, hosted, asked)
        if run is None:
            return Answered(Answer.UNKNOWN, 'the plan is not open on this server')
        with self._lock:
            if self._closed or number in self._over:
                return None  # cancelled before it came
            if len(self._runs) >= MAX_RUNS or number in self._runs:
                return Answered(Answer.FAILED, f'{MAX_RUNS} runs of this robot are under way')
            self._runs[number] = run
            early = self._early.pop(number, [])
        for incoming in early:
            self._on_value(incoming)
        run.advance()
        return None

    def _made(self, number: int, hosted: HostedGraph, asked: Asked) -> HostedSide | None:
        expires_s = time.monotonic() + (asked.budget_s or math.inf)
        codecs, ended = dict(asked.codecs), partial(self._run_ended, number)
        if asked.plan:
            work = self._plans.get(asked.graph, asked.plan)
            if work is None:
                return None
            ids = [work.rows.id_of(piece.value) for piece in work.pieces]
            send = partial(self._send, number, work.piece_spec, [codecs.get(id) for id in ids])
            return HostedSplit(
                work, hosted.executor, self._host.lane, send, ended, expires_s, asked.timeline
            )
        cut = hosted.cut(ids_of(asked.nodes, len(hosted.graph.nodes)))
        ids = [each.node if isinstance(each, Value) else -1 for each in cut.crossings]
        send = partial(self._send, number, cut.spec_of, [codecs.get(id) for id in ids])
        return HostedRun(
            cut, hosted.executor, self._host.lane, send, ended, expires_s, asked.timeline
        )

    def _send(
        self,
        number: int,
        spec_of: Callable[[int], TensorSpec],
        codecs: Sequence[int | None],
        place: int,
        tensor: torch.Tensor,
    ) -> None:
        key, codec, ended = value_key(number, place), codecs[place], partial(self._on_sent, number)
        make = partial(value_to_buffers, spec_of(place), tensor, codec or RAW)
        if codec and tensor.nbytes >= CODED_ASIDE_BYTES:
            # The lane goes on with what is next.
            self._sender.send_coded(key, make, partial(self._fail, number), on_end=ended)
        else:
            self._sender.send(key, make(), on_end=ended)

    def _on_sent(self, number: int, sent: Outgoing) -> None:
        """A robot whose channel refuses a value (too large for it) does not know of which run."""
        if sent.state is State.REFUSED and number not in self._cancelled:
            self._fail(number, f'a value did not reach the robot: {sent.why}')

    def _fail(self, number: int, why: str) -> None:
        """Of a run that may have ended here: a second answer."""
        self._tell(number | NUMBERS, Answered(Answer.FAILED, why))

    def _run_ended(self, number: int, run: HostedSide, why: str) -> None:
        with self._lock:
            self._runs.pop(number, None)
            self._remember(number)
        answer = Answer.FAILED if why else Answer.DONE
        server_s = time.monotonic() - run.began_s
        self._tell(number, Answered(answer, why, run.compute_s, server_s, run.timeline()))

    def _cancel(self, number: int) -> None:
        with self._lock:
            run = self._runs.pop(number, None)
            self._early.pop(number, None)
            self._remember(number)
            _note(self._cancelled, number)
        if run is not None:
            run.end('cancelled', tell=False)
        self._sender.withdraw(value_key(number, 0), value_key(number, 0xFFFF), 'cancelled')

    def _remember(self, number: int) -> None:
        _note(self._over, number)

    def _on_value(self, incoming: Incoming) -> None:
        number, place = number_of(incoming.key) >> 16, number_of(incoming.key) & 0xFFFF
        with self._lock:
            run = self._runs.get(number)
            unknown = run is None and number not in self._over and not self._closed
            if unknown and self._keep_early(number, incoming):
                return
        if run is None or not run.expects(place):
            self._channel.refuse(incoming.key, 'nothing waits for this value')
            return
        refusal = size_refusal(run.spec_of(place), incoming.total)
        if refusal:
            self._channel.refuse(incoming.key, refusal)
            run.end(refusal)
            return
        incoming.when_ended(partial(self._on_value_ended, run, place))

    def _keep_early(self, number: int, incoming: Incoming) -> bool:
        kept = [each for same in self._early.values() for each in same]
        total = sum(each.total for each in kept) + incoming.total
        if len(kept) >= MAX_EARLY or total > MAX_EARLY_BYTES:
            return False
        self._early.setdefault(number, []).append(incoming)
        return True

    def _on_value_ended(self, run: HostedSide, place: int, incoming: Incoming) -> None:
        if incoming.state is not State.DONE:
            if incoming.state is not State.CANCELLED:
                run.end(f'a value did not arrive: {incoming.why}')
            return
        try:
            run.take(place, incoming)
        except WireError as error:
            run.end(str(error))


def _note(numbers: OrderedDict[int, None], number: int) -> None:
    numbers[number] = None
    if len(numbers) > REMEMBERED:
        numbers.popitem(last=False)
