"""The sensor and the listener of ``benchmarks/end_to_end.py``, on the robot: sends a frame, waits
for its result, compares it with what the model gives on one machine, and sends the next one."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
import contextlib
from dataclasses import dataclass
import json
import os
from pathlib import Path
import sys
import threading
import time
from typing import Any

import numpy as np

FRAMES = 4  # different ones, in turn
GAP_S = 0.005  # what one frame leaves behind (acknowledgements) is not the next one's
LIMIT_S = 60.0  # for one result
RTOL, ATOL = 1e-4, 1e-5  # the second of an output's maximum
NEAR_TIES = 1e-4  # share of labels that may differ where a network rounds otherwise


@dataclass(frozen=True)
class Sight:
    """A frame as message fields, and the result that it must have."""

    height: int
    width: int
    encoding: str
    data: array[int]
    wanted: Mapping[str, np.ndarray]


def frames_of(model: Any) -> list[Sight]:
    """Noise as a camera gives it (no codec shrinks it), or what a lidar sees of ground and boxes;
    with the model's own results."""
    import torch

    (spec,) = model.config.inputs
    made = []
    for seed in range(FRAMES):
        rng = np.random.default_rng(seed)
        if spec.encoding == 'rgb8':
            pixels = rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)
        else:
            pixels = seen_voxels(rng)
        outputs = model.run({spec.name: torch.from_numpy(pixels)})
        wanted = {name: each.cpu().numpy().copy() for name, each in outputs.items()}
        made.append(Sight(*pixels.shape[:2], spec.encoding, array('B', pixels.tobytes()), wanted))
    return made


def seen_voxels(rng: np.random.Generator) -> np.ndarray:
    """(128, 256) uint8: a bit for each of 128 x 16 x 128 voxels (width, height, depth)."""
    width, height, depth = 128, 16, 128
    voxels = np.zeros((width, height, depth), dtype=np.uint8)
    voxels[:, 0] = 1
    for _ in range(20):
        w, h, d = (int(rng.integers(2, 3 + extent // 6)) for extent in voxels.shape)
        x, z = int(rng.integers(0, width - w)), int(rng.integers(0, depth - d))
        voxels[x : x + w, : 1 + h, z : z + d] = 1
        voxels[x + 1 : x + w - 1, :h, z + 1 : z + d - 1] = 0
    voxels &= rng.random(voxels.shape) < 0.7
    bits = voxels.reshape(width, -1, 8) << np.arange(8, dtype=np.uint8)
    return np.asarray(bits.sum(2), dtype=np.uint8)


def agreement(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> str:
    """``bits``, ``close``, or what is wrong."""
    if found.keys() != wanted.keys():
        return f'outputs {sorted(found)}, not {sorted(wanted)}'
    worst = 'bits'
    for name, want in wanted.items():
        have = found[name]
        if have.shape != want.shape or have.dtype != want.dtype:
            return f'{name}: {have.dtype} {have.shape}, not {want.dtype} {want.shape}'
        if np.array_equal(have, want):
            continue
        worst = 'close'
        if np.issubdtype(want.dtype, np.floating):
            limit = ATOL * float(np.abs(want).max()) + RTOL * np.abs(want)
            if (np.abs(have - want) > limit).any():
                return f'{name}: {float(np.abs(have - want).max()):g} apart'
        elif (have != want).mean() > NEAR_TIES:
            return f'{name}: {float((have != want).mean()):.2%} of the values differ'
    return worst


class Camera:
    """Node of the robot. ``robots``: namespaces of the managers."""

    def __init__(self, models_file: str, robots: list[str]) -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor
        from sensor_msgs.msg import Image
        import torch

        from offload_ros.models.config_file import load_models_file
        from offload_ros.models.model import load_model
        from offload_ros.msg import InferenceResult, ServerHeartbeat
        from offload_ros.nodes.topics import HEARTBEAT, HEARTBEAT_TOPIC

        torch.set_num_threads(1)
        sys.setswitchinterval(1e-4)
        self._sights: dict[str, list[Sight]] = {}
        rclpy.init(args=[])
        self._node = rclpy.create_node('camera')
        self._image = Image
        self._topics: dict[tuple[str, str], Any] = {}
        for config in load_models_file(Path(models_file)):
            self._sights[config.name] = frames_of(load_model(config))
            for robot in robots:
                topic = f'/{robot}/{config.inputs[0].topic}'
                self._topics[robot, config.name] = self._node.create_publisher(Image, topic, 2)
                result = f'/{robot}/inference/result/{config.name}'
                self._node.create_subscription(InferenceResult, result, self._on_result, 10)
        self._busy: list[tuple[float, float]] = []
        self._node.create_subscription(
            ServerHeartbeat,
            HEARTBEAT_TOPIC,
            lambda beat: self._busy.append((time.monotonic(), beat.busy)),
            HEARTBEAT,
        )
        self._clients: dict[str, Any] = {}
        self._number = 0
        self._arrived = threading.Event()
        self._last: tuple[float, Any] | None = None
        executor = SingleThreadedExecutor()
        executor.add_node(self._node)
        threading.Thread(target=executor.spin, daemon=True).start()

    def set(self, robot: str, values: dict[str, Any]) -> list[str]:
        """Set parameters of a manager; reasons of refusals."""
        from rcl_interfaces.srv import SetParameters
        from rclpy.parameter import Parameter

        client = self._clients.get(robot)
        if client is None:
            service = f'/{robot}/offload_manager/set_parameters'
            client = self._clients[robot] = self._node.create_client(SetParameters, service)
        if not client.wait_for_service(LIMIT_S):
            raise SystemExit(f'error: no manager in {robot}')
        request = SetParameters.Request(
            parameters=[
                Parameter(name, value=value).to_parameter_msg() for name, value in values.items()
            ]
        )
        done = threading.Event()
        future = client.call_async(request)
        future.add_done_callback(lambda _: done.set())
        if not done.wait(LIMIT_S):
            raise SystemExit(f'error: the manager in {robot} does not answer')
        return [each.reason for each in future.result().results if not each.successful]

    def once(self, robot: str, model: str) -> dict[str, Any] | None:
        """One frame; None when no result came."""
        from offload_ros.wire.tensors import decode

        self._number += 1
        sight = self._sights[model][self._number % FRAMES]
        message = self._image(
            height=sight.height,
            width=sight.width,
            encoding=sight.encoding,
            step=len(sight.data) // sight.height,
            data=sight.data,
        )
        message.header.stamp.sec = self._number
        self._arrived.clear()
        sent_s = time.monotonic()
        self._topics[robot, model].publish(message)
        if not self._arrived.wait(LIMIT_S) or self._last is None:
            return None
        at_s, result = self._last
        row = {
            'sent_s': sent_s,
            'latency_s': at_s - sent_s,
            'used': result.strategy_used,
            'plan': result.plan,
            'fallback': result.fallback,
            'error': result.detail,
        }
        for key in ('total', 'robot', 'uplink', 'server', 'downlink'):
            row[f'{key}_s'] = getattr(result, f'{key}_s')
        row['energy_j'] = result.energy_j
        row['up'], row['down'] = result.bytes_up, result.bytes_down
        outputs = {each.name: decode(each).numpy() for each in result.outputs}
        row['agreement'] = agreement(outputs, sight.wanted)
        return row

    def _on_result(self, message: Any) -> None:
        now_s = time.monotonic()
        if message.header.stamp.sec == self._number:
            self._last = (now_s, message)
            self._arrived.set()

    def ready(self, robot: str, model: str, strategy: str, frames: int, limit_s: float) -> str:
        """Until the strategy has answered ``frames`` frames itself; why it has not, or nothing."""
        refused = self.set(robot, {f'{model}.strategy': strategy})
        if refused:
            return refused[0]
        end_s, seen, row = time.monotonic() + limit_s, 0, None
        while time.monotonic() < end_s and seen < frames:
            row = self.once(robot, model)
            seen += row is not None and not row['fallback'] and not row['error']
            time.sleep(GAP_S)
        return '' if seen >= frames else f'{strategy}: {row}'

    def play(
        self, robot: str, model: str, strategy: str, lead_s: float, span_s: float
    ) -> dict[str, Any]:
        """Frames one after the other; the rows of those sent in the last ``span_s``, times from
        its beginning."""
        refused = self.set(robot, {f'{model}.strategy': strategy})
        if refused:
            return {'refused': refused[0], 'rows': [], 'missing': 0}
        began_s = time.monotonic() + lead_s
        rows, missing = [], 0
        while (now_s := time.monotonic()) < began_s + span_s:
            row = self.once(robot, model)
            if row is None:
                missing += 1
            elif now_s >= began_s:
                row['sent_s'] -= began_s
                rows.append(row)
            time.sleep(GAP_S)
        busy = [share for at_s, share in self._busy if at_s >= began_s]
        self._busy.clear()
        return {
            'rows': rows,
            'missing': missing,
            'took_s': time.monotonic() - began_s,
            'server_busy': float(np.mean(busy)) if busy else None,
        }

    def serve(self) -> None:
        """Answer lines of JSON until the end of input."""
        calls: dict[str, Callable[..., Any]] = {
            'set': self.set,
            'ready': self.ready,
            'play': self.play,
        }
        print(json.dumps('ready'), flush=True)
        for line in sys.stdin:
            name, arguments = json.loads(line)
            print(json.dumps(calls[name](**arguments)), flush=True)
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(0)  # rclpy's thread is of no more use


if __name__ == '__main__':
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    Camera(sys.argv[1], sys.argv[2:]).serve()
