"""Codecs measured on the tensors of a graph, and plans that lie before a cast."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from offload_ros.baselines.problem import Problem, Subject
from offload_ros.cuts.value_codecs import code_named
from offload_ros.cuts.values import HEAD_BYTES, value_to_buffers
from offload_ros.graph.classify import classify
from offload_ros.graph.coding_walk import (
    CodingSample,
    CodingWalk,
    merged_codings,
)
from offload_ros.graph.codings import uncoded
from offload_ros.graph.execute import Executor
from offload_ros.graph.graph import Input, Value
from offload_ros.graph.measure import NodeTimes, profile_of
from offload_ros.graph.methods import find_method
from offload_ros.graph.profile import Coding
from offload_ros.graph.schedule import Link

from .scenes import scene


@cache
def samples():
    inputs, graph, parameters = scene()
    walk = CodingWalk(Executor(graph, parameters), inputs)
    found = walk.inputs()
    for node in range(len(graph.nodes)):
        found += walk.next_node(node)
    return found


def profiled(dtype=torch.uint8, times=(0.01, 0.0005), codings=True):
    """The scene's network, each operator taking so many seconds on robot and server."""
    _, graph, _ = scene(dtype)
    sides = [
        NodeTimes({node.id: each for node in graph.nodes}, each * len(graph.nodes))
        for each in times
    ]
    found = merged_codings(samples(), samples()) if codings else {}
    return profile_of(graph, classify(graph), *sides, codings=found)


def operators_called(graph, text):
    return [node.id for node in graph.nodes if text in node.operator]


def test_sizes_are_those_that_cross():
    inputs, graph, parameters = scene()
    executor = Executor(graph, parameters)
    wanted = [Value(node.id) for node in graph.nodes]
    given = {Input('voxels'): inputs['voxels']}
    values = given | executor.run(given, range(len(graph.nodes)), wanted)
    references = {-1: Input('voxels')} | {node.id: Value(node.id) for node in graph.nodes}
    assert {each.operator for each in samples()} >= {-1, graph.nodes[-1].id}
    for each in samples():
        reference = references[each.operator]
        spec = graph.spec_of(reference)
        buffers = value_to_buffers(spec, values[reference], code_named(each.codec))
        assert sum(map(len, buffers)) == HEAD_BYTES + each.wire_bytes
        assert each.encode_s > 0.0 and each.decode_s > 0.0


def test_voxels_shrink_to_bits_and_labels_to_less_than_bytes():
    _, graph, _ = scene()
    sizes = {(each.operator, each.codec): each.wire_bytes for each in samples()}
    count = 9 * 47 * 53
    assert sizes[-1, 'bits'] == -(-count // 8)
    assert sizes[-1, 'bits+zstd'] < count / 20
    labels = graph.nodes[-1].id
    assert sizes[labels, 'narrow'] == 47 * 53 * 9
    assert sizes[labels, 'narrow+zstd'] < 47 * 53 * 9 / 2


def test_both_machines_measurements_become_the_codings_that_nothing_beats():
    robot = [
        CodingSample(4, 'bits', 100, 0.001, 0.001),
        CodingSample(4, 'zstd', 50, 0.01, 0.005),
        CodingSample(4, 'lz4', 120, 0.02, 0.01),
        CodingSample(5, 'zstd', 9, 1.0, 1.0),
    ]
    server = [
        CodingSample(4, 'zstd', 51, 0.002, 0.001),
        CodingSample(4, 'bits', 100, 0.0002, 0.0003),
        CodingSample(4, 'lz4', 120, 0.02, 0.01),
    ]
    assert merged_codings(robot, server) == {
        4: (
            Coding('bits', 100, 0.001, 0.0002, 0.001, 0.0003),
            Coding('zstd', 50, 0.01, 0.002, 0.005, 0.001),
        )
    }


def test_a_profile_holds_the_codings_of_its_tensors():
    profile = profiled()
    assert {each.id for each in profile.operators if each.codings} >= {-1}
    assert profile.operators[0].output_bytes == 9 * 47 * 53
    assert uncoded(profile) == profiled(codings=False)


@pytest.mark.parametrize('method', ['layer_cut', 'dsccs', 'mcop', 'server'])
@pytest.mark.parametrize('dtype', [torch.uint8, torch.bool], ids=str)
def test_a_plan_lies_before_the_cast_that_makes_the_input_four_times_as_large(method, dtype):
    _, graph, _ = scene(dtype)
    (cast,) = operators_called(graph, '_to_copy')
    profile = profiled(dtype, codings=False)
    raw = profile.operators[0].output_bytes
    assert next(each for each in profile.operators if each.id == cast).output_bytes == 4 * raw
    # So much that the cast alone, on the robot, takes longer than its input on the link.
    problem = Problem(Subject(profile), Link(4e6, 4e6, 0.001, 1.0))
    plan = find_method(method)[1](problem)
    assert plan.on_server[profile.positions[cast]]
    schedule = problem.subject.evaluator.schedule(plan, problem.link)
    assert schedule.uplink_bytes == raw


def test_on_a_slow_link_the_same_plan_sends_bits_or_less():
    problem = Problem(Subject(profiled()), Link(0.1e6, 0.1e6, 0.001, 1.0))
    plan = find_method('layer_cut')[1](problem)
    schedule = problem.subject.evaluator.schedule(plan, problem.link)
    assert 0 < schedule.uplink_bytes <= 9 * 47 * 53 / 8 + 1
