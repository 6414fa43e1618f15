"""Tensors over the package's channel (DDS) against a plain TCP socket, on a real network.

Two processes, robot and server, in `benchmarks/testbed` (rate, delay and loss in the middle, no
back-pressure) and on one host. The robot sends a buffer and waits for a tiny answer that says that
all of it has arrived; once over TCP, once over the channel, alternately, in one run. `goodput` is
TCP's time divided by the channel's: 1 is as fast as TCP. Also 64 bytes there and back.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import contextlib
from dataclasses import asdict, dataclass
import json
import os
from pathlib import Path
import platform
import queue
import socket
import struct
import subprocess
import sys
import threading
import time
from typing import Any

from ament_index_python.packages import get_package_share_directory
import numpy as np
from rich.console import Console
from rich.table import Table

# The testbed is a folder of the repository, not of the package; behind an installed offload_ros.
sys.path.append(str(Path(__file__).resolve().parents[1]))
from benchmarks.testbed import Testbed, unavailable
from offload_ros.wire.channel import Channel, key_of
from offload_ros.wire.connection import Connection
from offload_ros.wire.host import credit_for
from offload_ros.wire.incoming import Incoming, ReceiveLimits

RESULTS = Path(__file__).parent / 'results'
SIZES = (10_000, 150_000, 1_200_000, 4_000_000, 12_000_000)
LEAST_COMPARED = 150_000
RATES = (20.0, 93.0, 450.0)
PORT = 40_404
TENSORS, ANSWERS = 10, 11  # streams
LEAST_PAIRS = 10
LIMIT_S = 60.0  # for one buffer
_LENGTH = struct.Struct('<Q')


@dataclass(frozen=True)
class Link:
    """One network; `mbit` 0: the same host."""

    mbit: float
    rtt_ms: float = 0.0
    loss: float = 0.0

    @property
    def name(self) -> str:
        """For tables and keys."""
        if not self.mbit:
            return 'same host'
        delay = f', {self.rtt_ms:g} ms' if self.rtt_ms else ''
        return f'{self.mbit:g} Mbit/s{delay}' + (f', {self.loss:.1%} loss' if self.loss else '')


def links() -> list[Link]:
    """All networks that are measured."""
    found = [Link(0.0)]
    for mbit in RATES:
        found += [Link(mbit)]
        found += [Link(mbit, 2.6, loss) for loss in (0.0, 0.005, 0.02)]
        found += [Link(mbit, 0.0, loss) for loss in (0.005, 0.02)]
    return found


class DdsEnd:
    """A channel over DDS as the nodes make it, without handshake."""

    def __init__(self, name: str, same_host: bool) -> None:
        import rclpy

        from offload_ros.nodes.process import SWITCH_INTERVAL_S, keep_freed_memory
        from offload_ros.nodes.wire_node import WireNode

        keep_freed_memory()
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        rclpy.init()
        self._node = rclpy.create_node(name)
        self._wire = WireNode(self._node)
        ways = ('/transport/up', '/transport/down')
        out, back = ways if name == 'robot' else ways[::-1]
        credit = credit_for('host', 'host' if same_host else 'other')
        publisher = self._wire.packets_to(out, credit.max_chunk_bytes)
        self.channel = Channel(publisher.publish, Connection(ReceiveLimits(64 << 20), credit))
        self._subscription = self._wire.packets_from(
            back, self.channel.receive, credit.max_chunk_bytes
        )
        self._wire.start()

    def close(self) -> None:
        """End threads and topics."""
        import rclpy

        self.channel.close()
        self._wire.close()
        self._node.destroy_node()
        rclpy.try_shutdown()


def serve(same_host: bool) -> None:
    """The server: answers each buffer, over TCP and over the channel, until its input ends."""
    listener = socket.create_server(('', PORT))

    def over_tcp() -> None:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        buffer = bytearray(max(SIZES))
        with connection:
            while head := _exactly(connection, memoryview(bytearray(_LENGTH.size))):
                (size,) = _LENGTH.unpack(head)
                _exactly(connection, memoryview(buffer)[:size])
                connection.sendall(head)

    threading.Thread(target=over_tcp, daemon=True).start()
    end = DdsEnd('server', same_host)

    def answer(incoming: Incoming) -> None:
        number = incoming.key & ((1 << 48) - 1)
        size = incoming.total if incoming.total != 64 else 64
        payload = _LENGTH.pack(incoming.total) if size != 64 else incoming.buffer.tobytes()
        end.channel.send(key_of(ANSWERS, number), payload)

    end.channel.listen(TENSORS, lambda incoming: incoming.when_ended(answer))
    print('ready', flush=True)
    sys.stdin.read()
    end.close()


def _exactly(connection: socket.socket, view: memoryview) -> memoryview | None:
    got = 0
    while got < len(view):
        count = connection.recv_into(view[got:])
        if not count:
            return None
        got += count
    return view


class Robot:
    """The robot's two ways to send a buffer; each returns the seconds that it took."""

    def __init__(self, address: str, same_host: bool) -> None:
        self._socket = socket.create_connection((address, PORT), 10.0)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.settimeout(LIMIT_S)
        self._end = DdsEnd('robot', same_host)
        self._answers: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._number = 0
        self._end.channel.listen(ANSWERS, lambda each: each.when_ended(self._on_answer))
        self._data = np.random.default_rng(0).integers(0, 256, max(SIZES), dtype=np.uint8)

    def tcp(self, size: int) -> float:
        """Over the socket."""
        view = self._data.data[:size]
        began_s = time.perf_counter()
        self._socket.sendall(_LENGTH.pack(size))
        self._socket.sendall(view)
        _exactly(self._socket, memoryview(bytearray(_LENGTH.size)))
        return time.perf_counter() - began_s

    def channel(self, size: int, limit_s: float = LIMIT_S) -> float:
        """Over the channel."""
        view = self._data.data[:size]
        self._number += 1
        began_s = time.perf_counter()
        self._end.channel.send(key_of(TENSORS, self._number), view)
        while self._answers.get(timeout=limit_s) != self._number:
            pass
        return time.perf_counter() - began_s

    def meet(self) -> None:
        """Wait until both ends know each other."""
        for _ in range(60):
            with contextlib.suppress(queue.Empty):
                self.channel(1000, 1.0)
                return
        raise SystemExit('error: the two processes do not find each other over DDS')

    def close(self) -> None:
        """End both."""
        self._socket.close()
        self._end.close()

    def _on_answer(self, incoming: Incoming) -> None:
        self._answers.put(incoming.key & ((1 << 48) - 1))


def drive(address: str, link: Link, pairs: int, seconds: float) -> dict[str, Any]:
    """The robot's process: all sizes, both ways in turn; `seconds` bound what one size takes."""
    robot = Robot(address, not link.mbit)
    robot.meet()
    for _ in range(3):  # warm: pages, threads, TCP's window and the channel's
        robot.tcp(1_200_000)
        robot.channel(1_200_000)
    times: dict[str, dict[str, list[float]]] = {}
    for size in SIZES:
        taken: dict[str, list[float]] = {'tcp': [], 'channel': []}
        end_s = time.monotonic() + seconds
        ways: list[tuple[str, Callable[[int], float]]] = [
            ('tcp', robot.tcp),
            ('channel', robot.channel),
        ]
        while len(taken['tcp']) < pairs and (
            len(taken['tcp']) < LEAST_PAIRS or time.monotonic() < end_s
        ):
            for name, way in ways:
                taken[name].append(way(size))
            ways.reverse()
        times[str(size)] = taken
    small = {'tcp': [], 'channel': []} if link.loss == 0 else {}
    for _ in range(500 if small else 0):
        small['tcp'].append(robot.tcp(64))
        small['channel'].append(robot.channel(64))
    robot.close()
    return {'times': times, 'small': small}


def run(link: Link, pairs: int, seconds: float) -> dict[str, Any]:
    """Both processes on one network; what `drive` returned."""
    profiles = Path(get_package_share_directory('offload_ros')) / 'config' / 'dds'
    words = [sys.executable, str(Path(__file__)), '--link', json.dumps(asdict(link))]
    words += ['--pairs', str(pairs), '--seconds', str(seconds)]
    pipes: dict[str, Any] = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE, 'text': True}
    environment = {'ROS_DOMAIN_ID': str(150 + os.getpid() % 50)}
    with contextlib.ExitStack() as stack:
        if link.mbit:
            bed = stack.enter_context(
                Testbed(mbit=link.mbit, rtt_s=link.rtt_ms / 1000.0, loss=link.loss)
            )
            environment |= {'FASTDDS_DEFAULT_PROFILES_FILE': str(profiles / 'lan.xml')}
            address = bed.server.ip
            server = bed.server.popen([*words, '--end', 'server'], environment=environment, **pipes)
            stack.callback(_end, server)
            server.stdout.readline()
            robot = bed.robot.popen([*words, '--end', address], environment=environment, **pipes)
        else:
            environment |= {
                'FASTDDS_DEFAULT_PROFILES_FILE': str(profiles / 'fastdds.xml'),
                'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
            }
            everything = {**os.environ, **environment}
            server = subprocess.Popen([*words, '--end', 'server'], env=everything, **pipes)
            stack.callback(_end, server)
            server.stdout.readline()
            robot = subprocess.Popen([*words, '--end', '127.0.0.1'], env=everything, **pipes)
        stack.callback(_end, robot)
        output, _ = robot.communicate(timeout=900.0)
        if robot.returncode:
            raise SystemExit(f'error: the robot of {link.name} ended with {robot.returncode}')
    return dict(json.loads(output.splitlines()[-1]))


def _end(process: Any) -> None:
    if process.poll() is None:
        with contextlib.suppress(OSError, ValueError):
            process.stdin.close()
        try:
            process.wait(5.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5.0)


def interval(tcp: list[float], channel: list[float]) -> tuple[float, float, float]:
    """Ratio of the medians, with its bootstrap 95 % interval over pairs."""
    chance = np.random.default_rng(0)
    both = np.array([tcp, channel])
    picks = chance.integers(0, both.shape[1], (2000, both.shape[1]))
    ratios = np.median(both[0][picks], axis=1) / np.median(both[1][picks], axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(np.median(tcp) / np.median(channel)), float(low), float(high)


def summary(measured: dict[Link, dict[str, Any]]) -> dict[str, Any]:
    """The keys that the README quotes: ratios by link and size."""
    result: dict[str, Any] = {
        'goodput_lossless': {},
        'goodput_loss': {},
        'goodput_loss_2_percent': {},
        'goodput_same_host': {},
        'interval_95': {},
        'milliseconds': {},
        'small_rtt_ms_p50': {},
        'small_rtt_ms_p99': {},
        'small_rtt_tcp_ms_p50': {},
    }
    for link, found in measured.items():
        kind = 'goodput_same_host'
        if link.mbit:
            names = {0.0: 'goodput_lossless', 0.005: 'goodput_loss'}
            kind = names.get(link.loss, 'goodput_loss_2_percent')
        for size, taken in found['times'].items():
            case = f'{link.name}, {int(size) / 1000:g} kB'
            ratio, low, high = interval(taken['tcp'], taken['channel'])
            result['milliseconds'][case] = {
                way: round(1000.0 * float(np.median(each)), 3) for way, each in taken.items()
            } | {'pairs': len(taken['tcp'])}
            result['interval_95'][case] = [round(low, 3), round(high, 3)]
            if int(size) >= LEAST_COMPARED:
                result[kind][case] = round(ratio, 3)
        if found['small']:
            times = 1000.0 * np.array(found['small']['channel'])
            result['small_rtt_ms_p50'][link.name] = round(float(np.percentile(times, 50)), 3)
            result['small_rtt_ms_p99'][link.name] = round(float(np.percentile(times, 99)), 3)
            result['small_rtt_tcp_ms_p50'][link.name] = round(
                1000.0 * float(np.median(found['small']['tcp'])), 3
            )
    return result


def show(result: dict[str, Any]) -> None:
    """The table of the README."""
    table = Table(title='goodput relative to TCP (median, 95 % interval)')
    for column in ('case', 'TCP ms', 'channel ms', 'ratio', '95 %'):
        table.add_column(column, justify='left' if column == 'case' else 'right')
    for case, times in result['milliseconds'].items():
        low, high = result['interval_95'][case]
        ratio = times['tcp'] / times['channel']
        row = (f'{times["tcp"]:.2f}', f'{times["channel"]:.2f}', f'{ratio:.2f}')
        table.add_row(case, *row, f'{low:.2f} to {high:.2f}')
    console = Console()
    console.print(table)
    for name, p50 in result['small_rtt_ms_p50'].items():
        p99, tcp = result['small_rtt_ms_p99'][name], result['small_rtt_tcp_ms_p50'][name]
        console.print(f'64 bytes and back, {name}: {p50} ms (p99 {p99}), TCP {tcp} ms')


def plot(result: dict[str, Any], path: Path) -> None:
    """Ratio by size, one line for each network."""
    import matplotlib as mpl

    mpl.use('Agg')
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5))
    lines: dict[str, list[tuple[float, float]]] = {}
    for case, times in result['milliseconds'].items():
        name, _, size = case.rpartition(', ')
        lines.setdefault(name, []).append(
            (float(size.split()[0]) / 1000.0, times['tcp'] / times['channel'])
        )
    for name, points in lines.items():
        axes.semilogx(*zip(*points, strict=True), marker='o', label=name)
    axes.axhline(1.0, color='black', linewidth=0.5)
    axes.set(xlabel='tensor (MB)', ylabel='goodput relative to TCP', ylim=(0, None))
    axes.legend(fontsize=6, ncols=2)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Run all networks, or one of the two processes."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--json', type=Path, default=RESULTS / 'transport.json')
    parser.add_argument('--pairs', type=int, default=30, help='of transfers per size, at most')
    parser.add_argument('--seconds', type=float, default=20.0, help='per size, at most')
    parser.add_argument('--only', default='', help='networks whose name contains this')
    parser.add_argument('--link', default='', help=argparse.SUPPRESS)
    parser.add_argument('--end', default='', help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.end:
        link = Link(**json.loads(options.link))
        if options.end == 'server':
            serve(not link.mbit)
        else:
            print(json.dumps(drive(options.end, link, options.pairs, options.seconds)))
        return
    chosen = [link for link in links() if options.only in link.name]
    lacking = unavailable()
    if lacking and any(link.mbit for link in chosen):
        raise SystemExit(f'error: {lacking}')
    measured = {}
    for link in chosen:
        print(link.name, flush=True)
        measured[link] = run(link, options.pairs, options.seconds)
    result = summary(measured)
    show(result)
    about = {'machine': platform.machine(), 'cores': os.cpu_count(), 'pairs': options.pairs}
    options.json.write_text(json.dumps({**result, 'about': about}, indent=1) + '\n')
    plot(result, options.json.with_suffix('.png'))


if __name__ == '__main__':
    main()
