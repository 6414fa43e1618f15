"""The link monitor's estimate against the truth, on a real network of namespaces.

Two processes with a `Channel` over DDS, robot and server, in `benchmarks/testbed`; what the access
point lets through is the truth. The robot sends (saturating; images of 900 kB at 10 Hz; nothing but
probes) and writes down its estimate every 50 ms. Per case: the median of |estimate - truth| /
truth, its 90 % quantile, and, after each step, that error one second later. On the traces the
truth changes every 0.1 s; where it is below 5 Mbit/s, the error counts relative to 5 Mbit/s.
"""

from __future__ import annotations

import argparse
from bisect import bisect_right
from dataclasses import dataclass
from itertools import count
import json
import math
import os
from pathlib import Path
import platform
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

# The testbed is a folder of the repository, not of the package; behind an installed offload_ros.
sys.path.append(str(Path(__file__).resolve().parents[1]))
from benchmarks.testbed import Testbed, Trace, indoors, outdoors

RESULTS = Path(__file__).parent / 'results'
MBIT = 125_000.0  # bytes/s
EVERY_S = 0.05
WARM_S = 2.0  # the first estimates, before TCP and the channel know the link
FLOOR_MBIT = 5.0
RTT_S = 0.0026
TRANSPORT = 'LARGE_DATA?max_msg_size=64KB&sockets_size=1MB'
IMAGE_BYTES, IMAGE_S = 900_000, 0.1
SATURATING, IMAGES, IDLE = 'saturating', 'images', 'idle'


@dataclass(frozen=True)
class Case:
    """``rates``: (seconds from the start, Mbit/s); ``trace``: instead."""

    name: str
    pattern: str
    rates: tuple[tuple[float, float], ...] = ()
    trace: Trace | None = None
    duration_s: float = 8.0


def cases(trace_s: float) -> list[Case]:
    """All that is measured."""
    found = [
        Case(f'{mbit} Mbit/s, {pattern}', pattern, ((0.0, mbit),))
        for mbit in (5, 20, 93, 450)
        for pattern in (SATURATING, IMAGES)
    ]
    found += [Case(f'{mbit} Mbit/s, {IDLE}', IDLE, ((0.0, mbit),), None, 12.0) for mbit in (5, 93)]
    steps = ((0.0, 93.0), (5.0, 20.0), (10.0, 93.0))
    found += [
        Case(f'93-20-93 Mbit/s, {pattern}', pattern, steps, None, 15.0)
        for pattern in (SATURATING, IMAGES)
    ]
    for name, trace in (('indoors', indoors(0, trace_s)), ('outdoors', outdoors(0, trace_s))):
        found += [
            Case(f'{name}, {pattern}', pattern, (), trace, trace_s)
            for pattern in (SATURATING, IMAGES)
        ]
    return found


def end(name: str, pattern: str) -> None:
    """One of the two processes; the robot prints a line of JSON for each estimate."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.qos import QoSProfile

    from offload_ros.msg import Packet
    from offload_ros.wire.channel import Channel, key_of
    from offload_ros.wire.connection import Connection
    from offload_ros.wire.link_exchange import TICK_S, LinkExchange
    from offload_ros.wire.link_monitor import LinkMonitor

    sys.setswitchinterval(1e-3)
    rclpy.init()
    node = rclpy.create_node(f'link_{name}')
    qos = QoSProfile(depth=256)
    out, back = ('up', 'down') if name == 'robot' else ('down', 'up')
    publisher = node.create_publisher(Packet, out, qos)
    monitor = LinkMonitor()
    channel = Channel(publisher.publish, Connection(on_sample=monitor.on_sample))
    node.create_subscription(Packet, back, channel.receive, qos, raw=True)
    executor = SingleThreadedExecutor()
    executor.add_node(node)

    threading.Thread(target=executor.spin, daemon=True).start()
    while not (publisher.get_subscription_count() and node.count_publishers(back)):
        time.sleep(0.05)
    time.sleep(0.5)
    exchange = LinkExchange(channel, monitor)
    channel.listen(1, lambda transfer: None)

    def tick() -> None:
        while True:
            exchange.tick()
            time.sleep(TICK_S)

    threading.Thread(target=tick, daemon=True).start()
    if name == 'server':
        sys.stdin.read()
        os._exit(0)  # rclpy's thread is of no more use
    time.sleep(1.0)
    image, keys = bytes(IMAGE_BYTES), count()

    def send() -> None:
        next_s, under_way = time.monotonic(), []
        while True:
            if len(under_way) < 3:
                under_way.append(channel.send(key_of(1, next(keys)), image))
            next_s = max(next_s + IMAGE_S, time.monotonic())
            if pattern == IMAGES:
                time.sleep(max(0.0, next_s - time.monotonic()))
            else:
                under_way[0].wait()
            under_way = [each for each in under_way if each.state.value == 'active']

    print('ready', flush=True)
    if pattern != IDLE:
        threading.Thread(target=send, daemon=True).start()
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    while True:
        state = exchange.state()
        row = [
            time.monotonic(),
            state.up_bytes_per_s,
            state.up_low_bytes_per_s,
            state.up_high_bytes_per_s,
            state.round_trip_s,
            channel.counters.bytes_out,
        ]
        print(json.dumps(row), flush=True)
        time.sleep(EVERY_S)


def measure(case: Case, rtt_s: float) -> dict[str, Any]:
    """Run one case; all its estimates and the truth, times from the start."""
    first = case.rates[0][1] if case.rates else case.trace.mbit[0]  # type: ignore[union-attr]
    with Testbed(mbit=first, rtt_s=rtt_s) as bed:
        pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE, 'text': True}
        command = [sys.executable, __file__, '--pattern', case.pattern, '--end']
        server = bed.server.popen([*command, 'server'], **pipes)
        robot = bed.robot.popen([*command, 'robot'], **pipes)
        watchdog = threading.Timer(case.duration_s + 60.0, robot.kill)
        watchdog.start()
        if robot.stdout.readline() != 'ready\n':
            raise RuntimeError('robot and server did not find each other')
        start_s = time.monotonic()
        rows: list[list[float]] = []

        def read() -> None:
            rows.extend(json.loads(line) for line in robot.stdout)

        reader = threading.Thread(target=read)
        reader.start()
        if case.trace is not None:
            bed.replay(case.trace)
            time.sleep(case.duration_s)
        for at_s, mbit in case.rates[1:]:
            time.sleep(max(0.0, start_s + at_s - time.monotonic()))
            bed.set_rate(mbit)
        time.sleep(max(0.0, start_s + case.duration_s - time.monotonic()))
        for process in (robot, server):
            process.stdin.close()
        reader.join(10.0)
        watchdog.cancel()
    steps = case.rates or tuple(zip(case.trace.times_s, case.trace.mbit, strict=True))  # type: ignore[union-attr]
    return figures(case, rows, start_s, steps)


def figures(
    case: Case,
    rows: list[list[float]],
    start_s: float,
    steps: tuple[tuple[float, float], ...],
) -> dict[str, Any]:
    """What the estimates are worth."""
    table = np.array(rows, dtype=float)
    table[:, 0] -= start_s
    times = [at_s for at_s, _ in steps]
    truth = np.array([steps[max(0, bisect_right(times, at_s) - 1)][1] for at_s in table[:, 0]])
    estimate, low, high = (table[:, column] / MBIT for column in (1, 2, 3))
    floor = np.maximum(truth, FLOOR_MBIT if case.trace else 0.0)
    error = np.abs(estimate - truth) / floor
    known = (table[:, 0] > WARM_S) & np.isfinite(error)
    after = []
    for at_s in times[1:] if case.rates else []:
        second = (table[:, 0] >= at_s + 0.95) & (table[:, 0] < at_s + 1.15)
        after.append(float(np.median(error[second])))
    sent_mbit = np.diff(table[[0, -1], 5])[0] / np.diff(table[[0, -1], 0])[0] / MBIT
    inside = (low <= truth * 1.001) & (truth <= high * 1.001)
    return {
        'case': case.name,
        'median_error': round(float(np.median(error[known])), 4) if known.any() else math.nan,
        'p90_error': round(float(np.quantile(error[known], 0.9)), 4) if known.any() else math.nan,
        'error_1s_after_step': [round(value, 4) for value in after],
        'truth_within_bounds': round(float(np.mean(inside[known])), 3) if known.any() else 0.0,
        'unknown_share': round(1.0 - float(np.mean(np.isfinite(estimate))), 3),
        'sent_mbit': round(float(sent_mbit), 1),
        'round_trip_ms': round(1000.0 * float(np.nanmedian(table[:, 4])), 2),
        'series': [np.round(each, 3).tolist() for each in (table[:, 0], truth, estimate)],
    }


def report(found: list[dict[str, Any]], path: Path, rtt_s: float) -> None:
    """Print the table and write the JSON, without the series."""
    table = Table(title='bandwidth: estimate against truth')
    headings = ('case', 'median error', '90 %', '1 s after a step', 'within bounds', 'sent Mbit/s')
    for heading in headings:
        table.add_column(heading, justify='left' if heading == 'case' else 'right')
    for row in found:
        table.add_row(
            row['case'],
            f'{row["median_error"]:.1%}',
            f'{row["p90_error"]:.1%}',
            ', '.join(f'{value:.1%}' for value in row['error_1s_after_step']),
            f'{row["truth_within_bounds"]:.0%}',
            f'{row["sent_mbit"]:.0f}',
        )
    Console(width=110).print(table)
    kept = [{key: row[key] for key in row if key != 'series'} for row in found]
    machine = f'{platform.machine()}, {os.cpu_count()} cores'
    content = {'schema': 1, 'machine': machine, 'added_rtt_ms': 1000 * rtt_s, 'cases': kept}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + '\n')


def save_picture(found: list[dict[str, Any]], path: Path) -> None:
    """Estimate and truth over time, a field for each case."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    lines = math.ceil(len(found) / 2)
    figure, fields = pyplot.subplots(
        lines, 2, figsize=(12, 1.9 * lines), constrained_layout=True, squeeze=False
    )
    for axes, row in zip(fields.flat, found, strict=False):
        times, truth, estimate = row['series']
        axes.step(times, truth, where='post', color='0.6', label='truth')
        axes.plot(times, estimate, linewidth=1, label='estimate')
        axes.set_title(f'{row["case"]}: median error {row["median_error"]:.1%}', fontsize=9)
        axes.set_ylim(0, 1.4 * max(truth))
    for axes in fields[-1]:
        axes.set_xlabel('time (s)')
    for axes in fields[:, 0]:
        axes.set_ylabel('Mbit/s')
    fields[0, 0].legend(fontsize=8)
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--json', type=Path, default=RESULTS / 'link_monitor.json')
    parser.add_argument('--trace-s', type=float, default=60.0, help='how much of each trace')
    parser.add_argument('--rtt-ms', type=float, default=1000 * RTT_S, help='added by the link')
    parser.add_argument('--domain', type=int, default=77, help='ROS_DOMAIN_ID')
    parser.add_argument('--only', default='', help='cases whose name contains this')
    parser.add_argument('--end', choices=('robot', 'server'), help=argparse.SUPPRESS)
    parser.add_argument('--pattern', default=SATURATING, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.end:
        end(arguments.end, arguments.pattern)
        return
    rtt_s = arguments.rtt_ms / 1000.0
    os.environ['ROS_DOMAIN_ID'] = str(arguments.domain)
    os.environ['FASTDDS_BUILTIN_TRANSPORTS'] = TRANSPORT
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'SUBNET'
    os.environ.pop('FASTDDS_DEFAULT_PROFILES_FILE', None)  # it would name other transports
    found = []
    for case in cases(arguments.trace_s):
        if arguments.only in case.name:
            found.append(measure(case, rtt_s))
            row = {key: value for key, value in found[-1].items() if key != 'series'}
            print(json.dumps(row), file=sys.stderr)
    if not found:
        sys.exit(f'no case has {arguments.only!r} in its name')
    report(found, arguments.json, rtt_s)
    save_picture(found, arguments.json.with_suffix('.png'))


if __name__ == '__main__':
    main()
