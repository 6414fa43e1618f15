"""From messages to what checks judge."""

import pytest

from offload_ros.msg import InferenceResult, ModelInfo, ServerHeartbeat
from offload_ros.nodes.doctor_traffic import Traffic, results_seen, server_seen


def traffic(messages, period_s=0.1):
    made = Traffic()
    made.messages = list(messages)
    made.received_s = [index * period_s for index in range(len(made.messages))]
    return made


@pytest.mark.parametrize(
    ('sessions', 'twins'), [('aaaa', False), ('aabb', False), ('abab', True), ('aaba', True)]
)
def test_two_servers_of_one_name_are_told_from_a_restart(sessions, twins):
    beats = [ServerHeartbeat(server='/s', session=each) for each in sessions]
    assert server_seen(traffic(beats), 0.0, 1.5).twins is twins


def test_a_server_is_as_its_last_heartbeat_says():
    info = ModelInfo(name='vit', variant='small', hash='abc', weights_trained=True)
    beats = [ServerHeartbeat(server='/s', queue_length=n, models=[info]) for n in range(11)]
    seen = server_seen(traffic(beats), 0.05, 1.5)
    assert (seen.queue_length, seen.models[0].hash) == (10, 'abc')
    assert seen.rate_hz == pytest.approx(10.0)


def test_results_are_counted_with_their_most_frequent_reason():
    kinds = [('lost', True, 0.1), ('late', True, 0.3), ('lost', True, 0.2), ('', False, 0.1)]
    results = [
        InferenceResult(reason=reason, fallback=fallback, total_s=total_s, strategy_used='device')
        for reason, fallback, total_s in kinds
    ]
    seen = results_seen('vit', traffic(results), 1.5)
    assert (seen.count, seen.fallbacks, seen.errors) == (4, 3, 0)
    assert seen.reasons == ('lost', 'late') and seen.used == ('device',)


def test_a_rate_needs_two_messages():
    assert traffic([]).rate_hz(1.5) == 0.0
    assert traffic([1]).rate_hz(2.0) == 0.5
