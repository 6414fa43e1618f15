"""A strategy that cannot run a model, asked for by parameter: refused with those that can."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rig import Robot, pair_in
from system import Process

# Of a model that is no classifier, has no layers to cut, and was not profiled.
ADMISSIBLE = ['auto', 'device', 'fleet', 'rrto', 'server']

Pair = tuple[Robot, Process, Process]


@pytest.fixture(scope='module')
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with pair_in(tmp_path_factory.mktemp('refused')) as made:
        made[0].ready()
        yield made


@pytest.mark.parametrize(
    'strategy', ['teleport', 'amot', 'intra_dp', 'dsccs', 'os:getcwd', 'nowhere:Strategy', '']
)
def test_refusal_names_those_that_can_run_the_model(pair: Pair, strategy: str) -> None:
    """And frames go on as before."""
    robot, *_ = pair
    (refusal,) = robot.rig.set_parameters(robot.name, probe__strategy=strategy)
    print(refusal)
    assert refusal.startswith("model 'probe': ")
    assert refusal.endswith(f'; admissible: {", ".join(ADMISSIBLE)}')
    robot.served(frames=20)


def test_those_that_are_named_are_taken(pair: Pair) -> None:
    robot, *_ = pair
    for strategy in (*ADMISSIBLE, 'server'):
        assert not robot.rig.set_parameters(robot.name, probe__strategy=strategy)
        assert robot.flush().strategy_requested == strategy
    robot.served()
    robot.settle()


def test_unknown_one_is_refused_while_the_model_is_not_loaded(pair: Pair) -> None:
    """It would otherwise be found out when the model is loaded again, and fail that."""
    robot, *_ = pair
    assert not robot.rig.set_parameters(robot.name, probe__loaded=False)
    (refusal,) = robot.rig.set_parameters(robot.name, probe__strategy='teleport')
    assert refusal.startswith("there is no strategy 'teleport'; there are amot, auto, device")
    assert not robot.rig.set_parameters(robot.name, probe__loaded=True)
    robot.ready()
    robot.served()
