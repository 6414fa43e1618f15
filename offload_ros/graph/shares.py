"""What a part of an operator costs: measured at several shares of its split axis, then fitted.

The fit is what the evaluator charges (``offload_ros.graph.part_costs``): a line of each operator's
own, seconds of any part and seconds of all rows in parts, at least the cost of a single row.
Intra-DP assumes proportional shares above a fixed floor; here both are measured, and what the fit
misses is reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median

import numpy as np
from scipy.optimize import nnls
from torch import Tensor

from offload_ros.graph.classify import SplitGraph
from offload_ros.graph.execute import Executor
from offload_ros.graph.graph import Input, Parameter, Reference, Value
from offload_ros.graph.intervals import WHOLE, Interval
from offload_ros.graph.layout import laid_out
from offload_ros.graph.local import LocalOperator
from offload_ros.graph.profile import Side, require
from offload_ros.graph.slices import Operand, Slice, slice_execute
from offload_ros.graph.stopwatch import Lend, Stopwatch, Walk, at_once

TICK_S = 1e-9  # no less is taken for a measured time
SHARES = (1 / 8, 1 / 4, 1 / 2)


@dataclass(frozen=True)
class ShareSample:
    """``length`` of ``extent`` indices of node ``node`` took ``seconds``, a median."""

    node: int
    length: int
    extent: int
    seconds: float


@dataclass(frozen=True)
class ShareError:
    """Of all operators at about one share: what they took, what the fit says, and what a merely
    proportional share would be, in seconds; ``median_error``: of single operators, relative."""

    share: float
    operators: int
    measured_s: float
    fitted_s: float
    proportional_s: float
    median_error: float


@dataclass(frozen=True)
class ShareFit:
    """By node id: ``floors_s``: least cost; ``floor_s``: their median, of others. ``lines``: what
    any part costs, and all indices in parts, as shares of the whole operator that was measured in
    the same passes: a machine that is slower for a while is so for both."""

    floors_s: Mapping[int, float]
    floor_s: float
    lines: Mapping[int, tuple[float, float]]
    errors: tuple[ShareError, ...]

    def node_floor_s(self, node: int, whole_s: float, scale: float) -> float:
        """The floor of an operator that as a whole takes ``whole_s``, which is never less."""
        return min(whole_s, scale * self.floors_s.get(node, self.floor_s))

    def node_line(self, node: int, whole_s: float) -> tuple[float, float] | None:
        """In s, of an operator that was measured in parts and takes ``whole_s`` as a whole."""
        line = self.lines.get(node)
        return None if line is None else (whole_s * line[0], whole_s * line[1])

    def side(self, side: Side, scale: float) -> Side:
        """``side`` with this floor."""
        return replace(side, floor_s=scale * self.floor_s)

    def report(self) -> list[dict[str, float]]:
        """The errors, for JSON."""
        return [asdict(each) for each in self.errors]


def measure_shares(
    executor: Executor,
    split: SplitGraph,
    parameters: Mapping[str, Tensor],
    inputs: Mapping[str, Tensor],
    repeats: int = 5,
    lend: Lend = at_once,
) -> list[ShareSample]:
    """Every local operator at several shares, ``repeats`` times; medians."""
    passes = SharePasses(executor, split, parameters, inputs, repeats)
    for _ in range(passes.count):
        passes.run_next(lend)
    return passes.samples()


class SharePasses:
    """Passes through the graph, in each of which each operator is run in one of its parts.

    Not one part after the other: a machine that computes parts by a plan has run all other
    operators since it last read this one's weights, and finds caches as a pass leaves them.
    """

    def __init__(
        self,
        executor: Executor,
        split: SplitGraph,
        parameters: Mapping[str, Tensor],
        inputs: Mapping[str, Tensor],
        repeats: int,
    ) -> None:
        require(repeats >= 1, f'repeats must be 1 or more, not {repeats}')
        self._executor, self._split, self._inputs = executor, split, inputs
        self._parameters = {
            name: tensor.detach().to(executor.device) for name, tensor in parameters.items()
        }
        self._kinds = len(SHARES) + 2  # a single index, and the whole
        # Each part's first run makes its kernels and does not count.
        self.count = (1 + repeats) * self._kinds
        self._done = 0
        self._seconds: dict[tuple[int, int], list[float]] = {}

    def run_next(self, lend: Lend = at_once) -> None:
        """One of ``count`` passes."""
        walk = Walk(self._executor, self._inputs)
        for node in range(len(self._executor.graph.nodes)):
            operator = self._split.operators.get(node)
            if operator is not None and operator.extent > 1:
                lend(lambda: self._time(operator, walk.values))  # noqa: B023
            lend(lambda: walk.run(range(node, node + 1)))  # noqa: B023
        self._done += 1

    def samples(self) -> list[ShareSample]:
        """Of all passes."""
        return [
            ShareSample(node, length, self._split.operators[node].extent, median(took))
            for (node, length), took in self._seconds.items()
        ]

    def _time(self, operator: LocalOperator, values: Mapping[Reference, Tensor]) -> None:
        tensors = [self._value(each, values) for each in operator.call.tensors]
        given = [each for each in tensors if each is not None]
        if len(given) < len(tensors):
            return
        node, extent = operator.call.node.id, operator.extent
        lengths = sorted({1, *(max(1, round(each * extent)) for each in SHARES), extent})
        length = lengths[(node + self._done) % self._kinds % len(lengths)]
        watch = Stopwatch(self._executor.device)
        if length < extent:
            # In the middle, as most parts are: halos on both sides, no border of the tensor.
            start = (extent - length) // 2
            interval = Interval(start, start + length)
            operands = self._operands(operator, interval, given)
            watch.time(length, lambda: slice_execute(operator, interval, operands))
        else:
            watch.time(length, lambda: operator.call.run(given))
        if self._done >= self._kinds:
            self._seconds.setdefault((node, length), []).append(watch.take()[length])

    def _operands(
        self, operator: LocalOperator, interval: Interval, tensors: Sequence[Tensor]
    ) -> list[Operand]:
        """What a machine that computes this part holds: exactly the needed rows, in memory of
        their own."""
        operands: list[Operand] = []
        for tensor, spec, reference, relation, need in zip(
            tensors,
            operator.call.specs,
            operator.call.tensors,
            operator.relations,
            operator.input_intervals(interval),
            strict=True,
        ):
            if relation is None or need is WHOLE or self._split.is_constant(reference):
                operands.append(tensor)
                continue
            part = tensor.narrow(relation.axis, need.start, need.length)
            operands.append(Slice(laid_out(part.contiguous(), spec.order), need.start))
        return operands

    def _value(self, reference: Reference, values: Mapping[Reference, Tensor]) -> Tensor | None:
        if isinstance(reference, Parameter):
            return self._parameters[reference.name]
        assert isinstance(reference, (Input, Value))
        return values.get(reference)


def fit_shares(samples: Iterable[ShareSample]) -> ShareFit:
    """The fit of one machine's samples; ``ProfileError`` for samples of no operator."""
    operators = list(_by_operator(samples))
    require(operators, 'no operator was measured in parts: the model has none that can be split')
    floors_s = {node: min(took.values()) for node, took in operators}
    lines = {node: _line(took) for node, took in operators}
    errors = tuple(_errors(floors_s, lines, operators))
    return ShareFit(floors_s, median(floors_s.values()), lines, errors)


def _line(took: Mapping[int, float]) -> tuple[float, float]:
    """(fixed, rate) with the least relative errors, neither below 0: a share s of the indices takes
    fixed + rate * s of the time of all. ``took``: seconds by length, the largest is the whole."""
    extent = max(took)
    parts = [
        (length / extent, max(seconds, TICK_S) / took[extent])
        for length, seconds in took.items()
        if length < extent
    ]
    columns = np.array([(1.0 / part, share / part) for share, part in parts])
    (fixed, rate), _ = nnls(columns, np.ones(len(parts)))
    return float(fixed), float(rate)


def _by_operator(samples: Iterable[ShareSample]) -> Iterator[tuple[int, dict[int, float]]]:
    """Node and seconds by length, the largest of which is the whole."""
    found: dict[int, dict[int, float]] = {}
    extents: dict[int, int] = {}
    for sample in samples:
        found.setdefault(sample.node, {})[sample.length] = sample.seconds
        extents[sample.node] = sample.extent
    for node, took in found.items():
        if len(took) > 1 and extents[node] in took and took[extents[node]] > 0.0:
            yield node, took


def _nominal(share: float) -> float:
    """The share of ``SHARES`` that this one stands for; 0 for a single index of many."""
    return min((0.0, *SHARES), key=lambda each: abs(each - share))


def _errors(
    floors_s: Mapping[int, float],
    lines: Mapping[int, tuple[float, float]],
    operators: Sequence[tuple[int, Mapping[int, float]]],
) -> Iterator[ShareError]:
    rows: dict[float, list[tuple[float, float, float]]] = {}
    for node, took in operators:
        extent = max(took)
        for length, seconds in took.items():
            if length == extent:
                continue
            fixed, rate = lines[node]
            fitted = max(floors_s[node], took[extent] * (fixed + rate * length / extent))
            row = (seconds, fitted, took[extent] * length / extent)
            rows.setdefault(_nominal(length / extent), []).append(row)
    for share in sorted(rows):
        measured, fitted, proportional = np.array(rows[share]).T
        yield ShareError(
            share,
            len(measured),
            float(measured.sum()),
            float(fitted.sum()),
            float(proportional.sum()),
            float(np.median(np.abs(fitted - measured) / measured)),
        )
