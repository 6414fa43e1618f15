"""How benchmarks/tracking.py judges a run."""

import math
from pathlib import Path
import sys

import numpy as np
import pytest
import yaml

pytest.importorskip('mujoco')
sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks.tracking_score import Moment, occluded, score, together
from offload_ros.nodes.world_parameters import SETTINGS, world_config
from offload_ros.sim import World

PLAN = yaml.safe_load(
    (Path(__file__).resolve().parents[2] / 'benchmarks' / 'data' / 'tracking.yaml').read_text()
)


@pytest.fixture(scope='module')
def world():
    values = {name: each.default for name, each in SETTINGS.items()}
    values |= {**PLAN['world'], 'object_count': 0, **PLAN['runs'][0]}
    with World(PLAN['runs'][0]['seed'], world_config(values)) as found:
        yield found


def keypoints(at):
    """Seventeen points of a body that stands there."""
    return np.array([(at[0], at[1], 0.2 + 0.09 * index) for index in range(17)])


def moment(
    time_s, believed, unseen_s=0.1, mode='following', blocked=False, other=(0.0, 1.5), at=(1.0, 0.0)
):
    people = np.array([at, other])
    return Moment(
        time_s, (-1.5, 0.0, 0.0), people, np.stack([keypoints(p) for p in people]), blocked, mode,
        believed, unseen_s, 8.0,
    )  # fmt: skip


def test_error_distance_and_collisions_of_a_run(world):
    moments = [moment(0.1 * i, (1.0, 0.3 if i % 2 else 0.1)) for i in range(100)]
    moments[40:43] = [moment(4.0, (1.0, 0.1), blocked=True)] * 3
    moments[60] = moment(6.0, (1.0, 0.1), blocked=True)
    got = score(moments, world)
    assert got['rms_position_error_m'] == pytest.approx(math.sqrt((0.3**2 + 0.1**2) / 2), abs=0.01)
    assert got['kept_share'] == 1.0 and got['distance_m'][1] == pytest.approx(2.5)
    assert got['collisions'] == 2 and got['lost_s_max'] <= 0.4 and got['other_person_share'] == 0
    assert got['seconds'] == 10.0 and got['result_hz'] == 8.0


def test_a_loss_counts_unless_the_person_is_hidden(world):
    seen = [moment(0.1 * i, (1.0, 0.0)) for i in range(10)]
    lost = [moment(1 + 0.1 * i, (1.0, 0.0), unseen_s=0.3 + 0.1 * i) for i in range(30)]
    # From the image of 0.8 s to the end.
    assert score(seen + lost, world)['lost_s_max'] == pytest.approx(3.1)
    # Behind the wall of the room.
    wall = [
        moment(1 + 0.1 * i, (30.0, 0.0), unseen_s=0.3 + 0.1 * i, at=(30.0, 0.0)) for i in range(30)
    ]
    assert occluded(world, wall[0], 0) and not occluded(world, lost[0], 0)
    got = score(seen + wall, world)
    assert got['lost_s_max'] == pytest.approx(0.1) and got['hidden_s'] == pytest.approx(3.0)


def test_results_that_are_slow_but_steady_lose_nobody(world):
    # Twice a second, half a second late.
    slow = [moment(0.1 * i, (1.0, 0.0), unseen_s=0.5 + 0.1 * (i % 5)) for i in range(100)]
    assert score(slow, world)['lost_s_max'] == pytest.approx(0.9, abs=0.11)


def test_somebody_else_taken_for_the_person_is_told(world):
    right = [moment(0.1 * i, (1.0, 0.0)) for i in range(10)]
    wrong = [moment(1 + 0.1 * i, (0.0, 1.5)) for i in range(10)]
    got = score(right + wrong, world)
    assert got['other_person_share'] == 0.5 and got['lost_s_max'] == pytest.approx(1.1)
    assert score([moment(0.0, None, mode='waiting')], world) == {'followed': False}


def test_runs_together_keep_the_worst_loss():
    one = {
        'followed': True, 'seconds': 10.0, 'rms_position_error_m': 0.1, 'lost_s_max': 1.0,
        'kept_share': 0.9, 'collisions': 0, 'result_hz': 9.0, 'following_share': 1.0,
        'other_person_share': 0.0,
    }  # fmt: skip
    other = {**one, 'seconds': 30.0, 'rms_position_error_m': 0.3, 'lost_s_max': 4.0}
    got = together([one, other, {'followed': False}])
    assert got['rms_position_error_m'] == pytest.approx(math.sqrt((0.01 + 3 * 0.09) / 4))
    assert got['lost_s_max'] == 4.0 and got['followed'] == 2 and got['runs'] == 3
    assert together([{'followed': False}]) == {'runs': 1, 'followed': 0}
