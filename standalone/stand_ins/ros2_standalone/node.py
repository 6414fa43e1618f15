# SPDX-License-Identifier: Apache-2.0
"""Nodes and their services: ros2 node list, lifecycle nodes|get|set, service list|call."""

import sys

from lifecycle_msgs.srv import ChangeState, GetAvailableTransitions, GetState
import yaml

from .graph import ARGUMENTS, HIDDEN, on_graph
from .message import fill, interface


def _list(graph, args):
    graph.settle()
    for name in graph.names(args.all):
        print(name)

def _managed(graph, hidden):
    """Return the full names of the lifecycle nodes."""
    services = {name for name, types in graph.node.get_service_names_and_types()
                if 'lifecycle_msgs/srv/GetState' in types}
    return [name for name in graph.names(hidden) if f'{name}/get_state' in services]

def _nodes(graph, args):
    graph.settle()
    for name in _managed(graph, args.all):
        print(name)

def _get(graph, args):
    def managed():
        return _managed(graph, args.include_hidden_nodes)

    if args.node_name is None:
        graph.settle()
    for name in [graph.find(args.node_name, managed)] if args.node_name else managed():
        state = graph.call(GetState, f'{name}/get_state').current_state
        print(f'{name}: ' if args.node_name is None else '', f'{state.label} [{state.id}]', sep='')

def _set(graph, args):
    name = graph.find(args.node_name, lambda: _managed(graph, args.include_hidden_nodes))
    found = graph.call(GetAvailableTransitions, f'{name}/get_available_transitions')
    able = [description.transition for description in found.available_transitions]
    for transition in able:
        if args.transition in (transition.label, str(transition.id)):
            break
    else:
        return 'Unknown transition requested, available ones are:' + ''.join(
            f'\n- {transition.label} [{transition.id}]' for transition in able)
    # upstream's exit code is 0 also when the node refuses: the text tells
    if graph.call(ChangeState, f'{name}/change_state', transition=transition).success:
        print('Transitioning successful')
    else:
        print('Transitioning failed', file=sys.stderr)

def _services(graph, args):
    graph.settle()
    graph.print_types(graph.node.get_service_names_and_types(), args.show_types)

def _call(graph, args):
    if (kind := interface(args.service_type, 'srv')) is None:
        return 'The passed service type is invalid'
    request = kind.Request()
    try:
        fill(request, yaml.safe_load(args.values or '{}'))
    except Exception as error:
        return f'Failed to populate field: {error}'
    client = graph.node.create_client(kind, args.service_name)
    if not client.service_is_ready():
        print('waiting for service to become available...')
        graph.wait_for(client.service_is_ready, float('inf'))
    print(f'requester: making request: {request!r}\n')
    print(f'response:\n{graph.response(client, request)!r}\n')

NODE = {'list': (on_graph(_list), ARGUMENTS + '-a,--all')}
LIFECYCLE = {
    'get': (on_graph(_get), HIDDEN + 'node_name?'),
    'nodes': (on_graph(_nodes), ARGUMENTS + '-a,--all'),
    'set': (on_graph(_set), HIDDEN + 'node_name transition')}
SERVICE = {
    'call': (on_graph(_call), ARGUMENTS + 'service_name service_type values?'),
    'list': (on_graph(_services), ARGUMENTS + '-t,--show-types')}
