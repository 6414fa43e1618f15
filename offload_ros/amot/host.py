"""The server's side of A-MOT: the rounds of all robots, and what is kept between two rounds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
import logging
import math
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from offload_ros.amot import patches
from offload_ros.amot.allocation import StreamBudget
from offload_ros.amot.batching import Batcher, Work
from offload_ros.amot.messages import (
    MAX_MESSAGE_BYTES,
    NUMBERS,
    PRIORITY,
    Answer,
    Answered,
    Cancel,
    Failed,
    More,
    Sample,
    Wanted,
    answer_to_buffers,
    asked_from_bytes,
    patches_of_message,
)
from offload_ros.amot.rounds import FirstOf, Patches
from offload_ros.models.model import Model
from offload_ros.wire.channel import Channel, key_of, number_of
from offload_ros.wire.errors import WireError
from offload_ros.wire.exchange import PATCHES
from offload_ros.wire.incoming import Incoming, State

if TYPE_CHECKING:
    from offload_ros.amot.served import Served

log = logging.getLogger(__name__)
MAX_RUNS = 8  # of one robot at a time: what is kept between two rounds is bounded by it
MAX_STREAMS = 16  # models of one robot whose budgets are kept
MAX_KEEP_S = 60.0  # of a run: the longest deadline that a model may have
KEEP_S = 2.0  # and so long beyond its own: its second round may be on its way


class AmotHost:
    """Serves all robots of a server. ``find`` gives a loaded model by name and content hash;
    ``lend`` runs a function on the accelerator; for the others see ``Batcher``."""

    def __init__(
        self,
        find: Callable[[str, str], Model | None],
        lend: Callable[[Callable[[], Any]], Any],
        gather_s: float = 0.002,
        max_batch: int = 16,
    ) -> None:
        self._find, self._lend = find, lend
        self._lock = threading.Lock()
        self._served: dict[str, Served] = {}
        self._why_not: dict[str, str] = {}  # content hash: why its networks cannot serve
        self._robots: set[HostedPatches] = set()
        self.batcher = Batcher(lend, gather_s, max_batch, self._tidy)

    def add(self, model: Model) -> str:
        """Serve a model that has networks for A-MOT; why not, or empty. Takes as long as loading
        them does."""
        if model.config.amot is None:
            return ''
        # With it comes transformers, which takes seconds: for servers that need it.
        from offload_ros.amot.bundle import BundleError
        from offload_ros.amot.served import load_served

        why = ''
        try:
            served = load_served(model)
            self._lend(served.warm_up)
        except BundleError as error:
            why = str(error)
        except Exception as error:  # of one model, not of the server; e.g. no memory
            why = f'{type(error).__name__}: {error}'
        with self._lock:
            self._served.pop(model.hash, None)
            self._why_not.pop(model.hash, None)
            if why:
                self._why_not[model.hash] = why
            else:
                self._served[model.hash] = served
        return why

    def served(self, content_hash: str) -> Served | str:
        """The networks of a model, or why there are none."""
        with self._lock:
            served = self._served.get(content_hash)
            if served is not None and self._find(served.model.name, content_hash) is None:
                del self._served[content_hash]  # the model was unloaded
                served = None
            why = self._why_not.get(content_hash)
        if served is not None:
            return served
        if why:
            return f'its A-MOT networks cannot be used: {why}'
        return (
            f'no A-MOT networks for model {content_hash[:8]}: use the same classifier and '
            'preprocessing on both, and give the server its amot.networks'
        )

    def serve(self, channel: Channel, robot: str) -> HostedPatches:
        """Answer a robot on its channel until ``close``."""
        hosted = HostedPatches(self, channel, robot)
        with self._lock:
            self._robots.add(hosted)
        return hosted

    def leave(self, hosted: HostedPatches) -> None:
        """A robot is gone."""
        with self._lock:
            self._robots.discard(hosted)

    def close(self) -> None:
        """End the thread; sessions are closed by whoever has them."""
        self.batcher.close()
        with self._lock:
            self._served.clear()

    def _tidy(self) -> None:
        with self._lock:
            robots = list(self._robots)
        for robot in robots:
            robot.tidy()


@dataclass(eq=False)
class _Run:
    """One image between its first message and its answer."""

    number: int
    served: Served
    sample: Sample
    positions: npt.NDArray[np.int64]
    received_s: float
    given: Patches
    wanted: npt.NDArray[np.int64] | None = None  # of the second round
    embeddings: torch.Tensor | None = None
    sent_more: bool = False

    @property
    def expires_s(self) -> float:
        return self.received_s + min(self.sample.budget_s, MAX_KEEP_S)


@dataclass
class _Stream:
    """The images of one model of a robot, and what their second rounds may take."""

    key: tuple[Any, ...] = ()
    budget: StreamBudget | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class HostedPatches:
    """One robot's images, until ``close``."""

    def __init__(self, host: AmotHost, channel: Channel, robot: str) -> None:
        self._host = host
        self._channel = channel
        self._robot = robot
        self._lock = threading.Lock()
        self._runs: OrderedDict[int, _Run] = OrderedDict()
        self._streams: OrderedDict[str, _Stream] = OrderedDict()
        self._closed = False
        channel.listen(PATCHES, self._on_incoming)
        channel.when_closed(lambda why: self.close())

    @property
    def runs(self) -> int:
        """Images of which something is kept."""
        return len(self._runs)

    def close(self) -> None:
        """The robot is gone: so is all that was kept for it."""
        with self._lock:
            self._closed = True
            runs, self._runs = list(self._runs.values()), OrderedDict()
            self._streams.clear()
        for run in runs:
            self._host.batcher.withdraw(run.given)
        self._host.leave(self)

    def tidy(self) -> None:
        """Forget images whose second round does not come."""
        now_s = time.monotonic()
        with self._lock:
            late = [each for each in self._runs.values() if now_s > each.expires_s + KEEP_S]
        for run in late:
            self._drop(run)

    # --- messages

    def _on_incoming(self, incoming: Incoming) -> None:
        if incoming.total > MAX_MESSAGE_BYTES:
            self._channel.refuse(incoming.key, f'at most {MAX_MESSAGE_BYTES} bytes are allowed')
            return
        incoming.when_ended(self._on_message)

    def _on_message(self, incoming: Incoming) -> None:
        if incoming.state is not State.DONE:
            return  # withdrawn or late: the robot knows
        number, received_s = number_of(incoming.key), time.monotonic()
        try:
            if number >= NUMBERS:
                raise WireError(f'message {number}: numbers are below {NUMBERS}')
            asked = asked_from_bytes(incoming.buffer)
            if isinstance(asked, Sample):
                self._begin(number, asked, received_s)
            elif isinstance(asked, More):
                self._go_on(number, asked, received_s)
            else:
                self._cancel(asked)
        except WireError as error:
            log.warning('robot %s, patches: %s', self._robot, error)
            self._tell(number, Failed(str(error)))

    def _begin(self, number: int, sample: Sample, received_s: float) -> None:
        served = self._host.served(sample.model)
        if isinstance(served, str):
            self._tell(number, Failed(served))
            return
        geometry = served.geometry
        came = patches_of_message(sample, geometry.patches, geometry.patch_bytes)
        positions = patches.sample(sample.seed, sample.count, geometry.patches)
        given = Patches(came, positions)
        run = _Run(number, served, sample, positions, received_s, given)
        with self._lock:
            if self._closed:
                return
            if number in self._runs:
                raise WireError(f'image {number} came twice')
            self._runs[number] = run
            forgotten = [self._runs.popitem(last=False)[1]] if len(self._runs) > MAX_RUNS else []
        for old in forgotten:
            self._host.batcher.withdraw(old.given)
            self._tell(old.number, Failed(f'{MAX_RUNS} later images of this robot came'))
        self._compute(run, number, given, served.first, partial(self._on_first, run), received_s)

    def _go_on(self, number: int, more: More, received_s: float) -> None:
        with self._lock:
            run = self._runs.get(more.run)
            waits = run is not None and run.wanted is not None and not run.sent_more
            if run is not None and waits:
                run.sent_more = True
        if run is None or run.wanted is None or not waits:
            self._tell(number, Failed('nothing is kept of this image (any more)'))
            return
        if more.count != len(run.wanted):
            self._drop(run)
            raise WireError(f'{more.count} patches came, {len(run.wanted)} were wanted')
        geometry = run.served.geometry
        try:
            came = patches_of_message(more, geometry.patches, geometry.patch_bytes)
        except WireError:
            self._drop(run)
            raise
        run.given = given = Patches(came, run.wanted, run.embeddings)
        done = partial(self._on_second, run, number)
        self._compute(run, number, given, run.served.second, done, received_s)

    def _cancel(self, asked: Cancel) -> None:
        with self._lock:
            run = self._runs.get(asked.run)
        if run is not None:
            self._drop(run)

    # --- rounds

    def _compute(
        self,
        run: _Run,
        number: int,
        given: Patches,
        compute: Callable[..., Any],
        done: Callable[..., None],
        received_s: float,
    ) -> None:
        def fail(why: str) -> None:
            if self._drop(run):
                self._tell(number, Failed(why))

        round_number = 1 if given.embeddings is None else 2
        group = (run.served, round_number, len(given.positions))
        self._host.batcher.submit(
            Work(
                group, self, given, compute, partial(done, received_s), fail, run.expires_s,
                received_s,
            )
        )  # fmt: skip

    def _on_first(self, run: _Run, received_s: float, first: FirstOf, compute_s: float) -> None:
        with self._lock:
            if self._runs.get(run.number) is not run:
                return  # cancelled meanwhile
        count = self._second_round(run, first.confidence)
        if count:
            wanted = run.served.wanted(first, run.positions, count)
            with self._lock:
                run.wanted, run.embeddings = wanted.astype(np.int64), first.embeddings
            server_s = time.monotonic() - received_s
            self._tell(run.number, Wanted(wanted, first.confidence, compute_s, server_s))
        elif self._drop(run):
            server_s = time.monotonic() - received_s
            self._tell(run.number, Answered(first.probabilities, compute_s, server_s))

    def _on_second(
        self,
        run: _Run,
        number: int,
        received_s: float,
        probabilities: npt.NDArray[np.float32],
        compute_s: float,
    ) -> None:
        if self._drop(run):
            server_s = time.monotonic() - received_s
            self._tell(number, Answered(probabilities, compute_s, server_s))

    def _second_round(self, run: _Run, confidence: float) -> int:
        """How many patches to ask for; none where the first round's answer is final."""
        sample, served = run.sample, run.served
        most = min(sample.limit, served.geometry.patches - sample.count)
        confident = confidence >= sample.confidence or not served.two_rounds
        distributions = served.distributions_for(sample.count) if sample.adaptive else None
        if distributions is None:
            return 0 if confident else min(sample.fixed, most)
        stream = self._stream(sample.model)
        with stream.lock:
            key = (distributions.first_ratio, sample.confidence, sample.weighted)
            if stream.budget is None or stream.key != key:
                budget = StreamBudget(
                    distributions, confidence=sample.confidence, weighted=sample.weighted
                )
                if stream.budget is not None:  # another setting of the same stream
                    budget.level = min(stream.budget.level, float(budget.burst))
                stream.key, stream.budget = key, budget
            # Whatever was lost on the way, the robot knows what it may still send.
            budget = stream.budget
            budget.level = min(budget.level, sample.limit - sample.granted)
            chosen = budget.choose(math.inf if confident else confidence, sample.granted)
        return min(chosen, most)

    def _stream(self, model_hash: str) -> _Stream:
        with self._lock:
            stream = self._streams.setdefault(model_hash, _Stream())
            self._streams.move_to_end(model_hash)
            if len(self._streams) > MAX_STREAMS:
                self._streams.popitem(last=False)
            return stream

    def _drop(self, run: _Run) -> bool:
        """Nothing more is kept of an image; False when that was so already."""
        with self._lock:
            if self._runs.get(run.number) is not run:
                return False
            del self._runs[run.number]
        run.embeddings = None
        self._host.batcher.withdraw(run.given)
        return True

    def _tell(self, number: int, answer: Answer) -> None:
        try:
            self._channel.send(key_of(PATCHES, number), answer_to_buffers(answer), PRIORITY + 1)
        except ValueError:  # it was answered before, or its number is none
            log.debug('robot %s: message %d about patches has an answer', self._robot, number)
