"""For any operator and any interval: slices equal the whole, from exactly what they ask for."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
import pytest

from .operator_cases import (
    adaptive_pools,
    check,
    convolutions,
    cut_cases,
    paddings,
    pools,
    transposed_convolutions,
    upsamplings,
)
from .row_cases import arrangements, elementwise_cases, products, row_operators

FAMILIES = {
    'convolutions': (convolutions, 3000),
    'transposed convolutions': (transposed_convolutions, 2500),
    'pools': (pools, 2000),
    'adaptive pools': (adaptive_pools, 1000),
    'upsamplings': (upsamplings, 2500),
    'paddings': (paddings, 1500),
    'element-wise': (elementwise_cases, 1000),
    'products': (products, 1500),
    'row-wise': (row_operators, 1500),
    'arrangements': (arrangements, 2500),
}


def run(cases, count: int) -> None:
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(cut=cut_cases(cases()))
    def every_case(cut):
        check(*cut)

    every_case()


@pytest.mark.parametrize('family', FAMILIES)
def test_a_slice_of_an_operator_equals_the_same_rows_of_the_whole(family):
    run(FAMILIES[family][0], 40)


@pytest.mark.long
@pytest.mark.parametrize('family', FAMILIES)
def test_slices_equal_the_whole_in_thousands_of_cases(family):
    run(*FAMILIES[family])
