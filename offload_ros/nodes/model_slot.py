"""One model on the robot as the manager keeps it: topics, parameters, pipeline, variant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
import threading
import time
from typing import Any

from rclpy.exceptions import InvalidHandle
from rclpy.node import Node
from rclpy.parameter import Parameter

from offload_ros.amot.options import AmotOptions
from offload_ros.models.config import InputSpec, ModelConfig, goal_of
from offload_ros.models.errors import ConfigError, ModelError
from offload_ros.models.model import Model, load_model
from offload_ros.msg import InferenceResult
from offload_ros.nodes import amot_parameters
from offload_ros.nodes.messages import answer_to_message
from offload_ros.nodes.parameters import declare, value_of
from offload_ros.nodes.sensor_inputs import message_type, to_tensor
from offload_ros.nodes.topics import CONTROL, SENSOR
from offload_ros.policy.goal import LEAST_LATENCY, Goal
from offload_ros.robot.answer import Answer
from offload_ros.robot.pipeline import Inputs, Pipeline
from offload_ros.robot.statistics import Statistics
from offload_ros.robot.synchronizer import Synchronizer
from offload_ros.strategy import Link, StrategyRefused, make_strategy, strategy_names

OBJECTIVE_KEYS = ('objective', 'objective_deadline_ms', 'objective_weight')
Later = Callable[[Callable[[], None]], None]


class ModelSlot:
    """Declared with the node's configuration, loaded with its activation or on request.

    ``later`` runs a function in the node's executor: models load in threads of their own, but
    topics are made and destroyed there.
    """

    def __init__(
        self, node: Node, config: ModelConfig, device: str, later: Later, statistics: Statistics
    ) -> None:
        self.config = config
        self.name = config.name
        self.statistics = statistics  # goes on when the model is unloaded or switched
        self.pipeline: Pipeline | None = None
        self._node = node
        self._device = device
        self._later = later
        self._link: Link | None = None
        self._subscriptions: list[Any] = []
        self._changing: threading.Thread | None = None  # loads, or ends the last frame
        self._parameters = self._declare()
        self._named_here = {config.strategy, self._value('strategy')}  # in files, before any call
        self._results = node.create_publisher(
            InferenceResult, f'inference/result/{self.name}', CONTROL
        )

    @property
    def model(self) -> Model | None:
        """The loaded model."""
        return self.pipeline.model if self.pipeline is not None else None

    def activate(self, link: Link) -> None:
        """Load the model if it is to be loaded, and subscribe. ``ConfigError``, ``ModelError``."""
        self._link = link
        self._set_amot({})
        if self._value('loaded'):
            self._start(self._load(self._value('variant')))

    def deactivate(self) -> None:
        """Finish the frame in hand, unsubscribe, free the model."""
        self._link = None
        self._unsubscribe()
        if self.pipeline is not None:
            self.pipeline.close()
            self.pipeline = None
        if self._changing is not None:
            self._changing.join()  # what it loaded is dropped: there is no link any more
            self._changing = None

    def cleanup(self) -> None:
        """Give topics and parameters back."""
        self._node.destroy_publisher(self._results)
        for parameter in self._parameters:
            self._node.undeclare_parameter(parameter)

    def refusal(self, values: Mapping[str, Any]) -> str:
        """Why parameters ``<model>.<key>`` may not get these values now; empty when they may."""
        try:
            self._goal(values)
            self._amot(values)
            if 'variant' in values:
                self.config.variant_named(values['variant'])
            if 'strategy' in values:
                self._check_strategy(values['strategy'])
            if values.get('record') and self.pipeline is not None:
                self.pipeline.record(Path(values['record']).expanduser())
        except (ConfigError, StrategyRefused) as error:
            return str(error)
        if self._changing is not None and not {'variant', 'loaded'}.isdisjoint(values):
            return f"model '{self.name}' is being changed: try again when that is done"
        return ''

    def _check_strategy(self, name: str) -> None:
        """``StrategyRefused``; whether it can run the model is known while that is loaded.

        ``package.module:Class`` imports that module: only this machine's files may say so.
        """
        if ':' in name and name not in self._named_here:
            admissible = strategy_names() if self.pipeline is None else self.pipeline.admissible()
            raise StrategyRefused(
                f"model '{self.name}': strategy '{name}' is imported from models.yaml only: "
                "list its module there under 'strategies', and set the name that it registers; "
                f'admissible: {", ".join(admissible)}'
            )
        if self.pipeline is not None:
            self.pipeline.prepare_strategy(name)
        else:
            make_strategy(name)

    def apply(self, values: Mapping[str, Any]) -> None:
        """Take checked parameters up, all together."""
        self._set_amot(values)
        if 'strategy' in values and self.pipeline is not None:
            self.pipeline.set_strategy(values['strategy'])
        if not {'deadline_ms', *OBJECTIVE_KEYS}.isdisjoint(values) and self.pipeline is not None:
            self._aim(self.pipeline, values)
        if not {'variant', 'loaded'}.isdisjoint(values):
            wanted = {key: values.get(key, self._value(key)) for key in ('loaded', 'variant')}
            self.change(wanted['loaded'], wanted['variant'])

    def change(
        self, loaded: bool, variant: str, done: Callable[[bool, str], None] = lambda *_: None
    ) -> None:
        """Load, unload or switch; ``done(success, text)`` in the executor when it is done.

        While another variant loads, frames go on with the one in use. Nothing here waits: the
        executor must go on hearing servers for the other models.
        """
        if self._link is None or (not loaded and self.pipeline is None):
            done(True, f"model '{self.name}' is not loaded")
        elif loaded and self.model is not None and self.model.variant == variant:
            done(True, f"model '{self.name}' runs as '{variant}'")
        elif loaded:
            self._in_background(partial(self._load, variant), self._loaded, done)
        else:
            pipeline, self.pipeline = self.pipeline, None
            assert pipeline is not None
            self._unsubscribe()
            self._in_background(pipeline.close, self._unloaded, done)

    def _in_background(
        self,
        work: Callable[[], Any],
        then: Callable[[Any], str],
        done: Callable[[bool, str], None],
    ) -> None:
        """Run ``work`` in a thread, then ``then`` with its result in the executor: the answer."""

        def run() -> None:
            try:
                result = work()
            except Exception as error:  # foreign code loads models: whatever it raises is told
                problem = error
                self._later(lambda: self._changed(partial(_reraise, problem), done))
            else:
                self._later(lambda: self._changed(partial(then, result), done))

        self._changing = threading.Thread(target=run, name=f'change {self.name}', daemon=True)
        self._changing.start()

    def _changed(self, then: Callable[[], str], done: Callable[[bool, str], None]) -> None:
        self._changing = None
        if self._link is None:
            done(False, 'the manager was deactivated')
            return
        try:
            text = then()
        except Exception as error:
            known = isinstance(error, (ConfigError, ModelError, StrategyRefused))
            text = str(error) if known else f'{type(error).__name__}: {error}'
            self._node.get_logger().error(f"model '{self.name}' stays as it is: {text}")
            # The parameters may ask for what could not be had: they tell what is.
            actual: dict[str, Any] = {'loaded': self.model is not None}
            if self.model is not None:
                actual['variant'] = self.model.variant
            self._node.set_parameters_atomically(
                [Parameter(f'{self.name}.{key}', value=value) for key, value in actual.items()]
            )
            done(False, text)
            return
        done(True, text)

    def _loaded(self, model: Model) -> str:
        if self.pipeline is None:
            self._start(model)
        else:
            self.pipeline.replace_model(model)
        return f"model '{self.name}' runs as '{model.variant}'"

    def _unloaded(self, _: None) -> str:
        return f"model '{self.name}' is not loaded"

    def _load(self, variant: str) -> Model:
        model = load_model(self.config.variant_named(variant), self._device)
        log = self._node.get_logger()
        log.info(f"model '{self.name}' ({variant}, {model.hash[:8]}) on {self._device}")
        if model.remark:
            log.warning(model.remark)
        return model

    def _start(self, model: Model) -> None:
        assert self._link is not None
        self._goal({})  # before there is anything to undo
        try:
            pipeline = Pipeline(
                model,
                self._link,
                partial(_read, self.config),
                self._publish,
                self.statistics,
                self._value('strategy'),
            )
        except StrategyRefused as error:
            raise ConfigError(str(error)) from None
        self._aim(pipeline, {})
        self.pipeline = pipeline
        slop_s = self.config.sync_slop_ms / 1000.0
        synchronizer = Synchronizer([spec.name for spec in self.config.inputs], slop_s)
        for spec in self.config.inputs:
            callback = partial(self._on_input, pipeline, synchronizer, spec)
            self._subscriptions.append(
                self._node.create_subscription(message_type(spec), spec.topic, callback, SENSOR)
            )

    def _goal(self, values: Mapping[str, Any]) -> Goal:
        """What plans are for, with ``values``; ``ConfigError``."""
        try:
            return goal_of(*(values.get(key, self._value(key)) for key in OBJECTIVE_KEYS))
        except ConfigError as error:
            raise ConfigError(f"model '{self.name}': {error}") from None

    def _amot(self, values: Mapping[str, Any]) -> AmotOptions | None:
        """What strategy amot may send, with ``values``; ``ConfigError``."""
        try:
            return amot_parameters.options(self._node, self.config, values)
        except ValueError as error:
            raise ConfigError(f"model '{self.name}': {error}") from None

    def _set_amot(self, values: Mapping[str, Any]) -> None:
        options = self._amot(values)
        if options is not None and self._link is not None:
            self._link.amot[self.name] = options

    def _aim(self, pipeline: Pipeline, values: Mapping[str, Any]) -> None:
        """Take goal and deadline up."""
        goal = self._goal(values)
        deadline_s = values.get('deadline_ms', self._value('deadline_ms')) / 1000.0
        if not pipeline.aim(goal, deadline_s) and goal != LEAST_LATENCY:
            self._node.get_logger().warning(
                f"model '{self.name}': strategy '{pipeline.strategy}' has a goal of its own; "
                'auto, layer_cut, mcop and intra_dp are for the parameter objective'
            )

    def _unsubscribe(self) -> None:
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()

    def _on_input(
        self, pipeline: Pipeline, synchronizer: Synchronizer, spec: InputSpec, message: Any
    ) -> None:
        received_s = time.monotonic()
        stamp = message.header.stamp
        parts = synchronizer.add(spec.name, stamp.sec + 1e-9 * stamp.nanosec, message)
        if parts is not None:
            pipeline.offer(parts, received_s)

    def _publish(self, answer: Answer, parts: Mapping[str, Any]) -> None:
        """Called in the pipeline's thread."""
        log = self._node.get_logger()
        if answer.error:
            log.error(f"model '{self.name}': {answer.error}", throttle_duration_sec=5.0)
        elif answer.fallback:
            text = f"model '{self.name}': computed by the robot: {answer.reason}"
            log.warning(text, throttle_duration_sec=5.0)
        header = parts[self.config.inputs[0].name].header
        try:
            self._results.publish(answer_to_message(answer, header))
        except InvalidHandle as error:  # the node is going: nobody can listen any more
            log.debug(f'result {answer.seq} could not be published: {error}')

    def _declare(self) -> list[str]:
        node, name, config = self._node, self.name, self.config
        strategies = ' | '.join(strategy_names())
        declare(node, f'{name}.strategy', config.strategy, f'how it runs: {strategies}')
        declare(
            node,
            f'{name}.deadline_ms',
            config.deadline_ms,
            'the robot answers by itself in time for this, counted from receipt (ms)',
            1.0,
            60_000.0,
        )
        self._declare_objective()
        variants = ' | '.join(config.variants())
        declare(node, f'{name}.variant', config.variant, f'which network runs: {variants}')
        declare(node, f'{name}.loaded', True, 'false: unloaded, its frames are not taken up')
        text = 'a file: what happens when in the next inference is written to it'
        declare(node, f'{name}.record', '', text)
        keys = ('strategy', 'deadline_ms', *OBJECTIVE_KEYS, 'variant', 'loaded', 'record')
        return [*(f'{name}.{key}' for key in keys), *amot_parameters.declare_for(node, config)]

    def _declare_objective(self) -> None:
        node, name, config = self._node, self.name, self.config
        declare(
            node,
            f'{name}.objective',
            config.objective,
            'what auto, and plans of layer_cut, mcop and intra_dp, are for: latency | energy | '
            'weighted | accuracy (auto)',
        )
        text = 'for energy and weighted: plans must be as fast as this (ms); 0: as deadline_ms asks'
        declare(
            node,
            f'{name}.objective_deadline_ms',
            config.objective_deadline_ms,
            text,
            0.0,
            60_000.0,
        )
        text = 'for weighted: how much the latency counts, the rest is energy (0 to 1)'
        declare(node, f'{name}.objective_weight', config.objective_weight, text, 0.0, 1.0)

    def _value(self, key: str) -> Any:
        return value_of(self._node, f'{self.name}.{key}')


def _reraise(error: Exception) -> str:
    raise error


def _read(config: ModelConfig, parts: Mapping[str, Any]) -> Inputs:
    """The messages of one accepted frame to tensors; called in the pipeline's thread."""
    inputs, buffers = {}, {}
    for spec in config.inputs:
        tensor, buffer = to_tensor(parts[spec.name], spec)
        inputs[spec.name] = tensor
        if buffer is not None:
            buffers[spec.name] = buffer
    return inputs, buffers
