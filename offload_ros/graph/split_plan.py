"""A plan: which rows of each operator's output the robot computes, and which the server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offload_ros.graph.profile import Profile, ids_as_ranges, ranges_as_ids
from offload_ros.graph.steps import Steps, StepsError, hulls

PLAN_SCHEMA = 1
Rows = NDArray[np.float64]  # (n, 2): from, to (exclusive) along the split axis; empty where equal


class PlanError(ValueError):
    """A plan that does not fit its profile; the text names the operator and the rule."""


@dataclass(frozen=True, eq=False)
class Plan:
    """Intervals of the split axis per operator of ``profile``, in its execution order.

    ``robot`` and ``server``: (n, 2) float64, [from, to). Both may hold a row (it is computed twice,
    to save a transfer); that every row which is needed is computed somewhere is checked by the
    evaluator. A layer cut is the special case of all rows or none. Raises ``PlanError``.
    ``steps``: the order in which each side computes its rows, a few at a time; without them an
    operator's rows are computed at once, in the order of the operators.
    """

    profile: Profile
    robot: Rows
    server: Rows
    steps: Steps | None = None

    def __post_init__(self) -> None:
        profile = self.profile
        if self.steps is not None:
            self._check_steps(self.steps)
        for side in ('robot', 'server'):
            rows = np.asarray(getattr(self, side), dtype=float)
            object.__setattr__(self, side, rows)
            if rows.shape != (len(profile), 2):
                raise PlanError(f'{side}: {len(profile)} intervals are needed, not {rows.shape}')
            start, stop = rows[:, 0], rows[:, 1]
            wrong = ~((start >= 0) & (start <= stop) & (stop <= profile.widths))
            self._refuse(wrong, f'{side} rows must lie in [0, width)')
            part = (stop > start) & (stop - start < profile.widths)
            barrier = np.array([not each.split for each in profile.operators])
            self._refuse(part & barrier, 'it is a barrier: one side computes it whole')
        inputs = np.array([each.is_input for each in profile.operators])
        whole = (self.robot[:, 0] == 0.0) & (self.robot[:, 1] == profile.widths)
        empty = self.server[:, 0] == self.server[:, 1]
        self._refuse(inputs & ~(whole & empty), 'an input of the model is on the robot, whole')

    def _refuse(self, wrong: NDArray[np.bool_], rule: str) -> None:
        for place in np.flatnonzero(wrong)[:1]:
            operator = self.profile.operators[place]
            raise PlanError(
                f"operator {operator.id} ('{operator.name}', {operator.width} rows): {rule}; the "
                f'plan has robot {self.robot[place].tolist()}, server {self.server[place].tolist()}'
            )

    def _check_steps(self, steps: Steps) -> None:
        for side, own in (('robot', steps.robot), ('server', steps.server)):
            rows = getattr(self, side)
            for operator, (start, stop) in hulls(own).items():
                place = self.profile.positions.get(operator)
                if place is None:
                    raise PlanError(f'the profile has no operator {operator}')
                if start < rows[place][0] or stop > rows[place][1]:
                    raise PlanError(
                        f'operator {operator}: {side} steps compute rows {start} to {stop}, the '
                        f'plan gives it {list(rows[place])}'
                    )

    @classmethod
    def of_steps(cls, profile: Profile, steps: Steps) -> Plan:
        """The plan that ``steps`` make; an operator's rows are the hull of its steps."""
        rows = {side: np.zeros((len(profile), 2)) for side in ('robot', 'server')}
        for side, own in (('robot', steps.robot), ('server', steps.server)):
            for key, hull in hulls(own).items():
                rows[side][_place(profile, key)] = hull
        for place, operator in enumerate(profile.operators):
            if operator.is_input:
                rows['robot'][place] = 0.0, operator.width
        return cls(profile, rows['robot'], rows['server'], steps)

    @classmethod
    def cut(cls, profile: Profile, on_server: Iterable[bool]) -> Plan:
        """A layer cut: True for each operator, in execution order, that the server computes."""
        robot, server = cut_rows(profile, np.array([list(on_server)], dtype=bool).T)
        return cls(profile, robot[..., 0], server[..., 0])

    @classmethod
    def shares(
        cls, profile: Profile, robot_share: Iterable[float], whole_rows: bool = True
    ) -> Plan:
        """The robot computes the first rows of each operator, the server the others.

        ``robot_share``: one number in [0, 1] per operator, rounded to whole rows (``whole_rows``)
        and, for a barrier, to all or nothing.
        """
        split = np.array([operator.split for operator in profile.operators])
        share = np.array(list(robot_share), dtype=float)
        share = np.where(split, share, np.round(share))
        share[[operator.is_input for operator in profile.operators]] = 1.0
        border = share * profile.widths
        border = np.round(border) if whole_rows else border
        zero = np.zeros_like(border)
        return cls(
            profile,
            np.stack([zero, border], axis=1),
            np.stack([border, profile.widths], axis=1),
        )

    @cached_property
    def on_server(self) -> NDArray[np.bool_]:
        """(n,) whether the server computes some of each operator."""
        some: NDArray[np.bool_] = self.server[:, 1] > self.server[:, 0]
        return some

    @cached_property
    def on_robot(self) -> NDArray[np.bool_]:
        """(n,) whether the robot computes some of each operator (inputs count as computed)."""
        some: NDArray[np.bool_] = self.robot[:, 1] > self.robot[:, 0]
        return some

    @property
    def is_cut(self) -> bool:
        """Each operator is computed whole, by one side."""
        whole = self.robot[:, 1] - self.robot[:, 0] + self.server[:, 1] - self.server[:, 0]
        return self.steps is None and bool(
            np.all((whole == self.profile.widths) & (self.on_robot != self.on_server))
        )

    def document(self) -> dict[str, Any]:
        """JSON form: ids of operators computed whole, as runs [first, last]; and the others,
        id: [robot from, robot to, server from, server to]."""
        whole: dict[str, list[int]] = {'robot': [], 'server': []}
        split = {}
        for place, operator in enumerate(self.profile.operators):
            robot, server = self.robot[place], self.server[place]
            rows = (robot[1] - robot[0], server[1] - server[0])
            if rows == (operator.width, 0.0):
                whole['robot'].append(operator.id)
            elif rows == (0.0, operator.width):
                whole['server'].append(operator.id)
            else:
                split[str(operator.id)] = [_plain(each) for each in (*robot, *server)]
        ranges = {side: ids_as_ranges(ids) for side, ids in whole.items()}
        steps = {} if self.steps is None else {'steps': self.steps.document()}
        return {
            'schema': PLAN_SCHEMA, **ranges, **({'split': split} if split else {}), **steps
        }  # fmt: skip

    @classmethod
    def from_document(cls, profile: Profile, document: Any) -> Plan:
        """The inverse of ``document``; ``PlanError`` when it does not fit ``profile``."""
        if not isinstance(document, Mapping) or document.get('schema') != PLAN_SCHEMA:
            raise PlanError(f'a plan must be an object of schema {PLAN_SCHEMA}')
        rows = {side: np.full((len(profile), 2), np.nan) for side in ('robot', 'server')}
        for side, other in (('robot', 'server'), ('server', 'robot')):
            for each in ranges_as_ids(document.get(side, [])):
                place = _place(profile, each)
                rows[side][place] = 0.0, profile.widths[place]
                rows[other][place] = 0.0, 0.0
        split = document.get('split', {})
        if not isinstance(split, Mapping):
            raise PlanError("'split' must be an object")
        for key, four in split.items():
            place = _place(profile, key)
            numbers = isinstance(four, (list, tuple)) and len(four) == 4
            if not numbers or not all(isinstance(each, (int, float)) for each in four):
                raise PlanError(f'split of {key} must be four numbers')
            rows['robot'][place], rows['server'][place] = four[:2], four[2:]
        for place in np.flatnonzero(np.isnan(rows['robot'][:, 0]))[:1]:
            raise PlanError(f'operator {profile.operators[place].id} is on no side')
        steps = None
        if 'steps' in document:
            try:
                steps = Steps.from_document(document['steps'])
            except StepsError as error:
                raise PlanError(str(error)) from None
        return cls(profile, rows['robot'], rows['server'], steps)


def cut_rows(profile: Profile, on_server: NDArray[np.bool_]) -> tuple[Rows, Rows]:
    """(n, 2, P) rows of robot and server for P layer cuts, ``on_server`` (n, P)."""
    stop = np.where(on_server, 0.0, profile.widths[:, None])
    zero = np.zeros_like(stop)
    other = profile.widths[:, None] - stop
    return np.stack([zero, stop], axis=1), np.stack([zero, other], axis=1)


def _plain(value: float) -> float | int:
    return int(value) if float(value).is_integer() else float(value)


def _place(profile: Profile, key: Any) -> int:
    try:
        return profile.positions[int(key)]
    except (KeyError, ValueError):
        raise PlanError(f'the profile has no operator {key!r}') from None
