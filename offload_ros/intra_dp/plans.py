"""Plans of one model for every bandwidth, ready to run: planned in the background, kept on disk.

Bandwidths have steps of a factor of 2^(1/4) = 1.19 each way from 0.25 to 256 MB/s, the delay of 2.
Steps of 1 MB/s, as the paper has them, are a factor of 2 where plans differ most and needlessly
fine where they do not. Links that hardly differ share plans (``_NEAR``). For each step there are
the best layer cut, quickly, and then the best split plan. What takes an inference is chosen
among those of the link's step and its neighbours (``control``); nothing of it happens in a frame's
time.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
import hashlib
import json
import logging
from pathlib import Path
import threading
import time
from typing import Any

import numpy as np

from offload_ros.cuts.cut import Cut
from offload_ros.cuts.local_graph import LocalGraph
from offload_ros.cuts.plan_table import (
    LEAST_BYTES_PER_S,
    LEAST_DELAY_S,
    OCTAVES,
    UTILISATION,
    Step,
    keep_plans,
    nodes_on_server,
    plans_folder,
    stay_or_move,
)
from offload_ros.cuts.value_codecs import code_named
from offload_ros.graph.profile import Profile, ProfileError
from offload_ros.graph.profile_file import profile_document
from offload_ros.graph.split_plan import Plan
from offload_ros.intra_dp.candidate import CUT, DEVICE, FAMILIES, SERVER, Candidate, Curve
from offload_ros.intra_dp.lower import Work
from offload_ros.intra_dp.plan_worker import SCALES
from offload_ros.intra_dp.planning import Planning
from offload_ros.policy.goal import LEAST_LATENCY, Goal
from offload_ros.policy.power import PowerModel
from offload_ros.strategy import LinkState

log = logging.getLogger(__name__)
PER_OCTAVE = 4
BESIDE = 2  # so many steps on each side of the link's own are candidates
WRITE_S = 5.0
METHODS = ('server', 'layer_cut', 'intra_dp')  # from the quickest to the best
_preparer = ThreadPoolExecutor(1, 'lower')


@dataclass(frozen=True, eq=False)
class Ready:
    """A plan that can be run: ``work`` as a cut, or lowered to pieces; None: all on the robot.
    ``codecs``: by operator, what its output travels as (``value_codecs``)."""

    key: str
    plan: Plan
    work: Cut | Work | None
    codecs: Mapping[int, int]

    @property
    def counts(self) -> tuple[int, int]:
        """Operators of which the robot computes some rows, and the server."""
        computed = np.array([not each.is_input for each in self.plan.profile.operators])
        robot, server = self.plan.on_robot & computed, self.plan.on_server & computed
        return int(robot.sum()), int(server.sum())


@dataclass(frozen=True, eq=False)
class _Entry:
    """Of one step by one method: as it was answered, and as it is kept on disk."""

    family: str
    document: Mapping[str, Any]
    codecs: Mapping[str, str]
    latency_s: tuple[float, ...]
    energy_j: tuple[float, ...]
    key: str

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> _Entry:
        """``ValueError`` for what is none."""
        document, codecs, latency_s = answer['plan'], answer['codecs'], answer['latency_s']
        energy_j = answer['energy_j']
        if answer['family'] not in FAMILIES or {len(latency_s), len(energy_j)} != {len(SCALES)}:
            raise ValueError('no plan of this version')
        text = json.dumps([document, codecs], sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()
        curves = tuple(map(float, latency_s)), tuple(map(float, energy_j))
        return cls(answer['family'], document, dict(codecs), *curves, key)

    def kept(self) -> dict[str, Any]:
        """For the file."""
        return {
            'family': self.family,
            'plan': self.document,
            'codecs': dict(self.codecs),
            'latency_s': list(self.latency_s),
            'energy_j': list(self.energy_j),
        }


class SplitPlans:
    """Of the graph ``local`` with its ``profile``, for ``goal``. ``folder``: where plans are kept,
    by default ``plans_folder()``. ``ProfileError`` when the profile is not of the graph."""

    def __init__(
        self,
        local: LocalGraph,
        graph_hash: str,
        profile: Profile,
        methods: Sequence[str] = METHODS,
        folder: Path | None = None,
        goal: Goal = LEAST_LATENCY,
    ) -> None:
        graph = local.graph
        known = {operator.id for operator in profile.operators if not operator.is_input}
        if not known <= set(range(len(graph.nodes))):
            raise ProfileError(f"the profile of '{profile.model}' has nodes that its graph lacks")
        self.profile, self.goal = profile, goal
        self._local, self._graph, self._methods = local, graph, tuple(methods)
        self._lock = threading.Lock()
        self._entries: dict[Step, dict[str, _Entry]] = {}
        self._ready: dict[str, Ready | None] = {}  # None: cannot be run
        self._preparing: set[str] = set()
        self._made: dict[tuple[Step, str], Candidate] = {}
        self._asked: set[Step] = set()
        self._present: Step | None = None
        self._written_s = time.monotonic()
        self.why_none = 'plans are being computed'
        device_s = sum(operator.robot_s for operator in profile.operators)
        on_robot = Plan.cut(profile, [False] * len(profile))
        self._device = Ready(DEVICE, on_robot, None, {})
        seconds = max(device_s, 1e-9)
        curves = [
            Curve(np.array([LEAST_BYTES_PER_S]), np.array([each]))
            for each in (seconds, PowerModel().energy_j(seconds))
        ]
        self._on_device = Candidate(self._device, DEVICE, *curves)
        self._path = (folder or plans_folder()) / f'{self._key(graph_hash)}.json'
        self._planning = Planning(profile, self._on_answer)
        self._read()

    def candidates(self, state: LinkState) -> list[Candidate]:
        """Those that are ready, for the link as it is, the robot alone among them; ``key`` of each
        is a ``Ready``. Asks for what is missing."""
        with self._lock:
            step = self._present = stay_or_move(self._present, state, PER_OCTAVE)
            around = [each for move in _MOVES if (each := _moved(step, move)) is not None]
            missing = [] if _serving(step, self._asked) else [step]
            others = [] if self._asked else _diagonal(step)
            self._asked.update(missing, others)
            found_at = [_serving(each, self._entries) for each in around]
            places = list(dict.fromkeys(each for each in found_at if each is not None))
            if not places and self._entries:  # the nearest serve until theirs are there
                places = sorted(self._entries, key=lambda each: _distance(each, step))[:1]
        self._ask(missing, urgent=True)
        self._ask([each for each in others if each not in missing])
        found = {DEVICE: self._on_device}
        for place in places:
            for entry in list(self._entries[place].values()):
                ready = self._prepared(entry)
                if ready is not None and entry.family != DEVICE and entry.key not in found:
                    found[entry.key] = self._candidate(place, entry, ready)
        return list(found.values())

    def _candidate(self, place: Step, entry: _Entry, ready: Ready) -> Candidate:
        """Made once: frames wait for it."""
        made = self._made.get((place, entry.key))
        if made is None:
            bandwidths = place.link_at(PER_OCTAVE).uplink_bytes_per_s * SCALES
            curves = [
                Curve(bandwidths, np.array(each)) for each in (entry.latency_s, entry.energy_j)
            ]
            made = self._made[place, entry.key] = Candidate(ready, entry.family, *curves)
        return made

    def close(self) -> None:
        """Plan no more."""
        self._planning.close()
        self._write()

    def status(self) -> str:
        """How far planning has come, in words."""
        with self._lock:
            done, asked = len(self._entries), len(self._asked)
        why = f' ({self._planning.why})' if self._planning.why else ''
        return f'plans for {done} of {max(done, asked)} links{why}'

    def _ask(self, steps: Sequence[Step], urgent: bool = False) -> None:
        self._planning.ask(
            [
                {
                    'step': step,
                    'method': method,
                    'link': _link_document(step),
                    'goal': self.goal.document(),
                }
                for step in steps
                for method in self._methods
                if method not in self._entries.get(step, {})
            ],
            urgent,
        )

    def _on_answer(self, answer: Mapping[str, Any]) -> None:
        if 'error' in answer:
            why = f'{answer["method"]} finds no plan: {answer["error"]}'
            if why != self.why_none:
                log.warning("model '%s', %s", self.profile.model, why)
            self.why_none = why
            return
        step, entry = Step(*answer['step']), _Entry.of(answer)
        with self._lock:
            self._entries.setdefault(step, {})[answer['method']] = entry
            present = self._present
        if present is not None and _distance(step, present) <= 2 * BESIDE:
            self._prepared(entry)
        if not self._planning.waiting or time.monotonic() - self._written_s > WRITE_S:
            self._write()

    def _prepared(self, entry: _Entry) -> Ready | None:
        """None until it is, in the background."""
        with self._lock:
            if entry.key in self._ready or entry.key in self._preparing:
                return self._ready.get(entry.key)
            self._preparing.add(entry.key)
        _preparer.submit(self._prepare, entry)
        return None

    def _prepare(self, entry: _Entry) -> None:
        made = None
        try:
            plan = Plan.from_document(self.profile, entry.document)
            codecs = {int(id): code_named(name) for id, name in entry.codecs.items()}
            made = Ready(entry.key, plan, self._runnable(entry.family, plan), codecs)
        except ValueError as error:
            log.warning("model '%s': a plan is not used: %s", self.profile.model, error)
        except Exception:
            log.exception("model '%s': a plan is not used", self.profile.model)
        with self._lock:
            self._ready[entry.key] = made
            self._preparing.discard(entry.key)

    def _runnable(self, family: str, plan: Plan) -> Cut | Work | None:
        if family == DEVICE:
            return None
        if family in (SERVER, CUT):
            return Cut(self._graph, nodes_on_server(self._graph, plan))
        return self._local.lower(plan)

    def _key(self, graph_hash: str) -> str:
        described = {
            'graph': graph_hash,
            'profile': profile_document(self.profile),
            'methods': self._methods,
            'goal': self.goal.document(),
            'steps': [LEAST_BYTES_PER_S, PER_OCTAVE, LEAST_DELAY_S, UTILISATION, SCALES.tolist()],
        }
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()

    def _read(self) -> None:
        try:
            document = json.loads(self._path.read_text(encoding='utf-8'))
            for key, methods in document.items():
                step = Step(*map(int, key.split(',')))
                entries = {method: _Entry.of(each) for method, each in methods.items()}
                self._entries[step] = entries
                if entries.keys() >= set(self._methods):
                    self._asked.add(step)
        except FileNotFoundError:
            return
        except (OSError, ValueError, AttributeError, TypeError, KeyError) as error:
            log.warning('%s is not used: %s', self._path, error)

    def _write(self) -> None:
        """Best effort: what cannot be kept is computed again."""
        self._written_s = time.monotonic()
        with self._lock:
            document = {
                ','.join(map(str, step)): {name: each.kept() for name, each in methods.items()}
                for step, methods in self._entries.items()
            }
        keep_plans(self._path, document)


_MOVES = sorted(range(-BESIDE, BESIDE + 1), key=abs)
_MOST = PER_OCTAVE * OCTAVES
# Uplink at most a step off, downlink two beside it; the closest first.
_NEAR = sorted(
    (
        (up, up + beside, delay)
        for up in (0, 1, -1)
        for beside in range(-2, 3)
        for delay in (0, 1, -1)
    ),
    key=lambda off: (off != (0, 0, 0), abs(off[0]), abs(off[1] - off[0]) + abs(off[2])),
)


def _moved(step: Step, move: int) -> Step | None:
    """The same link, faster or slower both ways; None beyond the table."""
    up, down = step.up + move, step.down + move
    return Step(up, down, step.delay) if 0 <= up <= _MOST and 0 <= down <= _MOST else None


def _serving(step: Step, there: Container[Step]) -> Step | None:
    """The step itself, or else one hardly different. Estimates of both ways wander, each by itself:
    there is not a plan for each place where they meet."""
    for up, down, delay in _NEAR:
        near = Step(step.up + up, step.down + down, step.delay + delay)
        if near in there:
            return near
    return None


def _diagonal(step: Step) -> list[Step]:
    """The link at all speeds up to 64 MB/s, the nearest first."""
    top = PER_OCTAVE * 8
    moves = sorted(range(-step.up, top - step.up + 1), key=abs)
    return [each for move in moves if (each := _moved(step, move)) is not None]


def _distance(one: Step, other: Step) -> float:
    return abs(one.up - other.up) + abs(one.down - other.down) + 0.5 * abs(one.delay - other.delay)


def _link_document(step: Step) -> list[float]:
    link = step.link_at(PER_OCTAVE)
    return [link.uplink_bytes_per_s, link.downlink_bytes_per_s, link.delay_s, link.utilisation]
