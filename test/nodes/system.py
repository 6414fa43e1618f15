"""Real processes over real DDS for the tests: start, listen, stop, and judge how they ended."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
import contextlib
import itertools
import os
from pathlib import Path
import signal
import socket
import subprocess
import threading
import time
from typing import Any

import numpy as np
import rclpy
from rclpy.client import Client
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image

from offload_ros.msg import InferenceResult
from offload_ros.network.half_made_ports import remove_half_made_ports
from offload_ros.wire.tensors import decode

# The smallest model there is, for a models.yaml.
TINY = "source: {python: 'networks:Identity'}, inputs: [{name: image, topic: cam}], outputs: [mean]"
_domains = itertools.count(os.getpid() * 13)


def new_domain() -> int:
    """A ROS_DOMAIN_ID of 101 to 200 that no other test of this run has, nor anybody else now."""
    remove_half_made_ports()  # tests kill processes, and make nodes of their own
    for _ in range(100):
        domain = 101 + next(_domains) % 100
        if is_free(domain):
            return domain
    raise AssertionError('no ROS_DOMAIN_ID is free')


def is_free(domain: int) -> bool:
    """Whether the ports are free by which nodes of a domain find each other.

    Some of them are among those that the system gives to any program that asks for one.
    """
    for port in range(7400 + 250 * domain, 7402 + 250 * domain):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tried:
            try:
                tried.bind(('', port))
            except OSError:
                return False
    return True


def write_models(folder: Path, text: str) -> Path:
    """A models.yaml in ``folder``."""
    file = folder / 'models.yaml'
    file.write_text(text)
    return file


class Process:
    """One command with its output; ``stop`` is Ctrl-C."""

    def __init__(self, domain: int, *command: str, **environment: str) -> None:
        self.command = command
        self._output: list[str] = []
        self.told_to_end = False
        self.process = subprocess.Popen(
            command,
            env={
                **os.environ,
                'ROS_DOMAIN_ID': str(domain),
                'PYTHONUNBUFFERED': '1',
                **environment,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._output.append(line)

    @property
    def output(self) -> str:
        """Everything printed so far."""
        return ''.join(self._output)

    def wait_for(self, text: str, limit_s: float = 120.0) -> None:
        """Until ``text`` was printed; AssertionError with the output otherwise."""
        end_s = time.monotonic() + limit_s
        while text not in self.output:
            if self.process.poll() is not None:
                self._reader.join(5.0)
                if text in self.output:
                    return
                raise AssertionError(f'{self.command} ended without {text!r}:\n{self.output}')
            assert time.monotonic() < end_s, f'no {text!r} in {limit_s} s:\n{self.output}'
            time.sleep(0.02)

    def send(self, number: int) -> None:
        """Send a signal to the process alone; ``ros2 run`` gets it as a terminal sends it."""
        self.told_to_end |= number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
        if self.command[:2] == ('ros2', 'run'):
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)

    def ended(self, limit_s: float = 120.0) -> int:
        """Wait for the end; the exit status."""
        status = self.process.wait(limit_s)
        self._reader.join(5.0)
        return status

    def stop(self, number: int = signal.SIGINT, limit_s: float = 60.0) -> int:
        """Ctrl-C and the exit status; a traceback or a hang fails the test."""
        if self.process.poll() is None:
            self.send(number)
        try:
            status = self.ended(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise AssertionError(f'{self.command} did not end:\n{self.output}') from None
        assert 'Traceback' not in self.output, self.output
        return status

    def kill(self) -> None:
        """End it in any case; for clean-up."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10.0)


class Listener:
    """A node of the test: publishes images, collects messages."""

    def __init__(self, domain: int, namespace: str = '') -> None:
        self._context = Context()
        rclpy.init(
            context=self._context, domain_id=domain, signal_handler_options=SignalHandlerOptions.NO
        )
        self.node = rclpy.create_node('listener', context=self._context, namespace=namespace)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()

    def collect(self, kind: type, topic: str, qos: QoSProfile | int = 100) -> list[Any]:
        """Messages of ``topic`` from now on, in a list that grows."""
        received: list[Any] = []
        self.node.create_subscription(kind, topic, received.append, qos)
        return received

    def collect_timed(
        self, kind: type, topic: str, qos: QoSProfile | int = 100
    ) -> list[tuple[float, Any]]:
        """As ``collect``, each message with the steady time of its arrival."""
        received: list[tuple[float, Any]] = []
        self.node.create_subscription(
            kind, topic, lambda message: received.append((time.monotonic(), message)), qos
        )
        return received

    def call(self, kind: type, name: str, request: Any, limit_s: float = 90.0) -> Any:
        """Call a service and return its response."""
        client = self.node.create_client(kind, name)
        try:
            assert client.wait_for_service(limit_s), f'no service {name}'
            future = client.call_async(request)
            until(future.done, f'an answer of {name}', limit_s)
            return future.result()
        finally:
            self.destroy(client)

    def results(self, model: str) -> list[Any]:
        """Results of ``model`` from now on."""
        return self.collect(InferenceResult, f'inference/result/{model}')

    def publisher(
        self, kind: type, topic: str, qos: QoSProfile | int = 10, reliable: bool = True
    ) -> Any:
        """A publisher; reliable, as a good camera driver."""
        if not reliable:
            qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
        return self.node.create_publisher(kind, topic, qos)

    def destroy(self, entity: Client | Publisher) -> None:
        """End a client or publisher in the thread that spins: what rclpy waits for and finds
        destroyed, as the events of a publisher, raises there and would end the thread."""
        end = (
            self.node.destroy_client if isinstance(entity, Client) else self.node.destroy_publisher
        )
        task = self._executor.create_task(end, entity)
        until(lambda: task.done() or not self._thread.is_alive(), 'the listener runs')

    def close(self) -> None:
        """End the node and its thread."""
        self._executor.shutdown()
        self._context.try_shutdown()
        self._thread.join(5.0)
        self.node.destroy_node()


def image_message(
    pixels: np.ndarray, stamp: int, encoding: str = 'rgb8', frame: str = 'cam'
) -> Image:
    """An image with ``stamp`` seconds; (H, W, C) or (H, W)."""
    message = Image(height=pixels.shape[0], width=pixels.shape[1], encoding=encoding)
    message.header.stamp.sec = stamp
    message.header.frame_id = frame
    message.step = pixels.strides[0]
    message.data = array('B', pixels.tobytes())
    return message


def random_pixels(seed: int, height: int = 48, width: int = 64) -> np.ndarray:
    """(height, width, 3) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def until(condition: Callable[[], Any], what: str, limit_s: float = 90.0) -> Any:
    """Wait for a truthy value and return it."""
    end_s = time.monotonic() + limit_s
    while not (value := condition()):
        assert time.monotonic() < end_s, f'not within {limit_s} s: {what}'
        time.sleep(0.01)
    return value


def outputs_of(result: Any) -> dict[str, np.ndarray]:
    """The tensors of a result by name."""
    return {tensor.name: decode(tensor).numpy().copy() for tensor in result.outputs}


def answer_to(
    publish: Callable[[Any], None], message: Any, results: list[Any], limit_s: float = 90.0
) -> Any:
    """Publish one frame and wait for the result with its stamp."""
    return answers_to(lambda: publish(message), message.header.stamp, [results], limit_s)[0]


def answers_to(
    publish: Callable[[], None], stamp: Any, results: list[list[Any]], limit_s: float = 90.0
) -> list[Any]:
    """Publish frames with ``stamp`` and wait for the result of each list with it.

    Published again every few seconds: camera topics are best effort, and either end may not have
    matched its peer yet, so that the frame (or its result) never arrives.
    """
    end_s, again_s = time.monotonic() + limit_s, 0.0
    while True:
        if time.monotonic() > again_s:
            publish()
            again_s = time.monotonic() + 3.0
        found = [next((r for r in list(each) if r.header.stamp == stamp), None) for each in results]
        if None not in found:
            return found
        assert time.monotonic() < end_s, (
            f'not within {limit_s} s: results with stamp {stamp.sec}: {found}'
        )
        time.sleep(0.01)


@contextlib.contextmanager
def running(*processes: Process) -> Iterator[None]:
    """Clean up whatever a failed test leaves behind."""
    try:
        yield
    finally:
        for process in processes:
            if process.process.poll() is None:
                process.kill()


def server(domain: int, models: Path, *arguments: str) -> Process:
    """``ros2 launch offload_ros server.launch.py``."""
    return Process(
        domain,
        'ros2',
        'launch',
        'offload_ros',
        'server.launch.py',
        f'models_file:={models}',
        'threads:=1',
        *arguments,
    )


def robot(domain: int, models: Path, *arguments: str) -> Process:
    """``ros2 launch offload_ros robot.launch.py``."""
    return Process(
        domain,
        'ros2',
        'launch',
        'offload_ros',
        'robot.launch.py',
        f'models_file:={models}',
        'threads:=1',
        *arguments,
    )
