"""Random profiles for hypothesis: any DAG, times and sizes over some orders of magnitude."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hypothesis import strategies as st
import numpy as np

from offload_ros.graph.profile import (
    CODING_TIMES,
    Profile,
    ProfiledOperator,
    Side,
    TransferCost,
)

DATA = Path(__file__).parents[2] / 'benchmarks' / 'data' / 'intra_dp'
NAMES = ('kapao', 'VGG19_BN', 'DenseNet121')

times_s = st.sampled_from([0.0, 0.0002, 0.001, 0.003, 0.01, 0.04])
sizes = st.sampled_from([0, 10, 400, 4000, 30_000, 100_000, 400_000])
bandwidths = st.sampled_from([0.5, 2.0, 8.0, 30.0])


@st.composite
def dags(draw, most=12, codec=False):
    """A profile of 2 to ``most`` operators; each reads any earlier ones, some are outputs."""
    count = draw(st.integers(2, most))
    inputs = draw(st.integers(1, 2)) if count > 3 else 1
    operators = []
    for place in range(count):
        is_input = place < inputs
        producers = (
            set() if is_input else draw(st.sets(st.integers(0, place - 1), min_size=1, max_size=4))
        )
        operators.append(
            {
                'id': 3 * place + 1,
                'name': f'op{place}',
                'inputs': tuple(3 * each + 1 for each in sorted(producers)),
                'width': 1,
                'output_bytes': draw(sizes),
                'robot_s': 0.0 if is_input else draw(times_s),
                'server_s': 0.0 if is_input else draw(times_s) / draw(st.sampled_from([1, 10])),
                'is_input': is_input,
                'is_output': place == count - 1 or (not is_input and draw(st.integers(0, 5)) == 0),
            }
        )
    read = {producer for each in operators for producer in each['inputs']}
    for each in operators:
        each['is_output'] |= each['id'] not in read and not each['is_input']
        if codec:
            each.update(draw(codecs(each['output_bytes'])))
    cost = TransferCost(0.0005, 1e-9) if codec and draw(st.booleans()) else TransferCost()
    return Profile(
        'random',
        tuple(ProfiledOperator(**each) for each in operators),
        Side(encode=cost),
        Side(decode=cost),
    )


@st.composite
def codecs(draw, size):
    """Fields of an operator whose output of ``size`` bytes is coded, or none."""
    if not draw(st.booleans()):
        return {}
    times = {name: draw(times_s) for name in CODING_TIMES}
    return {'codec': 'zstd', 'wire_bytes': size // draw(st.sampled_from([2, 7])), **times}


@st.composite
def split_profiles(draw, most=10, codec=False):
    """Operators with windows along a split axis of odd sizes, and barriers between them."""
    width = draw(st.integers(3, 23))
    operators = [ProfiledOperator(1, 'input', (), width, 96 * width, 0.0, 0.0, True, is_input=True)]
    for place in range(1, draw(st.integers(2, most))):
        first = operators[draw(st.integers(max(0, place - 3), place - 1))]
        kernel, stride, padding = draw(
            st.sampled_from(
                [(1, 1, 0), (3, 1, 1), (3, 2, 1), (2, 2, 0), (5, 1, 2), (1, 0.5, 0), (4, 1, 1)]
            )
        )
        barrier = draw(st.integers(0, 6)) == 0
        made = 2 * first.width if stride == 0.5 else (first.width + 2 * padding - kernel) // stride
        made = 1 if barrier else made if stride == 0.5 else made + 1
        if made < 1 or made > 60:
            kernel, stride, padding, made = 1, 1, 0, first.width
        same = [each.id for each in operators if each.width == first.width]
        others = draw(st.sets(st.sampled_from(same), max_size=2)) | {first.id}
        operators.append(
            ProfiledOperator(
                place + 1,
                f'op{place}',
                tuple(sorted(others)),
                made,
                made * draw(st.sampled_from([8, 120, 4000])),
                draw(times_s),
                draw(times_s) / 10,
                split=not barrier,
                kernel=kernel,
                stride=stride,
                padding=padding,
                is_output=False,
            )
        )
        if codec:
            coding = draw(codecs(operators[-1].output_bytes))
            operators[-1] = replace(operators[-1], **coding)
    last = operators.pop()
    return Profile('random', (*operators, _as_output(last)))


def _as_output(operator):
    fields = {name: getattr(operator, name) for name in operator.__dataclass_fields__}
    return ProfiledOperator(**{**fields, 'is_output': True})


def network_profile(seed, count, dimensions=2):
    """About ``count`` operators of a network that looks like one: stages with strides, residual or
    dense blocks or a pyramid with upsampling, and a head behind a barrier. Times follow from the
    sizes; ``dimensions``: of the grid, of which the last one is split."""
    rng = np.random.default_rng(seed)
    width = int(rng.integers(30, 50 if dimensions == 3 else 260))
    kind = ('residual', 'dense', 'pyramid')[seed % 3]
    made = []

    def add(name, producers, width, channels, work, **fields):
        cells = width**dimensions
        robot_s = cells * channels * work * 1e-9
        made.append(
            ProfiledOperator(
                5 * len(made), name, tuple(5 * each for each in producers), width,
                int(4 * cells * channels), robot_s, robot_s / float(rng.uniform(4, 25)),
                **{'split': True, **fields},
            )
        )  # fmt: skip
        return len(made) - 1

    def block(source, width, channels, stride=1):
        made_width = (width + 2 - 3) // stride + 1
        conv = add('conv', [source], made_width, channels, 40, kernel=3, stride=stride, padding=1)
        norm = add('norm', [conv], made_width, channels, 1)
        return add('relu', [norm], made_width, channels, 1), made_width

    channels = 3
    last = add('input', [], width, channels, 0, is_input=True)
    made[0] = replace(made[0], robot_s=0.0, server_s=0.0)
    stages = max(2, min(4, int(np.log2(width)) - 2))
    ends, channels = [], int(rng.integers(8, 32))
    per_stage = max(2, (count - 10) // (3 * stages + stages))
    for _ in range(stages):
        last, width = block(last, width, channels, 2)
        dense = [last]
        for _ in range(per_stage):
            new, _ = block(last, width, channels)
            if kind == 'dense':
                dense.append(new)
                last = add('cat', dense[-6:], width, channels * len(dense[-6:]), 1)
            else:
                last = add('add', [last, new], width, channels, 1)
        ends.append((last, width, channels))
        channels *= 2
    if kind == 'pyramid':
        for source, at, depth in reversed(ends[:-1]):
            if 2 * width != at:
                continue
            up = add('upsample', [last], at, depth, 1, stride=0.5)
            last, width = add('cat', [up, source], at, 2 * depth, 1), at
            last, _ = block(last, width, depth)
    pooled = add('pool', [last], 1, channels, 1, split=False)
    made[pooled] = replace(made[pooled], output_bytes=4 * channels)
    add('linear', [pooled], 1, 1000, 1000, split=False, is_output=True)
    return Profile(f'{kind}{seed}', tuple(made))
