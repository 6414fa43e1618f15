# SPDX-License-Identifier: Apache-2.0
"""ros2 param: list, get, set, describe, dump."""

import sys

from rcl_interfaces.msg import Parameter
from rcl_interfaces.srv import DescribeParameters, GetParameters, ListParameters, SetParameters
from rclpy.parameter import get_parameter_value, parameter_value_to_python
import yaml

from .graph import HIDDEN, on_graph

# by ParameterType: type as `describe` prints it, label of `get`
_TYPES = [
    ('not set', 'Parameter not set.'), ('boolean', 'Boolean value is:'),
    ('integer', 'Integer value is:'), ('double', 'Double value is:'),
    ('string', 'String value is:'), ('byte array', 'Byte values are:'),
    ('boolean array', 'Boolean values are:'), ('integer array', 'Integer values are:'),
    ('double array', 'Double values are:'), ('string array', 'String values are:')]
def _find(graph, args):
    return graph.find(args.node_name, lambda: graph.names(hidden=True))

def _names(graph, node):
    return sorted(graph.call(ListParameters, f'{node}/list_parameters').result.names)

def _values(graph, node, names):
    return graph.call(GetParameters, f'{node}/get_parameters', names=names).values

def _descriptors(graph, node, names):
    return graph.call(DescribeParameters, f'{node}/describe_parameters', names=names).descriptors

def _plain(value):
    value = parameter_value_to_python(value)
    return value.tolist() if hasattr(value, 'tolist') else value

def _list(graph, args):
    if args.node_name is None:
        graph.settle()
    for node in graph.names() if args.node_name is None else [_find(graph, args)]:
        names = _names(graph, node)
        if args.node_name is None and names:
            print(f'{node}:')
        for name in names:
            print(f'  {name}')

def _get(graph, args):
    values = _values(graph, _find(graph, args), [args.parameter_name])
    if not values:
        return 'Parameter not set'
    label = _TYPES[values[0].type][1]
    value = [] if values[0].type == 0 else [_plain(values[0])]
    print(*(value if args.hide_type and value else [label, *value]))

def _set(graph, args):
    node = _find(graph, args)
    value = get_parameter_value(args.value)
    result = graph.call(SetParameters, f'{node}/set_parameters', parameters=[
        Parameter(name=args.parameter_name, value=value)]).results[0]
    text = 'Set parameter successful' if result.successful else 'Setting parameter failed'
    # upstream's exit code is 0 also when the node refuses: the text tells
    print(f'{text}: {result.reason}' if result.reason else text,
          file=sys.stdout if result.successful else sys.stderr)

def _describe(graph, args):
    node = _find(graph, args)
    for descriptor in _descriptors(graph, node, args.parameter_names):
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

def _dump(graph, args):
    node, tree = _find(graph, args), {}
    names = _names(graph, node)
    for parameter, value in zip(names, _values(graph, node, names), strict=True):
        branch = tree
        *groups, leaf = parameter.split('.')
        for group in groups:
            branch = branch.setdefault(group, {})
        branch[leaf] = _plain(value)
    print(yaml.safe_dump({node: {'ros__parameters': tree}}, default_flow_style=False))

_NODE = HIDDEN + 'node_name '
PARAM = {
    'describe': (on_graph(_describe), _NODE + 'parameter_names+'),
    'dump': (on_graph(_dump), _NODE),
    'get': (on_graph(_get), _NODE + 'parameter_name --hide-type'),
    'list': (on_graph(_list), HIDDEN + 'node_name?'),
    'set': (on_graph(_set), _NODE + 'parameter_name value')}
