"""Runs the programs of this folder, each as it stands, and saves what they gave.

    python runner.py --mode replay --inferences 5 --out results.pt resnet vit gpt2:20 ...

``plain`` replaces the word cuda by cpu, the only change, and knows nothing of offload_ros. The
other modes leave the text as it is and give it a device whose server is a thread of this process.
"""

import argparse
from collections.abc import Callable
import os
from pathlib import Path
import time
import traceback
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_flatten

PROGRAMS = Path(__file__).parent / 'programs'


def names() -> list[str]:
    """The programs that there are."""
    return sorted(path.stem for path in PROGRAMS.glob('*.py'))


def run(name: str, inferences: int, plain: bool, count: Callable[[], dict[str, int]]) -> Any:
    """The results of a program and, per inference, by how much what ``count`` gives has grown."""
    path = PROGRAMS / f'{name}.py'
    text = path.read_text()
    if plain:
        text = text.replace('cuda', 'cpu')
    program: dict[str, Any] = {'__name__': name}
    exec(compile(text, str(path), 'exec'), program)
    results, rows = [], []
    frames = program['inferences'](inferences)
    before, start_s = count(), time.perf_counter()
    for result in frames:
        after, end_s = count(), time.perf_counter()
        grown = {key: after[key] - before[key] for key in after}
        rows.append({**grown, 'seconds': end_s - start_s})
        results.append(result)
        before, start_s = count(), time.perf_counter()
    return {'results': results, 'rows': rows}


def same(one: Any, other: Any) -> bool:
    """Whether two results are equal: in structure, and tensors and arrays bit for bit."""
    flat, tree = tree_flatten(one)
    others, other_tree = tree_flatten(other)
    return bool(
        tree == other_tree
        and all(_bits(each) == _bits(its) for each, its in zip(flat, others, strict=True))
    )


def _bits(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        array = value.contiguous().reshape(-1).view(torch.uint8).numpy()
        return value.dtype, tuple(value.shape), value.device.type, array.tobytes()
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape, value.tobytes()
    return type(value), repr(value)


def run_offloaded(name: str, inferences: int, mode: str, round_trip_s: float) -> Any:
    """``run`` with a session of its own, whose answers take so long."""
    from offload_ros.rrto.client import OperatorClient
    from offload_ros.rrto.executor import OperatorSession
    from offload_ros.rrto.link import Loopback
    from offload_ros.rrto.shim import install, uninstall

    client = OperatorClient(Loopback(OperatorSession, round_trip_s), mode)
    counted = client.statistics

    def count() -> dict[str, int]:
        return {
            'operators': sum(counted.kinds.values()) + counted.replayed,
            'replayed': counted.replayed,
            'reads': counted.kinds['GET'],  # single ones
            'of_unknown_shape': counted.kinds['DYN'],
            'aborts': counted.aborts,
            'blocking': counted.blocking,
            'messages': counted.messages,
            'control_bytes': counted.control_bytes,
            'payload_bytes': counted.bytes_up - counted.control_bytes,
        }

    install(client)
    try:
        return run(name, inferences, False, count)
    finally:
        uninstall()
        client.close()


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--mode', choices=('plain', 'rpc', 'pipelined', 'replay'), required=True)
    parser.add_argument('--inferences', type=int, default=5)
    parser.add_argument('--round-trip-ms', type=float, default=0.0)
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument('programs', nargs='*', help='name, or name:inferences; all if none')
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    os.environ['TRANSFORMERS_VERBOSITY'] = 'error'
    os.environ['HF_HUB_OFFLINE'] = '1'
    outcome: dict[str, Any] = {}
    for program in chosen.programs or names():
        name, _, number = program.partition(':')
        inferences = int(number or chosen.inferences)
        try:
            if chosen.mode == 'plain':
                outcome[name] = run(name, inferences, True, dict)
            else:
                round_trip_s = chosen.round_trip_ms / 1e3
                outcome[name] = run_offloaded(name, inferences, chosen.mode, round_trip_s)
        except Exception:
            outcome[name] = {'error': traceback.format_exc()}
    torch.save(outcome, chosen.out)


if __name__ == '__main__':
    main()
