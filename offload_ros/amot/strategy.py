"""Strategy ``amot``: a random sample of an image's patches, and where the server is not confident
the ones that matter. Trades accuracy for traffic: results are never exact, and have no tolerance.
"""

from __future__ import annotations

from functools import lru_cache
import math
from pathlib import Path
import threading
import time

import numpy as np
import numpy.typing as npt
import torch

from offload_ros.amot.allocation import Distributions, DistributionsError, allocate
from offload_ros.amot.client import Conversation, PatchesFailed, link_on
from offload_ros.amot.fit import OUTPUT, Geometry, NotFit, geometry_of
from offload_ros.amot.messages import Answered, More, Wanted
from offload_ros.amot.options import AmotOptions
from offload_ros.amot.patches import count_of
from offload_ros.amot.robot_side import BudgetSpent, Sampler, as_seen
from offload_ros.baselines.server import uplink_share
from offload_ros.models.model import Model
from offload_ros.policy.goal import Goal, Objective
from offload_ros.robot.window import Window
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
from offload_ros.wire.codec_choice import CodecChooser

DISTRIBUTIONS = 'distributions.json'


@register('amot', automatic=True)
class AmotStrategy:
    """The robot cuts patches out of the camera's image, and no more; see ``Strategy``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: tuple[int, Conversation] | None = None
        self._cancelled_seq = 0
        self._closed = False
        self._codecs = CodecChooser()
        # Of the last images: what the next one is expected to take.
        self._server_s, self._compute_s = Window(), Window()
        self._up, self._down, self._rounds = Window(), Window(), Window()

    def prepare(self, model: Model, link: Link) -> None:
        """See ``Strategy``. Refused where models.yaml gives no networks, or they do not fit."""
        if model.config.amot is None:
            raise StrategyRefused(
                f"strategy 'amot' needs networks for model '{model.name}': give it "
                'amot: {networks: ./folder} in models.yaml'
            )
        try:
            self._geometry = geometry_of(model)
        except NotFit as error:
            raise StrategyRefused(f"strategy 'amot': {error}") from None
        self._model, self._link = model, link
        self._default = model.config.amot
        self._sampler = Sampler(self._geometry, model.hash)

    @property
    def options(self) -> AmotOptions:
        """As the parameters have them now."""
        return self._link.amot.get(self._model.name, self._default)

    def usable(self, goal: Goal) -> bool:
        """See ``Strategy``; where accuracy is what counts, as it has one of its own."""
        return goal.objective is Objective.ACCURACY

    def predict(self, state: LinkState) -> Prediction:
        """See ``Strategy``. Latency from the bytes, rounds and server times of the last images;
        accuracy from what calibration found."""
        options = self.options
        accuracy = expected_accuracy(options, self._geometry)
        up, down, rounds = (_mean(each) for each in (self._up, self._down, self._rounds))
        server_s = _mean(self._server_s)
        up_s, down_s = up / state.up_bytes_per_s, down / state.down_bytes_per_s
        return Prediction(
            latency_s=up_s + down_s + rounds * state.round_trip_s + server_s,
            accuracy=accuracy,
            uplink_busy_s=up_s,
            server_busy_s=_mean(self._compute_s),
            downlink_busy_s=down_s,
        )

    def run(self, frame: Frame, deadline_s: float) -> Result:
        """See ``Strategy``."""
        client = self._link.client
        server, why = client.server_for(self._model)
        channel = client.channel_to(server.name) if server is not None else None
        if server is None or channel is None:
            raise Unanswered(why or 'the server is connecting')
        talk = link_on(channel).converse(deadline_s)
        with self._lock:
            if self._closed or frame.seq <= self._cancelled_seq:
                raise Unanswered('cancelled')
            self._running = (frame.seq, talk)
        state = client.link_state(server.name)
        try:
            result = self._talked(frame, talk, state, server.name, deadline_s)
        except (PatchesFailed, ValueError) as error:
            raise Unanswered(f'server {server.name}: {error}') from None
        except BudgetSpent as error:
            raise Unanswered(str(error)) from None
        finally:
            talk.close()
            with self._lock:
                self._running = None
        return result

    def cancel(self, seq: int) -> None:
        """See ``Strategy``."""
        with self._lock:
            self._cancelled_seq = max(self._cancelled_seq, seq)
            running = self._running
        if running is not None and running[0] <= seq:
            running[1].end('cancelled')

    def close(self) -> None:
        """See ``Strategy``."""
        with self._lock:
            self._closed = True
            running = self._running
        if running is not None:
            running[1].end('the strategy was closed')

    def _talked(
        self, frame: Frame, talk: Conversation, state: LinkState, server: str, deadline_s: float
    ) -> Result:
        def code(data: npt.NDArray[np.uint8]) -> tuple[int, memoryview]:
            return self._codecs.encode('patches', data, 1, state.up_bytes_per_s, channels=3)

        (spec,) = self._model.config.inputs
        image = as_seen(frame.inputs[spec.name], self._geometry.image_px)
        budget_s = deadline_s - time.monotonic()
        sample, positions = self._sampler.first(image, frame.seq, self.options, budget_s, code)
        answer = talk.ask(sample)
        count, rounds = sample.count, 1
        if isinstance(answer, Wanted):
            codec, data = self._sampler.more(image, sample, positions, answer.positions, code)
            more = len(answer.positions)
            answer = talk.ask(More(talk.number, more, codec, data))
            count, rounds = count + more, 2
        if not isinstance(answer, Answered):
            raise PatchesFailed('it wants patches a third time')
        probabilities = answer.probabilities
        if len(probabilities) != self._geometry.labels:
            raise PatchesFailed(
                f'it answers for {len(probabilities)} classes, the model has '
                f'{self._geometry.labels}'
            )
        self._note(talk, rounds)
        # Two machines' clocks are never compared: what the server did not spend was the link's.
        link_s = max(0.0, talk.waited_s - talk.server_s)
        share = uplink_share(state, talk.bytes_up, talk.bytes_down)
        return Result(
            {
                OUTPUT: torch.from_numpy(probabilities),
                'rounds': torch.tensor([rounds], dtype=torch.uint32),
                'patches': torch.tensor([count], dtype=torch.uint32),
            },
            plan=f'amot: {count} of {self._geometry.patches} patches, {rounds} '
            f'round{"s" if rounds > 1 else ""}, {talk.bytes_up / 1e3:.1f} kB, '
            f'confidence {probabilities.max():.2f}, server {server}',
            exact=False,
            tolerance=math.nan,
            uplink_s=link_s * share,
            server_s=talk.server_s,
            downlink_s=link_s * (1.0 - share),
            bytes_up=talk.bytes_up,
            bytes_down=talk.bytes_down,
        )

    def _note(self, talk: Conversation, rounds: int) -> None:
        self._server_s.add(talk.server_s)
        self._compute_s.add(talk.compute_s)
        self._up.add(talk.bytes_up)
        self._down.add(talk.bytes_down)
        self._rounds.add(rounds)


def _mean(window: Window) -> float:
    """NaN without values."""
    values = window.values()
    return sum(values) / len(values) if values else math.nan


@lru_cache(32)
def expected_accuracy(options: AmotOptions, geometry: Geometry) -> float:
    """Share of images that calibration expects to be answered rightly within the budget; NaN where
    this machine has nothing of it.

    Second rounds as they would be allocated for the images of calibration all at once.
    """
    path = Path(options.networks) / DISTRIBUTIONS
    try:
        found = Distributions.read(path, options.first_ratio)
    except DistributionsError:
        return math.nan
    assert found.correct is not None
    images = np.asarray(found.counts, np.int64)
    total = int(images.sum())
    if not total:
        return math.nan
    room = max(
        0.0,
        options.traffic_budget * geometry.patches - count_of(options.first_ratio, geometry.patches),
    )
    asked = np.where(np.asarray(found.edges[:-1]) < options.confidence, images, 0)
    if options.adaptive:
        chosen = allocate(found.p, found.options, asked, room * total, options.weighted)
    else:
        fixed = max(i for i, each in enumerate(found.options) if each <= room + 1e-9)
        chosen = [fixed] * len(images)
    right = [
        count * found.correct[k, chosen[k] if asked[k] else 0] for k, count in enumerate(images)
    ]
    return float(sum(right)) / total
