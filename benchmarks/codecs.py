"""Lossless codecs: ratio and speed on what robot and server exchange, and what is chosen when.

Pictures, depth, voxels and label grids are of the simulated world, activations are the room
classifier's on its pictures. The simulation draws without noise, which flatters every codec, so the
camera also appears with sensor noise and as it comes out of a webcam's JPEG.

Per bandwidth: what the chooser uses after some frames and how many times faster a tensor is there
than raw (encoding, transfer and decoding together). Whether it was the right one: `lost_share`,
that time less the best codec's, over the raw transfer's. What choosing costs: `choosing_of_budget`,
the longest choice over what one may take, 2 % of the raw transfer or 1 ms.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
import json
import os
from pathlib import Path
import platform
import time
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table
import torch

from offload_ros.models.config_file import load_models_file
from offload_ros.models.model import load_model
from offload_ros.sim import World, WorldConfig
from offload_ros.sim.config import CameraConfig
from offload_ros.wire.codec_choice import ChoicePolicy, CodecChooser
from offload_ros.wire.codecs import CODECS, NotBinaryError, channels_of, decode, encode
from offload_ros.wire.tensors import RAW

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / 'results'
BANDWIDTHS_MBPS = (5, 20, 93, 450, 1000, 10000)
VOXEL_M = 0.04
NOISE_STD = 1.5  # of 255, a webcam in a lit room
VIEWS = 3
FRAMES = 30  # what the chooser sees before it is asked


@dataclass
class Kind:
    """One kind of tensor: some examples of one dtype and shape."""

    itemsize: int = 1
    channels: int = 1
    examples: list[np.ndarray] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes of the first example."""
        return self.examples[0].size


def voxel_grid(world: World) -> np.ndarray:
    """(256, 256, 32) uint8: 1 where the lidar or the depth camera sees something."""
    pose, config = world.truth().robot, world.config
    _, depth = world.render()
    height, width = depth.shape
    v, u = np.nonzero(np.isfinite(depth))
    z = depth[v, u].astype(np.float64)
    focal = config.camera.focal_px
    optical = np.stack([(u - width / 2 + 0.5) * z / focal, (v - height / 2 + 0.5) * z / focal, z])
    position, rotation = world.camera_pose()
    cloud = world.point_cloud().astype(np.float64)
    cos, sin = np.cos(pose.yaw), np.sin(pose.yaw)
    turned = cloud @ np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    lidar = turned + np.array([pose.x, pose.y, config.lidar.cloud_height_m])
    points = np.concatenate([(rotation @ optical).T + position, lidar]) - (pose.x, pose.y, 0)
    cells = np.floor(points / VOXEL_M + (128, 128, 0)).astype(int)
    inside = ((cells >= 0) & (cells < (256, 256, 32))).all(1)
    grid = np.zeros((256, 256, 32), np.uint8)
    grid[tuple(cells[inside].T)] = 1
    return grid


def label_grid(world: World) -> np.ndarray:
    """(256, 32, 256) uint8 (x, up, y): the class that fills each voxel, 0 empty, 255 unknown.

    Each column is filled from the floor to the highest thing under 1.28 m, outside the room it is
    unknown: what scene completion predicts.
    """
    pose = world.truth().robot
    offsets = (np.arange(256) - 127.5) * VOXEL_M
    x, y = (axis.ravel() for axis in np.meshgrid(offsets + pose.x, offsets + pose.y, indexing='ij'))
    names = sorted(set(world.kinds))
    of_entity = np.array([names.index(kind) + 1 for kind in world.kinds], np.uint8)
    room = world.room
    grid = np.full((256 * 256, 32), 255, np.uint8)
    inside = (abs(x) < room.length_m / 2) & (abs(y) < room.width_m / 2)
    for index in np.flatnonzero(inside):
        distance, entity = world.cast(
            np.array([x[index], y[index], 32 * VOXEL_M]), np.array([[0.0, 0.0, -1.0]])
        )
        top = round(32 - distance[0] / VOXEL_M) if np.isfinite(distance[0]) else 0
        grid[index] = 0
        grid[index, : max(top, 1)] = of_entity[entity[0]]
    return np.ascontiguousarray(grid.reshape(256, 256, 32).transpose(0, 2, 1))


class Activations:
    """Outputs of the room classifier's stem and of two stages, as float32 (1, C, H, W)."""

    def __init__(self) -> None:
        configs = load_models_file(ROOT / 'config' / 'models.yaml')
        self._model = load_model(next(config for config in configs if config.name == 'classifier'))
        resnet: Any = self._model.network.network.resnet
        self._outputs: dict[str, torch.Tensor] = {}
        stages = {'stem': resnet.embedder.embedder, 'stage 1': resnet.encoder.stages[0]}
        for name, module in (stages | {'stage 2': resnet.encoder.stages[1]}).items():
            module.register_forward_hook(lambda _m, _i, out, name=name: self._keep(name, out))

    def _keep(self, name: str, output: torch.Tensor) -> None:
        self._outputs[name] = output.contiguous()

    def of(self, rgb: np.ndarray) -> dict[str, torch.Tensor]:
        """By layer, for a picture (H, W, 3) uint8."""
        self._model.run({'image': torch.from_numpy(rgb)})
        return self._outputs


def collect(seed: int = 3) -> dict[str, Kind]:
    """Draw the world and name what it gives."""
    kinds: dict[str, Kind] = {}

    def add(name: str, values: np.ndarray, itemsize: int = 1) -> None:
        data = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        kind = kinds.setdefault(name, Kind(itemsize, channels_of(values.shape)))
        kind.examples.append(data)

    rng = np.random.default_rng(seed)
    classifier = Activations()
    for width, height in ((320, 240), (640, 480)):
        camera = CameraConfig(width_px=width, height_px=height)
        with World(seed=seed, config=WorldConfig(camera=camera)) as world:
            for _ in range(VIEWS):
                world.step(0.5, (0.2, 0.6))
                rgb, depth = world.render()
                size = f'{width}x{height}'
                noise = rng.normal(0, NOISE_STD, rgb.shape)
                noisy = np.clip(rgb + noise, 0, 255).round().astype(np.uint8)
                jpeg = cv2.imencode('.jpg', noisy, [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
                add(f'camera {size}', rgb)
                add(f'camera {size}, noisy', noisy)
                add(f'camera {size}, webcam', cv2.imdecode(jpeg, cv2.IMREAD_COLOR))
                add(f'depth {size} float32', depth, 4)
                add(f'JPEG {size}', jpeg)
                if width == 320:
                    add('voxels 256x256x32', voxel_grid(world))
                    add('labels 256x32x256', label_grid(world))
                    for name, values in classifier.of(rgb).items():
                        add(f'{name} float32', values.numpy(), 4)
                        add(f'{name} float16', values.half().numpy(), 2)
    return kinds


def median_s(values: list[float]) -> float:
    """The median, which a preempted run does not move."""
    return float(np.median(values))


def measure(kind: Kind, code: int, repeats: int) -> dict[str, Any] | None:
    """Ratio and speeds of one codec; None where it does not apply. Checks the round trip."""
    coded_bytes = 0
    encode_s: list[float] = []
    decode_s: list[float] = []
    for data in kind.examples:
        for _ in range(repeats):
            began_s = time.perf_counter()
            try:
                coded = encode(data, code, kind.itemsize, kind.channels)
            except NotBinaryError:
                return None
            encoded_s = time.perf_counter()
            plain = decode(coded, code, kind.itemsize, data.size)
            decode_s.append((time.perf_counter() - encoded_s) / data.size)
            encode_s.append((encoded_s - began_s) / data.size)
        if not np.array_equal(plain, data):
            raise SystemExit(f'{CODECS[code].name} does not give back what it was given')
        coded_bytes += len(coded)
    return {
        'ratio': round(sum(data.size for data in kind.examples) / coded_bytes, 3),
        'encode_mb_per_s': round(1e-6 / median_s(encode_s), 1),
        'decode_mb_per_s': round(1e-6 / median_s(decode_s), 1),
    }


def duration_s(size: int, figures: dict[str, Any] | None, bytes_per_s: float) -> float:
    """Encoding, transfer and decoding; without figures the transfer of the raw bytes."""
    if figures is None:
        return size / bytes_per_s
    speeds = figures['encode_mb_per_s'], figures['decode_mb_per_s']
    return size * (sum(1e-6 / speed for speed in speeds) + 1 / figures['ratio'] / bytes_per_s)


def chosen(kind: Kind, codecs: dict[str, Any], mbps: float) -> dict[str, Any]:
    """What a fresh chooser uses after ``FRAMES`` frames, and what choosing took."""
    chooser, bytes_per_s, delays_s = CodecChooser(), mbps * 1e6 / 8, []
    for index in range(FRAMES):
        data = kind.examples[index % len(kind.examples)]
        began_s = time.perf_counter()
        chooser.choose('tensor', data, kind.itemsize, bytes_per_s, kind.channels)
        delays_s.append(time.perf_counter() - began_s)
        code, _ = chooser.encode('tensor', data, kind.itemsize, bytes_per_s, kind.channels)
    name = CODECS[code].name
    raw_s = duration_s(kind.size, None, bytes_per_s)
    took_s = duration_s(kind.size, codecs.get(name), bytes_per_s)
    least_s = min(raw_s, *(duration_s(kind.size, c, bytes_per_s) for c in codecs.values()))
    return {
        'codec': name,
        'speedup': round(raw_s / took_s, 2),
        'raw_ms': round(1e3 * raw_s, 3),
        'lost_share': round((took_s - least_s) / raw_s, 4),
        'choosing_median_us': round(1e6 * float(np.median(delays_s)), 1),
        'choosing_of_budget': round(max(delays_s) / max(1e-3, 0.02 * raw_s), 2),
    }


def report(rows: list[dict[str, Any]], path: Path) -> None:
    """Print the tables and write the JSON."""
    names = [codec.name for code, codec in CODECS.items() if code != RAW]
    speeds = Table(title='ratio, encode / decode in MB/s')
    choices = Table(title='chosen, times faster than raw')
    for table, columns in (
        (speeds, names),
        (choices, [f'{mbps} Mbit/s' for mbps in BANDWIDTHS_MBPS]),
    ):
        for heading in ('tensor', 'kB', *columns):
            table.add_column(heading, justify='left' if heading == 'tensor' else 'right')
    for row in rows:
        start = row['tensor'], f'{row["bytes"] / 1000:.0f}'
        cells = [
            f'{figures["ratio"]:.2f}\n'
            f'{figures["encode_mb_per_s"]:.0f} / {figures["decode_mb_per_s"]:.0f}'
            if (figures := row['codecs'].get(name))
            else '-'
            for name in names
        ]
        speeds.add_row(*start, *cells)
        uses = row['chosen'].values()
        choices.add_row(*start, *(f'{use["codec"]}\n{use["speedup"]:.2f}' for use in uses))
    console = Console(width=130)
    console.print(speeds)
    console.print(choices)
    uses = [use for row in rows for use in row['chosen'].values()]
    least_ms = 1e3 * ChoicePolicy().min_transfer_s  # below, codecs are left alone by design
    lost = max(use['lost_share'] for use in uses if use['raw_ms'] >= least_ms)
    choosing_us = float(np.median([use['choosing_median_us'] for use in uses]))
    of_budget = max(use['choosing_of_budget'] for use in uses)
    print(f'lost to a choice that is not the best: at most {lost:.1%} of the raw transfer')
    print(f'choosing: {choosing_us:.0f} us in the median, at most {of_budget:.2f} of its budget')
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        'schema': 1,
        'machine': f'{platform.machine()}, {os.cpu_count()} cores',
        'largest_lost_share': lost,
        'choosing_median_us': choosing_us,
        'choosing_of_budget': of_budget,
        'rows': rows,
    }
    path.write_text(json.dumps(content, indent=1) + '\n')


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--json', type=Path, default=RESULTS / 'codecs.json')
    parser.add_argument('--repeats', type=int, default=15, help='per example and codec')
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, kind in collect().items():
        measured = {
            codec.name: measure(kind, code, arguments.repeats)
            for code, codec in CODECS.items()
            if codec.filter not in (['delta'] if kind.itemsize > 1 else ['shuffle'])
        }
        del measured['raw']
        codecs = {codec: figures for codec, figures in measured.items() if figures is not None}
        uses = {f'{mbps}_mbps': chosen(kind, codecs, mbps) for mbps in BANDWIDTHS_MBPS}
        rows.append({'tensor': name, 'bytes': kind.size, 'codecs': codecs, 'chosen': uses})
    report(rows, arguments.json)


if __name__ == '__main__':
    main()
