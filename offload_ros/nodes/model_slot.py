"""One model on the robot as the manager keeps it: topics, parameters, pipeline, variant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
import threading
import time
from typing import Any

from rclpy.exceptions import InvalidHandle
from rclpy.node import Node

from offload_ros.models.config import InputSpec, ModelConfig
from offload_ros.models.errors import ConfigError, ModelError
from offload_ros.models.model import Model, load_model
from offload_ros.msg import InferenceResult
from offload_ros.nodes.messages import answer_to_message
from offload_ros.nodes.parameters import declare, value_of
from offload_ros.nodes.sensor_inputs import message_type, to_tensor
from offload_ros.nodes.topics import CONTROL, SENSOR
from offload_ros.robot.answer import Answer
from offload_ros.robot.pipeline import Inputs, Pipeline
from offload_ros.robot.statistics import Statistics
from offload_ros.robot.synchronizer import Synchronizer
from offload_ros.strategy import Link, StrategyRefused, strategy_names

Later = Callable[[Callable[[], None]], None]


class ModelSlot:
    """Declared with the node's configuration, loaded with its activation or on request.

    ``later`` runs a function in the node's executor: models load in threads of their own, but
    topics are made and destroyed there.
    """

    def __init__(self, node: Node, config: ModelConfig, device: str, later: Later) -> None:
        self.config = config
        self.name = config.name
        self.statistics = Statistics()  # goes on when the model is unloaded or switched
        self.pipeline: Pipeline | None = None
        self._node = node
        self._device = device
        self._later = later
        self._link: Link | None = None
        self._subscriptions: list[Any] = []
        self._loading: threading.Thread | None = None
        self._parameters = self._declare()
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
        if self._value('loaded'):
            self._start(self._load(self._value('variant')))

    def deactivate(self) -> None:
        """Finish the frame in hand, unsubscribe, free the model."""
        self._link = None
        self._stop()
        if self._loading is not None:
            self._loading.join()  # what it loaded is dropped: there is no link any more
            self._loading = None

    def cleanup(self) -> None:
        """Give topics and parameters back."""
        self._node.destroy_publisher(self._results)
        for parameter in self._parameters:
            self._node.undeclare_parameter(parameter)

    def refusal(self, key: str, value: Any) -> str:
        """Why parameter ``<model>.<key>`` may not have this value now; empty when it may."""
        try:
            if key == 'variant':
                self.config.variant_named(value)
            elif key == 'strategy' and self.pipeline is not None:
                self.pipeline.prepare_strategy(value)
        except (ConfigError, StrategyRefused) as error:
            return str(error)
        if key in ('variant', 'loaded') and self._loading is not None:
            return f"model '{self.name}' is being loaded: try again when that is done"
        return ''

    def apply(self, key: str, value: Any) -> None:
        """Take a checked parameter up."""
        if key == 'strategy' and self.pipeline is not None:
            self.pipeline.set_strategy(value)
        elif key == 'deadline_ms' and self.pipeline is not None:
            self.pipeline.deadline_s = value / 1000.0
        elif key == 'variant':
            self.change(self._value('loaded'), value)
        elif key == 'loaded':
            self.change(value, self._value('variant'))

    def change(
        self, loaded: bool, variant: str, done: Callable[[bool, str], None] = lambda *_: None
    ) -> None:
        """Load, unload or switch; ``done(success, text)`` in the executor when it is done.

        While another variant loads, frames go on with the one in use.
        """
        if not loaded or self._link is None:
            self._stop()
            done(True, f"model '{self.name}' is not loaded")
            return
        if self.model is not None and self.model.variant == variant:
            done(True, f"model '{self.name}' runs as '{variant}'")
            return

        def load() -> None:
            try:
                model = self._load(variant)
            except (ConfigError, ModelError) as error:
                text = str(error)
                self._later(lambda: self._loaded(None, text, done))
                return
            self._later(lambda: self._loaded(model, '', done))

        self._loading = threading.Thread(target=load, name=f'load {self.name}', daemon=True)
        self._loading.start()

    def _loaded(self, model: Model | None, error: str, done: Callable[[bool, str], None]) -> None:
        self._loading = None
        if model is None or self._link is None:
            text = error or 'the manager was deactivated'
            self._node.get_logger().error(f"model '{self.name}' stays as it is: {text}")
            done(False, text)
            return
        if self.pipeline is None:
            self._start(model)
        else:
            self.pipeline.replace_model(model)
        done(True, f"model '{self.name}' runs as '{model.variant}'")

    def _load(self, variant: str) -> Model:
        model = load_model(self.config.variant_named(variant), self._device)
        log = self._node.get_logger()
        log.info(f"model '{self.name}' ({variant}, {model.hash[:8]}) on {self._device}")
        if model.remark:
            log.warning(model.remark)
        return model

    def _start(self, model: Model) -> None:
        assert self._link is not None
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
        pipeline.deadline_s = self._value('deadline_ms') / 1000.0
        self.pipeline = pipeline
        slop_s = self.config.sync_slop_ms / 1000.0
        synchronizer = Synchronizer([spec.name for spec in self.config.inputs], slop_s)
        for spec in self.config.inputs:
            callback = partial(self._on_input, pipeline, synchronizer, spec)
            self._subscriptions.append(
                self._node.create_subscription(message_type(spec), spec.topic, callback, SENSOR)
            )

    def _stop(self) -> None:
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()
        if self.pipeline is not None:
            self.pipeline.close()
            self.pipeline = None

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
        variants = ' | '.join(config.variants())
        declare(node, f'{name}.variant', config.variant, f'which network runs: {variants}')
        declare(node, f'{name}.loaded', True, 'false: unloaded, its frames are not taken up')
        return [f'{name}.{key}' for key in ('strategy', 'deadline_ms', 'variant', 'loaded')]

    def _value(self, key: str) -> Any:
        return value_of(self._node, f'{self.name}.{key}')


def _read(config: ModelConfig, parts: Mapping[str, Any]) -> Inputs:
    """The messages of one accepted frame to tensors; called in the pipeline's thread."""
    inputs, buffers = {}, {}
    for spec in config.inputs:
        tensor, buffer = to_tensor(parts[spec.name], spec)
        inputs[spec.name] = tensor
        if buffer is not None:
            buffers[spec.name] = buffer
    return inputs, buffers
