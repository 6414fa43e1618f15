"""Parameters ``<model>.amot.*`` of models that have networks for A-MOT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rclpy.node import Node

from offload_ros.amot.options import LEAST_RATIO, OBJECTIVES, AmotOptions
from offload_ros.models.config import ModelConfig
from offload_ros.nodes.parameters import declare, value_of

# Field of AmotOptions: description and range.
KNOBS: dict[str, tuple[str, float | None, float | None]] = {
    'first_ratio': (
        'strategy amot: share of the patches that the first round samples (0 to 1)',
        LEAST_RATIO,
        1.0,
    ),
    'confidence': (
        "strategy amot: from it on the first round's answer is final (probability, 0 to 1)",
        0.0,
        1.0,
    ),
    'traffic_budget': (
        "strategy amot: share of a raw image's bytes that an image may take on average (0 to 1)",
        LEAST_RATIO,
        1.0,
    ),
    'adaptive': (
        'strategy amot: patches of the second round by what calibration found; false: as many for '
        'each image, traffic_budget less first_ratio',
        None,
        None,
    ),
    'objective': (
        f'strategy amot: of the adaptive allocation: {" | ".join(OBJECTIVES)} (as the paper prints '
        'it, or by the number of images)',
        None,
        None,
    ),
}


def declare_for(node: Node, config: ModelConfig) -> list[str]:
    """Declare those of a model; their names, none where no variant has networks."""
    options = _default(config)
    if options is None:
        return []
    names = []
    for knob, (text, low, high) in KNOBS.items():
        names.append(f'{config.name}.amot.{knob}')
        declare(node, names[-1], getattr(options, knob), text, low, high)
    return names


def options(node: Node, config: ModelConfig, values: Mapping[str, Any]) -> AmotOptions | None:
    """What the parameters ask for, with ``values`` (``amot.<knob>``); None where there are none,
    ``ValueError`` for what is not possible."""
    default = _default(config)
    if default is None:
        return None
    asked = {
        knob: values.get(f'amot.{knob}', value_of(node, f'{config.name}.amot.{knob}'))
        for knob in KNOBS
    }
    return replace(default, **asked)


def _default(config: ModelConfig) -> AmotOptions | None:
    """Of the variant that runs at first, else of the first that has networks."""
    found = (each.amot for each in (config, *config.alternatives))
    return next((each for each in found if each is not None), None)
