"""The steps of a plan in whole rows, and as bytes."""

from __future__ import annotations

import numpy as np

from offload_ros.graph.split_plan import Plan, PlanError
from offload_ros.graph.steps import Step, Steps

MAX_STEPS = 20_000  # of both sides: lowering them takes about a second


def steps_of(plan: Plan) -> Steps:
    """The plan's own steps; else one for each part, in the order of the operators. ``PlanError``
    for fractions of a row, which only the cost model without halos knows."""
    if plan.steps is not None:
        return plan.steps
    sides: list[tuple[Step, ...]] = []
    for rows in (plan.robot, plan.server):
        if np.any(rows != np.round(rows)):
            raise PlanError('a plan that is run has whole rows: plan with exact halos')
        sides.append(
            tuple(
                Step(operator.id, int(start), int(stop))
                for operator, (start, stop) in zip(plan.profile.operators, rows, strict=True)
                if not operator.is_input and stop > start
            )
        )
    return Steps(*sides)


def steps_bytes(steps: Steps) -> bytes:
    """(n, 3) int32, little endian: operator, start, stop; the robot's steps first. ``PlanError``
    for steps that are no whole numbers of 31 bits."""
    numbers = np.array([*steps.robot, *steps.server], dtype=float).reshape(-1, 3)
    if np.any(numbers != np.round(numbers)) or np.any(np.abs(numbers) >= 1 << 31):
        raise PlanError('a plan that is run has whole rows: plan with exact halos')
    return numbers.astype('<i4').tobytes()


def steps_from_bytes(data: memoryview, robot_steps: int) -> Steps:
    """The inverse; ``PlanError`` for what is none."""
    if len(data) % 12 or not 0 <= robot_steps <= len(data) // 12:
        raise PlanError(f'{len(data)} bytes are no list of steps of which {robot_steps} are robot')
    if len(data) // 12 > MAX_STEPS:
        raise PlanError(f'{len(data) // 12} steps, {MAX_STEPS} are allowed')
    steps = [Step(*each) for each in np.frombuffer(data, '<i4').reshape(-1, 3).tolist()]
    return Steps(tuple(steps[:robot_steps]), tuple(steps[robot_steps:]))
