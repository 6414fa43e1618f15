"""Allocation of second rounds: exact against brute force, and never over the budget."""

import itertools
import json
import math

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from offload_ros.amot.allocation import (
    Distributions,
    DistributionsError,
    StreamBudget,
    allocate,
    read_all,
    write_all,
)


@st.composite
def problems(draw):
    intervals = draw(st.integers(1, 4))
    steps = draw(st.lists(st.integers(1, 5), max_size=4))
    options = [0, *itertools.accumulate(steps)]
    whole = st.integers(0, 8)
    rows = [[draw(whole) for _ in options] for _ in range(intervals)]
    p = np.array([[each / max(1, sum(row)) for each in row] for row in rows])
    counts = [draw(st.integers(0, 6)) for _ in range(intervals)]
    budget = draw(st.integers(0, 120))
    return p, options, counts, budget, draw(st.booleans())


def value_of(p, counts, weighted, chosen):
    weights = counts if weighted else [1] * len(counts)
    return sum(
        w * p[k, : x + 1].sum() for k, (x, w) in enumerate(zip(chosen, weights, strict=True))
    )


def cost_of(options, counts, chosen):
    return sum(options[x] * d for x, d in zip(chosen, counts, strict=True))


@given(problems())
@settings(max_examples=150, deadline=None)
def test_allocation_is_the_best_of_all_within_the_budget(problem):
    p, options, counts, budget, weighted = problem
    chosen = allocate(p, options, counts, budget, weighted)
    assert cost_of(options, counts, chosen) <= budget
    allowed = [
        each
        for each in itertools.product(range(len(options)), repeat=len(counts))
        if cost_of(options, counts, each) <= budget
    ]
    best = max(value_of(p, counts, weighted, each) for each in allowed)
    assert value_of(p, counts, weighted, chosen) == pytest.approx(best, abs=1e-9)


def test_printed_objective_ignores_how_many_images_an_interval_has():
    p = np.array([[0.0, 0.5], [0.0, 0.4]])
    # Interval 0 has one image, interval 1 has three; there is room for three rounds.
    assert allocate(p, [0, 1], [1, 3], 3, weighted=False) == [1, 0]
    assert allocate(p, [0, 1], [1, 3], 3, weighted=True) == [0, 1]


def test_a_gain_of_nothing_costs_nothing():
    assert allocate([[0.9, 0.0, 0.0]], [0, 3, 6], [10], 1000, weighted=True) == [0]


def test_a_batch_of_two_thousand_images_is_solved_exactly():
    rng = np.random.default_rng(3)
    p = rng.dirichlet(np.ones(9), 12)
    counts = rng.integers(60, 260, 12)
    options = [0, 3, 6, 9, 12, 16, 19, 22, 25]
    chosen = allocate(p, options, counts, 12_800, weighted=True)
    assert 12_000 < cost_of(options, counts, chosen) <= 12_800


@pytest.mark.parametrize('budget', [-1, math.nan])
def test_a_budget_below_nothing_is_refused(budget):
    with pytest.raises(ValueError, match='at least 0'):
        allocate([[0.5, 0.5]], [0, 1], [1], budget, True)


def test_options_and_table_must_fit():
    with pytest.raises(ValueError, match='intervals, options'):
        allocate([[0.5, 0.5]], [0, 1, 2], [1], 5, True)
    with pytest.raises(ValueError, match='first option is 0'):
        allocate([[0.5, 0.5]], [1, 2], [1], 5, True)


def some(intervals=3, first_ratio=0.3, seed=0):
    rng = np.random.default_rng(seed)
    options = (0, 2, 4, 8)
    p = rng.dirichlet(np.ones(len(options) + 1), intervals)[:, :-1]
    edges = tuple(np.linspace(0, 1, intervals + 1).tolist())
    return Distributions(first_ratio, edges, options, p, (5, 10, 15)[:intervals])


@st.composite
def streams(draw):
    images = draw(st.lists(st.tuples(st.floats(0, 1), st.floats(-4, 12)), max_size=60))
    mean = draw(st.floats(0, 6))
    fixed = draw(st.booleans())
    return [(confidence, mean if fixed else granted) for confidence, granted in images]


@given(streams(), st.integers(8, 40), st.booleans(), st.integers(0, 20))
@settings(max_examples=60, deadline=None)
def test_a_stream_never_spends_more_than_was_granted(stream, burst, weighted, seed):
    budget = StreamBudget(some(seed=seed), burst, confidence=0.8, weighted=weighted, window=16)
    granted, spent = [], []
    for confidence, grant in stream:
        got = budget.choose(confidence, grant)
        assert got in (0, 2, 4, 8)
        assert got == 0 or confidence < 0.8
        granted.append(grant)
        spent.append(got)
        # First rounds that took more than there was are no licence: sums of what was spent since
        # anywhere are at most what was granted since, and what the bucket could hold before.
        for begin in range(len(spent)):
            held = burst if begin else 0
            if any(spent[begin:]) and all(g >= 0 for g in granted):
                assert sum(spent[begin:]) <= held + sum(granted[begin:]) + 1e-6
    if stream and all(g >= 0 for g in granted):
        assert sum(spent) <= sum(granted) + 1e-6


def test_a_stream_spends_what_it_is_granted_where_it_matters():
    p = np.array([[0.1, 0.1, 0.3, 0.3], [0.5, 0.2, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    distributions = Distributions(0.3, (0.0, 0.4, 0.8, 1.0), (0, 2, 4, 8), p, (10, 10, 30))
    budget = StreamBudget(distributions)
    rng = np.random.default_rng(5)
    spent = {0: [], 1: [], 2: []}
    for _ in range(2000):
        confidence = float(rng.choice([0.2, 0.6, 0.9], p=[0.2, 0.2, 0.6]))
        spent[distributions.interval(confidence)].append(budget.choose(confidence, 1.5))
    assert not any(spent[2])
    assert np.mean(spent[0]) > 5  # worth most there
    total = sum(map(sum, spent.values()))
    assert 0.9 * 3000 <= total <= 3000


def test_a_stream_whose_first_rounds_take_all_gets_nothing_until_it_is_paid():
    budget = StreamBudget(some(), burst=8)
    assert budget.choose(0.1, -20.0) == 0
    assert budget.choose(0.1, 19.0) == 0
    assert budget.level == pytest.approx(-1.0)


def test_a_burst_below_one_image_is_refused():
    with pytest.raises(ValueError, match='greatest option, 8'):
        StreamBudget(some(), burst=7)


def test_distributions_are_read_as_they_were_written(tmp_path):
    path = tmp_path / 'distributions.json'
    write_all(path, [some(first_ratio=0.1), some(first_ratio=0.4, seed=1)])
    first, second = read_all(path)
    assert first.first_ratio == 0.1 and first.options == (0, 2, 4, 8)
    np.testing.assert_allclose(second.p, some(seed=1).p, atol=1e-6)
    assert Distributions.read(path, 0.33).first_ratio == 0.4
    some().write(path)
    assert Distributions.read(path).counts == (5, 10, 15)


@pytest.mark.parametrize(
    ('change', 'text'),
    [
        (lambda c: c.update(version=0), 'calibrate again'),
        (lambda c: c['distributions'].clear(), 'nothing in it'),
        (lambda c: c['distributions'][0].update(edges=[0, 0.5, 0.4, 1]), 'ascend from 0 to 1'),
        (lambda c: c['distributions'][0].update(options=[1, 2, 4, 8]), 'options ascend from 0'),
        (lambda c: c['distributions'][0].update(p=[[0.1, 0.2]]), 'p has 3 rows'),
        (lambda c: c['distributions'][0].update(p=[[0.5] * 4] * 3), 'at most 1 together'),
        (lambda c: c['distributions'][0].update(counts=['a', 1, 2]), 'no whole number'),
        (lambda c: c['distributions'][0].pop('p'), 'an object with'),
    ],
)
def test_a_broken_file_is_refused_with_its_reason(tmp_path, change, text):
    path = tmp_path / 'distributions.json'
    some().write(path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(DistributionsError, match=text):
        read_all(path)


def test_intervals_hold_their_lower_edge():
    distributions = some()
    assert [distributions.interval(c) for c in (0.0, 0.33, 0.34, 0.67, 1.0)] == [0, 0, 1, 2, 2]
    assert distributions.histogram([0.0, 0.1, 0.5, 1.0]).tolist() == [2, 1, 1]


def test_net_gains_sum_to_what_is_correct():
    correct = np.array([[0.5, 0.4, 0.6]])
    p = np.array([[0.5, 0.1, 0.2]])
    distributions = Distributions(0.3, (0.0, 1.0), (0, 2, 4), p, (7,), correct)
    np.testing.assert_allclose(distributions.net().cumsum(1), correct)
    # What is lost again at option 1 makes it worth nothing.
    assert allocate(distributions.net(), (0, 2, 4), [1], 3, True) == [0]
    assert allocate(distributions.p, (0, 2, 4), [1], 3, True) == [1]
