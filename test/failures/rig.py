"""Robots and servers under failure: frames that differ in content, and an account of every one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
import contextlib
import itertools
from pathlib import Path
import time
from typing import Any

from ament_index_python.packages import get_package_prefix, get_package_share_directory
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState
import numpy as np
import psutil
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from sensor_msgs.msg import Image
from stranger import Eavesdropper, Stranger
from system import Listener, Process, image_message, new_domain, outputs_of, until

from offload_ros.msg import InferenceResult, OffloadStatus, ServerHeartbeat

MODEL = """models:
  probe:
    source: {python: 'networks:Paced'}
    inputs: [{name: image, topic: cam}]
    outputs: [mean]
    deadline_ms: 4000.0
"""
SIDE = 8
PIXELS = SIDE * SIDE * 3
LARGEST = PIXELS * 255  # the last number that a frame can carry
LOST_S = 0.5  # promise: a dead server is known after this
BACK_S = 2.0  # promise: a server is used again this long after its first heartbeat
SLOW = 5.0  # times as long as promised a busy machine may take, now and then
# A frame that waits for nobody takes a few milliseconds, one that waits for a server nearly its
# deadline of 4 s; the rest is for the machine's other work.
AT_ONCE_S = 1.25
FOREIGN = 10**6  # stamps of frames that another sender than ``Robot`` sends begin here


def pixels_of(number: int) -> np.ndarray:
    """(8, 8, 3) uint8 whose sum is ``number``: no two frames have the same result."""
    full, rest = divmod(number, 255)
    flat = np.zeros(PIXELS, dtype=np.uint8)
    flat[:full] = 255
    if rest:
        flat[full] = rest
    return flat.reshape(SIDE, SIDE, 3)


class Rig:
    """One ROS domain with the processes and the listener of a test."""

    def __init__(self, folder: Path, models: str = MODEL) -> None:
        self.domain = new_domain()
        self.folder = folder
        self.models = folder / 'models.yaml'
        self.models.write_text(models)
        self.listener = Listener(self.domain)
        self.heartbeats: list[tuple[float, Any]] = self.listener.collect_timed(
            ServerHeartbeat, '/offload/servers'
        )
        self.through: list[str] = []  # a command that runs the nodes given to it
        self.processes: list[Process] = []
        self.strangers: list[Stranger] = []

    def start(self, executable: str, name: str, *arguments: str, **parameters: Any) -> Process:
        """Start a node without a launcher, so that signals and /proc are its own."""
        share, prefix = (
            find('offload_ros') for find in (get_package_share_directory, get_package_prefix)
        )
        values = {'models_file': self.models, 'threads': 1, **parameters}
        command = [*self.through, f'{prefix}/lib/offload_ros/{executable}', '--ros-args']
        command += [*arguments, '-r', f'__node:={name}']
        for key, value in values.items():
            command += ['-p', f'{key}:={value}']
        profile = f'{share}/config/dds/fastdds.xml'
        process = Process(
            self.domain,
            *command,
            FASTDDS_DEFAULT_PROFILES_FILE=profile,
            PACE=str(self.pace_file(name)),
        )
        self.processes.append(process)
        return process

    def server(self, name: str = 'offload_server', **parameters: Any) -> Process:
        """Start a server."""
        self.pace(name, 0.0)
        return self.start('offload_server', name, **parameters)

    def manager(self, namespace: str = '', **parameters: Any) -> Process:
        """Start a robot's manager."""
        self.pace('offload_manager', 0.0)
        arguments = ['-r', f'__ns:=/{namespace}'] if namespace else []
        return self.start('offload_manager', 'offload_manager', *arguments, **parameters)

    def pace_file(self, name: str) -> Path:
        """Where the network in node ``name`` reads its delay."""
        return self.folder / f'{name}.pace'

    def pace(self, name: str, delay_s: float) -> None:
        """Make the network in node ``name`` take this long from its next inference on."""
        file = self.pace_file(name)
        new = file.with_suffix('.new')
        new.write_text(str(delay_s))
        new.replace(file)  # at once: a half-written file is never read

    def beats(self, server: str, since_s: float = 0.0) -> list[tuple[float, Any]]:
        """Heartbeats of a server since a steady time."""
        return [
            (at_s, beat)
            for at_s, beat in list(self.heartbeats)
            if at_s >= since_s and beat.server == server and not beat.closing
        ]

    def session(self, server: str = '/offload_server') -> str:
        """The session of a server that beats now."""
        since_s = time.monotonic()
        return str(until(lambda: self.beats(server, since_s), f'{server} beats')[-1][1].session)

    def eavesdropper(self, robot: str, server: str = '/offload_server') -> Eavesdropper:
        """Who reads what the present session of a server and a robot say to each other."""
        return Eavesdropper(self.listener, robot, server, self.session(server))

    def stranger(self, name: str, connect: bool = True, **options: Any) -> Stranger:
        """A robot of the test, by default with a session; it leaves with the rig."""
        stranger = Stranger(self.domain, name, **options)
        self.strangers.append(stranger)
        if connect:
            stranger.connect()
        return stranger

    def computing(self, server: str = '/offload_server', share: float = 0.1) -> None:
        """Wait until ``server`` computes something long."""
        since_s = time.monotonic()
        until(
            lambda: any(beat.busy > share for _, beat in self.beats(server, since_s)),
            f'{server} computes',
        )

    def set_parameters(self, node: str, **values: Any) -> list[str]:
        """Set parameters (``.`` written ``__``); reasons of refusals."""
        request = SetParameters.Request()
        for name, value in values.items():
            held = ParameterValue()
            for kind, code, field in (
                (bool, ParameterType.PARAMETER_BOOL, 'bool_value'),
                (float, ParameterType.PARAMETER_DOUBLE, 'double_value'),
                (str, ParameterType.PARAMETER_STRING, 'string_value'),
            ):
                if isinstance(value, kind):
                    held.type = code
                    setattr(held, field, value)
            request.parameters.append(Parameter(name=name.replace('__', '.'), value=held))
        response = self.listener.call(SetParameters, f'{node}/set_parameters', request)
        return [result.reason for result in response.results if not result.successful]

    def transition(self, node: str, label: str) -> bool:
        """One lifecycle transition by its label; whether it succeeded."""
        request = ChangeState.Request()
        request.transition.label = label
        return bool(self.listener.call(ChangeState, f'{node}/change_state', request).success)

    def check_alive(self) -> None:
        """No process ended by itself."""
        for process in self.processes:
            ended = process.process.poll() is not None and not process.told_to_end
            assert not ended, f'{process.command[0]} ended by itself:\n{process.output}'

    def close(self) -> None:
        """End whatever still runs."""
        for stranger in self.strangers:
            stranger.close()
        self.listener.close()
        for process in self.processes:
            if process.process.poll() is None:
                process.kill()


def kept(promise_s: float, *took_s: float) -> None:
    """The best time is within the promise, and no other one is far beyond it."""
    assert min(took_s) <= promise_s, took_s
    assert max(took_s) <= SLOW * promise_s, took_s


class Robot:
    """What one robot's sensor sends and its manager answers. ``base``: of the numbers in frames."""

    def __init__(self, rig: Rig, namespace: str = '', base: int = 0) -> None:
        prefix = f'/{namespace}' if namespace else ''
        self.rig = rig
        self.name = f'{prefix}/offload_manager'
        self.base = base
        self.results: list[tuple[float, Any]] = rig.listener.collect_timed(
            InferenceResult, f'{prefix}/inference/result/probe', 1000
        )
        self.statuses: list[Any] = rig.listener.collect(OffloadStatus, f'{prefix}/offload/status')
        self._publisher = rig.listener.publisher(Image, f'{prefix}/cam')
        self._numbers = itertools.count(1)
        self.sent_s: dict[int, float] = {}

    def send(self) -> int:
        """Publish the next frame; its number."""
        number = next(self._numbers)
        message = image_message(self.pixels(number), number)
        self.sent_s[number] = time.monotonic()
        self._publisher.publish(message)
        return number

    def pixels(self, number: int) -> np.ndarray:
        """(H, W, 3) uint8 of a frame, whose mean no other frame has."""
        return pixels_of(self.base + number)

    def play(self, frames: int, rate_hz: float = 40.0) -> list[Any]:
        """Send frames at a rate and wait for the last one's result; all their results."""
        first = self.send()
        next_s = time.monotonic()
        for _ in range(frames - 1):
            next_s = max(next_s + 1.0 / rate_hz, time.monotonic())
            time.sleep(max(0.0, next_s - time.monotonic()))
            self.send()
        self.flush()
        return self.since(first)

    def flush(self) -> Any:
        """Send a frame and wait for its result (a sensor's frame may be lost: then another)."""
        for _ in range(20):
            number = self.send()
            with contextlib.suppress(AssertionError):
                return until(lambda number=number: self.result_of(number), 'a result', 6.0)
        raise AssertionError('no frame gets a result')

    def play_until(
        self, condition: Callable[[], Any], what: str, limit_s: float = 90.0, rate_hz: float = 40.0
    ) -> Any:
        """Send frames until ``condition`` is true; its value."""
        end_s = time.monotonic() + limit_s
        while not (value := condition()):
            assert time.monotonic() < end_s, f'not within {limit_s} s: {what}'
            self.rig.check_alive()
            self.send()
            time.sleep(1.0 / rate_hz)
        return value

    def ready(self, server: str = '') -> None:
        """Play until a result comes from ``server`` (any)."""
        first = next(self._numbers)
        self.play_until(
            lambda: self.by_server(server, self.since(first)), f'a result of server {server}'
        )

    def served(self, server: str = '', frames: int = 40, rate_hz: float = 60.0) -> list[Any]:
        """Play undisturbed: ``server`` (any) computes all frames but one, or 2 %.

        A machine that stands still for longer than a silent server is believed alive costs some
        frames more: then once more.
        """
        for _ in range(3):
            results = self.play(frames, rate_hz)
            share = max(0.02, 1.0 / len(results))
            if len(self.by_server(server, results)) >= (1.0 - share) * len(results):
                break
            self.ready(server)
        mostly_by_server(results, server, share)
        return results

    def by_server(self, server: str, results: Iterable[Any]) -> list[Any]:
        """Those of ``results`` that ``server`` (any) computed."""
        return [r for r in results if r.strategy_used == 'server' and server in r.plan]

    @property
    def model_hash(self) -> str:
        """Of the model that computed last."""
        return str(self.results[-1][1].model_hash)

    def frames_in(self, packets: Iterable[bytes]) -> list[int]:
        """Numbers of the frames sent so far that can be read in what travelled."""
        whole = b''.join(packets)
        return [n for n in self.sent_s if pixels_of(self.base + n).tobytes() in whole]

    def result_of(self, number: int) -> Any:
        """The result of a frame, or None."""
        return next((r for _, r in list(self.results) if r.header.stamp.sec == number), None)

    def arrival_s(self, number: int) -> float:
        """When the result of a frame came."""
        return next(at_s for at_s, r in list(self.results) if r.header.stamp.sec == number)

    def since(self, number: int) -> list[Any]:
        """Results of the frame ``number`` and later ones."""
        return [r for _, r in list(self.results) if r.header.stamp.sec >= number]

    def settle(self, first: int = 0) -> int:
        """Every accepted frame has exactly one result, the right one; how many there are.

        ``first``: index of the first result to judge (a manager was restarted before it). The very
        first results of a manager may precede the listener's connection; none is missing after.
        """
        self.flush()
        results = [r for _, r in list(self.results)][first:]
        numbers = [r.seq for r in results]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), numbers
        stamps = [r.header.stamp.sec for r in results]
        assert len(set(stamps)) == len(stamps), 'a frame has two results'
        for result in results:
            if result.header.stamp.sec < FOREIGN:
                self.judge(result)

        def counts() -> list[tuple[int, int]]:
            return [(m.accepted, m.results) for s in self.statuses[-1:] for m in s.models]

        # Neither a frame without a result nor a result without a frame.
        until(
            lambda: counts() == [(numbers[-1], numbers[-1])],
            f'{numbers[-1]} frames accepted and answered',
        )
        return len(results)

    def judge(self, result: Any, offset: float = 0.0) -> None:
        """A result says what the content of its own frame demands."""
        assert result.status == InferenceResult.OK, result.detail
        pixels = self.pixels(result.header.stamp.sec)
        want = int(pixels.sum(dtype=np.int64)) / pixels.size + offset
        assert outputs_of(result)['mean'] == [want], (
            f'frame {result.header.stamp.sec}: {outputs_of(result)["mean"]}, not {want}'
        )


def mostly_by_server(results: list[Any], server: str = '', share: float = 0.02) -> None:
    """The undisturbed part of a run: at most 2 % of the frames were computed by the robot."""
    others = [r for r in results if r.strategy_used != 'server' or server not in r.plan]
    reasons = {(r.reason or r.detail or r.plan) for r in others}
    assert results
    assert len(others) <= share * len(results), f'{len(others)} of {len(results)}: {reasons}'


def all_by_robot(results: list[Any], *reasons: str) -> None:
    """Nobody but the robot computed, and each result says why."""
    assert results
    for result in results:
        assert (result.strategy_used, result.fallback) == ('device', True), result.plan
        assert result.reason
        assert not reasons or any(each in result.reason for each in reasons), result.reason


def robots_of(rig: Rig) -> list[tuple[float, int]]:
    """How many robots the server's diagnostics tell, with the time; grows."""
    told: list[tuple[float, int]] = []

    def take(message: DiagnosticArray) -> None:
        for status in message.status:
            values = {each.key: each.value for each in status.values}
            if status.name == '/offload_server: load':
                told.append((time.monotonic(), int(values['robots'])))

    rig.listener.node.create_subscription(DiagnosticArray, '/diagnostics', take, 10)
    return told


class Footprint:
    """Memory, threads and open files of a process at one moment."""

    def __init__(self, process: Process) -> None:
        seen = psutil.Process(process.process.pid)
        with seen.oneshot():
            self.rss = seen.memory_info().rss
            self.threads = seen.num_threads()
        # The network opens its pace file for a moment at each inference.
        self.files = min(seen.num_fds() for _ in range(5) if time.sleep(0.002) is None)

    def __str__(self) -> str:
        return f'{self.rss / 1e6:.1f} MB, {self.threads} threads, {self.files} files'


@contextlib.contextmanager
def pair_in(folder: Path, models: str = MODEL) -> Iterator[tuple[Robot, Process, Process]]:
    """A robot, its manager and a server that several tests share; they must end well."""
    with rig_in(folder, models) as rig:
        manager, server = rig.manager(), rig.server()
        yield Robot(rig), manager, server
        stop_all(manager, server)


@contextlib.contextmanager
def rig_in(folder: Path, models: str = MODEL) -> Iterator[Rig]:
    """A rig that leaves nothing behind."""
    rig = Rig(folder, models)
    try:
        yield rig
    except BaseException:
        for process in rig.processes:  # pytest shows it with the failure
            print(process.command[0], process.process.poll(), process.output[-4000:], sep='\n')
        raise
    finally:
        rig.close()


def stop_all(*processes: Process) -> None:
    """Ctrl-C ends each with status 0, without a traceback."""
    for process in processes:
        assert process.stop() == 0, process.output
