"""The paced accelerator: k times the time, the same value."""

import time

import pytest

from offload_ros.robot.pacing import Pacer


def busy():
    end_s = time.perf_counter() + 0.01
    while time.perf_counter() < end_s:
        pass
    return 'value'


def times_its_own(pacer):
    """How many times as long as by itself a call takes."""
    took_s = []

    def timed():
        began_s = time.perf_counter()
        value = busy()
        took_s.append(time.perf_counter() - began_s)
        return value

    began_s = time.perf_counter()
    assert pacer(timed) == 'value'
    return (time.perf_counter() - began_s) / took_s[0]


@pytest.mark.parametrize('slowdown', [1.0, 2.0, 8.0])
def test_a_call_takes_slowdown_times_its_own_time(slowdown):
    # Never less; more where the machine is busy, but not each time.
    found = [times_its_own(Pacer(slowdown))]
    while min(found) > 1.15 * slowdown and len(found) < 100:
        found.append(times_its_own(Pacer(slowdown)))
    assert 0.999 * slowdown <= min(found) <= 1.15 * slowdown


def test_a_paced_call_sleeps_instead_of_computing():
    began_s = time.thread_time()
    Pacer(8.0)(busy)
    assert time.thread_time() - began_s < 0.03


def test_an_error_comes_through_and_takes_its_time():
    def fail():
        busy()
        raise LookupError

    began_s = time.perf_counter()
    with pytest.raises(LookupError):
        Pacer(3.0)(fail)
    assert time.perf_counter() - began_s >= 0.029


def test_robot_and_server_read_their_own_variable(monkeypatch):
    monkeypatch.setenv('OFFLOAD_ROBOT_SLOWDOWN', '8')
    monkeypatch.setenv('OFFLOAD_SERVER_SPEED', '0.25')
    assert (Pacer.of_robot().slowdown, Pacer.of_server().slowdown) == (8.0, 4.0)


def test_without_the_variables_nothing_is_paced(monkeypatch):
    monkeypatch.delenv('OFFLOAD_ROBOT_SLOWDOWN', raising=False)
    monkeypatch.delenv('OFFLOAD_SERVER_SPEED', raising=False)
    assert (Pacer.of_robot().slowdown, Pacer.of_server().slowdown) == (1.0, 1.0)


@pytest.mark.parametrize('text', ['fast', '0.5', 'nan', 'inf', ''])
def test_a_wrong_slowdown_is_refused(monkeypatch, text):
    monkeypatch.setenv('OFFLOAD_ROBOT_SLOWDOWN', text)
    with pytest.raises(
        ValueError, match=r'slowdown is a factor|OFFLOAD_ROBOT_SLOWDOWN is no number'
    ):
        Pacer.of_robot()


@pytest.mark.parametrize('text', ['0', '-1', '2', 'nan', 'slow'])
def test_a_wrong_server_speed_is_refused(monkeypatch, text):
    monkeypatch.setenv('OFFLOAD_SERVER_SPEED', text)
    with pytest.raises(ValueError, match='OFFLOAD_SERVER_SPEED'):
        Pacer.of_server()
