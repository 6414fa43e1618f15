"""The server node: answers requests of all robots on its models and tells that it lives."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
import queue
import threading
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]  # where Humble has it
from rclpy.parameter import Parameter
from rclpy.task import Future
import torch

from offload_ros.amot.host import AmotHost
from offload_ros.cuts.host import GraphHost
from offload_ros.graph.profiling import ProfilingError, Subject
from offload_ros.models.config import ModelConfig
from offload_ros.models.errors import ConfigError, ModelError
from offload_ros.models.model import Model, load_model
from offload_ros.nodes.computing_parameters import (
    READ_ONCE,
    backend_of,
    batching_of,
    declare_computing,
)
from offload_ros.nodes.diagnostics import server_diagnostics
from offload_ros.nodes.managed import BringUpError, ManagedNode
from offload_ros.nodes.parameters import (
    declare,
    declare_models,
    key_of_node,
    models_of_node,
    pacer_of_node,
    value_of,
)
from offload_ros.nodes.process import give_back_freed_memory, run_node
from offload_ros.nodes.profile_service import ProfileService
from offload_ros.nodes.robot_contacts import RobotContacts
from offload_ros.nodes.wire_node import runtime_of
from offload_ros.robot.pacing import Pacer
from offload_ros.rrto.host import OperatorHost
from offload_ros.server.engine import Engine
from offload_ros.srv import SetModel
from offload_ros.wire.client import new_session
from offload_ros.wire.tensors import Limits

LATER_S = 0.05  # how long a finished loading may wait for its answer


class OffloadServer(ManagedNode):
    """Lifecycle, topics and timers around ``Engine``."""

    FIXED_WHEN_ACTIVE = (
        'device',
        'key_file',
        'rrto.memory_mb',
        'rrto.operators',
        'graphs.memory_mb',
        *READ_ONCE,
    )

    def __init__(self) -> None:
        super().__init__('offload_server')
        declare_models(self)
        declare(self, 'device', 'cpu', 'where to compute: cpu, cuda, cuda:1; read when activated')
        threads = declare(
            self, 'threads', 0, 'CPU threads of one operator; 0: all cores', 0, 1024, True
        )
        declare(self, 'queue_limit', 32, 'requests that may wait; more are refused', 1, 10_000)
        declare_computing(self)
        declare(
            self, 'max_message_mb', 64.0, 'larger requests are refused (MB)', 0.001, 4096.0, True
        )
        if threads:
            torch.set_num_threads(threads)
        self._limits = Limits(total_bytes=int(value_of(self, 'max_message_mb') * 1e6))
        declare(
            self,
            'key_file',
            '',
            'only robots with the same key may use this server, encrypted; empty: all may; read '
            'when activated',
        )
        declare(
            self,
            'rrto.sessions',
            8,
            'transparent programs at a time; 0: no more begin',
            0,
            1000,
        )
        declare(
            self,
            'rrto.memory_mb',
            4096.0,
            'tensors of one program (MB); read when activated',
            1.0,
            1e6,
        )
        declare(
            self,
            'rrto.operators',
            '',
            'operators beside those of aten that programs may run, as "torchvision::nms, my::op"; '
            'read when activated',
        )
        declare(
            self,
            'graphs.memory_mb',
            4096.0,
            'weights of graphs that robots send for layer cuts, and values of one of their runs '
            '(MB), 0: none; read when activated',
            0.0,
            1e6,
        )
        declare(
            self,
            'amot.gather_ms',
            2.0,
            'strategy amot: how long a round may wait for those of other robots, to be computed '
            'with them (ms)',
            0.0,
            1000.0,
        )
        declare(
            self,
            'amot.max_batch',
            16,
            'strategy amot: images that are computed together, at most',
            1,
            1024,
        )
        self._configs: dict[str, ModelConfig] = {}
        self._engine: Engine | None = None
        self._robots: RobotContacts | None = None
        self._programs: OperatorHost | None = None
        self._graphs: GraphHost | None = None
        self._amot: AmotHost | None = None
        self._timers_active: list[Any] = []
        self._publishers: list[Any] = []
        self._loading: list[threading.Thread] = []
        self._later: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        # A group of its own: while its callback awaits, nothing else of its group is called.
        group = MutuallyExclusiveCallbackGroup()
        self.create_service(SetModel, '~/set_model', self._on_set_model, callback_group=group)
        self._profiling = ProfileService(self, self._to_profile)

    def configure(self) -> None:
        """Read models.yaml, create the diagnostics' topic."""
        configs = models_of_node(self)
        self._configs = {config.name: config for config in configs}
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self._publishers = [self._diagnostics]

    def activate(self) -> None:
        """Load every variant of every model, then take requests."""
        key = key_of_node(self)
        loaded = [
            self._load(config.variant_named(variant))
            for config in self._configs.values()
            for variant in config.variants()
        ]
        device = str(value_of(self, 'device'))
        pacer = pacer_of_node(Pacer.of_server)
        engine = Engine(
            self.get_fully_qualified_name(),
            new_session(),
            loaded,
            value_of(self, 'queue_limit'),
            pacer,
            backend_of(self, value_of(self, 'models_file'), device),
        )
        engine.batching = batching_of(self)
        self._engine = engine
        runtime = runtime_of(device)
        programs = OperatorHost(
            device,
            value_of(self, 'rrto.sessions'),
            int(value_of(self, 'rrto.memory_mb') * 1e6),
            [name.strip() for name in value_of(self, 'rrto.operators').split(',') if name.strip()],
            give_back_freed_memory,
        )
        self._programs = programs
        memory_bytes = int(value_of(self, 'graphs.memory_mb') * 1e6)
        graphs = GraphHost(memory_bytes, device, engine.find, pacer, give_back_freed_memory)
        self._graphs = graphs
        amot = AmotHost(
            engine.find,
            partial(engine.lend, in_turn=True),
            value_of(self, 'amot.gather_ms') / 1000.0,
            value_of(self, 'amot.max_batch'),
        )
        self._amot = amot
        for model in loaded:
            self._serve_patches(model)
        self._robots = RobotContacts(
            self, engine, runtime, device, self._limits, programs, graphs, amot, key
        )
        # Liveness counts real time, also when a simulation's /clock stands still.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timers_active = [
            self.create_timer(LATER_S, self._run_later, clock=steady),
            self.create_timer(1.0, self._diagnose, clock=steady),
        ]
        self.get_logger().info(f'serving {len(loaded)} model(s): {runtime.description}')
        if key is None:
            self.get_logger().warning(
                'no key_file is given: anyone in this ROS domain may use this server'
            )

    def deactivate(self) -> None:
        """Tell the robots, answer what waits, free the models."""
        self._profiling.release()
        for timer in self._timers_active:
            self.destroy_timer(timer)
        self._timers_active = []
        if self._robots is not None:
            self._robots.close()
            self._robots = None
        self._programs = None
        if self._graphs is not None:
            self._graphs.close()
            self._graphs = None
        if self._amot is not None:
            self._amot.close()
            self._amot = None
        if self._engine is not None:
            self._engine.close()
            self._engine = None
        for thread in self._loading:
            thread.join()
        self._run_later()

    def cleanup(self) -> None:
        """Give the topics back."""
        for publisher in self._publishers:
            self.destroy_publisher(publisher)
        self._publishers = []
        self._configs = {}

    def take_up(self, parameters: list[Parameter[Any]]) -> None:
        """The next request, batch and program finds them."""
        changes = {parameter.name: parameter.value for parameter in parameters}
        if self._engine is not None:
            self._engine.batching = batching_of(self, changes)
            self._engine.queue_limit = changes.get('queue_limit', self._engine.queue_limit)
        if self._programs is not None:
            self._programs.limit = changes.get('rrto.sessions', self._programs.limit)
        if self._amot is not None:
            batcher = self._amot.batcher
            if 'amot.gather_ms' in changes:
                batcher.gather_s = changes['amot.gather_ms'] / 1000.0
            batcher.max_batch = changes.get('amot.max_batch', batcher.max_batch)

    def _load(self, config: ModelConfig) -> Model:
        model = load_model(config, value_of(self, 'device'))
        log = self.get_logger()
        log.info(f"model '{model.name}' ({model.variant}, {model.hash[:8]}) on {model.device}")
        if model.remark:
            log.warning(model.remark)
        return model

    def _serve_patches(self, model: Model) -> None:
        """Load what strategy amot needs for a model, if it has that."""
        why = self._amot.add(model) if self._amot is not None else ''
        if why:
            self.get_logger().error(
                f"model '{model.name}': strategy amot is not served, all others are: {why}"
            )

    def _run_later(self) -> None:
        while not self._later.empty():
            self._later.get()()

    def _diagnose(self) -> None:
        if self._engine is not None and self._robots is not None:
            stamp = self.get_clock().now().to_msg()
            self._diagnostics.publish(server_diagnostics(self._engine, self._robots.count, stamp))

    def _to_profile(self, name: str, content_hash: str) -> Subject:
        """The model that is measured; called in a thread of its own."""
        engine = self._engine
        same = [model for model in engine.models if model.name == name] if engine else []
        if engine is None or not same:
            known = ', '.join(sorted(self._configs)) or 'none: the server is not active'
            raise ProfilingError(
                f"the server has no model '{name}' (there are: {known}): add it to its models.yaml"
            )
        for model in same:
            if content_hash in ('', model.hash):
                return Subject(model, engine.lend, engine.slowdown)
        theirs = ', '.join(model.hash[:8] for model in same)
        raise ProfilingError(
            f"model '{name}' differs: {theirs} on the server, {content_hash[:8]} on the robot: use "
            'the same weights, source and preprocessing on both'
        )

    async def _on_set_model(
        self, request: SetModel.Request, response: SetModel.Response
    ) -> SetModel.Response:
        """Load or unload while serving; answers when it is done."""
        config, engine = self._configs.get(request.model), self._engine
        if config is None or engine is None:
            known = ', '.join(self._configs) or 'none: the server is not active'
            response.message = f"there is no model '{request.model}' here (there are: {known})"
            return response
        try:
            variants = [request.variant] if request.variant else config.variants()
            chosen = [config.variant_named(variant) for variant in variants]
        except ConfigError as error:
            response.message = str(error)
            return response
        if request.loaded:
            present = {(model.name, model.variant) for model in engine.models}
            missing = [each for each in chosen if (each.name, each.variant) not in present]
            response.message = await self._load_later(engine, missing) or ''
            if self._engine is not engine:
                response.message = 'the server was deactivated'
        else:
            for variant in variants:
                engine.remove(config.name, variant)
        response.success = not response.message
        if response.success:
            there = [model.variant for model in engine.models if model.name == config.name]
            response.message = f"model '{config.name}': {', '.join(there) or 'not loaded'}"
        return response

    def _load_later(self, engine: Engine, configs: list[ModelConfig]) -> Future[str]:
        """Load in a thread, so that heartbeats go on; the error's text, or empty."""
        done: Future[str] = Future()

        def load() -> None:
            error = ''
            try:
                for config in configs:
                    model = self._load(config)
                    engine.add(model)
                    self._serve_patches(model)
            except (ConfigError, ModelError) as failure:
                error = str(failure)
            except Exception as failure:  # foreign code loads models: whatever it raises is told
                error = f'{type(failure).__name__}: {failure}'
            self._later.put(lambda: done.set_result(error))

        thread = threading.Thread(target=load, name='load', daemon=True)
        self._loading = [other for other in self._loading if other.is_alive()] + [thread]
        thread.start()
        return done


def main() -> None:
    """Entry point of ``ros2 run offload_ros offload_server``."""
    run_node(OffloadServer, (BringUpError,))
