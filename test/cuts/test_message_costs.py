"""What messages take from computing, measured with a real link."""

import time

import pytest

from offload_ros.cuts.errors import CutFailed
from offload_ros.intra_dp import message_costs as costs
from offload_ros.intra_dp import run_server
from offload_ros.strategy import LinkState

from ..tries import tries

BUSY_S = 0.01


def test_a_profile_gets_all_costs_of_messages(site):
    link, lane = site().robot()
    known = LinkState(1e8, 1e8, 0.0)
    found = costs.message_costs(link, lane, lambda: known, 4)
    assert len(found['fixed_s']) == 4
    for side in ('robot', 'server'):
        fixed_s, byte_s = found[f'{side}_handling']
        assert 0.0 <= fixed_s < 0.1 and 0.0 <= byte_s < 1e-6


@tries(3)
def test_a_server_that_is_busy_with_each_piece_is_found_out(site, monkeypatch):
    link, lane = site().robot()
    quiet_s = costs.handling(link, lane, 1e8, 3)['server'][0]
    run = run_server.run_received

    def slow(work, segment, held, arrived):
        time.sleep(BUSY_S * len(arrived))
        return run(work, segment, held, arrived)

    monkeypatch.setattr(run_server, 'run_received', slow)
    busy_s = costs.handling(link, lane, 1e8, 3)['server'][0]
    # Half of the pieces come, the others leave.
    assert quiet_s + 0.3 * BUSY_S < busy_s < quiet_s + BUSY_S


def test_on_a_thin_link_the_cost_of_a_byte_is_left_out(site):
    link, lane = site().robot()
    began_s = time.monotonic()
    assert costs.handling(link, lane, 1e5, 3)['server'][1] == 0.0
    assert time.monotonic() - began_s < 60.0


def test_a_server_that_runs_no_graphs_says_so_for_pieces_too(site):
    link, lane = site(memory_bytes=0).robot()
    with pytest.raises(CutFailed, match='runs no graphs of robots'):
        costs.handling(link, lane, 1e8, 3)


@pytest.mark.parametrize('side', ['robot', 'server'])
@pytest.mark.parametrize('many', [True, False])
def test_both_ways_of_a_side_compute_the_same_rows(side, many):
    local = costs._subject(costs.WIDTH, 'cpu')
    work = costs._busy(side, local, many)
    own = getattr(work, side).rows
    tiles = costs.TILES * costs.TILE_ROWS
    assert set(own.values()) == {tiles}
    down = len(work.pieces) - work.up
    assert (work.up, down) == ((costs.TILES, costs.TILES) if many else (1, 1))
