"""Counts of one model: what was accepted, answered, dropped, late, wrong."""

import math
import threading

import pytest

from offload_ros.robot.answer import Answer
from offload_ros.robot.statistics import Statistics


def test_nothing_is_known_before_the_first_result():
    statistics = Statistics()
    assert (statistics.accepted, statistics.results, statistics.dropped) == (0, 0, 0)
    assert statistics.last is None
    assert statistics.rate_hz() == 0.0
    assert math.isnan(statistics.p95_total_s())
    assert all(math.isnan(statistics.median(part)) for part in Statistics.PARTS)


def test_every_kind_of_answer_is_counted():
    statistics = Statistics()
    good = Answer(1, 'server', bytes_up=10, bytes_down=3, total_s=0.1)
    fallback = Answer(2, 'server', fallback=True, late=True, total_s=0.3)
    wrong = Answer(3, 'server', error='why', total_s=0.2)
    for answer in (good, fallback, wrong):
        statistics.frame_accepted()
        statistics.answered(answer)
    statistics.frame_dropped()
    assert (statistics.accepted, statistics.results, statistics.dropped) == (3, 3, 1)
    assert (statistics.fallbacks, statistics.late, statistics.errors) == (1, 1, 1)
    assert (statistics.bytes_up, statistics.bytes_down) == (10, 3)
    assert statistics.last is wrong


def test_times_are_those_of_the_answers():
    statistics = Statistics()
    for total_s in (0.1, 0.2, 0.9):
        statistics.answered(
            Answer(1, 'server', robot_s=0.01, uplink_s=0.02, server_s=0.03, total_s=total_s)
        )
    assert statistics.median('total_s') == pytest.approx(0.2)
    assert statistics.median('robot_s') == pytest.approx(0.01)
    assert statistics.median('uplink_s') == pytest.approx(0.02)
    assert statistics.median('server_s') == pytest.approx(0.03)
    assert statistics.median('downlink_s') == 0.0
    assert statistics.p95_total_s() == pytest.approx(0.83)
    assert statistics.rate_hz() > 0.0


def test_counts_of_many_threads_add_up():
    statistics = Statistics()

    def work():
        for seq in range(200):
            statistics.frame_accepted()
            statistics.answered(Answer(seq, 'device', bytes_up=1))
            statistics.frame_dropped()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert statistics.accepted == statistics.results == statistics.dropped == 800
    assert statistics.bytes_up == 800
