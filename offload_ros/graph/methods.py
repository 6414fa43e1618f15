"""Planning methods by name, for the plan command and for whoever compares them."""

from __future__ import annotations

from collections.abc import Callable
import importlib

import numpy as np

from offload_ros.baselines.problem import Method, Problem
from offload_ros.graph.split_plan import Plan

_METHODS: dict[str, Callable[[], Method]] = {}
_ALIASES: dict[str, str] = {}
_SLOW: set[str] = set()


class UnknownMethod(ValueError):
    """There is no planning method of this name; the text names those there are."""


def register_method(
    name: str, load: Callable[[], Method], *aliases: str, slow: bool = False
) -> None:
    """Make a method known under ``name``; ``load`` imports it when it is used first. ``slow``: it
    takes many seconds for a plan, so that 'all' leaves it out."""
    for each in (name, *aliases):
        if each in _METHODS or each in _ALIASES:
            raise ValueError(f"planning method '{each}' is registered twice")
    _METHODS[name] = load
    _ALIASES.update(dict.fromkeys(aliases, name))
    if slow:
        _SLOW.add(name)


def method_names() -> list[str]:
    """All, in the order of registration, without aliases."""
    return list(_METHODS)


def quick_method_names() -> list[str]:
    """Those that 'all' stands for."""
    return [name for name in _METHODS if name not in _SLOW]


def find_method(name: str) -> tuple[str, Method]:
    """A method and its registered name, by that or an alias; ``UnknownMethod``."""
    name = _ALIASES.get(name, name)
    if name not in _METHODS:
        raise UnknownMethod(f"there is no method '{name}'; there are {', '.join(_METHODS)}")
    return name, _METHODS[name]()


def device(problem: Problem) -> Plan:
    """All on the robot."""
    return problem.plan(np.zeros(len(problem.profile), dtype=bool))


def server(problem: Problem) -> Plan:
    """All on the server."""
    operators = problem.profile.operators
    return problem.plan(np.array([not operator.is_input for operator in operators]))


def _of_package(path: str) -> Callable[[], Method]:
    """The function ``module:name`` of this package, imported when it is asked for."""

    def load() -> Method:
        module, _, name = path.partition(':')
        method: Method = getattr(importlib.import_module(f'offload_ros.{module}'), name)
        return method

    return load


register_method('device', lambda: device)
register_method('server', lambda: server)
register_method('dsccs', _of_package('baselines.dsccs:dsccs'))
register_method('mcop', _of_package('baselines.mcop:mcop'))
register_method('spso_ga', _of_package('baselines.spso_ga:spso_ga'))
register_method('layer_cut', _of_package('baselines.layer_cut:layer_cut'))
register_method('intra_dp', _of_package('intra_dp.planner:intra_dp'), 'intradp', 'intra-dp')
register_method('intra_dp_de', _of_package('intra_dp.evolution:intra_dp_de'), slow=True)
