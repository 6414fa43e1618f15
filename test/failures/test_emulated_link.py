"""The link that a manager emulates while it runs: narrow, long, lossy, recorded, one way only.

How it is cut: test_link_faults.py.
"""

from __future__ import annotations

from collections.abc import Iterator
import itertools
from pathlib import Path
import statistics
from typing import Any

import numpy as np
from promise import emulated
import pytest
from rig import FOREIGN, Rig, Robot, mostly_by_server, pair_in
from sensor_msgs.msg import Image
from system import Process, answer_to, image_message, outputs_of, random_pixels, until

SHAPE = (200, 300)
SIZE = SHAPE[0] * SHAPE[1] * 3  # bytes; random, so that no codec makes them less
MBIT = 5.0
stamps = itertools.count(FOREIGN)
Pair = tuple[Robot, Process, Process]


@pytest.fixture(scope='module')
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with pair_in(tmp_path_factory.mktemp('link')) as made:
        made[0].ready()
        yield made


def large_frames(robot: Robot, count: int = 5) -> list[Any]:
    """Send ``count`` large frames, one after the other; their results, which are right."""
    results = robot.rig.listener.results('probe')
    publisher = robot.rig.listener.publisher(Image, 'cam')
    until(publisher.get_subscription_count, 'the manager subscribes')
    answers = []
    for seed in range(count):
        pixels = random_pixels(seed, *SHAPE)
        message = image_message(pixels, next(stamps))
        result = answer_to(publisher.publish, message, results)
        np.testing.assert_allclose(outputs_of(result)['mean'], pixels.mean(), rtol=1e-12)
        answers.append(result)
    robot.rig.listener.destroy(publisher)
    return answers


def test_bandwidth_shows_in_the_uplink_time(pair: Pair) -> None:
    robot, *_ = pair
    plain_s = statistics.median(r.uplink_s for r in large_frames(robot))
    with emulated(robot, bandwidth_mbps=MBIT):
        slow = large_frames(robot)
        mostly_by_server(slow)
    slow_s = statistics.median(r.uplink_s for r in slow)
    at_least_s = SIZE * 8e-6 / MBIT
    print(
        f'uplink of {SIZE} bytes: {plain_s:.4f} s; at {MBIT} Mbit/s {slow_s:.4f} s '
        f'({at_least_s:.4f})'
    )
    assert plain_s < at_least_s / 2
    assert 0.95 * at_least_s < slow_s < 5.0 * at_least_s
    again_s = statistics.median(r.uplink_s for r in large_frames(robot))
    assert again_s < at_least_s / 2, 'the link is as it is again'


def test_delay_shows_in_the_round_trip_both_ways(pair: Pair) -> None:
    robot, *_ = pair
    with emulated(robot, delay_ms=60.0):
        results = [r for r in robot.play(20, 5.0) if r.strategy_used == 'server']
        assert len(results) > 10
        link_s = statistics.median(r.uplink_s + r.downlink_s for r in results)
        print(f'60 ms each way: {link_s:.3f} s on the link')
        assert 0.12 < link_s < 0.6


def test_no_result_is_lost_or_wrong_on_a_lossy_link(pair: Pair) -> None:
    robot, *_ = pair
    with emulated(robot, loss=0.1, delay_ms=5.0):
        mostly_by_server(robot.play(100, 30.0), share=0.1)
        mostly_by_server(large_frames(robot), share=0.2)
    robot.settle()


def test_trace_is_replayed(pair: Pair, tmp_path: Path) -> None:
    robot, *_ = pair
    trace = tmp_path / 'trace.csv'
    trace.write_text('# nearly gone now and then\nseconds,mbit\n0,400\n0.2,10\n0.6,400\n')
    with emulated(robot, trace=str(trace)):
        times = [r.uplink_s for r in large_frames(robot, 40)]
    print(f'on a trace: {min(times):.3f} to {max(times):.3f} s')
    assert min(times) < 0.03
    assert max(times) > 0.06


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        (None, 'cannot be read: No such file'),
        (b'', 'at least one row'),
        (b'0,10\nx,y\n', "row 2: two numbers are needed, time in s and rate in Mbit/s, not 'x,y'"),
        (b'0,10\n0,20\n', 'row 2: time 0.0 s does not come after 0.0 s'),
        (b'0,10\n1,-5\n', 'row 2: a rate must be 0 Mbit/s or more, not -5.0'),
        (b'0,10\n1,nan\n', 'a rate must be 0 Mbit/s or more, not nan'),
        (b'0,0\n1,0\n', 'some rate is above 0'),
        (b'0,10\n\xff\xfe\n', 'is not usable'),
        (b'0,' + b'1' * 200_000, 'is not usable'),
    ],
    ids=['missing', 'empty', 'words', 'time_stands', 'negative', 'nan', 'never', 'binary', 'long'],
)
def test_bad_trace_is_refused_with_the_reason_and_changes_nothing(
    pair: Pair, tmp_path: Path, content: bytes | None, reason: str
) -> None:
    robot, *_ = pair
    trace = tmp_path / 'trace.csv'
    if content is not None:
        trace.write_bytes(content)
    (refusal,) = robot.rig.set_parameters(robot.name, link__emulate__trace=str(trace))
    assert refusal.startswith('link.emulate: ')
    assert reason in refusal
    robot.served(frames=20)


def test_one_way_leaves_the_other_as_it_is(pair: Pair) -> None:
    robot, *_ = pair
    for direction in ('up', 'down'):
        with emulated(robot, delay_ms=80.0, direction=direction):
            played = [r for r in robot.play(20, 5.0) if r.header.stamp.sec < FOREIGN]
        results = robot.by_server('', played)
        assert len(results) > 10
        link_s = statistics.median(r.uplink_s + r.downlink_s for r in results)
        print(f'80 ms {direction} only: {link_s:.3f} s on the link')
        assert 0.08 < link_s < 0.15


def test_values_that_no_link_has_are_refused(pair: Pair) -> None:
    robot, *_ = pair
    for name, value in (('loss', 1.5), ('delay_ms', -1.0), ('bandwidth_mbps', -1.0)):
        (refusal,) = robot.rig.set_parameters(robot.name, **{f'link__emulate__{name}': value})
        assert 'range' in refusal
    (refusal,) = robot.rig.set_parameters(robot.name, link__emulate__direction='left')
    assert refusal == "link.emulate: direction is one of both, up, down, not 'left'"
    robot.served(frames=20)


def test_bad_trace_at_start_is_one_line(pair: Pair, tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    try:
        manager = rig.manager(**{'link.emulate.trace': tmp_path / 'none.csv'})
        assert manager.ended() == 1
        errors = [line for line in manager.output.splitlines() if line.startswith('error: ')]
        assert len(errors) == 1
        assert 'none.csv cannot be read: No such file' in errors[0]
        assert 'Traceback' not in manager.output
    finally:
        manager.told_to_end = True
        rig.close()
