"""What plans are for: equal where the same plans are the best, refused with one clear line."""

import json
import math

import pytest

from offload_ros.models.config import goal_of
from offload_ros.models.errors import ConfigError
from offload_ros.policy.goal import LEAST_LATENCY, Goal, Objective


def test_goals_are_equal_where_the_same_plans_are_the_best():
    assert Goal.named('latency', 0.2, 0.9) == LEAST_LATENCY == Goal()
    assert Goal.named('energy', 0.2, 0.9) == Goal.named('energy', 0.2) != LEAST_LATENCY
    assert Goal.named('weighted', 0.2, 0.9) != Goal.named('weighted', 0.2, 0.8)
    assert Goal.named('energy', 0.2) != Goal.named('energy', 0.3)
    assert Goal.named('energy', 0.2) != Goal.named('weighted', 0.2)


@pytest.mark.parametrize(
    'goal', [Goal(), Goal(Objective.ENERGY), Goal(Objective.WEIGHTED, 0.25, 0.0)]
)
def test_a_goal_comes_back_from_json(goal):
    assert Goal.from_document(json.loads(json.dumps(goal.document(), allow_nan=False))) == goal


def test_a_plan_must_be_over_before_the_robot_answers_by_itself():
    goal = Goal.named('energy')
    assert goal.before(0.5, 0.1).deadline_s == pytest.approx(0.4)
    assert goal.before(0.1, 0.5).deadline_s == pytest.approx(0.1)  # it cannot be in time anyway
    assert Goal.named('energy', 0.2).before(0.5, 0.1).deadline_s == 0.2
    assert Goal.named('energy', 0.45).before(0.5, 0.1).deadline_s == pytest.approx(0.4)
    assert LEAST_LATENCY.before(0.5, 0.1) == LEAST_LATENCY
    assert math.isinf(goal.before(math.inf, 0.1).deadline_s)


@pytest.mark.parametrize(
    ('values', 'text'),
    [
        (('speed', 0.0, 0.5), "objective 'speed' is not one of latency, energy, weighted"),
        (('', 0.0, 0.5), 'is not one of latency'),
        (('energy', -1.0, 0.5), 'objective_deadline_ms -1.0 is outside 0 to 60000'),
        (('energy', math.nan, 0.5), 'objective_deadline_ms nan is outside'),
        (('weighted', 0.0, 1.5), 'objective_weight 1.5 is outside 0 to 1'),
        (('weighted', 0.0, math.nan), 'objective_weight nan is outside'),
    ],
)
def test_what_is_no_goal_gets_one_clear_line(values, text):
    with pytest.raises(ConfigError, match=text):
        goal_of(*values)
    with pytest.raises(ValueError, match='deadline must be above 0 s'):
        Goal(Objective.ENERGY, 0.0)


def test_no_deadline_of_its_own_leaves_that_of_the_model():
    assert goal_of('energy', 0.0, 0.5) == Goal(Objective.ENERGY)
    assert goal_of('weighted', 250.0, 1.0) == Goal(Objective.WEIGHTED, 0.25, 1.0)
    assert [str(goal_of(name, 250.0, 0.25)) for name in ('latency', 'energy', 'weighted')] == [
        'least latency', 'least energy within 250 ms', '0.25 latency, 0.75 energy within 250 ms',
    ]  # fmt: skip
