"""A profile: what each operator of a model costs on the robot and on the server.

Planning needs nothing else of a model: the operators in execution order, how long each takes on
either side, how large its output is, and which rows of its inputs a range of its output rows needs.
``profile_file`` reads and writes profiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

SCHEMA = 1
FORMAT = 'offload_ros profile'
Floats = NDArray[np.float64]


class ProfileError(ValueError):
    """A profile that cannot be used; the text names the place, the rule and what came."""


def require(condition: object, text: str) -> None:
    """``ProfileError`` with ``text`` unless ``condition`` holds."""
    if not condition:
        raise ProfileError(text)


def _is_amount(value: float) -> bool:
    return math.isfinite(value) and value >= 0.0


@dataclass(frozen=True)
class Coding:
    """A codec (``cuts.value_codecs``) on an operator's whole output, measured on an example:
    ``wire_bytes`` cross, after seconds on the side that sends and before seconds on the other."""

    codec: str
    wire_bytes: int
    robot_encode_s: float = 0.0
    server_encode_s: float = 0.0
    robot_decode_s: float = 0.0
    server_decode_s: float = 0.0

    def __post_init__(self) -> None:
        for key in ('wire_bytes', *CODING_TIMES):
            amount = getattr(self, key)
            require(
                _is_amount(amount),
                f"codec '{self.codec}': {key} must be a finite number, 0 or more, not {amount}",
            )


CODING_TIMES = ('robot_encode_s', 'server_encode_s', 'robot_decode_s', 'server_decode_s')


@dataclass(frozen=True)
class ProfiledOperator:
    """One operator, or an input of the model (``is_input``: on the robot from the start, free).

    ``id`` names it in plans; ``inputs`` are ids of earlier operators. ``width``: size of the split
    axis of its output. ``split``: rows of the output can be computed one by one; where not, the
    operator is a barrier, computed whole on a side that holds its whole inputs. Output rows [a, b)
    of a split one need the input rows
    [floor(a * stride - padding), ceil((b - 1) * stride - padding + kernel)), clipped;
    stride 0.5 doubles the rows. Dilation is folded into ``kernel``. ``is_output``: the robot must
    hold it at the end. ``wire_bytes``: what crosses the link in place of ``output_bytes`` where a
    codec or a narrower element type is used; ``codec`` names it, and ``robot_encode_s`` and so on
    are what it takes for the whole output on either side. ``codings``: what was measured, of which
    ``codings.coded_for`` uses the one that pays on a link. ``robot_floor_s``, ``server_floor_s``:
    measured cost of its kernel launches, in place of the profile's. ``robot_part``,
    ``server_part``: measured cost of parts of it, (seconds of any part, seconds of all rows in
    parts), in place of the side's curve.
    """

    id: int
    name: str
    inputs: tuple[int, ...]
    width: int
    output_bytes: int
    robot_s: float
    server_s: float
    split: bool = False
    kernel: float = 1.0
    stride: float = 1.0
    padding: float = 0.0
    is_input: bool = False
    is_output: bool = False
    wire_bytes: int | None = None
    robot_floor_s: float | None = None
    server_floor_s: float | None = None
    robot_part: tuple[float, float] | None = None
    server_part: tuple[float, float] | None = None
    codec: str = ''
    robot_encode_s: float = 0.0
    server_encode_s: float = 0.0
    robot_decode_s: float = 0.0
    server_decode_s: float = 0.0
    codings: tuple[Coding, ...] = ()

    def __post_init__(self) -> None:
        where = f"operator {self.id} ('{self.name}')"
        require(self.width >= 1, f'{where}: width must be 1 or more, not {self.width}')
        for key in ('output_bytes', 'robot_s', 'server_s', 'wire_bytes', *CODING_TIMES):
            amount = getattr(self, key)
            require(
                amount is None or _is_amount(amount),
                f'{where}: {key} must be a finite number, 0 or more, not {amount}',
            )
        for key in ('robot_floor_s', 'server_floor_s'):
            floor = getattr(self, key)
            require(
                floor is None or _is_amount(floor),
                f'{where}: {key} must be a finite number, 0 or more, not {floor}',
            )
        for key in ('robot_part', 'server_part'):
            line = getattr(self, key)
            require(
                line is None or (len(line) == 2 and all(map(_is_amount, line))),
                f'{where}: {key} must be two finite numbers, 0 or more, not {line}',
            )
        for key, least in (('kernel', 0.0), ('stride', 0.0), ('padding', -math.inf)):
            value = getattr(self, key)
            require(
                math.isfinite(value) and (value > least),
                f'{where}: {key} must be a finite number'
                f'{" above 0" if least == 0.0 else ""}, not {value}',
            )
        if self.is_input:
            require(not self.inputs, f'{where}: an input of the model has no inputs itself')
            require(
                self.robot_s == 0.0 and self.server_s == 0.0,
                f'{where}: an input of the model is not computed, its times must be 0',
            )

    @property
    def message_bytes(self) -> int:
        """What crosses the link when the whole output does."""
        return self.output_bytes if self.wire_bytes is None else self.wire_bytes


@dataclass(frozen=True)
class TransferCost:
    """Time in s to encode or decode a message: ``fixed_s`` and ``s_per_byte`` of its payload."""

    fixed_s: float = 0.0
    s_per_byte: float = 0.0

    def __post_init__(self) -> None:
        require(
            _is_amount(self.fixed_s) and _is_amount(self.s_per_byte),
            f'transfer cost: fixed_s and s_per_byte must be 0 or more, not {self}',
        )


@dataclass(frozen=True)
class Side:
    """Robot or server: how a *part* of an operator is charged, and what its messages cost.

    ``floor_s``: the least that a computed part costs, its kernel launches. ``share_curve``: points
    (share of the rows, share of the time), measured; between them linear. Without it the time is
    proportional. ``encode``, ``decode``: of a message, while the side goes on computing.
    ``handling``: what each message that it sends or receives meanwhile takes from its computing;
    ``resume_s``: what computing takes longer after a wait. Both only for plans with steps, whose
    sides compute while messages come and go.
    """

    name: str = ''
    floor_s: float = 0.0
    share_curve: tuple[tuple[float, float], ...] = ()
    encode: TransferCost = TransferCost()
    decode: TransferCost = TransferCost()
    handling: TransferCost = TransferCost()
    resume_s: float = 0.0

    def __post_init__(self) -> None:
        require(
            _is_amount(self.floor_s),
            f'floor must be a finite time, 0 or more, not {self.floor_s} s',
        )
        require(
            _is_amount(self.resume_s),
            f'resume_s must be a finite time, 0 or more, not {self.resume_s} s',
        )
        if not self.share_curve:
            return
        shares = [share for share, _ in self.share_curve]
        factors = [factor for _, factor in self.share_curve]
        require(
            len(shares) >= 2
            and shares == sorted(set(shares))
            and shares[0] >= 0.0
            and shares[-1] == 1.0
            and all(map(_is_amount, factors))
            and factors[-1] == 1.0,
            'share_curve must be points (share, factor) with growing shares in [0, 1] and factors '
            f'of 0 or more that end with (1, 1), not {self.share_curve}',
        )

    def part_factor(self, share: Floats) -> Floats:
        """Share of an operator's time that ``share`` of its rows takes; any shape."""
        if not self.share_curve:
            return share
        shares, factors = zip(*self.share_curve, strict=True)
        factor: Floats = np.interp(share, shares, factors)
        return factor


@dataclass(frozen=True)
class Profile:
    """A model's operators in execution order and the two machines they were measured on.

    ``input_bytes`` and ``output_bytes`` are those of the whole model. Raises ``ProfileError`` when
    ids are not unique, an operator reads a later one, or nothing is an input or an output.
    """

    model: str
    operators: tuple[ProfiledOperator, ...]
    robot: Side = field(default_factory=Side)
    server: Side = field(default_factory=Side)

    def __post_init__(self) -> None:
        require(self.operators, f"profile '{self.model}' has no operators")
        known: set[int] = set()
        for operator in self.operators:
            where = f"operator {operator.id} ('{operator.name}')"
            require(operator.id not in known, f'{where}: the id is there twice')
            for producer in operator.inputs:
                require(
                    producer in known,
                    f'{where} reads {producer}, which is not an operator before it',
                )
            require(
                len(set(operator.inputs)) == len(operator.inputs),
                f'{where}: an input is listed twice',
            )
            known.add(operator.id)
        require(
            any(operator.is_input for operator in self.operators),
            f"profile '{self.model}': no operator is an input of the model",
        )
        require(
            any(operator.is_output for operator in self.operators),
            f"profile '{self.model}': no operator is an output of the model",
        )

    def __len__(self) -> int:
        return len(self.operators)

    @cached_property
    def positions(self) -> dict[int, int]:
        """Place in execution order of each id."""
        return {operator.id: place for place, operator in enumerate(self.operators)}

    @cached_property
    def producers(self) -> tuple[tuple[int, ...], ...]:
        """Places of the operators that each one reads."""
        places = self.positions
        return tuple(tuple(places[each] for each in node.inputs) for node in self.operators)

    @cached_property
    def consumers(self) -> tuple[tuple[int, ...], ...]:
        """Places of the operators that read each one."""
        readers: list[list[int]] = [[] for _ in self.operators]
        for place, producers in enumerate(self.producers):
            for producer in producers:
                readers[producer].append(place)
        return tuple(map(tuple, readers))

    @cached_property
    def widths(self) -> Floats:
        """(n,) rows of each output."""
        return self.column('width')

    def column(self, name: str) -> Floats:
        """(n,) one number of every operator, by field or property name."""
        return np.array([getattr(operator, name) for operator in self.operators], dtype=float)

    def encode_s(self, side: str) -> Floats:
        """(n,) seconds in which ``side`` ('robot' or 'server') encodes each whole output; a part of
        its rows takes that part of them, and no processor or link is occupied."""
        return self.column(f'{side}_encode_s')

    def decode_s(self, side: str) -> Floats:
        """(n,) seconds in which ``side`` decodes each whole output."""
        return self.column(f'{side}_decode_s')

    def times(self, side: str) -> tuple[Floats, Floats]:
        """(n,) seconds of the whole operators on ``side`` ('robot' or 'server'), and their floors.

        Whatever takes no time on either side launches no kernel: a view, an input. Its floor is 0.
        """
        whole = self.column(f'{side}_s')
        default: float = getattr(self, side).floor_s
        own = [getattr(operator, f'{side}_floor_s') for operator in self.operators]
        floors = np.array([default if each is None else each for each in own])
        launches = (self.column('robot_s') > 0.0) | (self.column('server_s') > 0.0)
        return whole, np.where(launches, floors, 0.0)

    @property
    def input_bytes(self) -> int:
        """Of all inputs together, as the sensor gives them."""
        return sum(operator.output_bytes for operator in self.operators if operator.is_input)

    @property
    def output_bytes(self) -> int:
        """Of all outputs together."""
        return sum(operator.output_bytes for operator in self.operators if operator.is_output)

    def with_floors(self, robot_s: float, server_s: float) -> Profile:
        """The same with other launch floors, for every operator."""
        operators = tuple(
            replace(
                operator,
                robot_floor_s=None,
                server_floor_s=None,
                robot_part=None,
                server_part=None,
            )
            for operator in self.operators
        )
        return replace(
            self,
            operators=operators,
            robot=replace(self.robot, floor_s=robot_s),
            server=replace(self.server, floor_s=server_s),
        )

    def scaled_to(self, robot_whole_s: float | None, server_whole_s: float | None) -> Profile:
        """Operator times multiplied so that they add up to the measured whole forward (s).

        Times of single operators carry the profiler's own cost, or miss what lies between them.
        None leaves a side as it is. ``ProfileError`` where a side's times are all 0.
        """
        factors = []
        for side, whole_s in (('robot', robot_whole_s), ('server', server_whole_s)):
            total_s = float(self.column(f'{side}_s').sum())
            require(
                whole_s is None or (_is_amount(whole_s) and (total_s > 0.0 or whole_s == 0.0)),
                f'the {side} times add up to {total_s} s: they cannot be scaled to {whole_s} s',
            )
            factors.append(whole_s / total_s if whole_s is not None and total_s else 1.0)
        operators = tuple(
            replace(node, robot_s=node.robot_s * factors[0], server_s=node.server_s * factors[1])
            for node in self.operators
        )
        return replace(self, operators=operators)


def ids_as_ranges(ids: Sequence[int]) -> list[list[int]]:
    """Sorted runs [first, last] of whole numbers that follow each other: short in JSON."""
    runs: list[list[int]] = []
    for each in sorted(ids):
        if runs and each == runs[-1][1] + 1:
            runs[-1][1] = each
        else:
            runs.append([each, each])
    return runs


def ranges_as_ids(runs: Any) -> list[int]:
    """The inverse of ``ids_as_ranges``; ``ProfileError`` for anything else."""
    valid = isinstance(runs, list) and all(
        isinstance(run, list)
        and len(run) == 2
        and all(isinstance(each, int) and not isinstance(each, bool) for each in run)
        and 0 <= run[1] - run[0] < 1_000_000
        for run in runs
    )
    require(valid, f'ids must be a list of [first, last], not {runs!r:.80}')
    return [each for first, last in runs for each in range(first, last + 1)]
