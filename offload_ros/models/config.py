"""What a model is made of: its source, inputs and their topics, preprocessing, outputs, deadline,
strategy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
import math
import re
from typing import Any

from offload_ros.amot.options import AmotOptions
from offload_ros.models.errors import ConfigError
from offload_ros.policy.goal import Goal

NAME = re.compile(r'[a-z][a-z0-9_]*\Z')
NAME_RULE = 'lower-case letters, digits and _, beginning with a letter'
RESERVED_NAMES = ('link', 'server')
INPUT_TYPES = (
    'sensor_msgs/msg/Image',
    'sensor_msgs/msg/CompressedImage',
    'sensor_msgs/msg/PointCloud2',
    'sensor_msgs/msg/LaserScan',
)
# Encodings whose pixels fit one tensor dtype; conversions between colour orders are cv_bridge's.
MAX_PIXELS = 16384  # of one side; beyond it is a slip of the keyboard, found before memory is taken
MAX_AXES = 8  # as many as travel
MAX_VALUES = 2**32
ENCODINGS = ('rgb8', 'bgr8', 'mono8', 'mono16', '16UC1', '32FC1', 'passthrough')


@dataclass(frozen=True)
class InputSpec:
    """One input of a model and the topic that it comes from.

    ``shape``: extents of the tensor, ``None`` where any extent is good; empty: not checked.
    """

    name: str
    topic: str
    type: str = 'sensor_msgs/msg/Image'
    encoding: str = 'rgb8'
    shape: tuple[int | None, ...] = ()

    def __post_init__(self) -> None:
        _rule(bool(NAME.match(self.name)), f"input name '{self.name}' must be {NAME_RULE}")
        _rule(bool(self.topic), f"input '{self.name}': topic is empty")
        _rule(
            self.type in INPUT_TYPES,
            f"input '{self.name}': type '{self.type}' {_one_of(INPUT_TYPES)}",
        )
        _rule(
            self.encoding in ENCODINGS,
            f"input '{self.name}': encoding '{self.encoding}' {_one_of(ENCODINGS)}",
        )
        _rule(
            all(extent is None or extent > 0 for extent in self.shape),
            f"input '{self.name}': shape has extents above 0, or null for any",
        )
        _rule(
            len(self.shape) <= MAX_AXES,
            f"input '{self.name}': shape has more than {MAX_AXES} axes",
        )
        _rule(
            math.prod(extent or 1 for extent in self.shape) <= MAX_VALUES,
            f"input '{self.name}': shape has more than {MAX_VALUES} values",
        )


@dataclass(frozen=True)
class Preprocess:
    """What turns an (H, W, C) image into the network's (1, C, h, w) float32; part of the model.

    ``resize``: (h, w) in pixels, bilinear with antialiasing; ``letterbox`` keeps the aspect ratio
    and fills with ``fill``. Then values are multiplied by ``scale``, ``mean`` subtracted and
    divided by ``std`` (per channel).
    """

    resize: tuple[int, int] | None = None
    letterbox: bool = False
    fill: float = 114.0
    scale: float = 1.0 / 255.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if self.resize is not None:
            _rule(
                len(self.resize) == 2 and min(self.resize) > 0 and max(self.resize) <= MAX_PIXELS,
                f'preprocess.resize: two pixel counts, [height, width], from 1 to {MAX_PIXELS}',
            )
        _rule(
            not self.letterbox or self.resize is not None,
            'preprocess.letterbox needs preprocess.resize',
        )
        _rule(
            len(self.mean) == len(self.std) and len(self.std) > 0,
            'preprocess.mean and preprocess.std: one number each per channel',
        )
        _rule(all(value != 0 for value in self.std), 'preprocess.std: must not be 0')
        numbers = (self.fill, self.scale, *self.mean, *self.std)
        _rule(all(map(math.isfinite, numbers)), 'preprocess: every number must be finite')


@dataclass(frozen=True)
class Source:
    """Where the network comes from; exactly one of the three.

    ``python``: ``package.module:function``, called with ``arguments``, returns a
    ``torch.nn.Module``. An argument ``weights`` that ends in ``.safetensors`` is a file, its path
    counted from the folder of ``models.yaml``.
    ``transformers``: hub id or local folder; without weights there, a configuration gives seeded
    random ones.
    ``export``: a ``torch.export`` archive (``.pt2``). Both local files and factories are code that
    this machine's operator trusts: nothing received from the network ever gets here.
    """

    python: str = ''
    transformers: str = ''
    export: str = ''
    arguments: Mapping[str, Any] = field(default_factory=dict)
    task: str = 'AutoModelForImageClassification'
    seed: int = 0

    def __post_init__(self) -> None:
        given = [kind for kind in ('python', 'transformers', 'export') if getattr(self, kind)]
        _rule(
            len(given) == 1,
            f'source: give exactly one of python, transformers, export (given: {given or "none"})',
        )
        _rule(
            not self.python or re.fullmatch(r'[\w.]+:\w+', self.python) is not None,
            f"source.python: '{self.python}' must be package.module:function",
        )
        _rule(
            self.task.startswith('AutoModel'),
            "source.task: a class of transformers, 'AutoModel...'",
        )
        _rule(
            0 <= self.seed < 2**63,
            f'source.seed: a whole number from 0 to {2**63 - 1}',
        )
        _rule(
            not (self.transformers and 'trust_remote_code' in self.arguments),
            'source.arguments: trust_remote_code would run code from the network',
        )


@dataclass(frozen=True)
class ModelConfig:
    """One entry of ``models.yaml``; ``alternatives`` are its other variants, on the same inputs.

    ``objective``: what plans are for (``goal_of``), of strategies that take one. ``amot``: of a
    classifier that strategy amot may run; its knobs are what the parameters begin with.
    """

    name: str
    source: Source
    variant: str = 'default'
    inputs: tuple[InputSpec, ...] = ()
    preprocess: Preprocess | None = None
    outputs: tuple[str, ...] = ('output',)
    deadline_ms: float = 1000.0
    strategy: str = 'server'
    objective: str = 'latency'
    objective_deadline_ms: float = 0.0
    objective_weight: float = 0.5
    sync_slop_ms: float = 50.0
    amot: AmotOptions | None = None
    alternatives: tuple[ModelConfig, ...] = ()

    def variants(self) -> list[str]:
        """Names of all variants; the default one first."""
        return [self.variant, *(config.variant for config in self.alternatives)]

    @property
    def opaque_inputs(self) -> frozenset[str]:
        """Inputs whose bytes are coded by the camera already: they travel as they are."""
        coded = INPUT_TYPES[1]
        return frozenset(spec.name for spec in self.inputs if spec.type == coded)

    @property
    def goal(self) -> Goal:
        """What plans are for."""
        return goal_of(self.objective, self.objective_deadline_ms, self.objective_weight)

    def variant_named(self, variant: str) -> ModelConfig:
        """The configuration of one variant; ``ConfigError`` names those that there are."""
        for config in (self, *self.alternatives):
            if config.variant == variant:
                return config
        raise ConfigError(
            f"model '{self.name}' has no variant '{variant}'; "
            f'there are {", ".join(self.variants())}'
        )

    def __post_init__(self) -> None:
        _rule(
            len(set(self.variants())) == len(self.variants()),
            f"model '{self.name}': two variants have one name: {self.variants()}",
        )
        _rule(bool(NAME.match(self.name)), f"model name '{self.name}' must be {NAME_RULE}")
        _rule(self.name not in RESERVED_NAMES, f"model name '{self.name}' is reserved")
        names = [spec.name for spec in self.inputs]
        _rule(bool(names), f"model '{self.name}': inputs is missing or empty")
        _rule(
            len(set(names)) == len(names), f"model '{self.name}': two inputs have one name: {names}"
        )
        _rule(bool(self.outputs), f"model '{self.name}': outputs is empty")
        _rule(all(self.outputs), f"model '{self.name}': an output name is empty")
        _rule(
            len(set(self.outputs)) == len(self.outputs),
            f"model '{self.name}': two outputs have one name: {list(self.outputs)}",
        )
        _rule(
            1.0 <= self.deadline_ms <= 60_000.0,
            f"model '{self.name}': deadline_ms {self.deadline_ms} is outside 1 to 60000",
        )
        try:
            goal_of(self.objective, self.objective_deadline_ms, self.objective_weight)
        except ConfigError as error:
            raise ConfigError(f"model '{self.name}': {error}") from None
        _rule(
            0.0 <= self.sync_slop_ms <= 10_000.0,
            f"model '{self.name}': sync_slop_ms {self.sync_slop_ms} is outside 0 to 10000",
        )
        _rule(
            self.preprocess is None or self.inputs[0].type in INPUT_TYPES[:2],
            f"model '{self.name}': preprocess works on images, its first input is "
            f'{self.inputs[0].type}',
        )


def goal_of(objective: str, deadline_ms: float, weight: float) -> Goal:
    """``objective``: latency, energy or weighted, this with ``weight`` for the latency (0 to 1),
    within ``deadline_ms``; 0: before the robot must answer by itself. ``ConfigError``."""
    _rule(
        0.0 <= deadline_ms <= 60_000.0,
        f'objective_deadline_ms {deadline_ms} is outside 0 to 60000',
    )
    _rule(0.0 <= weight <= 1.0, f'objective_weight {weight} is outside 0 to 1')
    try:
        return Goal.named(objective, deadline_ms / 1000.0 or math.inf, weight)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _rule(holds: bool, text: str) -> None:
    if not holds:
        raise ConfigError(text)


def _one_of(values: tuple[str, ...]) -> str:
    return f'is not one of {", ".join(values)}'
