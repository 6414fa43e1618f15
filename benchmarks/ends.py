"""Two processes in the testbed that compute one graph together: what benchmarks of cuts share.

Each end is a channel over DDS and takes commands as lines of JSON: it captures graphs, measures
their operators, opens and runs them. The robot's is paced to a slower accelerator.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
import contextlib
from dataclasses import replace
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np

MBIT = 125_000.0  # bytes/s
TRANSPORT = 'LARGE_DATA?max_msg_size=64KB&sockets_size=1MB'
ECHO_BYTES = (1_000, 30_000, 100_000, 300_000, 1_000_000)
LIMIT_S = 30.0  # for one inference


class Echo:
    """(N,) uint8 there and back: one operator on the server."""

    def __new__(cls) -> Any:
        from torch import nn

        class Module(nn.Module):
            def forward(self, data: Any) -> Any:
                return data.bitwise_not()

        return Module().eval()


def own_time_pacer() -> Any:
    """The robot's pacer, that multiplies the time of a core which computing itself takes.

    Sending shares this robot's one core with its accelerator: counted with the clock, what sending
    takes would be multiplied too.
    """
    from offload_ros.robot.pacing import Pacer

    class OwnTimePacer(Pacer):
        def __call__(self, function: Callable[[], Any]) -> Any:
            began_s = time.thread_time()
            try:
                return function()
            finally:
                time.sleep((self.slowdown - 1.0) * (time.thread_time() - began_s))

    return OwnTimePacer(Pacer.of_robot().slowdown)


class End:
    """A process of the testbed: ``name`` robot or server. ``models``: name to (model, inputs)."""

    def __init__(self, name: str, models: Callable[[], Mapping[str, tuple[Any, Any]]]) -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.qos import QoSProfile
        import torch

        from offload_ros.msg import Packet
        from offload_ros.robot.lane import DeviceLane
        from offload_ros.wire.channel import Channel
        from offload_ros.wire.connection import Connection
        from offload_ros.wire.incoming import ReceiveLimits
        from offload_ros.wire.link_exchange import LinkExchange
        from offload_ros.wire.link_monitor import LinkMonitor

        torch.set_num_threads(1)
        sys.setswitchinterval(1e-4)
        self._models = models
        rclpy.init()
        node = rclpy.create_node(f'cuts_{name}')
        qos = QoSProfile(depth=256)
        out, back = ('up', 'down') if name == 'robot' else ('down', 'up')
        publisher = node.create_publisher(Packet, out, qos)
        self.monitor = LinkMonitor()
        limits = ReceiveLimits(total_bytes=256 << 20, transfers=4096, transfer_bytes=64 << 20)
        connection = Connection(limits, on_sample=self.monitor.on_sample)
        self.channel = Channel(publisher.publish, connection)
        node.create_subscription(Packet, back, self.channel.receive, qos, raw=True)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        threading.Thread(target=executor.spin, daemon=True).start()
        self.exchange = LinkExchange(self.channel, self.monitor)
        pacer = self.pacer(name)
        if name == 'server':
            from offload_ros.cuts.host import GraphHost

            self.host = GraphHost(4 << 30, pacer=pacer)
            self.host.serve(self.channel, '/robot')
            self.lane = self.host.lane
        else:
            self.lane = DeviceLane(pacer)
        self.graphs: dict[str, tuple[Any, Any, Any]] = {}  # name -> graph, parameters, inputs
        self.locals: dict[str, Any] = {}
        self.timers: dict[str, Any] = {}
        self.executors: dict[str, Any] = {}
        while not (publisher.get_subscription_count() and node.count_publishers(back)):
            time.sleep(0.05)
        threading.Thread(target=self._tick, daemon=True).start()

    def pacer(self, name: str) -> Any:
        """Of this end's device."""
        from offload_ros.robot.pacing import Pacer

        return Pacer.of_server() if name == 'server' else own_time_pacer()

    def _tick(self) -> None:
        from offload_ros.wire.link_exchange import TICK_S

        while True:
            self.exchange.tick()
            time.sleep(TICK_S)

    def capture(self, method: str = 'trace') -> dict[str, Any]:
        """Make all graphs, and those of echoes; their numbers of operators."""
        import torch

        from offload_ros.graph.capture import capture

        for name, (model, inputs) in self._models().items():
            graph, parameters = capture(model, dict(inputs), name, method=method)
            self.graphs[name] = graph, parameters, inputs
        for size in ECHO_BYTES:
            data = torch.randint(0, 256, (size,), dtype=torch.uint8)
            graph, parameters = capture(Echo(), {'data': data}, f'echo_{size}', method='trace')
            self.graphs[graph.name] = graph, parameters, {'data': data}
        return {name: len(graph.nodes) for name, (graph, _, _) in self.graphs.items()}

    def measure(self, model: str) -> dict[str, Any]:
        """One whole forward and one pass of the operators here, in s."""
        timer = self.timers.get(model)
        if timer is None:
            from offload_ros.graph.execute import Executor
            from offload_ros.graph.measure import OperatorTimer

            graph, parameters, inputs = self.graphs[model]
            timer = self.timers[model] = OperatorTimer(Executor(graph, parameters), inputs)
            timer.warm_up(self.lend)
            timer.whole_s(self.lend)
        # The lane's time is that of the paced robot; operators are scaled to it.
        whole = self.lane.submit(timer.whole_s)
        whole.result()
        seconds = timer.timed_pass(self.lend)
        node_s = {str(key): each for key, each in seconds.items()}
        return {'whole_s': whole.duration_s, 'node_s': node_s, 'resume_s': self.resume_s(model)}

    def resume_s(self, model: str) -> float:
        """What a piece of the model takes longer here after a wait."""
        from offload_ros.graph.execute import Executor
        from offload_ros.graph.resume import resume_s

        graph, parameters, inputs = self.graphs[model]
        executor = self.executors.setdefault(model, Executor(graph, parameters))
        return self.lane.slowdown * resume_s(executor, inputs, self.lend)

    def handling(self, repeats: int = 7) -> dict[str, Any]:
        """What messages take from computing, by side: s, s per byte."""
        from offload_ros.cuts.client import link_on
        from offload_ros.intra_dp.message_costs import handling

        return dict(handling(link_on(self.channel), self.lane, 0.0, repeats))

    def lend(self, work: Callable[[], Any]) -> Any:
        """Run in the lane."""
        return self.lane.submit(work).result()

    def graph(self, model: str) -> dict[str, Any]:
        """As JSON."""
        from offload_ros.graph.wire_form import graph_to_json

        return {'graph': base64.b64encode(graph_to_json(self.graphs[model][0])).decode()}

    def open(self, model: str) -> dict[str, Any]:
        """Bring a graph to the server."""
        from offload_ros.cuts.client import LocalGraph, link_on

        graph, parameters, _ = self.graphs[model]
        self.locals[model] = LocalGraph(graph, parameters)
        return {'sent': link_on(self.channel).open(self.locals[model])}

    def run(self, model: str, on_server: list[int]) -> dict[str, Any]:
        """One inference of a cut, with its outputs compared to the robot's own."""
        import torch

        from offload_ros.cuts.client import link_on
        from offload_ros.cuts.cut import Cut

        graph, _, inputs = self.graphs[model]
        cut = Cut(graph, on_server)
        ran = link_on(self.channel).run(
            self.locals[model], cut, inputs, self.lane, time.monotonic() + LIMIT_S
        )
        key = f'{model} outputs'
        wanted = self.locals.setdefault(key, None) or self.locals[model].executor(inputs)
        self.locals[key] = wanted
        exact = all(torch.equal(ran.outputs[name], each) for name, each in wanted.items())
        return {
            'total_s': ran.total_s,
            'robot_s': ran.robot_s,
            'server_s': ran.server_s,
            'up': ran.bytes_up,
            'down': ran.bytes_down,
            'exact': exact,
        }

    def link(self) -> dict[str, float]:
        """What the monitor says, in bytes/s and s."""
        state = self.exchange.state()
        return {
            'up': state.up_bytes_per_s,
            'down': state.down_bytes_per_s,
            'round_trip_s': state.round_trip_s,
        }

    def calls(self) -> dict[str, Callable[..., Any]]:
        """What may be asked, by name."""
        return {
            'capture': self.capture,
            'measure': self.measure,
            'handling': self.handling,
            'graph': self.graph,
            'open': self.open,
            'run': self.run,
            'link': self.link,
        }

    def serve(self) -> None:
        """Until the end of input."""
        calls = self.calls()
        print(json.dumps('ready'), flush=True)
        for line in sys.stdin:
            name, arguments = json.loads(line)
            print(json.dumps(calls[name](**arguments)), flush=True)
        os._exit(0)  # rclpy's thread is of no more use


class EndLost(RuntimeError):
    """A process of the testbed has ended."""


class Asked:
    """The other end of an ``End``. ``limit_s``: for one answer."""

    def __init__(self, process: subprocess.Popen, limit_s: float = 900.0) -> None:
        self._process, self._limit_s = process, limit_s
        assert self._read() == 'ready'

    def __call__(self, name: str, **arguments: Any) -> Any:
        try:
            self._process.stdin.write(json.dumps([name, arguments]) + '\n')  # type: ignore
            self._process.stdin.flush()  # type: ignore[union-attr]
        except BrokenPipeError:
            raise EndLost('an end of the testbed has ended') from None
        return self._read()

    def _read(self) -> Any:
        watchdog = threading.Timer(self._limit_s, self._process.kill)
        watchdog.start()
        try:
            line = self._process.stdout.readline()  # type: ignore[union-attr]
        finally:
            watchdog.cancel()
        if not line:
            raise EndLost('an end of the testbed has ended')
        return json.loads(line)


@contextlib.contextmanager
def both_ends(
    bed: Any, command: list[str], limit_s: float = 900.0
) -> Iterator[tuple[Asked, Asked]]:
    """Robot and server of a testbed: processes of ``command`` with their names behind it."""
    pipes: dict[str, Any] = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE, 'text': True}
    processes = [
        bed.server.popen([*command, 'server'], **pipes),
        bed.robot.popen([*command, 'robot'], **pipes),
    ]
    try:
        server, robot = (Asked(each, limit_s) for each in processes)
        yield robot, server
    finally:
        for each in processes:
            with contextlib.suppress(OSError):
                each.stdin.close()


def use_network(domain: int) -> None:
    """Set what this process's children take from the environment."""
    os.environ['ROS_DOMAIN_ID'] = str(domain)
    os.environ['FASTDDS_BUILTIN_TRANSPORTS'] = TRANSPORT
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'SUBNET'
    os.environ['OMP_NUM_THREADS'] = '1'
    os.environ.pop('FASTDDS_DEFAULT_PROFILES_FILE', None)  # it would name other transports


# ---- profiles


def transfer_fit(robot: Asked, runs: int, mbit: float, rtt_s: float) -> tuple[float, float]:
    """(s, s per byte) that a message takes beside the link's rate and delay: echoes on a link of
    ``mbit``, least squares over their sizes, half for each direction."""
    sizes, extra_s = [], []
    for size in ECHO_BYTES:
        took = [robot('run', model=f'echo_{size}', on_server=[0]) for _ in range(runs + 2)][2:]
        median_s = statistics.median(each['total_s'] - each['server_s'] for each in took)
        sizes.append(size)
        extra_s.append((median_s - rtt_s) / 2.0 - size / (mbit * MBIT))
    weights = 1.0 / np.sqrt(np.array(sizes))
    columns = np.stack([np.ones(len(sizes)), np.array(sizes, dtype=float)], axis=1)
    solved = np.linalg.lstsq(columns * weights[:, None], np.array(extra_s) * weights, rcond=None)[0]
    return max(0.0, float(solved[0])), max(0.0, float(solved[1]))


class Passes:
    """Times of a model's operators on both ends, as they come, and the profile that follows.

    ``cost``: see ``transfer_fit``. ``handling``: see ``End.handling``. ``shares``: fits of parts of
    operators on robot and server. ``codings``: what codecs do to tensors, by id in the profile.
    """

    def __init__(
        self,
        ends: Mapping[str, Asked],
        model: str,
        cost: tuple[float, float],
        shares: tuple[Any, Any] = (None, None),
        codings: Mapping[int, tuple[Any, ...]] | None = None,
        handling: Mapping[str, Any] | None = None,
    ) -> None:
        from offload_ros.graph.classify import classify
        from offload_ros.graph.profile import Side, TransferCost
        from offload_ros.graph.wire_form import graph_from_json

        self._ends, self._model = ends, model
        self._shares, self._codings = shares, codings
        self.graph = graph_from_json(base64.b64decode(ends['robot']('graph', model=model)['graph']))
        self.split = classify(self.graph)
        half = TransferCost(cost[0] / 2.0, cost[1] / 2.0)
        self._sides = tuple(
            Side(
                name,
                encode=half,
                decode=half,
                handling=TransferCost(*(handling or {}).get(name, ())),
            )
            for name in ('robot', 'server')
        )
        self._found: dict[str, list[Any]] = {'robot': [], 'server': []}

    def add(self) -> None:
        """Measure both ends once, one after the other."""
        for name, end in self._ends.items():
            self._found[name].append(end('measure', model=self._model))

    def profile(self) -> Any:
        """Of all passes so far."""
        from offload_ros.graph.measure import profile_of

        times = [self._times(found) for found in self._found.values()]
        sides = tuple(
            replace(side, resume_s=max(0.0, statistics.median(each['resume_s'] for each in found)))
            for side, found in zip(self._sides, self._found.values(), strict=True)
        )
        return profile_of(self.graph, self.split, *times, *self._shares, sides, self._codings)

    @staticmethod
    def _times(found: list[Any]) -> Any:
        from offload_ros.graph.measure import NodeTimes

        passes = [{int(node): s for node, s in each['node_s'].items()} for each in found]
        return NodeTimes.of_passes(passes, [each['whole_s'] for each in found], {})
