"""The node that plans for a fleet while it runs: hears servers and managers, loads, tells robots.

A node around ``LivePlanner``. Callbacks run on the executor's thread, planning on one of its own.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
import math
import os
import queue
import threading
from typing import Any

from ament_index_python.packages import get_package_share_directory
from rcl_interfaces.msg import SetParametersResult
from rclpy.client import Client
from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]  # where Humble has it
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.task import Future

from offload_ros.fleet.changes import Change, Done
from offload_ros.fleet.live import LiveFleet, LiveOptions
from offload_ros.fleet.plan import FleetPlan
from offload_ros.fleet.planner import LivePlanner, PlannerOptions
from offload_ros.fleet.problem import ROBOT
from offload_ros.fleet.problem_file import load_problem
from offload_ros.msg import FleetPlan as FleetPlanMessage
from offload_ros.msg import OffloadStatus, ServerHeartbeat
from offload_ros.nodes.fleet_messages import links_seen, plan_message, tasks_seen
from offload_ros.nodes.messages import message_to_server_state
from offload_ros.nodes.parameters import declare, value_of
from offload_ros.nodes.process import run_node
from offload_ros.nodes.topics import (
    FLEET_PLAN_TOPIC,
    HEARTBEAT,
    HEARTBEAT_S,
    HEARTBEAT_TOPIC,
    STATUS,
)
from offload_ros.srv import SetModel
from offload_ros.wire.client import new_session

# Parameters by where they belong: of solving and loading (field of PlannerOptions), of looking.
PLANNING = {
    'time_limit_s': 'time_limit_s',
    'load_timeout_s': 'load_s',
    'unload_after_s': 'unload_s',
}
LOOKING = ('change', 'least_demand', 'hold_s', 'refused_s')
LOOK_S, STEP_S, RETRY_S = HEARTBEAT_S / 4, 0.05, 1.0


class FleetPlanner(Node):  # type: ignore[misc]
    """``ValueError`` for a wrong fleet file."""

    def __init__(self) -> None:
        super().__init__('fleet_planner')
        share = get_package_share_directory('offload_ros')
        default_file = os.path.join(share, 'config', 'fleet.yaml')
        declare(self, 'fleet_file', default_file, 'the fleet: nodes, links, models', read_only=True)
        self._session = new_session()
        options = self._options()
        self._fleet = LiveFleet(load_problem(value_of(self, 'fleet_file')), self._live_options())
        name = self.get_fully_qualified_name()
        self._planner = LivePlanner(name, self._session, self._fleet, self, options)
        self.add_on_set_parameters_callback(self._on_set)
        self._told: FleetPlan | None = None
        self._wanted: queue.SimpleQueue[tuple[Change, Done]] = queue.SimpleQueue()
        self._setters: dict[str, Client] = {}
        self._plans = self.create_publisher(FleetPlanMessage, FLEET_PLAN_TOPIC, STATUS)
        self._listen()
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # also when /clock stands still
        self.create_timer(LOOK_S, self._look, clock=steady)
        self.create_timer(options.beat_s, self._beat, clock=steady)
        self._ended = threading.Event()
        self._worker = threading.Thread(target=self._work, name='plan', daemon=True)
        self._worker.start()
        self.get_logger().info(f'plans for {len(self._fleet.file.nodes)} node(s)')

    def _options(self) -> PlannerOptions:
        given = PlannerOptions()
        return PlannerOptions(
            time_limit_s=self._seconds(
                'time_limit_s', given.time_limit_s, 'of solving (s); the best so far is the plan'
            ),
            load_s=self._seconds(
                'load_timeout_s', given.load_s, 'a model that takes longer to load is left out (s)'
            ),
            unload_s=self._seconds(
                'unload_after_s', given.unload_s, 'so long not needed, a model is unloaded (s)'
            ),
        )

    def _live_options(self) -> LiveOptions:
        given = LiveOptions()
        text = 'relative change of measured demand or bandwidth from which on it is planned anew'
        change = declare(self, 'change', given.change, text, 0.01, 10.0)
        text = "share of the fleet file's demand that is planned for also while fewer frames come"
        least = declare(self, 'least_demand', given.least_demand, text, 0.0, 1.0)
        return LiveOptions(
            change=change,
            least_demand=least,
            hold_s=self._seconds('hold_s', given.hold_s, 'how long a change must last (s)'),
            refused_s=self._seconds(
                'refused_s', given.refused_s, 'a node that did not load is asked again after (s)'
            ),
        )

    def _seconds(self, name: str, default: float, text: str) -> float:
        value: float = declare(self, name, default, text, 0.05, 3600.0)
        return value

    def _on_set(self, parameters: list[Parameter[Any]]) -> SetParametersResult:
        """What is planned next is planned with them."""
        for parameter in parameters:
            if parameter.name in PLANNING:
                changed = {PLANNING[parameter.name]: parameter.value}
                self._planner.options = replace(self._planner.options, **changed)
            elif parameter.name in LOOKING:
                changed = {parameter.name: parameter.value}
                self._fleet.options = replace(self._fleet.options, **changed)
        return SetParametersResult(successful=True)

    def _listen(self) -> None:
        make = self.create_subscription
        make(ServerHeartbeat, HEARTBEAT_TOPIC, self._on_heartbeat, HEARTBEAT)
        make(FleetPlanMessage, FLEET_PLAN_TOPIC, self._on_plan, STATUS)
        for node in self._fleet.file.nodes:
            if node.kind == ROBOT:
                topic = f'{node.address.rpartition("/")[0]}/offload/status'
                make(OffloadStatus, topic, partial(self._on_status, node.address), STATUS)

    # ---- what comes in

    def _on_heartbeat(self, message: Any) -> None:
        self._fleet.heard_server(message_to_server_state(message), message.closing)

    def _on_status(self, address: str, message: Any) -> None:
        if message.robot == address:
            self._fleet.heard_robot(address, tasks_seen(message), links_seen(message))
        else:
            self.get_logger().warning(
                f'{address} is silent, {message.robot[:80]!r} tells in its place: mend its address '
                'in the fleet file',
                throttle_duration_sec=10.0,
            )

    def _on_plan(self, message: Any) -> None:
        if message.session != self._session:
            self.get_logger().error(
                f'there is another fleet planner, {message.planner[:80]!r}: stop one of them',
                throttle_duration_sec=10.0,
            )

    # ---- what goes out

    def change(self, change: Change, done: Done) -> None:
        """Ask a node; called in the planning thread."""
        self._wanted.put((change, done))

    def publish(self, plan: FleetPlan) -> None:
        """Tell all managers; called in the planning thread."""
        self._told = plan
        self._beat()
        routes = sum(len(each.routes) for each in plan.tasks)
        loaded = '; '.join(
            f'{node.name}: {", ".join("/".join(each) for each in node.models) or "nothing"}'
            for node in plan.nodes
        )
        right = 'nothing' if math.isnan(plan.accuracy) else f'{100.0 * plan.accuracy:.1f} %'
        self.get_logger().info(
            f'plan {plan.version} ({plan.reason}): {routes} route(s), {right} is answered rightly; '
            f'{loaded}'
        )
        for remark in plan.remarks:
            self.get_logger().info(f'plan {plan.version}: {remark}')

    def _beat(self) -> None:
        if self._told is not None:
            message = plan_message(self._told, self._fleet.busy())
            message.header.stamp = self.get_clock().now().to_msg()
            self._plans.publish(message)

    def _look(self) -> None:
        """Notice silence, and ask nodes whose service is there by now."""
        self._fleet.look()
        for _ in range(self._wanted.qsize()):
            change, done = self._wanted.get()
            client = self._setters.get(change.address)
            if client is None:
                client = self.create_client(SetModel, f'{change.address}/set_model')
                self._setters[change.address] = client
            if not client.service_is_ready():
                self._wanted.put((change, done))
                continue
            request = SetModel.Request(
                model=change.model.task, variant=change.model.variant, loaded=change.loaded
            )
            client.call_async(request).add_done_callback(partial(_answered, done))

    def _work(self) -> None:
        """Plan until the node closes."""
        pause_s = STEP_S
        while not self._ended.wait(pause_s):
            pause_s = STEP_S
            try:
                self._planner.step()
            except Exception as error:  # the thread must live on, and plan again
                text = f'planning failed: {type(error).__name__}: {error}'
                self.get_logger().error(text, throttle_duration_sec=10.0)
                self._fleet.again(text)
                pause_s = RETRY_S

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        self._worker.join(timeout=5.0)


def _answered(done: Done, future: Future[Any]) -> None:
    response = future.result()
    if response is None:
        done('no answer')
    else:
        done('' if response.success else response.message or 'it gives no reason')


def main() -> None:
    """Entry point of ``ros2 run offload_ros fleet_planner``."""
    run_node(FleetPlanner, (ValueError,))
