"""Fleet plans and what planners hear, to ROS messages and back: field by field, and checked."""

from __future__ import annotations

from collections.abc import Mapping
import math
from typing import Any

from offload_ros.fleet.live import TaskSeen
from offload_ros.fleet.plan import FleetPlan, PlannedRoute, PlannedTask
from offload_ros.msg import FleetNode, FleetRoute, FleetTask, ModelInfo
from offload_ros.msg import FleetPlan as FleetPlanMessage
from offload_ros.nodes.topics import valid_node_name

OLD_S = 30.0  # evidence of a link that is older tells nothing
MOST_ROUTES = 1000  # of one robot and task


def plan_message(plan: FleetPlan, busy: Mapping[str, float]) -> FleetPlanMessage:
    """A plan; ``busy``: by node's name, how busy it is. The stamp is left out."""
    return FleetPlanMessage(
        planner=plan.planner,
        session=plan.session,
        version=plan.version,
        beat_s=plan.beat_s,
        silent_s=plan.silent_s,
        tasks=[
            FleetTask(
                robot=task.robot,
                task=task.task,
                queries_per_s=task.queries_per_s,
                routes=[
                    FleetRoute(server=each.server, variant=each.variant, share=each.share)
                    for each in task.routes
                ],
            )
            for task in plan.tasks
        ],
        nodes=[
            FleetNode(
                name=node.name,
                address=node.address,
                models=[ModelInfo(name=each.task, variant=each.variant) for each in node.models],
                busy=busy.get(node.name, math.nan),
            )
            for node in plan.nodes
        ],
        accuracy=plan.accuracy,
        reason=plan.reason,
        remarks=list(plan.remarks),
    )


def message_to_plan(message: Any, robot: str) -> FleetPlan:
    """What a plan says to one robot; ``ValueError`` says what is wrong with it."""
    tasks = []
    for task in message.tasks:
        if task.robot != robot:
            continue
        if len(task.routes) > MOST_ROUTES:
            raise ValueError(f'{task.task} has {len(task.routes)} routes, more than {MOST_ROUTES}')
        for each in task.routes:
            if each.server and not valid_node_name(each.server):
                raise ValueError(f'{task.task}: {each.server[:80]!r} is no name of a server')
        routes = tuple(PlannedRoute(each.server, each.variant, each.share) for each in task.routes)
        tasks.append(PlannedTask(task.robot, task.task, task.queries_per_s, routes))
    return FleetPlan(
        planner=message.planner,
        session=message.session,
        version=message.version,
        beat_s=message.beat_s,
        silent_s=message.silent_s,
        tasks=tuple(tasks),
        accuracy=message.accuracy,
        reason=message.reason,
        remarks=tuple(message.remarks),
    )


def tasks_seen(message: Any) -> dict[str, TaskSeen]:
    """The models of a manager's ``OffloadStatus``, by name."""
    return {
        each.model: TaskSeen(each.variant, each.strategy_requested, each.accepted + each.dropped)
        for each in message.models
    }


def links_seen(message: Any) -> dict[str, float]:
    """Bytes per s to each server of a manager's ``OffloadStatus``; NaN: not measured lately."""
    return {
        each.server: each.up_bytes_per_s if each.up_age_s <= OLD_S else math.nan
        for each in message.links
    }
