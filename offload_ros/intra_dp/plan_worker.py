"""A process that plans: profiles and links in, plans out, one JSON object per line.

Planning takes seconds of Python, which in the robot's own process would hold up its frames. The
process works at low priority and ends when nobody feeds it any more. Its first line is the profile;
each other one names a link, a method to plan by, and what for (``policy.goal``).
"""

from __future__ import annotations

from collections.abc import Mapping
import contextlib
import json
import os
import sys
from typing import Any, TextIO

import numpy as np

from offload_ros.baselines.problem import Problem, Subject
from offload_ros.graph.codings import codecs_of
from offload_ros.graph.methods import find_method
from offload_ros.graph.profile_file import parse_profile
from offload_ros.graph.schedule import Link
from offload_ros.graph.split_plan import Plan
from offload_ros.policy.goal import Goal
from offload_ros.policy.power import PowerModel

NICENESS = 10
# Of the link that a plan is made for: where its latency and energy are told, too.
SCALES = 2.0 ** (np.arange(-10, 7) / 2)


def family_of(plan: Plan) -> str:
    """See ``candidate.FAMILIES``."""
    computed = np.array([not operator.is_input for operator in plan.profile.operators])
    if not plan.on_server.any():
        return 'device'
    if plan.is_cut:
        return 'server' if not plan.on_robot[computed].any() else 'cut'
    return 'split'


def figures(subject: Subject, plan: Plan, link: Link) -> dict[str, list[float]]:
    """``latency_s`` and the robot's ``energy_j`` of a plan on ``link`` with its bandwidths scaled
    by each of ``SCALES``."""
    power = PowerModel()
    links = [
        Link(
            scale * link.uplink_bytes_per_s,
            scale * link.downlink_bytes_per_s,
            link.delay_s,
            link.utilisation,
        )
        for scale in SCALES.tolist()
    ]
    evaluator = subject.evaluator
    if plan.steps is not None:
        schedules = [evaluator.schedule(plan, each) for each in links]
        return {
            'latency_s': [each.latency_s for each in schedules],
            'energy_j': [each.energy_j(power) for each in schedules],
        }
    robot, server = (
        np.repeat(each[..., None], len(links), 2) for each in (plan.robot, plan.server)
    )
    costs = evaluator.costs(robot, server, links, power)
    return {'latency_s': costs.latency_s.tolist(), 'energy_j': costs.energy_j.tolist()}


def answer(measured: Subject, task: Mapping[str, Any]) -> dict[str, Any]:
    """The plan of one method for one link, or why there is none."""
    told = {'step': task['step'], 'method': task['method']}
    try:
        link = Link(*task['link'])
        problem = Problem.of(measured, link, Goal.from_document(task['goal']))
        subject = problem.subject  # with the codecs that pay on this link
        plan = find_method(task['method'])[1](problem)
        return {
            **told,
            'family': family_of(plan),
            'plan': plan.document(),
            'codecs': codecs_of(subject.profile),
            **figures(subject, plan, link),
        }
    except Exception as error:  # of one link: the others still serve
        return {**told, 'error': f'{type(error).__name__}: {error}'}


def _step_back() -> None:
    """Take only what of the processors nobody else wants; frames come first."""
    os.nice(NICENESS)
    if hasattr(os, 'SCHED_IDLE'):
        with contextlib.suppress(OSError):  # not everybody may
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def serve(lines: TextIO, answers: TextIO) -> None:
    """Until ``lines`` end."""
    measured = Subject(parse_profile(json.loads(lines.readline())))
    for line in lines:
        print(json.dumps(answer(measured, json.loads(line))), file=answers, flush=True)


if __name__ == '__main__':
    _step_back()
    serve(sys.stdin, sys.stdout)
