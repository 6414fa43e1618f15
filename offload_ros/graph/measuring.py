"""One machine's measurement of a graph, stage by stage, each a short call with a JSON report.

Whatever carries the calls (a service, a channel) is not here. The device is lent for one piece of
work at a time, so that a machine goes on serving between the pieces.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from offload_ros.graph.classify import classify
from offload_ros.graph.coding_walk import CodingWalk
from offload_ros.graph.execute import Executor
from offload_ros.graph.graph import Parameter
from offload_ros.graph.measure import OperatorTimer, machine_of
from offload_ros.graph.resume import resume_s
from offload_ros.graph.shares import SharePasses
from offload_ros.graph.stopwatch import Lend

WHOLE, OPERATORS, RESUME = 'whole', 'operators', 'resume'
SHARES, CODINGS = 'shares', 'codings'
PARTS = 8  # calls in which all operators are measured in parts, or all tensors coded


class ProfilingError(RuntimeError):
    """A model cannot be measured; the text says why and what to do."""


class Measuring:
    """A graph with an example of its inputs on this machine, warmed up; ``slowdown``: of a paced
    device. Reports are ready for JSON."""

    def __init__(
        self,
        executor: Executor,
        inputs: Mapping[str, Tensor],
        lend: Lend,
        slowdown: float = 1.0,
    ) -> None:
        self.graph, self.inputs = executor.graph, dict(inputs)
        self.machine = machine_of(executor.device, slowdown)
        self._executor, self._lend, self._slowdown = executor, lend, slowdown
        self._split = classify(executor.graph)
        self._timer = OperatorTimer(executor, self.inputs)
        self._timer.warm_up(lend)
        self._timer.whole_s(lend)
        self._shares: SharePasses | None = None
        self._codings: CodingWalk | None = None
        self._next: dict[str, int] = {}

    def report(self, stage: str, part: int = 0, repeats: int = 1) -> dict[str, Any]:
        """Measure one of ``WHOLE``, ``OPERATORS``, ``RESUME`` (one pass of each), ``SHARES``,
        ``CODINGS`` (``part`` of ``PARTS``, in order); ``ProfilingError`` for anything else."""
        if stage == WHOLE:
            return {'whole_s': self._slowdown * self._timer.whole_s(self._lend)}
        if stage == OPERATORS:
            return self._operators()
        if stage == RESUME:
            taken_s = resume_s(self._executor, self.inputs, self._lend)
            return {'resume_s': self._slowdown * taken_s}
        if stage == SHARES:
            return {'samples': self._share_samples(part, repeats)}
        if stage == CODINGS:
            return {'codings': self._coding_samples(part)}
        raise ProfilingError(f'there is no stage {stage!r:.40}')

    def _operators(self) -> dict[str, Any]:
        seconds = self._timer.timed_pass(self._lend)
        paced = {str(node): self._slowdown * each for node, each in seconds.items()}
        return {'node_s': paced, 'nbytes': {str(k): v for k, v in self._timer.nbytes.items()}}

    def _share_samples(self, part: int, repeats: int) -> list[list[float]]:
        """All with the last part, none before."""
        if part == 0:
            names = self.graph.parameters
            parameters = {name: self._executor.parameter(Parameter(name)) for name in names}
            self._shares = SharePasses(
                self._executor, self._split, parameters, self.inputs, repeats
            )
        passes = self._shares
        for _ in self._of_part(SHARES, part, passes.count if passes is not None else None):
            assert passes is not None
            passes.run_next(self._lend)
        if passes is None or part < PARTS - 1:
            return []
        self._shares = None
        return [
            [each.node, each.length, each.extent, self._slowdown * each.seconds]
            for each in passes.samples()
        ]

    def _coding_samples(self, part: int) -> list[list[Any]]:
        """Codecs run on the processor, whatever the device: they are not paced."""
        samples = []
        if part == 0:
            self._codings = CodingWalk(self._executor, self.inputs)
            samples += self._codings.inputs(self._lend)
        codings = self._codings
        nodes = len(self.graph.nodes) if codings is not None else None
        for node in self._of_part(CODINGS, part, nodes):
            assert codings is not None
            samples += codings.next_node(node, self._lend)
        if part == PARTS - 1:
            self._codings = None
        return [list(each) for each in samples]

    def _of_part(self, stage: str, part: int, count: int | None) -> range:
        """Of ``count`` steps those of the next part; None: it was not begun."""
        expected = 0 if part == 0 else self._next.get(stage, PARTS)
        if count is None or part != expected or not 0 <= part < PARTS:
            raise ProfilingError(f'part {part} is not the next of {PARTS}: begin with 0')
        self._next[stage] = part + 1
        return range(part * count // PARTS, (part + 1) * count // PARTS)
