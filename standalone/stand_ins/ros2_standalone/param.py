# SPDX-License-Identifier: Apache-2.0
"""ros2 param: list, get, set, describe, dump."""

import argparse
import re
import sys
from typing import Any

from rcl_interfaces.msg import Parameter
from rcl_interfaces.srv import (
    DescribeParameters,
    GetParameters,
    ListParameters,
    SetParameters,
)
from rclpy.parameter import get_parameter_value, parameter_value_to_python
import yaml

from .graph import Graph, absolute, add_arguments

# by ParameterType: type as `describe` and `list --param-type` print it, label of `get`
_TYPES = [
    ('not set', 'Parameter not set.'),
    ('boolean', 'Boolean value is:'),
    ('integer', 'Integer value is:'),
    ('double', 'Double value is:'),
    ('string', 'String value is:'),
    ('byte array', 'Byte values are:'),
    ('boolean array', 'Boolean values are:'),
    ('integer array', 'Integer values are:'),
    ('double array', 'Double values are:'),
    ('string array', 'String values are:'),
]


def _add_node(parser: argparse.ArgumentParser) -> None:
    add_arguments(parser)
    parser.add_argument('--include-hidden-nodes', action='store_true', help='Also hidden nodes')
    parser.add_argument(
        '--timeout',
        metavar='N',
        type=int,
        default=1,
        help='Wait for N seconds until node becomes available',
    )
    parser.add_argument('node_name', help='Name of the ROS node')


def _names(graph: Graph, name: str, prefixes: Any = ()) -> list[str]:
    request = ListParameters.Request(prefixes=list(prefixes))
    return sorted(graph.call(ListParameters, f'{name}/list_parameters', request).result.names)


def _values(graph: Graph, name: str, names: list[str]) -> Any:
    request = GetParameters.Request(names=names)
    return graph.call(GetParameters, f'{name}/get_parameters', request).values


def _descriptors(graph: Graph, name: str, names: list[str]) -> Any:
    request = DescribeParameters.Request(names=names)
    return graph.call(DescribeParameters, f'{name}/describe_parameters', request).descriptors


def _plain(value: Any) -> Any:
    value = parameter_value_to_python(value)
    return value.tolist() if hasattr(value, 'tolist') else value


def _add_list(parser: argparse.ArgumentParser) -> None:
    add_arguments(parser)
    parser.add_argument('--include-hidden-nodes', action='store_true', help='Also hidden nodes')
    parser.add_argument('--filter', help='Only names that match the regular expression')
    parser.add_argument('--param-prefixes', nargs='+', default=[], help='Only these prefixes')
    parser.add_argument('--param-type', action='store_true', help='Print the types too')
    parser.add_argument('node_name', nargs='?', help='Name of the ROS node')


def _list(args: argparse.Namespace) -> Any:
    with Graph(args) as graph:
        if args.node_name is None:
            graph.settle()
            names = graph.full_names(args.include_hidden_nodes)
        elif graph.find_node(args.node_name):
            names = [absolute(args.node_name)]
        else:
            return 'Node not found'
        for name in names:
            try:
                found = _names(graph, name, args.param_prefixes)
            except RuntimeError:
                print(f'Wait for service timed out waiting for parameter services for node {name}')
                continue
            found = [p for p in found if not args.filter or re.match(args.filter, p)]
            if args.node_name is None and found:
                print(f'{name}:')
            kinds = (
                {d.name: _TYPES[d.type][0] for d in _descriptors(graph, name, found)}
                if args.param_type
                else {}
            )
            for parameter in found:
                kind = f' (type: {kinds[parameter]})' if args.param_type else ''
                print(f'  {parameter}{kind}')


def _add_get(parser: argparse.ArgumentParser) -> None:
    _add_node(parser)
    parser.add_argument('parameter_name', help='Name of the parameter')
    parser.add_argument('--hide-type', action='store_true', help='Hide the type information')


def _get(args: argparse.Namespace) -> Any:
    with Graph(args) as graph:
        if not graph.find_node(args.node_name, args.timeout):
            return 'Node not found'
        values = _values(graph, absolute(args.node_name), [args.parameter_name])
    if not values:
        return 'Parameter not set'
    value = _plain(values[0])
    label = _TYPES[values[0].type][1]
    print(*([value] if args.hide_type else [label] if value is None else [label, value]))


def _add_set(parser: argparse.ArgumentParser) -> None:
    _add_node(parser)
    parser.add_argument('parameter_name', help='Name of the parameter')
    parser.add_argument('value', help='Value of the parameter')


def _set(args: argparse.Namespace) -> Any:
    value = get_parameter_value(args.value)
    request = SetParameters.Request(parameters=[Parameter(name=args.parameter_name, value=value)])
    with Graph(args) as graph:
        if not graph.find_node(args.node_name, args.timeout):
            return 'Node not found'
        service = f'{absolute(args.node_name)}/set_parameters'
        result = graph.call(SetParameters, service, request).results[0]
    text = 'Set parameter successful' if result.successful else 'Setting parameter failed'
    # upstream's exit code is 0 also when the node refuses: the text tells
    print(
        f'{text}: {result.reason}' if result.reason else text,
        file=sys.stdout if result.successful else sys.stderr,
    )


def _add_describe(parser: argparse.ArgumentParser) -> None:
    _add_node(parser)
    parser.add_argument('parameter_names', nargs='+', help='Names of the parameters')


def _describe(args: argparse.Namespace) -> Any:
    with Graph(args) as graph:
        if not graph.find_node(args.node_name, args.timeout):
            return 'Node not found'
        found = _descriptors(graph, absolute(args.node_name), args.parameter_names)
    for descriptor in found:
        print(f'Parameter name: {descriptor.name}\n  Type: {_TYPES[descriptor.type][0]}')
        if descriptor.description:
            print(f'  Description: {descriptor.description}')
        print('  Constraints:')
        if descriptor.read_only:
            print('    Read only: true')
        for limits in [*descriptor.floating_point_range, *descriptor.integer_range][:1]:
            print(f'    Min value: {limits.from_value}\n    Max value: {limits.to_value}')
            if limits.step:
                print(f'    Step: {limits.step}')
        if descriptor.additional_constraints:
            print(f'    Additional constraints: {descriptor.additional_constraints}')


def _dump(args: argparse.Namespace) -> Any:
    with Graph(args) as graph:
        if not graph.find_node(args.node_name, args.timeout):
            return 'Node not found'
        name = absolute(args.node_name)
        names = _names(graph, name)
        values = _values(graph, name, names)
    tree: dict[str, Any] = {}
    for parameter, value in zip(names, values, strict=True):
        branch = tree
        *groups, leaf = parameter.split('.')
        for group in groups:
            branch = branch.setdefault(group, {})
        branch[leaf] = _plain(value)
    print(yaml.safe_dump({name: {'ros__parameters': tree}}, default_flow_style=False))


VERBS = {
    'describe': (
        'Show descriptive information about declared parameters',
        _add_describe,
        _describe,
    ),
    'dump': ('Show all of the parameters of a node in a YAML file format', _add_node, _dump),
    'get': ('Get parameter', _add_get, _get),
    'list': ('Output a list of available parameters', _add_list, _list),
    'set': ('Set parameter', _add_set, _set),
}
