"""Gathers what the doctor judges: discovery, heartbeats, status, frames and results of a window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
import difflib
import os
import time
from typing import Any

from lifecycle_msgs.srv import GetState
from rcl_interfaces.msg import ParameterType
from rcl_interfaces.srv import GetParameters
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.expand_topic_name import expand_topic_name
from rclpy.node import Node
from rclpy.qos import (
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
    qos_profile_sensor_data,
)
from rclpy.signals import SignalHandlerOptions
from rosgraph_msgs.msg import Clock
from std_msgs.msg import String

from offload_ros.doctor.finding import Level
from offload_ros.doctor.seen import (
    ClockSeen,
    InputSeen,
    ManagerSeen,
    NetworkSeen,
    Publisher,
    Seen,
    ServerSeen,
)
from offload_ros.doctor.sides import check_connection
from offload_ros.models.config import InputSpec, ModelConfig
from offload_ros.models.errors import InputError
from offload_ros.msg import InferenceResult, OffloadStatus, ServerHeartbeat
from offload_ros.network.half_made_ports import remove_half_made_ports
from offload_ros.nodes.doctor_traffic import (
    InputTraffic,
    Traffic,
    model_seen,
    results_seen,
    server_seen,
    value,
)
from offload_ros.nodes.process import keep
from offload_ros.nodes.topics import HEARTBEAT_TOPIC, SENSOR, STATUS

DISCOVERY_S = 3.0  # the longest that it takes to find everything
LEAST_ASKING_S = 1.5
WINDOW_S = 1.5
PING_S = 0.1
ASK_AGAIN_S = 0.5
CONNECTING_S = 3.0  # a manager that has just begun may have told its state before it connected
PAYLOAD = 'x' * 100_000  # more than one datagram
MANY = QoSProfile(depth=200)
BEST_EFFORT = QoSProfile(depth=200, reliability=ReliabilityPolicy.BEST_EFFORT)
OWN = 'offload_doctor'
ReadModels = Callable[[str], Sequence[ModelConfig]]


def observe(namespace: str, manager: str, timeout_s: float, read_models: ReadModels) -> Seen:
    """Look at the network for at most ``timeout_s``.

    ``namespace``: '/' or '/robot1'. ``read_models`` is called with the file that the manager
    names, or '' where none answers; again when it answers late. The process must end by ``_exit``.
    """
    remove_half_made_ports()
    contexts = Context(), Context()
    for context in contexts:
        rclpy.init(context=context, args=[], signal_handler_options=SignalHandlerOptions.NO)
    # Nothing is taken down, as that may never end: see ``process.leave``.
    return Observer(contexts, namespace, manager, read_models).look(timeout_s)


class Observer:
    """Two participants: one looks, the other answers its pings."""

    def __init__(
        self,
        contexts: tuple[Context, Context],
        namespace: str,
        manager: str,
        read_models: ReadModels,
    ) -> None:
        self._began_s = time.monotonic()
        self._namespace, self._manager = namespace, manager
        self._full_name = f'{namespace.rstrip("/")}/{manager}'
        self._read_models = read_models
        self.sim_s: float | None = None
        self._node, self._echo = (
            keep(
                Node(
                    name,
                    context=context,
                    namespace=namespace,
                    use_global_arguments=False,
                    enable_rosout=False,
                    start_parameter_services=False,
                )
            )
            for name, context in zip((OWN, f'{OWN}_echo'), contexts, strict=True)
        )
        self._executors = [SingleThreadedExecutor(context=context) for context in contexts]
        self._executors[0].add_node(self._node)
        self._executors[1].add_node(self._echo)
        self._configs: Sequence[ModelConfig] | None = None
        self._of_models: list[Any] = []  # subscriptions
        self._inputs: list[InputTraffic] = []
        self._results: dict[str, Traffic] = {}
        self._parameters: dict[str, Any] = {}
        self._state = ''
        self._asked: dict[str, tuple[Any, float]] = {}  # what -> future of the answer, asked when
        self._start_listening()
        # PyTorch takes two seconds to import; the middleware discovers meanwhile.
        from offload_ros.nodes import sensor_inputs

        self._sensors = sensor_inputs

    def _start_listening(self) -> None:
        node = self._node
        self._heartbeats, self._statuses, self._clocks = Traffic(), Traffic(), Traffic()
        node.create_subscription(ServerHeartbeat, HEARTBEAT_TOPIC, self._heartbeats.add, MANY)
        node.create_subscription(OffloadStatus, 'offload/status', self._statuses.add, STATUS)
        node.create_subscription(Clock, '/clock', self._on_clock, qos_profile_sensor_data)
        self._get_state: Any = node.create_client(GetState, f'{self._full_name}/get_state')
        self._get: Any = node.create_client(GetParameters, f'{self._full_name}/get_parameters')
        topic = f'/_{OWN}/p{os.getpid()}'
        self._ping = node.create_publisher(String, f'{topic}/ping', 1)
        self._pong = self._echo.create_publisher(String, f'{topic}/pong', 1)
        self._pinged_s = 0.0
        self._round_trip_s: float | None = None
        node.create_subscription(String, f'{topic}/pong', self._on_pong, 1)
        self._echo.create_subscription(String, f'{topic}/ping', self._pong.publish, 1)

    def look(self, timeout_s: float) -> Seen:
        """Discover, then measure."""
        now_s = time.monotonic()
        # Discovery began with the participants; questions are asked from now on.
        last_s = now_s + timeout_s - WINDOW_S
        end_s = min(last_s, max(self._began_s + DISCOVERY_S, now_s + LEAST_ASKING_S))
        while not self._complete():
            # A manager that is there but slow is waited for: its file tells what to look at.
            awaited = self._configs is None and self._manager_is_there()
            if time.monotonic() > (last_s if awaited else end_s):
                break
            self._ask()
            self._spin(0.02)
        guessed = self._configs is None
        if guessed:
            self._listen_to_models('')
            self._spin(0.2)
        self._measure(WINDOW_S)
        models_file = str(self._parameters.get('models_file') or '')
        if guessed and models_file:  # it has answered only now
            self._listen_to_models(models_file)
            self._spin(0.2)
            self._measure(WINDOW_S)
        seen = self._seen(WINDOW_S)
        end_s = time.monotonic() + CONNECTING_S
        while time.monotonic() < end_s:
            if check_connection(seen.manager, seen.servers).level is not Level.FAIL:
                break
            self._spin(0.05)
            seen = replace(seen, manager=self._manager_seen())
        return seen

    def _manager_is_there(self) -> bool:
        """Whether anything of it was seen: discovery brings its parts one by one."""
        return (
            bool(self._state)
            or self._get.service_is_ready()
            or any(message.robot == self._full_name for message in self._statuses.messages)
            or self._full_name in self._node_names()
        )

    def _measure(self, window_s: float) -> None:
        for traffic in (self._heartbeats, self._clocks, *self._results.values()):
            traffic.clear()
        for frames in self._inputs:
            frames.clear()
        end_s = time.monotonic() + window_s
        while time.monotonic() < end_s:
            self._ask()
            self._spin(0.01)

    def _spin(self, duration_s: float) -> None:
        """Serve everything that waits, for at least one moment."""
        end_s = time.monotonic() + duration_s
        while True:
            self._executors[1].spin_once(timeout_sec=0.0)
            self._executors[0].spin_once(timeout_sec=0.002)
            if time.monotonic() >= end_s:
                return

    def _ask(self) -> None:
        """Ping, and ask the manager what is not known yet."""
        now_s = time.monotonic()
        if self._round_trip_s is None and now_s - self._pinged_s > PING_S:
            self._pinged_s = now_s
            self._ping.publish(String(data=f'{now_s!r} {PAYLOAD}'))
        if self._get_state.service_is_ready():
            answer = self._answer('state', lambda: self._get_state.call_async(GetState.Request()))
            self._state = answer.current_state.label if answer is not None else ''
        if not self._get.service_is_ready():
            return
        names = ['models_file', 'use_sim_time', 'server.name']
        if self._take('parameters', names) and self._configs is None:
            self._listen_to_models(str(self._parameters.get('models_file') or ''))
        if self._configs:
            keys = ('strategy', 'loaded', 'variant', 'deadline_ms')
            self._take('models', [f'{c.name}.{key}' for c in self._configs for key in keys])

    def _take(self, what: str, names: list[str]) -> bool:
        """Ask for parameters; True when they have come."""
        request = GetParameters.Request(names=names)
        answer = self._answer(what, lambda: self._get.call_async(request))
        if answer is None:
            return False
        # Of a name that is not declared newer releases give nothing at all, older ones NOT_SET.
        for name, given in zip(names, answer.values, strict=False):
            if given.type != ParameterType.PARAMETER_NOT_SET:
                self._parameters[name] = value(given)
        return True

    def _answer(self, what: str, call: Callable[[], Any]) -> Any:
        now_s = time.monotonic()
        future, asked_s = self._asked.get(what, (None, 0.0))
        if future is not None and future.done():
            return future.result()
        if future is None or now_s - asked_s > ASK_AGAIN_S:
            self._asked[what] = call(), now_s
        return None

    def _complete(self) -> bool:
        """Whether longer discovery would find nothing more of a system that works."""
        return (
            self._round_trip_s is not None
            and bool(self._state and self._statuses.messages and self._heartbeats.messages)
            and self._configs is not None
            and all(self._node.count_publishers(each.topic) for each in self._inputs)
        )

    def _listen_to_models(self, models_file: str) -> None:
        for subscription in self._of_models:
            self._node.destroy_subscription(subscription)
        self._of_models, self._inputs, self._results = [], [], {}
        self._configs = self._read_models(models_file)
        for config in self._configs:
            for spec in config.inputs:
                topic = expand_topic_name(spec.topic, self._manager, self._namespace)
                seen = InputTraffic(config.name, spec, topic, lambda: self.sim_s)
                kind = self._sensors.message_type(spec)
                self._listen(kind, topic, seen.add, SENSOR)
                self._inputs.append(seen)
            self._results[config.name] = Traffic()
            topic = f'inference/result/{config.name}'
            self._listen(InferenceResult, topic, self._results[config.name].add, MANY)

    def _listen(self, kind: type, topic: str, callback: Callable[[Any], None], qos: Any) -> None:
        self._of_models.append(self._node.create_subscription(kind, topic, callback, qos))

    def _on_pong(self, message: Any) -> None:
        if self._round_trip_s is None:
            self._round_trip_s = time.monotonic() - float(message.data.split()[0])

    def _on_clock(self, message: Any) -> None:
        self.sim_s = message.clock.sec + 1e-9 * message.clock.nanosec
        self._clocks.add(None)

    # ---- from what was received to plain values ------------------------------------------------

    def _seen(self, window_s: float) -> Seen:
        return Seen(
            NetworkSeen(
                tuple(sorted(set(self._node_names()))),
                self._round_trip_s,
                tuple(each.node for each in self._publishers(HEARTBEAT_TOPIC)),
            ),
            self._manager_seen(),
            tuple(self._servers(window_s)),
            ClockSeen(
                tuple(each.node for each in self._publishers('/clock')),
                self._clocks.rate_hz(window_s),
                self.sim_s,
            ),
            tuple(self._input_seen(each, window_s) for each in self._inputs),
            tuple(results_seen(name, each, window_s) for name, each in self._results.items()),
            window_s,
        )

    def _node_names(self) -> list[str]:
        """Full names of the other nodes; of twins the name is there twice."""
        found = self._node.get_node_names_and_namespaces()
        full = [f'{namespace.rstrip("/")}/{name}' for name, namespace in found]
        own = (OWN, f'{OWN}_echo', '_ros2cli', '_NODE_NAME_UNKNOWN_')
        return sorted(name for name in full if not name.rpartition('/')[2].startswith(own))

    def _manager_seen(self) -> ManagerSeen:
        nodes = self._node_names()
        status = self._statuses.messages[-1] if self._statuses.messages else None
        if status is not None and status.robot != self._full_name:
            status = None
        others = {
            publisher.node
            for topic, kinds in self._node.get_topic_names_and_types()
            if 'offload_ros/msg/OffloadStatus' in kinds
            for publisher in self._publishers(topic)
        }
        present = self._full_name in nodes
        subscriptions: Any = []
        if present:
            subscriptions = self._node.get_subscriber_names_and_types_by_node(
                self._manager, self._namespace
            )
        return ManagerSeen(
            self._full_name,
            present,
            self._state,
            self._parameters,
            tuple(map(model_seen, status.models)) if status else (),
            status is not None,
            tuple(server.server for server in status.servers) if status else (),
            tuple(sorted(others - {self._full_name})),
            tuple(name for name, _ in subscriptions),
            nodes.count(self._full_name) > 1,
        )

    def _servers(self, window_s: float) -> list[ServerSeen]:
        now_s = time.monotonic()
        heard: dict[str, Traffic] = {}
        received = self._heartbeats
        for message, at_s in zip(received.messages, received.received_s, strict=True):
            traffic = heard.setdefault(message.server, Traffic())
            traffic.messages.append(message)
            traffic.received_s.append(at_s)
        return [
            server_seen(traffic, now_s - traffic.received_s[-1], window_s)
            for _, traffic in sorted(heard.items())
        ]

    def _publishers(self, topic: str, wanted: QoSProfile | None = None) -> list[Publisher]:
        found = []
        for info in self._node.get_publishers_info_by_topic(topic):
            mismatch = ''
            if wanted is not None:
                verdict, reason = qos_check_compatible(info.qos_profile, wanted)
                mismatch = reason if verdict == QoSCompatibility.ERROR else ''
            node = f'{info.node_namespace.rstrip("/")}/{info.node_name}'
            found.append(Publisher(node, info.topic_type, mismatch))
        return sorted(found, key=lambda publisher: publisher.node)

    def _input_seen(self, seen: InputTraffic, window_s: float) -> InputSeen:
        spec = seen.spec
        alike = [
            topic
            for topic, kinds in self._node.get_topic_names_and_types()
            if spec.type in kinds and topic != seen.topic and self._node.count_publishers(topic)
        ]
        # The likeliest first.
        alike.sort(
            key=lambda topic: -difflib.SequenceMatcher(None, topic, seen.topic).ratio(),
        )
        return InputSeen(
            seen.model,
            spec,
            seen.topic,
            tuple(self._publishers(seen.topic, SENSOR)),
            tuple(alike[:3]),
            tuple(seen.frames),
            seen.traffic.rate_hz(window_s),
            str(getattr(seen.last, 'encoding', '')),
            '' if seen.last is None else self._mistake(seen.last, spec),
        )

    def _mistake(self, message: Any, spec: InputSpec) -> str:
        """Why a message cannot become the model's input."""
        try:
            tensor, _ = self._sensors.to_tensor(message, spec)
        except InputError as error:
            return ' '.join(str(error).split())
        shape = tuple(tensor.shape)
        if spec.shape and (
            len(shape) != len(spec.shape)
            or any(want not in (None, have) for want, have in zip(spec.shape, shape, strict=True))
        ):
            wanted = ', '.join('any' if each is None else str(each) for each in spec.shape)
            return f'a frame of shape {shape} comes, models.yaml says shape ({wanted})'
        return ''
