"""Local Operation Scheduling Strategy: which rows robot and server compute, and in which order.

Variables and constraints are those of the Intra-DP paper (equations 2 and 3): the rows that each
side computes of every operator, contiguous and overlapping where halos are computed twice; a side
starts an operator when its own predecessor has ended and what it lacks has arrived. They are solved
on the schedule evaluator, on a coarse graph (``coarse``): seeds with one border (``seeds``), plans
of other bandwidths, then local search (``local_search``). The best are evaluated as they will run,
beside device-only, server-only and the best layer cut, and the best of all is returned.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
import math
import random

from offload_ros.baselines.layer_cut import layer_cut
from offload_ros.baselines.problem import Method, Problem, Subject
from offload_ros.graph.methods import device, server
from offload_ros.graph.schedule import Link
from offload_ros.graph.split_plan import Plan, PlanError
from offload_ros.graph.steps_flow import FlowError
from offload_ros.intra_dp.local_search import anneal
from offload_ros.intra_dp.seeds import Seed, best_streams, seeds_of
from offload_ros.intra_dp.streams import Stream, Streams

STARTS = 3  # of the local search
EFFORT = 900_000  # of the local search, in windows looked at
LADDER = (4.0, 2.0, 0.5, 1.4)  # of the bandwidth
LADDER_EFFORT = 0.22  # of what the bandwidth that was asked for gets
NEAR = 8  # streams of other links that are tried
FINALISTS = 3
KEPT = 64  # streams of other links
BASELINES: tuple[Method, ...] = (device, server, layer_cut)


class Search:
    """Of one subject; it remembers what was good at other links."""

    def __init__(self, subject: Subject) -> None:
        self.streams = Streams(subject)
        self._known: dict[Stream, Link] = {}

    @cached_property
    def _seeds(self) -> list[Seed]:
        return seeds_of(self.streams)

    @classmethod
    def of(cls, subject: Subject) -> Search:
        """The one of ``subject``."""
        found = subject.memory.get('intra_dp')
        if found is None:
            found = subject.memory['intra_dp'] = cls(subject)
        assert isinstance(found, Search)
        return found

    def begin(self, problem: Problem, effort: float = EFFORT) -> None:
        """Unless something is known, look at faster links, each with what is known by then: plans
        of neighbours lead to better ones than seeds do."""
        if not self._known:
            for factor in LADDER:
                link = problem.link
                up, down = link.uplink_bytes_per_s * factor, link.downlink_bytes_per_s * factor
                faster = replace(link, uplink_bytes_per_s=up, downlink_bytes_per_s=down)
                self.best(replace(problem, link=faster), LADDER_EFFORT * effort)

    def best(self, problem: Problem, effort: float = EFFORT) -> list[Stream]:
        """The best streams by the coarse graph, the best one first."""
        ranks: dict[Stream, float] = {}
        streams = self.streams

        def rank_of(stream: Stream) -> float:
            rank = ranks.get(stream)
            if rank is None:
                rank = ranks[stream] = streams.rank(stream, problem)
            return rank

        for stream in (*self._near(problem.link), *best_streams(self._seeds, problem.link)):
            rank_of(stream)
        starts = _different(sorted(ranks, key=rank_of))
        for number, start in enumerate(starts):
            begun = streams.spent
            chance = random.Random(number)
            anneal(
                streams.coarse.reads,
                start,
                rank_of,
                lambda begun=begun: (streams.spent - begun) * STARTS / effort,  # type: ignore[misc]
                chance,
            )
        found = sorted(ranks, key=rank_of)[:FINALISTS]
        if found:  # not where every operator is a barrier
            self._remember(found[0], problem.link)
        return found

    def _near(self, link: Link) -> list[Stream]:
        """What was good at links like this one."""

        def distance(stream: Stream) -> float:
            known = self._known[stream]
            return abs(math.log((known.uplink_bytes_per_s + 1.0) / (link.uplink_bytes_per_s + 1.0)))

        return sorted(self._known, key=distance)[:NEAR]

    def plans(self, problem: Problem, effort: float = EFFORT) -> list[Plan]:
        """The best ones as they run."""
        self.begin(problem, effort)
        found = []
        for stream in self.best(problem, effort):
            with suppress(FlowError):
                found.append(self.streams.plan(stream))
        return found

    def _remember(self, stream: Stream, link: Link) -> None:
        self._known[stream] = link
        if len(self._known) > KEPT:
            del self._known[next(iter(self._known))]


def _different(streams: list[Stream]) -> list[Stream]:
    """The first ones that differ in more than their tiles."""
    found = {stream.borders + stream.modes: stream for stream in reversed(streams)}
    return sorted(found.values(), key=streams.index)[:STARTS]


def intra_dp(problem: Problem, effort: float = EFFORT) -> Plan:
    """Never worse, by the evaluator, than device-only, server-only and the best layer cut.
    ``effort``: of the search; the default takes about a second."""
    plans = [method(problem) for method in BASELINES]
    if problem.link.uplink_bytes_per_s > 0.0:
        search = Search.of(problem.subject)
        plans += search.plans(problem, effort)
    return best_plan(problem, plans)


def best_plan(problem: Problem, plans: list[Plan]) -> Plan:
    """By the evaluator; the first among equals."""
    return min(plans, key=_rank_by(problem))


def _rank_by(problem: Problem) -> Callable[[Plan], float]:
    def rank(plan: Plan) -> float:
        try:
            schedule = problem.subject.evaluator.schedule(plan, problem.link)
        except PlanError:  # the coarse graph took two sides that wait for each other for a plan
            return math.inf
        return problem.rank_one(schedule.latency_s, schedule.energy_j(problem.power))

    return rank
