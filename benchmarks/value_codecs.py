"""Lossless codecs for tensors that cross a cut: bytes, speed, and what they gain on a link.

The published comparisons send tensors as they are; these figures stand apart from them. Voxels,
label grids and pictures are of the simulated world (without and with sensor noise), activations are
the room classifier's on its pictures. Each tensor goes the whole way that a run sends it: head and
coding on one side, checking and decoding on the other, on one thread of this machine.

Per bandwidth: the codec that planning chooses by these measurements, and the gain: how many times
sooner the tensor is there than raw (coding, transfer and decoding together).
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
import platform
import time
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
import torch

from benchmarks.codecs import NOISE_STD, RESULTS, Activations, label_grid, median_s, voxel_grid
from offload_ros.cuts.value_codecs import VALUE_CODECS, candidates
from offload_ros.cuts.values import HEAD_BYTES, value_from_bytes, value_to_buffers
from offload_ros.graph.codings import choose
from offload_ros.graph.graph import TensorSpec
from offload_ros.graph.profile import Coding
from offload_ros.sim import World, WorldConfig
from offload_ros.sim.config import CameraConfig

BANDWIDTHS_MBPS = (5, 10, 20, 40, 80, 160)
VIEWS = 3
Tensors = dict[str, list[torch.Tensor]]


def collect(seed: int = 3) -> Tensors:
    """Examples of each kind of tensor."""
    found: Tensors = {}

    def add(name: str, tensor: torch.Tensor) -> None:
        found.setdefault(name, []).append(tensor)

    rng, classifier = np.random.default_rng(seed), Activations()
    camera = CameraConfig(width_px=320, height_px=240)
    with World(seed=seed, config=WorldConfig(camera=camera)) as world:
        for _ in range(VIEWS):
            world.step(0.5, (0.2, 0.6))
            rgb, _ = world.render()
            noise = rng.normal(0, NOISE_STD, rgb.shape)
            noisy = np.clip(rgb + noise, 0, 255).round().astype(np.uint8)
            voxels = torch.from_numpy(np.ascontiguousarray(voxel_grid(world).transpose(0, 2, 1)))
            labels = torch.from_numpy(label_grid(world))
            add('voxels 256x32x256 uint8', voxels)
            add('voxels 256x32x256 bool', voxels.bool())
            # A third of the occupied cells is missed, one in a thousand of the others is a ghost.
            missed = torch.from_numpy(rng.random(voxels.shape) < 1 / 3)
            ghosts = torch.from_numpy(rng.random(voxels.shape) < 1e-3)
            noisy_voxels = (voxels.bool() & ~missed) | ghosts
            add('voxels 256x32x256 uint8, noisy', noisy_voxels.to(torch.uint8))
            add('labels 256x32x256 uint8', labels)
            add('labels 256x32x256 int64', labels.long())
            add('camera 320x240 uint8', torch.from_numpy(rgb.copy()))
            add('camera 320x240 uint8, noisy', torch.from_numpy(noisy))
            for name, values in classifier.of(noisy).items():
                add(f'{name} {tuple(values.shape)[1:]} float32', values.detach().clone())
    return found


def measure(tensors: list[torch.Tensor], code: int, repeats: int) -> dict[str, float] | None:
    """One codec on all examples; None where it does not apply or saves nothing. Checks that every
    bit comes back."""
    sizes, encode_s, decode_s = [], [], []
    for tensor in tensors:
        spec = TensorSpec(tuple(tensor.shape), tensor.dtype)
        for _ in range(repeats):
            began_s = time.perf_counter()
            head, data = value_to_buffers(spec, tensor, code)
            encoded_s = time.perf_counter()
            received = np.frombuffer(b''.join((head, data)), np.uint8).copy()
            arrived_s = time.perf_counter()
            decoded = value_from_bytes(spec, received)
            decode_s.append(time.perf_counter() - arrived_s)
            encode_s.append(encoded_s - began_s)
        if not torch.equal(decoded.reshape(-1).view(torch.uint8), bytes_of(tensor)):
            raise SystemExit(f'{VALUE_CODECS[code]} does not give back what it was given')
        if code and len(data) >= tensor.nbytes:
            return None
        sizes.append(len(head) + len(data))
    mean = sum(sizes) / len(sizes)
    return {
        'bytes': round(mean),
        'largest_bytes': max(sizes),
        'ratio': round(tensors[0].nbytes / (mean - HEAD_BYTES), 3),
        'encode_s': median_s(encode_s),
        'decode_s': median_s(decode_s),
        'encode_mb_per_s': round(tensors[0].nbytes / 1e6 / median_s(encode_s), 1),
        'decode_mb_per_s': round(tensors[0].nbytes / 1e6 / median_s(decode_s), 1),
    }


def bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    """(n,) uint8."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def gains(size: int, codecs: dict[str, dict[str, float]]) -> dict[str, Any]:
    """By bandwidth what planning chooses, and how many times sooner the tensor is there."""
    found = {}
    for mbps in BANDWIDTHS_MBPS:
        rate = mbps * 1e6 / 8
        codings = [
            Coding(name, int(each['bytes']), each['encode_s'], 0.0, 0.0, each['decode_s'])
            for name, each in codecs.items()
        ]
        coding = choose(codings, size, rate)
        taken_s = raw_s = (size + HEAD_BYTES) / rate
        if coding is not None:
            taken_s = coding.wire_bytes / rate + coding.robot_encode_s + coding.server_decode_s
        found[f'{mbps}_mbps'] = {
            'codec': coding.codec if coding else 'raw',
            'raw_ms': round(1e3 * raw_s, 3),
            'coded_ms': round(1e3 * taken_s, 3),
            'gain': round(raw_s / taken_s, 2),
        }
    return found


def report(rows: list[dict[str, Any]]) -> None:
    """Print what was measured and what it gains."""
    speeds = Table(title='kB, ratio, encode / decode in MB/s')
    choices = Table(title='chosen, times sooner there than raw')
    for heading in ('tensor', 'kB', 'codec', 'kB coded', 'ratio', 'encode', 'decode'):
        speeds.add_column(heading, justify='left' if heading in ('tensor', 'codec') else 'right')
    for heading in ('tensor', *(f'{mbps} Mbit/s' for mbps in BANDWIDTHS_MBPS)):
        choices.add_column(heading, justify='left' if heading == 'tensor' else 'right')
    for row in rows:
        first = row['tensor'], f'{row["bytes"] / 1e3:.0f}'
        for place, (name, each) in enumerate(row['codecs'].items()):
            speeds.add_row(
                *(first if not place else ('', '')),
                name,
                f'{each["bytes"] / 1e3:.1f}',
                f'{each["ratio"]:.2f}',
                f'{each["encode_mb_per_s"]:.0f}',
                f'{each["decode_mb_per_s"]:.0f}',
                end_section=place + 1 == len(row['codecs']),
            )
        uses = row['chosen'].values()
        choices.add_row(row['tensor'], *(f'{use["codec"]}\n{use["gain"]:.2f}' for use in uses))
    console = Console(width=130)
    console.print(speeds)
    console.print(choices)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--json', type=Path, default=RESULTS / 'value_codecs.json')
    parser.add_argument('--repeats', type=int, default=9, help='per example and codec')
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, tensors in collect().items():
        dtype = tensors[0].dtype
        measured = {
            VALUE_CODECS[code]: measure(tensors, code, arguments.repeats)
            for code in candidates(dtype)
        }
        codecs = {codec: each for codec, each in measured.items() if each is not None}
        size = tensors[0].nbytes
        rows.append(
            {'tensor': name, 'bytes': size, 'codecs': codecs, 'chosen': gains(size, codecs)}
        )
    report(rows)
    voxels = next(row for row in rows if row['tensor'] == 'voxels 256x32x256 uint8')
    coded = voxels['codecs']['bits']['largest_bytes'] - HEAD_BYTES
    print(f'voxels of {voxels["bytes"]} bytes travel as {coded} (+ {HEAD_BYTES} of head)')
    content = {
        'schema': 1,
        'machine': f'{platform.machine()}, {os.cpu_count()} cores',
        'head_bytes': HEAD_BYTES,
        'voxel_bits_bytes': coded,
        'rows': rows,
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(content, indent=1) + '\n')


if __name__ == '__main__':
    main()
