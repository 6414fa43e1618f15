"""Random partitions of a graph, and the check that they compute what the whole graph computes."""

from __future__ import annotations

import random

import torch

from offload_ros.graph.classify import SplitGraph
from offload_ros.graph.execute import Executor
from offload_ros.graph.local import Kind
from offload_ros.graph.partition import Partition, shares_at
from offload_ros.graph.partition_run import run_partition

from .operator_cases import close

EVERYTHING = 10**6


def random_partition(split: SplitGraph, seed: int) -> Partition:
    """Two or three parts; each operator is cut anew, near the last cut or anywhere; all halo modes;
    parts that own nothing; parts in any order along the axis."""
    draw = random.Random(seed)
    parts = draw.choice((2, 2, 2, 3))
    shares, owners, halo_rows = {}, {}, {}
    drift = draw.choice((0.0, 0.05, 0.5, 1.0))
    cuts = sorted(draw.random() for _ in range(parts - 1))
    halos = draw.choice(([0], [1], [EVERYTHING], [0, 1, 2, 5, EVERYTHING]))
    order = list(range(parts))
    draw.shuffle(order)
    for node in split.graph.nodes:
        operator = split.operators.get(node.id)
        if split.kinds[node.id] is Kind.CONSTANT:
            continue
        if operator is None or draw.random() < 0.05:
            owners[node.id] = draw.randrange(parts)
            continue
        cuts = sorted(min(1.0, max(0.0, cut + drift * draw.uniform(-1, 1))) for cut in cuts)
        points = [round(cut * operator.extent) for cut in cuts]
        along = shares_at(points, operator.extent)
        shares[node.id] = tuple(along[order[part]] for part in range(parts))
        halo_rows[node.id] = draw.choice(halos)
    inputs = {name: draw.randrange(parts) for name in split.graph.inputs}
    return Partition(parts, shares, owners, halo_rows, inputs, draw.randrange(parts))


def check_partition(split: SplitGraph, parameters, inputs, partition: Partition) -> None:
    """Outputs of the parts equal those of the whole graph."""
    whole = Executor(split.graph, parameters)(inputs)
    parted = run_partition(split, parameters, inputs, partition)
    assert parted.keys() == whole.keys()
    for name, expected in whole.items():
        assert isinstance(expected, torch.Tensor)
        close(parted[name], expected, exact=False)
