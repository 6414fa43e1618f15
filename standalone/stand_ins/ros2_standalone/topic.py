# SPDX-License-Identifier: Apache-2.0
"""ros2 topic: list, echo, hz, pub."""

import itertools
import statistics
import time

from rclpy import qos
from rclpy.expand_topic_name import expand_topic_name
import yaml

from .graph import ARGUMENTS, on_graph
from .message import fill, interface, to_yaml


def _list(graph, args):
    graph.settle()
    graph.print_types(graph.node.get_topic_names_and_types(), args.show_types)

def _class_on(graph, topic, given=None, timeout_s=0.0):
    """Return the message class that is given or that the topic has."""
    node = graph.node
    full = expand_topic_name(topic, node.get_name(), node.get_namespace())
    types = [given] if given else graph.wait_for(
        lambda: dict(node.get_topic_names_and_types()).get(full), timeout_s)
    if not types:
        print(f'WARNING: topic [{topic}] does not appear to be published yet')
        raise RuntimeError('Could not determine the type for the passed topic')
    if len(types) > 1:
        raise RuntimeError(f"Topic '{topic}' has more than one type: [{', '.join(types)}]")
    if (found := interface(types[0], 'msg')) is None:
        raise RuntimeError(f"The message type '{types[0]}' is invalid")
    return found

def _fitting_profile(graph, topic):
    """Return the strongest profile that all publishers of the topic can serve."""
    found = graph.wait_for(lambda: graph.node.get_publishers_info_by_topic(topic))
    offers = [info.qos_profile for info in found]
    reliable = offers and all(o.reliability == qos.ReliabilityPolicy.RELIABLE for o in offers)
    kept = offers and all(o.durability == qos.DurabilityPolicy.TRANSIENT_LOCAL for o in offers)
    return qos.QoSProfile(
        depth=5,
        reliability=getattr(qos.ReliabilityPolicy, 'RELIABLE' if reliable else 'BEST_EFFORT'),
        durability=getattr(qos.DurabilityPolicy, 'TRANSIENT_LOCAL' if kept else 'VOLATILE'))

def _echo(graph, args):
    kind, shown = _class_on(graph, args.topic_name, args.message_type), []

    def show(message):
        print(to_yaml(message, args.field, args.no_arr), end='---\n')
        shown.append(True)

    profile = _fitting_profile(graph, args.topic_name)
    graph.node.create_subscription(kind, args.topic_name, show, profile)
    graph.spin_until(lambda: args.once and shown)

def _hz(graph, args):
    if args.window <= 0:
        return '--window must be a positive integer'
    kind, stamps, printed = _class_on(graph, args.topic_name, None, float('inf')), [], 0.0

    def count(_):
        stamps.append(time.monotonic())
        del stamps[: -args.window - 1]

    graph.node.create_subscription(
        kind, args.topic_name, count, qos.qos_profile_sensor_data, raw=True)
    while True:
        graph.spin_until(lambda: False, 1.0)
        if len(stamps) < 2 or stamps[-1] == printed:
            continue
        printed, gaps = stamps[-1], [b - a for a, b in itertools.pairwise(stamps)]
        print(f'average rate: {1 / statistics.fmean(gaps):.3f}\n'
              f'\tmin: {min(gaps):.3f}s max: {max(gaps):.3f}s '
              f'std dev: {statistics.pstdev(gaps):.5f}s window: {len(gaps)}')

def _pub(graph, args):
    if (kind := interface(args.message_type, 'msg')) is None:
        return 'The passed message type is invalid'
    values, message = yaml.safe_load(args.values or '{}'), kind()
    if not isinstance(values, dict):
        return 'The passed value needs to be a dictionary in YAML format'
    times = 1 if args.once else args.times
    publisher = graph.node.create_publisher(kind, args.topic_name, 10)
    if times and not publisher.get_subscription_count():
        print('Waiting for at least 1 matching subscription(s)...')
        graph.wait_for(publisher.get_subscription_count, float('inf'))
    try:
        fill(message, values)
    except Exception as error:
        return f'Failed to populate field: {error}'
    print('publisher: beginning loop')
    start = time.monotonic()
    for number in itertools.count(1):
        print(f'publishing #{number}: {message!r}\n')
        publisher.publish(message)
        if number == times:
            break
        graph.spin_until(lambda: False, start + number / args.rate - time.monotonic())
    time.sleep(0.1)  # until it is on the wire

TOPIC = {
    'echo': (on_graph(_echo), ARGUMENTS + 'topic_name message_type? --field= --no-arr --once'),
    'hz': (on_graph(_hz), ARGUMENTS + 'topic_name -w,--window=10000'),
    'list': (on_graph(_list), ARGUMENTS + '-t,--show-types'),
    'pub': (on_graph(_pub), ARGUMENTS +
            'topic_name message_type values? -r,--rate=1.0 -1,--once -t,--times=0')}
