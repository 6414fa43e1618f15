"""Strategy ``auto``: each frame by the strategy that is expected to be the best for it now.

What each is expected to take comes from its own prediction on the link's distribution, corrected by
what its inferences took; all models of the robot with this strategy choose together (``choice``).
"""

from __future__ import annotations

from dataclasses import replace
import logging
import math
import threading
import time
from typing import TYPE_CHECKING

from offload_ros.models.errors import InputError, ModelError
from offload_ros.policy.choice import Wish, score
from offload_ros.policy.expectation import UNKNOWN, Correction, Expectation, expected
from offload_ros.policy.goal import LEAST_LATENCY, Goal, Objective
from offload_ros.policy.power import PowerModel
from offload_ros.strategy import (
    Frame,
    LeftToRobot,
    Link,
    LinkState,
    Prediction,
    Result,
    Strategy,
    StrategyRefused,
    Unanswered,
    automatic_strategies,
    make_strategy,
    register,
)

if TYPE_CHECKING:
    from offload_ros.models.model import Model

DEVICE, SERVER = 'device', 'server'
LOOK_AGAIN_S = 10.0  # for strategies that were refused
KEEP = 0.97  # another one must be expected to take less than this share ...
STEADY = 5  # ... so many frames in a row; at once when less than AT_ONCE
AT_ONCE = 0.7
# While the robot computes, a frame goes to the server too so often: what comes of it tells when
# that pays again, without delaying any result. Links that drop are often back within a second.
LOOK_S, LOOK_LIMIT_S, LOOK_SHARE = 0.5, 2.0, 0.25
# What takes so much longer than where the link is as bad as in one case of ten is overdue.
OVERDUE_FACTOR, OVERDUE_SLACK_S = 1.5, 0.02


class _Candidate:
    """A strategy that can run this model, and experience with it."""

    def __init__(self, name: str, strategy: Strategy) -> None:
        self.name, self.strategy = name, strategy
        self.correction = Correction()
        self.plain = UNKNOWN  # expected of the present frame, before the correction


@register('auto')
class AutoStrategy:
    """See the module. Its results say which strategy ran, and why that one."""

    aims = chooses = True

    def __init__(self) -> None:
        self._candidates: dict[str, _Candidate] = {}
        self._looked_s = -math.inf
        self._lock = threading.Lock()
        self._running: _Candidate | None = None
        self._present = ''
        self._rival, self._rival_frames = '', 0
        self._goal: tuple[Goal, float] = (LEAST_LATENCY, math.inf)
        self._looker: threading.Thread | None = None
        self._look_at_s = -math.inf
        self._last_s, self._period_s = math.nan, math.nan
        self._reason = ''
        self._power = PowerModel()
        self._cancelled_seq = 0
        self._closed = False

    def aim(self, goal: Goal, answer_s: float) -> None:
        """What to choose for; strategies that plan are told too."""
        self._goal = (goal, answer_s)
        planned = LEAST_LATENCY if goal.objective is Objective.ACCURACY else goal
        for each in self._candidates.values():
            if getattr(each.strategy, 'aims', False):
                each.strategy.aim(planned, answer_s)  # type: ignore[attr-defined]

    def prepare(self, model: Model, link: Link) -> None:
        """See ``Strategy``; those that cannot run the model are left out."""
        self._model, self._link = model, link
        self._find_candidates()

    def _find_candidates(self) -> None:
        """Those that were refused may have become possible, as when a profile was measured."""
        self._looked_s = time.monotonic()
        for name in automatic_strategies():
            if name in self._candidates:
                continue
            try:
                strategy = make_strategy(name)
                strategy.prepare(self._model, self._link)
            except StrategyRefused:
                continue
            except Exception as error:  # a strategy may be anybody's code
                text = "strategy '%s' is left out for model '%s': %s: %s"
                why = (type(error).__name__, error)
                logging.getLogger(__name__).warning(text, name, self._model.name, *why)
                continue
            self._candidates[name] = _Candidate(name, strategy)
            self.aim(*self._goal)

    def predict(self, state: LinkState) -> Prediction:
        """Of the strategy that would run now."""
        found = self._options(state, time.monotonic())
        best = found.get(self._present)
        if best is None:
            return Prediction()
        return Prediction(best.latency_s, best.energy_j, best.accuracy, *best.busy_s, best.bytes_up)

    def run(self, frame: Frame, deadline_s: float) -> Result:
        """See ``Strategy``."""
        now_s = time.monotonic()
        self._pace(frame.received_s)
        if now_s - self._looked_s > LOOK_AGAIN_S:
            self._find_candidates()
        name = self._choose(frame, now_s)
        while name != DEVICE:
            candidate = self._candidates[name]
            if candidate.plain.known and not candidate.plain.busy_s[1]:
                self._look(frame, now_s)  # its present plan leaves all to the robot
            try:
                return self._by(candidate, frame, deadline_s)
            except Unanswered as error:
                failed_s = time.monotonic()
                candidate.correction.failed(failed_s)
                if isinstance(error, LeftToRobot):
                    error.used = error.used or name
                    raise
                if self._over(frame) or name == self._present:
                    raise
                # It was only tried: the present one answers this frame all the same.
                name = self._present or DEVICE
                self._reason = f'{candidate.name} was tried: {error}'
        self._look(frame, now_s)
        raise LeftToRobot(f'robot {self._model.device}', used=DEVICE, reason=self._reason)

    def _look(self, frame: Frame, now_s: float) -> None:
        """Send a frame to the server beside the robot's own computing, if that is due."""
        candidate = self._candidates.get(SERVER)
        busy = self._looker is not None and self._looker.is_alive()
        if candidate is None or busy or now_s < self._look_at_s or not self._usable(candidate):
            return
        if not candidate.plain.known and not candidate.correction.count:
            return  # nothing is known yet: it is tried as any other
        self._looker = threading.Thread(target=self._looked, args=[candidate, frame], daemon=True)
        self._looker.start()

    def _looked(self, candidate: _Candidate, frame: Frame) -> None:
        began_s, expected_s = time.monotonic(), candidate.plain.latency_s
        try:
            candidate.strategy.run(frame, began_s + LOOK_LIMIT_S)
        except Exception:  # whatever it is, a frame that needs it will meet it too
            candidate.correction.failed(time.monotonic())
        else:
            now_s = time.monotonic()
            candidate.correction.measured(expected_s, now_s - began_s, now_s)
        took_s = time.monotonic() - began_s
        self._look_at_s = began_s + max(LOOK_S, took_s / LOOK_SHARE)

    def cancel(self, seq: int) -> None:
        """See ``Strategy``."""
        with self._lock:
            self._cancelled_seq = max(self._cancelled_seq, seq)
            running = self._running
        if running is not None:
            running.strategy.cancel(seq)

    def close(self) -> None:
        """See ``Strategy``."""
        self._closed = True
        self._link.board.forget(self._model.name)
        for each in self._candidates.values():
            each.strategy.close()

    def _over(self, frame: Frame) -> bool:
        return self._closed or frame.seq <= self._cancelled_seq

    def _by(self, candidate: _Candidate, frame: Frame, deadline_s: float) -> Result:
        with self._lock:
            self._running = candidate
        if self._over(frame):
            raise Unanswered('cancelled')
        began_s = time.monotonic()
        frame.compute_at(began_s + self._overdue_s(candidate, began_s))
        try:
            result = candidate.strategy.run(frame, deadline_s)
        except (Unanswered, InputError, ModelError):
            raise
        except Exception as error:  # a strategy may be anybody's code: another one answers
            text = f'strategy {candidate.name}: {type(error).__name__}: {error}'
            raise Unanswered(text) from error
        finally:
            with self._lock:
                self._running = None
        now_s = time.monotonic()
        candidate.correction.measured(candidate.plain.latency_s, now_s - began_s, now_s)
        return replace(result, used=candidate.name, reason=self._reason)

    def _overdue_s(self, candidate: _Candidate, now_s: float) -> float:
        """After how long the robot begins to compute too, where latency is what counts: the link
        has most likely stopped, and its answer is then sooner than the deadline's."""
        late_s = candidate.correction.applied(candidate.plain, now_s).late_s
        if self._goal[0].objective is not Objective.LATENCY or not math.isfinite(late_s):
            return math.inf
        overdue_s = OVERDUE_FACTOR * late_s + OVERDUE_SLACK_S
        if getattr(candidate.strategy, 'completes', False):  # it gets the time for that
            overdue_s += max(0.0, self._alone_s())
        return overdue_s

    def _pace(self, received_s: float) -> None:
        """How often frames come that are taken up."""
        passed_s = received_s - self._last_s
        self._last_s = received_s
        if not 0.0 < passed_s < 5.0:
            return
        known = math.isfinite(self._period_s)
        self._period_s = self._period_s + 0.1 * (passed_s - self._period_s) if known else passed_s

    # ---- the choice

    def _options(self, state: LinkState, now_s: float) -> dict[str, Expectation]:
        """What each candidate that may run now is expected to take."""
        found = {}
        for each in self._candidates.values():
            if not each.correction.allowed(now_s):
                continue
            try:
                if not self._usable(each):
                    continue
                each.plain = expected(each.strategy, state, self._power)
            except Exception as error:  # a strategy may be anybody's code
                each.correction.failed(now_s)
                logging.getLogger(__name__).warning("strategy '%s': %r", each.name, error)
                continue
            found[each.name] = each.correction.applied(each.plain, now_s)
        alone_s = self._alone_s()
        busy = (alone_s if math.isfinite(alone_s) else 0.0, 0.0, 0.0, 0.0)
        energy_j = self._power.energy_j(alone_s) if math.isfinite(alone_s) else math.nan
        found[DEVICE] = Expectation(alone_s, alone_s, energy_j, math.nan, busy)
        return found

    def _alone_s(self) -> float:
        durations = self._link.local.get(self._model.name)
        return math.nan if durations is None else durations.percentile(50)

    def _usable(self, candidate: _Candidate) -> bool:
        """Whether it makes sense to ask: a server is there, and has what it needs."""
        usable = getattr(candidate.strategy, 'usable', None)
        return usable is None or bool(usable(self._goal[0]))

    def _choose(self, frame: Frame, now_s: float) -> str:
        client = self._link.client
        server, why = client.server_for(self._model)
        others = client.directory.alive()
        peer = server or (others[0] if others else None)
        state = client.link_state(peer.name) if peer is not None else LinkState()
        options = self._options(state, now_s)
        known = {name: each for name, each in options.items() if each.known}
        untried = [name for name in options if name not in known and name != DEVICE]
        if untried and (self._present in known or not known):
            return self._named(untried[0], f'{untried[0]} is tried')
        if not known:  # nothing is known of the robot either: it computes, and that is timed
            return self._named(DEVICE, why or 'nothing else can run')
        wish = self._wish(known, frame, now_s)
        best, beside = self._link.board.choose(self._model.name, wish)
        return self._settled(best, beside, wish, why)

    def _wish(self, known: dict[str, Expectation], frame: Frame, now_s: float) -> Wish:
        goal, answer_s = self._goal
        options = self._link.amot.get(self._model.name)
        budget = math.inf
        if goal.objective is Objective.ACCURACY:
            share = options.traffic_budget if options is not None else 1.0
            budget = share * sum(each.nbytes for each in frame.inputs.values())
        rate_hz = 1.0 / self._period_s if math.isfinite(self._period_s) else 0.0
        return Wish(rate_hz, known, goal, answer_s, budget, now_s)

    def _settled(
        self, best: str, beside: dict[str, Expectation], wish: Wish, why_no_server: str
    ) -> str:
        """The best one, unless it is hardly better than the present one, or was not for long."""
        present = self._present
        reference = beside.get(DEVICE)
        scores = {name: score(wish, each, reference) for name, each in beside.items()}
        told = ', '.join(
            f'{name} {1e3 * each.latency_s:.0f} ms'
            + (f' {each.energy_j:.2f} J' if wish.goal.objective is not Objective.LATENCY else '')
            for name, each in sorted(beside.items(), key=lambda pair: scores[pair[0]])
        )
        if SERVER not in beside and why_no_server:
            told += f'; {why_no_server}'
        reason = f'{wish.goal}: {told}'
        if present not in scores or best == present:
            self._rival_frames = 0
            return self._named(best, reason)
        gain = scores[best] / max(scores[present], 1e-12)
        self._rival_frames = self._rival_frames + 1 if best == self._rival else 1
        self._rival = best
        if gain < AT_ONCE or (gain < KEEP and self._rival_frames >= STEADY):
            self._rival_frames = 0
            return self._named(best, reason)
        return self._named(present, reason)

    def _named(self, name: str, reason: str) -> str:
        self._reason = reason
        if not reason.endswith('is tried'):
            self._present = name
        return name
