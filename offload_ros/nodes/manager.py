"""The robot's node: sensor topics in, one result per accepted frame out, wherever computed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
import math
from pathlib import Path
import queue
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]  # where Humble has it
from rclpy.parameter import Parameter
from rclpy.task import Future
import torch

from offload_ros.cuts.client import link_on
from offload_ros.cuts.errors import CutFailed
from offload_ros.graph.of_model import example_inputs
from offload_ros.graph.profiling import ProfilingError, Subject
from offload_ros.intra_dp.message_costs import message_costs
from offload_ros.models.errors import ConfigError
from offload_ros.msg import OffloadStatus
from offload_ros.nodes.diagnostics import manager_diagnostics
from offload_ros.nodes.fleet_contact import FleetContact, server_in_use
from offload_ros.nodes.managed import BringUpError, ManagedNode
from offload_ros.nodes.messages import model_status_message
from offload_ros.nodes.model_slot import ModelSlot
from offload_ros.nodes.parameters import (
    declare,
    declare_models,
    import_own_strategies,
    key_of_node,
    models_of_node,
    pacer_of_node,
    value_of,
)
from offload_ros.nodes.process import run_node
from offload_ros.nodes.profile_service import ProfileService
from offload_ros.nodes.server_contacts import ServerContacts
from offload_ros.nodes.topics import STATUS
from offload_ros.nodes.wire_node import runtime_of
from offload_ros.robot.lane import DeviceLane
from offload_ros.robot.pacing import Pacer
from offload_ros.robot.statistics import Statistics
from offload_ros.rrto.options import check_placement
from offload_ros.srv import SetModel
from offload_ros.strategy import Link
from offload_ros.wire.emulation import DIRECTIONS
from offload_ros.wire.shaper import LinkShape
from offload_ros.wire.tensors import Limits
from offload_ros.wire.trace import Trace

LATER_S = 0.025  # how long something may wait for the executor
# A worse link than there is, without any privileges.
EMULATION: tuple[tuple[str, Any, str, float | None, float | None], ...] = (
    ('bandwidth_mbps', 0.0, 'emulated bandwidth each way (Mbit/s); 0: as it is', 0.0, 1e5),
    ('delay_ms', 0.0, 'emulated delay each way (ms)', 0.0, 10e3),
    ('loss', 0.0, 'emulated share of packets that are lost', 0.0, 1.0),
    ('cut', False, 'emulated outage: nothing passes', None, None),
    (
        'trace',
        '',
        'file of (seconds, Mbit/s) to replay over and over instead of one bandwidth; 0: an outage',
        None,
        None,
    ),
    (
        'direction',
        'both',
        'which way the link is emulated: both | up (what the robot sends) | down; the other one is '
        'as it is',
        None,
        None,
    ),
)


class OffloadManager(ManagedNode):
    """Lifecycle, parameters and status around one ``ModelSlot`` per model."""

    FIXED_WHEN_CONFIGURED = ('models_file', 'models', 'device')
    FIXED_WHEN_ACTIVE = ('key_file', 'rrto.placement')

    def __init__(self) -> None:
        super().__init__('offload_manager')
        declare_models(self)
        declare(self, 'device', 'cpu', 'where the robot computes: cpu, cuda; read when configured')
        threads = declare(
            self, 'threads', 0, 'CPU threads of one operator; 0: all cores', 0, 1024, read_only=True
        )
        declare(
            self, 'max_message_mb', 64.0, 'larger replies are refused (MB)', 0.001, 4096.0, True
        )
        declare(self, 'server.name', '', 'use only this server (node name); empty: least loaded')
        declare(
            self, 'server.lost_after_ms', 400.0, 'a server this silent is lost (ms)', 150.0, 60e3
        )
        declare(
            self,
            'rrto.placement',
            'server',
            'of recorded inferences of strategy rrto: server; whole: there or on the robot, as is '
            'predicted; auto, auto:METHOD: or cut between both; read when activated',
        )
        text = 'use only servers with the same key, encrypted; empty: any; read when activated'
        declare(self, 'key_file', '', text)
        for name, default, text, low, high in EMULATION:
            declare(self, f'link.emulate.{name}', default, text, low, high)
        if threads:
            torch.set_num_threads(threads)
        self._slots: dict[str, ModelSlot] = {}
        # By model; numbers of frames go on when the node is configured again.
        self._statistics: defaultdict[str, Statistics] = defaultdict(Statistics)
        self._contacts: ServerContacts | None = None
        self._fleet: FleetContact | None = None
        self._lane: DeviceLane | None = None
        self._timers_active: list[Any] = []
        self._publishers: list[Any] = []
        self._later: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        # A group of its own: while its callback awaits, nothing else of its group is called.
        group = MutuallyExclusiveCallbackGroup()
        self.create_service(SetModel, '~/set_model', self._on_set_model, callback_group=group)
        self._profiling = ProfileService(self, self._to_profile)

    def configure(self) -> None:
        """Read models.yaml; declare each model's parameters and its result topic."""
        device = value_of(self, 'device')
        import_own_strategies(self)
        for config in models_of_node(self):
            statistics = self._statistics[config.name]
            self._slots[config.name] = ModelSlot(self, config, device, self._later.put, statistics)
        self._status = self.create_publisher(OffloadStatus, 'offload/status', STATUS)
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self._publishers = [self._status, self._diagnostics]

    def activate(self) -> None:
        """Load the models, listen to servers and sensors."""
        limits = Limits(total_bytes=int(value_of(self, 'max_message_mb') * 1e6))
        lost_after_s = value_of(self, 'server.lost_after_ms') / 1000.0
        key, emulated = key_of_node(self), self._emulated({})
        runtime = runtime_of(value_of(self, 'device'))
        placement = _placement(value_of(self, 'rrto.placement'))
        self._contacts = ServerContacts(self, runtime, limits, lost_after_s, key)
        self._contacts.emulation.emulate(*emulated)
        self._contacts.client.preferred_server = value_of(self, 'server.name')
        self._contacts.client.placement = placement
        self._lane = DeviceLane(pacer_of_node(Pacer.of_robot))
        self._fleet = FleetContact(self, [slot.config for slot in self._slots.values()])
        link = Link(self._lane, self._contacts.client, fleet=self._fleet.followed)
        for slot in self._slots.values():
            slot.activate(link)
        # Liveness counts real time, also when a simulation's /clock stands still.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timers_active = [
            self.create_timer(LATER_S, self._run_later, clock=steady),
            self.create_timer(1.0, self._publish_status, clock=steady),
        ]
        self.get_logger().info(f'{len(self._slots)} model(s): {runtime.description}')

    def deactivate(self) -> None:
        """Finish the frames in hand, free the models, leave the servers."""
        self._profiling.release()
        for timer in self._timers_active:
            self.destroy_timer(timer)
        self._timers_active = []
        for slot in self._slots.values():
            slot.deactivate()
        self._run_later()
        if self._lane is not None:
            self._lane.close()
            self._lane = None
        if self._fleet is not None:
            self._fleet.close()
            self._fleet = None
        if self._contacts is not None:
            self._contacts.close()
            self._contacts = None

    def cleanup(self) -> None:
        """Give topics and the models' parameters back."""
        for slot in self._slots.values():
            slot.cleanup()
        self._slots.clear()
        for publisher in self._publishers:
            self.destroy_publisher(publisher)
        self._publishers = []

    def _run_later(self) -> None:
        while not self._later.empty():
            self._later.get()()

    def _publish_status(self) -> None:
        if self._contacts is None:
            return
        message = OffloadStatus()
        message.header.stamp = self.get_clock().now().to_msg()
        message.robot = self._contacts.client.robot
        for slot in self._slots.values():
            if slot.pipeline is not None:
                server = server_in_use(self._contacts.client, self._fleet, slot.pipeline)
                message.models.append(model_status_message(slot.pipeline, server))
        message.servers = self._contacts.heartbeats()
        message.links = self._contacts.links()
        self._status.publish(message)
        self._diagnostics.publish(manager_diagnostics(message, list(self._slots)))

    def refusal(self, parameters: list[Parameter[Any]]) -> str:
        """The first refusal of a model, or of the emulated link."""
        try:
            self._emulated({each.name: each.value for each in parameters})
        except ConfigError as error:
            return str(error)
        refusals = (slot.refusal(values) for slot, values in self._by_slot(parameters))
        return next(filter(None, refusals), '')

    def take_up(self, parameters: list[Parameter[Any]]) -> None:
        """The next frame runs with them."""
        for slot, values in self._by_slot(parameters):
            slot.apply(values)
        changes = {each.name: each.value for each in parameters}
        if self._contacts is not None and any('link.emulate.' in name for name in changes):
            self._contacts.emulation.emulate(*self._emulated(changes))
        for parameter in parameters:
            if self._contacts is not None and parameter.name == 'server.name':
                self._contacts.client.preferred_server = parameter.value
            elif self._contacts is not None and parameter.name == 'server.lost_after_ms':
                self._contacts.directory.lost_after_s = parameter.value / 1000.0

    def _emulated(self, changes: Mapping[str, Any]) -> tuple[LinkShape, str]:
        """The link that parameters ask for, with ``changes``, and its direction; ``ConfigError``
        for a bad trace or direction."""
        values = {
            name: changes.get(f'link.emulate.{name}', value_of(self, f'link.emulate.{name}'))
            for name, *_ in EMULATION
        }
        direction = values['direction']
        if direction not in DIRECTIONS:
            raise ConfigError(
                f"link.emulate: direction is one of {', '.join(DIRECTIONS)}, not '{direction}'"
            )
        try:
            trace = Trace.read(Path(values['trace']).expanduser()) if values['trace'] else None
            shape = LinkShape(
                bytes_per_s=values['bandwidth_mbps'] * 1e6 / 8 or math.inf,
                delay_s=values['delay_ms'] / 1000.0,
                loss=values['loss'],
                cut=values['cut'],
                trace=trace.steps() if trace else (),
            )
        except ValueError as error:
            raise ConfigError(f'link.emulate: {error}') from None
        return shape, direction

    def _by_slot(self, parameters: list[Parameter[Any]]) -> list[tuple[ModelSlot, dict[str, Any]]]:
        """Parameters of models as (slot, values by key); what is set together acts together."""
        values: defaultdict[str, dict[str, Any]] = defaultdict(dict)
        for parameter in parameters:
            model, _, key = parameter.name.partition('.')
            values[model][key] = parameter.value
        return [
            (self._slots[model], each) for model, each in values.items() if model in self._slots
        ]

    def _to_profile(self, name: str, _: str) -> Subject:
        """The model that is measured; called in a thread of its own."""
        slot, lane = self._slots.get(name), self._lane
        if slot is None or lane is None:
            known = ', '.join(self._slots) or 'none: the manager is not active'
            raise ProfilingError(f"the robot has no model '{name}' (there are: {known})")
        pipeline = slot.pipeline
        if pipeline is None:
            raise ProfilingError(f"model '{name}' is not loaded: set {name}.loaded to true")
        inputs = pipeline.newest_inputs or example_inputs(pipeline.model)
        return Subject(
            pipeline.model,
            lambda compute: lane.submit(compute).result(),
            lane.slowdown,
            inputs,
            self._message_costs,
        )

    def _message_costs(self, name: str, count: int) -> dict[str, Sequence[float]]:
        """Of messages to a server, by default the first that runs graphs; none without one."""
        contacts, lane = self._contacts, self._lane
        if contacts is None or lane is None:
            return {}
        for server in contacts.directory.alive():
            channel = contacts.channel_to(server.name)
            if channel is None or name not in ('', server.name):
                continue
            try:
                link, state = link_on(channel), partial(contacts.link_state, server.name)
                return message_costs(link, lane, state, count, value_of(self, 'device'))
            except CutFailed as error:
                self.get_logger().info(f'messages to {server.name} are not measured: {error}')
        return {}

    async def _on_set_model(
        self, request: SetModel.Request, response: SetModel.Response
    ) -> SetModel.Response:
        """Set ``<model>.variant`` and ``<model>.loaded``, and answer when that is done."""
        slot = self._slots.get(request.model)
        if slot is None or self._contacts is None:
            known = ', '.join(self._slots) or 'none: the manager is not active'
            response.message = f"there is no model '{request.model}' here (there are: {known})"
            return response
        variant = request.variant or value_of(self, f'{slot.name}.variant')
        values = {'variant': variant, 'loaded': request.loaded}
        refusal = slot.refusal(values)
        if refusal:
            response.message = refusal
            return response
        done: Future[tuple[bool, str]] = Future()
        slot.change(request.loaded, variant, lambda *result: done.set_result(result))
        answer = await done
        if answer is not None:
            response.success, response.message = answer
        # Meanwhile the node may have been cleaned up, and its parameters be gone.
        if response.success and self._slots.get(request.model) is slot:
            # Already so: the parameters follow, and find nothing left to do.
            self.set_parameters_atomically(
                [Parameter(f'{slot.name}.{key}', value=value) for key, value in values.items()]
            )
        return response


def _placement(given: str) -> str:
    try:
        check_placement(given)
    except ValueError as error:
        raise ConfigError(f'rrto.placement: {error}') from None
    return given


def main() -> None:
    """Entry point of ``ros2 run offload_ros offload_manager``."""
    run_node(OffloadManager, (ConfigError, BringUpError))
