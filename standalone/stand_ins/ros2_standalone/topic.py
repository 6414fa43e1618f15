# SPDX-License-Identifier: Apache-2.0
"""ros2 topic: list, echo, hz."""

import argparse
import importlib
import itertools
import statistics
from typing import Any, NoReturn

from rclpy import qos
from rclpy.clock import Clock
from rclpy.expand_topic_name import expand_topic_name

from .graph import Graph, add_arguments


def _add_list(parser: argparse.ArgumentParser) -> None:
    add_arguments(parser)
    parser.add_argument('-t', '--show-types', action='store_true', help='Show the types too')
    parser.add_argument('-c', '--count-topics', action='store_true', help='Only count')
    parser.add_argument('-v', '--verbose', action='store_true', help='Show who uses them')
    parser.add_argument('--include-hidden-topics', action='store_true', help='Also hidden topics')


def _list(args: argparse.Namespace) -> None:
    with Graph(args) as graph:
        graph.settle()
        node = graph.node
        found = [
            (name, ', '.join(types), node.count_publishers(name), node.count_subscribers(name))
            for name, types in sorted(node.get_topic_names_and_types())
            if args.include_hidden_topics or '/_' not in name
        ]
    if args.count_topics:
        print(len(found))
    elif args.verbose:
        for column, title, noun in ((2, 'Published', 'publisher'), (3, 'Subscribed', 'subscriber')):
            print(f'{title} topics:')
            for row in found:
                if row[column]:
                    plural = 's' if row[column] > 1 else ''
                    print(f' * {row[0]} [{row[1]}] {row[column]} {noun}{plural}')
            print()
    else:
        for name, kind, _, _ in found:
            print(f'{name} [{kind}]' if args.show_types else name)


def _message_class(graph: Graph, topic: str, timeout_s: float = 0.0) -> Any:
    """Return the message class of a topic, None if no topic appears in time."""
    node = graph.node
    full = expand_topic_name(topic, node.get_name(), node.get_namespace())
    types = graph.wait_for(lambda: dict(node.get_topic_names_and_types()).get(full), timeout_s)
    if not types:
        return None
    if len(types) > 1:
        raise RuntimeError(
            f"Cannot echo topic '{topic}', as it contains more than one type: [{', '.join(types)}]"
        )
    return message_class(types[0])


def message_class(name: str) -> Any:
    """Return the class of a type such as std_msgs/msg/String."""
    package, _, kind = name.partition('/')
    try:
        module = importlib.import_module(f'{package}.msg')
        return getattr(module, kind.rpartition('/')[2])
    except (AttributeError, ModuleNotFoundError, ValueError):
        raise RuntimeError(f"The message type '{name}' is invalid") from None


def _add_echo(parser: argparse.ArgumentParser) -> None:
    add_arguments(parser)
    parser.add_argument('topic_name', help='Name of the topic')
    parser.add_argument('message_type', nargs='?', help="Type, e.g. 'std_msgs/msg/String'")
    parser.add_argument(
        '--qos-profile',
        choices=qos.QoSPresetProfiles.short_keys(),
        default='sensor_data',
        help='Preset to start from',
    )
    parser.add_argument('--qos-depth', metavar='N', type=int, help='Queue size')
    for policy, kind in (
        ('history', qos.QoSHistoryPolicy),
        ('reliability', qos.QoSReliabilityPolicy),
        ('durability', qos.QoSDurabilityPolicy),
    ):
        parser.add_argument(
            f'--qos-{policy}',
            choices=kind.short_keys(),
            help=f'Instead of what fits the publishers: {policy}',
        )
    parser.add_argument('--csv', action='store_true', help='All fields in one line')
    parser.add_argument('--field', help='Only this field; dots select sub-fields')
    parser.add_argument('-f', '--full-length', action='store_true', help='Truncate nothing')
    parser.add_argument(
        '-l',
        '--truncate-length',
        type=int,
        default=128,
        help='Length to truncate arrays and strings to (default 128)',
    )
    parser.add_argument('--no-arr', action='store_true', help='No arrays')
    parser.add_argument('--no-str', action='store_true', help='No strings')
    parser.add_argument('--once', action='store_true', help='Print one message and exit')
    parser.add_argument('--timeout', metavar='N', type=float, help='Exit after N seconds')


def _fitting_profile(node: Any, args: argparse.Namespace) -> Any:
    """Return what was asked for, else what all publishers of the topic can serve."""
    profile = qos.QoSPresetProfiles.get_from_short_key(args.qos_profile)
    policies = {
        'history': qos.QoSHistoryPolicy,
        'reliability': qos.QoSReliabilityPolicy,
        'durability': qos.QoSDurabilityPolicy,
    }
    asked = {name: getattr(args, f'qos_{name}') for name in policies}
    if args.qos_depth is not None or any(asked.values()):
        for name, key in asked.items():
            if key:
                setattr(profile, name, policies[name].get_from_short_key(key))
        profile.depth = args.qos_depth or profile.depth or 1
        return profile
    offers = [info.qos_profile for info in node.get_publishers_info_by_topic(args.topic_name)]
    for name, strong, weak in (
        ('reliability', qos.QoSReliabilityPolicy.RELIABLE, qos.QoSReliabilityPolicy.BEST_EFFORT),
        ('durability', qos.QoSDurabilityPolicy.TRANSIENT_LOCAL, qos.QoSDurabilityPolicy.VOLATILE),
    ):
        able = [getattr(offer, name) == strong for offer in offers]
        if offers:
            setattr(profile, name, strong if all(able) else weak)
        if any(able) and not all(able):
            print(
                f'Some, but not all, publishers are offering {type(strong).__name__}.'
                f'{strong.name}. Falling back to {type(weak).__name__}.{weak.name} as it will '
                'connect to all publishers'
            )
    return profile


def _echo(args: argparse.Namespace) -> Any:
    from .message_text import select, to_csv, to_yaml

    options = {
        'length': None if args.full_length else args.truncate_length,
        'no_arr': args.no_arr,
        'no_str': args.no_str,
    }
    with Graph(args) as graph:
        kind = (
            message_class(args.message_type)
            if args.message_type
            else _message_class(graph, args.topic_name)
        )
        if kind is None:
            print(f'WARNING: topic [{args.topic_name}] does not appear to be published yet')
            raise RuntimeError('Could not determine the type for the passed topic')
        shown = 0

        def show(message: Any) -> None:
            nonlocal shown
            part = select(message, args.field)
            if args.csv:
                print(to_csv(part, **options))
            else:
                print(to_yaml(part, **options), end='---\n')
            shown += 1

        graph.node.create_subscription(
            kind, args.topic_name, show, _fitting_profile(graph.node, args)
        )
        graph.spin_until(lambda: args.once and shown, args.timeout)


def _add_hz(parser: argparse.ArgumentParser) -> None:
    add_arguments(parser)
    parser.add_argument('topic_name', help='Name of the topic')
    parser.add_argument('-w', '--window', type=int, default=10000, help='Messages to average over')
    parser.add_argument('--wall-time', action='store_true', help='Wall time, not simulation time')


def _hz(args: argparse.Namespace) -> NoReturn:
    if args.window <= 0:
        raise RuntimeError('--window must be a positive integer')
    with Graph(args) as graph:
        kind = _message_class(graph, args.topic_name)
        if kind is None:
            print(f'WARNING: topic [{args.topic_name}] does not appear to be published yet')
            kind = _message_class(graph, args.topic_name, float('inf'))
        clock = Clock() if args.wall_time else graph.node.get_clock()
        stamps: list[int] = []

        def count(_: bytes) -> None:
            now = clock.now().nanoseconds
            if stamps and now < stamps[-1]:  # the simulation started again
                stamps.clear()
            if now:
                stamps.append(now)
                del stamps[: -args.window - 1]

        graph.node.create_subscription(
            kind, args.topic_name, count, qos.qos_profile_sensor_data, raw=True
        )
        printed = 0
        while True:
            graph.spin_until(lambda: False, 1.0)
            if len(stamps) < 2 or stamps[-1] == printed:
                continue
            printed = stamps[-1]
            gaps = [(b - a) * 1e-9 for a, b in itertools.pairwise(stamps)]
            mean = statistics.fmean(gaps)
            print(
                f'average rate: {1 / mean if mean else 0.0:.3f}\n'
                f'\tmin: {min(gaps):.3f}s max: {max(gaps):.3f}s '
                f'std dev: {statistics.pstdev(gaps):.5f}s window: {len(gaps)}'
            )


VERBS = {
    'echo': ('Output messages from a topic', _add_echo, _echo),
    'hz': ('Print the average publishing rate to screen', _add_hz, _hz),
    'list': ('Output a list of available topics', _add_list, _list),
}
