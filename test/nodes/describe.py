"""The tables of doc/parameters.md, from what the nodes themselves declare.

``python test/nodes/describe.py`` writes them into the page. The nodes are made here and the manager
is configured; nothing is spun.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
import re
import sys
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor
import rclpy
from rclpy.node import Node

from offload_ros.amot.options import AmotOptions
from offload_ros.models.config import ModelConfig
from offload_ros.nodes.agrnav_navigator import AgrnavNavigator
from offload_ros.nodes.fleet_planner import FleetPlanner
from offload_ros.nodes.kapao_tracker import KapaoTracker
from offload_ros.nodes.managed import ManagedNode
from offload_ros.nodes.manager import OffloadManager
from offload_ros.nodes.server import OffloadServer
from offload_ros.nodes.world import WorldNode

PAGE = Path(__file__).parents[2] / 'doc' / 'parameters.md'
NODES = (OffloadManager, OffloadServer, FleetPlanner, KapaoTracker, AgrnavNavigator, WorldNode)
MODEL = 'scene'  # the shipped model that has all of a model's parameters
OF_RCLPY = ('use_sim_time', 'start_type_description_service')
UNITS = {
    'ms': 'ms', 's': 's', 'm': 'm', 'mb': 'MB', 'mbps': 'Mbit/s', 'hz': 'Hz', 'px': 'px',
    'deg': 'deg', 'rad': 'rad', 'radps': 'rad/s', 'radps2': 'rad/s^2', 'mps': 'm/s',
    'mps2': 'm/s^2',
}  # fmt: skip
# When a change takes effect: of a node, and of the parameters that differ.
EFFECTIVE = {
    'offload_manager': 'next frame',
    'offload_server': 'next request',
    'fleet_planner': 'next look (0.025 s) or plan',
    'kapao_tracker': 'next speeds (0.1 s)',
    'agrnav_navigator': 'next speeds (0.05 s)',
    'world': 'next step (0.02 s)',
    'link.emulate': 'next packet',
    'server.lost_after_ms': 'at once',
    '<model>.variant': 'first frame after it is loaded; the old one runs until then',
    '<model>.loaded': 'unloaded after the frame in hand; loaded in the background',
    'batch': 'next batch',
    'amot.gather_ms': 'next batch',
    'amot.max_batch': 'next batch',
    'rrto.sessions': 'next program',
    'keypoint': 'next result',
    'ask_hz': 'next step (0.1 s)',
}
READ = {
    'start': 'at start only',
    'configured': 'when configured',
    'activated': 'when activated',
}


def described(node: Node) -> dict[str, dict[str, Any]]:
    """By name; ``when``: it is read, empty: it may be changed at any time."""
    found = {}
    for name, parameter in node.get_parameters_by_prefix('').items():
        descriptor: ParameterDescriptor = node.describe_parameter(name)
        limits = [*descriptor.floating_point_range, *descriptor.integer_range]
        found[name] = {
            'text': descriptor.description,
            'default': parameter.value,
            'range': [(each.from_value, each.to_value) for each in limits],
            'when': 'start' if descriptor.read_only else '',
        }
        if isinstance(node, ManagedNode) and not descriptor.read_only:
            if name in node.FIXED_WHEN_CONFIGURED:
                found[name]['when'] = 'configured'
            elif name in node.FIXED_WHEN_ACTIVE:
                found[name]['when'] = 'activated'
    return found


def all_described() -> dict[str, dict[str, dict[str, Any]]]:
    """By node and parameter."""
    rclpy.init()
    told = {}
    for kind in NODES:
        node = kind()
        if isinstance(node, OffloadManager):
            node.trigger_configure()  # models have theirs from then on
        told[node.get_name()] = described(node)
        if hasattr(node, 'close'):
            node.close()
        node.destroy_node()
    rclpy.try_shutdown()
    return told


def table(node: str, parameters: dict[str, dict[str, Any]]) -> str:
    """Rows for a page: one for each parameter, of models those of one."""
    head = '| parameter | what | unit | range | default | takes effect |\n|---|---|---|---|---|---|'
    models = {name.partition('.')[0] for name in parameters if name.endswith('.deadline_ms')}
    rows = []
    for name, given in parameters.items():
        owner, _, key = name.partition('.')
        if name in OF_RCLPY or (owner in models and owner != MODEL):
            continue
        shown = f'<model>.{key}' if owner == MODEL else name
        default = _from_models_file(key) if owner == MODEL else _default(given['default'])
        unit = UNITS.get(name.rpartition('_')[2], '-')
        text = re.sub(r'(,|;) read when (configured|activated)$', '', given['text'])
        text = text.replace(' | ', ', ').replace('<model>', '`<model>`').rstrip('.')
        if shown == '<model>.variant':
            text = 'which of its networks runs, by the name in models.yaml'
        limits = ', '.join(f'{_short(low)} to {_short(high)}' for low, high in given['range'])
        effective = READ.get(given['when']) or _effective(node, shown)
        cells = (f'`{shown}`', text, unit, limits or '-', default, effective)
        rows.append(f'| {" | ".join(cells)} |')
    return '\n'.join([head, *rows])


def _effective(node: str, name: str) -> str:
    return next((EFFECTIVE[each] for each in EFFECTIVE if name.startswith(each)), EFFECTIVE[node])


def _default(value: Any) -> str:
    if isinstance(value, str) and '/share/offload_ros/' in value:
        value = value.partition('/share/offload_ros/')[2]
    if isinstance(value, bool):
        return str(value).lower()
    return (
        f'`{value}`' if isinstance(value, str) and value else 'empty' if value == '' else f'{value}'
    )


def _from_models_file(key: str) -> str:
    """What it is where models.yaml does not say it."""
    kind, _, name = key.rpartition('.')
    found = {each.name: each.default for each in fields(AmotOptions if kind else ModelConfig)}
    found.update({} if kind else {'loaded': True, 'record': ''})
    return _default(found[name])


def _short(value: float) -> str:
    return f'{value:.10g}'


def rendered(page: str, told: dict[str, dict[str, dict[str, Any]]]) -> str:
    """The page with the tables of ``told``, each under its node's heading."""
    for node, parameters in told.items():
        pattern = rf'(\n## {node}\b[^|]*?\n)\| parameter .*?(?=\n\n|\n\Z)'
        found = re.search(pattern, page, re.DOTALL)
        assert found is not None, f'the page has no section for {node}'
        page = page[: found.end(1)] + table(node, parameters) + page[found.end() :]
    return page


if __name__ == '__main__':
    page = rendered(PAGE.read_text(), all_described())
    if '--check' in sys.argv:
        sys.exit(0 if page == PAGE.read_text() else 'run python test/nodes/describe.py')
    PAGE.write_text(page)
