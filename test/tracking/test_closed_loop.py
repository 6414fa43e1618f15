"""The whole of tracking and following in a flat room, without pictures."""

import numpy as np
import pytest

pytest.importorskip('mujoco')  # of offload_ros.sim, whose robot and walker are used

from .flat_world import FlatConfig, FlatWorld


@pytest.mark.parametrize('seed', [101, 103])
def test_robot_follows_a_walking_person(seed):
    world = FlatWorld(seed)
    record = world.run(30.0)
    print(
        f'seed {seed}: rms {record.rms_m():.3f} m, kept {record.kept():.2f}, '
        f'longest loss {record.longest_loss_s(0.1):.1f} s, '
        f'{1e3 * np.median(record.command_s):.1f} ms of CPU a command'
    )
    assert record.collisions == 0
    assert record.closest_m > 0
    assert record.rms_m() <= 0.25
    assert record.kept() >= 0.6
    assert record.longest_loss_s(0.1) <= 6.0
    assert np.isfinite(record.error_m).mean() > 0.6
    speeds = np.abs(np.array(record.speeds)).max(0)
    assert speeds[0] <= 1.2 + 1e-9
    assert speeds[1] <= 2.0 + 1e-9


def test_robot_keeps_to_its_person_among_two():
    world = FlatWorld(7, FlatConfig(people=2, boxes=3))
    record = world.run(25.0)
    assert record.collisions == 0
    whom = [each for each in record.whom if each >= 0]
    assert len(whom) > 60
    # The first seconds choose somebody; whoever it is stays the target.
    assert len(set(whom)) == 1
