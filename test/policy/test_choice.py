"""Models of one robot choose together: for what each is for, and without crowding each other."""

import itertools
import math

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from offload_ros.policy.choice import Board, Wish, loaded, score
from offload_ros.policy.expectation import Expectation
from offload_ros.policy.goal import LEAST_LATENCY, Goal

from ..draws import examples


def taking(latency_s, robot=0.0, up=0.0, server=0.0, energy_j=1.0, **more):
    values = {'accuracy': math.nan, 'late_s': latency_s, 'bytes_up': 0.0, **more}
    return Expectation(
        latency_s, values['late_s'], energy_j, values['accuracy'],
        (robot, up, server, 0.0), values['bytes_up'],
    )  # fmt: skip


def wish(options, rate_hz=10.0, goal=LEAST_LATENCY, deadline_s=1.0, **more):
    return Wish(rate_hz, options, goal, deadline_s, **more)


SENDING = {'server': taking(0.07, up=0.06), 'device': taking(0.09, robot=0.08)}


def test_one_model_gets_what_is_fastest():
    name, beside = Board().choose('m', wish(SENDING))
    assert name == 'server'
    assert beside == SENDING  # nobody else is there


def test_models_that_would_crowd_the_link_share_link_and_robot():
    board = Board()
    board.choose('a', wish(SENDING))
    second, _ = board.choose('b', wish(SENDING))
    first, beside = board.choose('a', wish(SENDING))
    assert {first, second} == {'server', 'device'}
    if second == 'server':
        assert beside['server'].latency_s > 0.1  # it would wait for the other's bytes
    board.forget('b')
    assert board.choose('a', wish(SENDING))[0] == 'server'


def test_models_without_frames_take_nothing():
    board = Board()
    board.choose('a', wish(SENDING, at_s=0.0))
    assert board.choose('b', wish(SENDING, at_s=1.0))[1]['server'].latency_s > 0.07
    assert board.choose('b', wish(SENDING, at_s=10.0)) == ('server', SENDING)


def test_waiting_is_that_of_a_queue_and_a_model_does_not_wait_for_itself():
    busy = taking(0.1, server=0.05)
    found, missing = loaded({'a': (wish({}, 10.0), busy), 'b': (wish({}, 4.0), busy)})
    assert found['a'].latency_s == pytest.approx(0.1 + 0.05 * 0.2 / 0.8)
    assert found['b'].latency_s == pytest.approx(0.1 + 0.05 * 0.5 / 0.5)
    assert missing == 0.0
    assert loaded({'a': (wish({}, 30.0), busy)})[1] == pytest.approx(0.5)


def test_least_energy_in_time_and_else_the_fastest():
    options = {
        'server': taking(0.3, energy_j=0.5),
        'split': taking(0.1, energy_j=1.0),
        'device': taking(0.2, energy_j=3.0),
    }
    for limit_s, best in ((1.0, 'server'), (0.15, 'split'), (0.05, 'split')):
        goal = Goal.named('energy', limit_s)
        assert Board().choose('m', wish(options, goal=goal))[0] == best
    # As bad as the link may be, it must be in time.
    unsure = {**options, 'server': taking(0.3, energy_j=0.5, late_s=2.0)}
    assert Board().choose('m', wish(unsure, goal=Goal.named('energy', 1.0)))[0] == 'split'


def test_weighted_goals_lie_between():
    options = {'server': taking(0.2, energy_j=0.5), 'device': taking(0.1, energy_j=2.0)}
    for weight, best in ((0.0, 'server'), (0.2, 'server'), (0.9, 'device'), (1.0, 'device')):
        goal = Goal.named('weighted', 1.0, weight)
        assert Board().choose('m', wish(options, goal=goal))[0] == best, weight


def test_most_accuracy_within_traffic_and_deadline():
    options = {
        'server': taking(0.1, bytes_up=1000.0),
        'amot': taking(0.1, bytes_up=200.0, accuracy=0.9),
        'device': taking(2.0, robot=2.0),
    }
    goal = Goal.named('accuracy')
    for budget, deadline_s, best in (
        (2000.0, 1.0, 'server'), (400.0, 1.0, 'amot'), (400.0, 5.0, 'device')
    ):  # fmt: skip
        asked = wish(options, 0.1, goal, deadline_s, budget_bytes=budget)
        assert Board().choose('m', asked)[0] == best


options_of = st.dictionaries(
    st.sampled_from(['device', 'server', 'split']),
    st.builds(
        lambda t, r, u, s: taking(t, robot=r * t, up=u * t, server=s * t),
        st.floats(0.001, 1.0), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1),
    ),
    min_size=1,
)  # fmt: skip


@given(st.lists(st.tuples(options_of, st.floats(0.1, 30.0)), min_size=1, max_size=3))
@settings(max_examples=examples(60, 1000), deadline=None)
def test_no_other_combination_is_worth_more(models):
    board, wishes = Board(), {}
    for number, (options, rate_hz) in enumerate(models):
        wishes[f'm{number}'] = wish(options, rate_hz)
        chosen, _ = board.choose(f'm{number}', wishes[f'm{number}'])
    names = list(wishes)

    def worth(combination):
        picked = {n: (wishes[n], wishes[n].options[o]) for n, o in zip(names, combination)}  # noqa: B905
        beside, missing = loaded(picked)
        return 10.0 * missing + sum(
            beside[n].latency_s / max(min(e.latency_s for e in wishes[n].options.values()), 1e-6)
            for n in names
        )

    every = list(itertools.product(*(list(wishes[n].options) for n in names)))
    best = min(worth(each) for each in every)
    assert any(worth(each) <= best * (1 + 1e-9) and each[-1] == chosen for each in every)


def test_many_models_are_chosen_for_one_at_a_time():
    board = Board()
    options = {name: taking(0.01 + 0.001 * k) for k, name in enumerate('abcdefgh')}
    for number in range(12):
        assert board.choose(f'm{number}', wish(options))[0] == 'a'


def test_scores_are_comparable_within_a_goal_only_where_limits_hold():
    late = taking(0.5, energy_j=0.1)
    goal = Goal.named('energy', 0.2)
    assert score(wish({}, goal=goal), late, None) > score(wish({}, goal=goal), taking(0.1), None)
