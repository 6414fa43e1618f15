"""The robot's process of ``benchmarks/rrto.py``: each network in every way, in turn, on one server.

Each way has a session with the server of its own; the program is the same, only the device behind
``cuda`` changes from one inference to the next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
import copy
from dataclasses import asdict, dataclass
import json
from pathlib import Path
import sys
import time
from typing import Any, Protocol

from rclpy.context import Context
from rclpy.node import Node
import torch

from offload_ros.baselines.server import ServerStrategy
from offload_ros.models.config_file import load_models_file
from offload_ros.models.model import Model, load_model
from offload_ros.nodes.process import SWITCH_INTERVAL_S, keep_freed_memory
from offload_ros.nodes.program import ProgramContact
from offload_ros.nodes.server_contacts import ServerContacts
from offload_ros.nodes.wire_node import runtime_of
from offload_ros.robot.lane import DeviceLane
from offload_ros.rrto.client import OperatorClient
from offload_ros.rrto.link import Buffers, OnLost, OnMessage
from offload_ros.rrto.link import Link as OperatorLink
from offload_ros.rrto.messages import Code, decode
from offload_ros.rrto.operators import operator_of
from offload_ros.rrto.options import MODES, Options
from offload_ros.rrto.shim import tensor
from offload_ros.rrto.shim.classify import is_read
from offload_ros.rrto.shim.device import NoDevice
from offload_ros.rrto.shim.install import install
from offload_ros.rrto.shim.tensor import RemoteTensor
from offload_ros.strategy import Frame, Link
from offload_ros.wire.channel import STREAM_SHIFT
from offload_ros.wire.exchange import REQUESTS
from offload_ros.wire.tensors import Limits

WAYS = ('local', 'server', *MODES)
LOST_AFTER_S, WAIT_S, LIMIT_S = 2.0, 90.0, 60.0
WARM_UPS = (
    6  # at most 5 until the last of them replays: one with grids, two alike, one that installs
)
PAUSE_S = 0.005  # what one way leaves behind (acknowledgements) is not the next one's
MAX_MESSAGE_MB = 64.0


@dataclass
class Count:
    """What the robot has sent and received so far, or in one inference. ``bytes_up`` without what
    the channel adds; ``control_bytes`` are those of them that are no tensor."""

    latency_s: float = 0.0
    cpu_s: float = 0.0  # of the whole process
    blocking: int = 0
    messages_up: int = 0
    messages_down: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    control_bytes: int = 0
    server_s: float = 0.0  # computing, as the server's reply says
    replayed: int = 0  # operators

    def since(self, before: Count) -> Count:
        """The difference."""
        old = asdict(before)
        return Count(**{name: value - old[name] for name, value in asdict(self).items()})


class Way(Protocol):
    """One way to run an inference."""

    def run(self, name: str, image: torch.Tensor) -> torch.Tensor:
        """``image``: (H, W, 3) uint8; the values of the network's output."""

    def count(self) -> Count:
        """All so far, but for the times."""

    def close(self) -> None:
        """End its session."""


class Local:
    """The network on the robot's own core."""

    def __init__(self, models: dict[str, Model]) -> None:
        self._networks = {name: model.network for name, model in models.items()}

    def run(self, name: str, image: torch.Tensor) -> torch.Tensor:
        """See ``Way``."""
        with torch.inference_mode():
            return self._networks[name](image)

    def count(self) -> Count:
        """See ``Way``."""
        return Count()

    def close(self) -> None:
        """See ``Way``."""


class ServerOnly:
    """One request with the image, one reply: strategy ``server``, for a model that is there."""

    def __init__(self, models: dict[str, Model]) -> None:
        self._context = Context()
        self._context.init(args=[])
        self._node = Node('rrto_robot', context=self._context, use_global_arguments=False)
        limits = Limits(total_bytes=int(MAX_MESSAGE_MB * 1e6))
        self._contacts = ServerContacts(self._node, runtime_of('cpu'), limits, LOST_AFTER_S)
        self._client = self._contacts.client
        self._count = Count()
        self._sequence = 0
        self._strategies = {}
        for name, model in models.items():
            self._strategies[name] = strategy = ServerStrategy()
            strategy.prepare(model, Link(DeviceLane(), self._client))
        self._tap(self._find(list(models.values())))

    def run(self, name: str, image: torch.Tensor) -> torch.Tensor:
        """See ``Way``."""
        self._sequence += 1
        now_s = time.monotonic()
        frame = Frame(self._sequence, {'image': image}, now_s)
        result = self._strategies[name].run(frame, now_s + LIMIT_S)
        count = self._count
        count.blocking += 1
        count.messages_down += 1
        count.bytes_down += result.bytes_down
        count.control_bytes -= result.bytes_up
        count.server_s += result.server_s
        return result.outputs['values']

    def count(self) -> Count:
        """See ``Way``."""
        return copy.copy(self._count)

    def close(self) -> None:
        """See ``Way``."""
        self._contacts.close()
        self._node.destroy_node()
        self._context.try_shutdown()

    def _find(self, models: Sequence[Model]) -> str:
        end_s = time.monotonic() + WAIT_S
        while time.monotonic() < end_s:
            found = [self._client.server_for(model)[0] for model in models]
            if all(found) and self._contacts.channel_to(found[0].name):
                return found[0].name
            time.sleep(0.02)
        raise SystemExit(f'error: {self._client.server_for(models[0])[1]}')

    def _tap(self, server: str) -> None:
        """Count what is sent on the channel's stream of requests."""
        channel = self._contacts.channel_to(server)
        send, count = channel.send, self._count

        def counted(key: int, buffers: Any, *others: Any, **named: Any) -> Any:
            if key >> STREAM_SHIFT == REQUESTS:
                size = sum(memoryview(each).nbytes for each in buffers)
                count.messages_up += 1
                count.bytes_up += size
                count.control_bytes += size
            return send(key, buffers, *others, **named)

        channel.send = counted


class CountedLink:
    """A ``Link`` that keeps what is sent while ``kept`` is a list."""

    def __init__(self, link: OperatorLink) -> None:
        self._link = link
        self.kept: list[bytes] | None = None

    def listen(self, on_message: OnMessage, on_lost: OnLost) -> None:
        """See ``Link``."""
        self._link.listen(on_message, on_lost)

    def send(self, buffers: Buffers) -> None:
        """See ``Link``."""
        if self.kept is not None:
            self.kept.append(b''.join(buffers))
        self._link.send(buffers)

    def close(self) -> None:
        """See ``Link``."""
        self._link.close()


class Program:
    """The unmodified program: image to ``cuda``, network, values back, in one of ``MODES``."""

    def __init__(self, mode: str, models: dict[str, Model]) -> None:
        self._contact = ProgramContact(Options(mode, max_message_mb=MAX_MESSAGE_MB))
        _, link = self._contact.link(WAIT_S)
        self.link = CountedLink(link)
        self.client = OperatorClient(self.link, mode)
        if isinstance(tensor.current(), NoDevice):
            install(self.client)
        tensor.bind(self.client)
        self._networks = {
            name: copy.deepcopy(model.network).to('cuda') for name, model in models.items()
        }
        self.client.synchronize()

    def run(self, name: str, image: torch.Tensor, device: Any = None) -> torch.Tensor:
        """See ``Way``. ``device`` instead of the client."""
        tensor.bind(device or self.client)
        with torch.inference_mode():
            return self._networks[name](image.to('cuda')).cpu()

    def count(self) -> Count:
        """See ``Way``."""
        done, answers = self.client.statistics, self.client.answers
        return Count(
            blocking=done.blocking,
            messages_up=done.messages,
            messages_down=answers.messages,
            bytes_up=done.bytes_up,
            bytes_down=answers.bytes,
            control_bytes=done.control_bytes,
            replayed=done.replayed,
        )

    def close(self) -> None:
        """See ``Way``."""
        self.client.close()
        self._contact.close()


class Sorter:
    """Stands in front of a client and sorts the calls of a program by kind."""

    def __init__(self, client: OperatorClient) -> None:
        self._client = client
        self.kinds: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """See ``Device``."""
        self.kinds[_kind(func, args, kwargs)] += 1
        return self._client.call(func, args, kwargs)


def _kind(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    if is_read(func, args, kwargs):
        return 'read (device to host)'
    if func is torch.ops.aten.copy_.default and not isinstance(args[1], RemoteTensor):
        return 'upload (host to device)'
    operator = operator_of(func)
    if operator.dynamic:
        return 'shape depends on values'
    if operator.factory:
        return 'allocate'
    returned = [each.alias_info for each in func._schema.returns]
    if returned and all(each is not None and not each.is_write for each in returned):
        return 'view'
    return 'compute'


class Driver:
    """All ways on one network."""

    def __init__(self, models: dict[str, Model]) -> None:
        self.ways: dict[str, Way] = {'local': Local(models), 'server': ServerOnly(models)}
        for mode in MODES:
            self.ways[mode] = Program(mode, models)

    def case(self, name: str, size: int, pairs: int) -> dict[str, Any]:
        """``pairs`` inferences in each way, in turn; ``SystemExit`` when a result is another than
        the robot's own, to the bit."""
        chance = torch.Generator().manual_seed(size)

        def image() -> torch.Tensor:
            return torch.randint(0, 256, (size, size, 3), dtype=torch.uint8, generator=chance)

        first = self._warm_up(name, image)
        program = self.ways['replay']
        assert isinstance(program, Program)
        aborts = program.client.statistics.aborts
        found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
        order = list(WAYS)
        for _ in range(pairs):
            frame = image()
            values = {}
            for way in order:
                values[way], count = self._timed(way, name, frame)
                found[way].append(asdict(count))
            order = order[1:] + order[:1]
            for way in WAYS:
                if not torch.equal(values[way], values['local']):
                    raise SystemExit(f'error: {name} {size}: {way} gives other values than local')
        calls, commands = self._composition(name, image())
        return {
            'counts': found,
            'calls': calls,
            'commands': commands,
            'operators': sum(calls.values()),
            'replay_from_identical_inference': first,
            'aborts': program.client.statistics.aborts - aborts,
        }

    def _timed(self, way: str, name: str, frame: torch.Tensor) -> tuple[torch.Tensor, Count]:
        time.sleep(PAUSE_S)
        driver = self.ways[way]
        before = driver.count()
        cpu_s, began_s = time.process_time(), time.perf_counter()
        values = driver.run(name, frame)
        latency_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
        count = driver.count().since(before)
        count.latency_s, count.cpu_s = latency_s, cpu_s
        return values, count

    def _warm_up(self, name: str, image: Callable[[], torch.Tensor]) -> int:
        """The number, among inferences of equal operators, of the first one that is replayed whole;
        0: none was."""
        program = self.ways['replay']
        assert isinstance(program, Program)
        operators, replayed = [], []
        for index in range(WARM_UPS):
            for way in WAYS:
                if way != 'replay' and index < (2 if way == 'rpc' else 3):
                    self.ways[way].run(name, image())
            done = program.client.statistics
            before = done.replayed, sum(done.kinds.values())
            program.run(name, image())
            replayed.append(done.replayed - before[0])
            operators.append(replayed[-1] + sum(done.kinds.values()) - before[1])
        alike = [each for each in range(WARM_UPS) if operators[each] == operators[-1]]
        whole = [each for each in alike if replayed[each] == operators[each]]
        return alike.index(whole[0]) + 1 if whole else 0

    def _composition(
        self, name: str, frame: torch.Tensor
    ) -> tuple[dict[str, int], dict[str, dict[str, int]]]:
        """The program's calls of an inference by kind, and what each mode sends for them."""
        calls: Counter[str] = Counter()
        commands = {}
        for mode in MODES:
            program = self.ways[mode]
            assert isinstance(program, Program)
            sorter = Sorter(program.client)
            program.link.kept = []
            program.run(name, frame, sorter)
            sent, program.link.kept = program.link.kept, None
            codes = [command[0] for each in sent for command in decode(memoryview(each)).commands]
            commands[mode] = dict(Counter(Code(code).name for code in codes))
            calls = sorter.kinds
        return dict(calls), commands

    def close(self) -> None:
        """End all sessions."""
        for way in self.ways.values():
            way.close()


def drive(models_file: Path, cases: Sequence[Sequence[Any]], pairs: int) -> None:
    """Print a line of JSON when all is loaded, go on at a line of input, then one per case."""
    torch.set_num_threads(1)
    keep_freed_memory()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    names = {name for name, _ in cases}
    models = {
        config.name: load_model(config)
        for config in load_models_file(models_file)
        if config.name in names
    }
    driver = Driver(models)
    print(json.dumps({'ready': True}), flush=True)
    sys.stdin.readline()
    for name, size in cases:
        print(json.dumps({'network': name, 'size': size, **driver.case(name, size, pairs)}))
        sys.stdout.flush()
    driver.close()
