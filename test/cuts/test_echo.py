"""The cost of a message beside its bytes."""

import pytest

from offload_ros.cuts.echo import echo_costs
from offload_ros.cuts.errors import CutFailed
from offload_ros.strategy import LinkState
from offload_ros.wire.shaper import LinkShape

DELAY_S = 0.02


def test_what_an_echo_takes_beyond_the_round_trip_is_the_messages_cost(site):
    link, lane = site().robot(up=LinkShape(delay_s=DELAY_S), down=LinkShape(delay_s=DELAY_S))
    known = LinkState(1e6, 1e6, 2 * DELAY_S)
    costs = echo_costs(link, lane, lambda: known, 5)
    assert len(costs) == 5
    assert all(0.0 <= each < DELAY_S for each in costs)
    unknown = echo_costs(link, lane, lambda: LinkState(round_trip_s=0.0), 5)
    assert all(DELAY_S <= each < 2 * DELAY_S for each in unknown)


def test_without_a_round_trip_nothing_is_claimed(site):
    link, lane = site().robot()
    assert echo_costs(link, lane, LinkState, 2) == []


def test_a_server_that_runs_no_graphs_says_so(site):
    link, lane = site(memory_bytes=0).robot()
    with pytest.raises(CutFailed, match='runs no graphs of robots'):
        echo_costs(link, lane, LinkState, 2)
