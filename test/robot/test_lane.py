"""The robot's accelerator computes one job at a time, in the order of their due times."""

from concurrent.futures import ThreadPoolExecutor
import threading
import time

import pytest

from offload_ros.robot.lane import DeviceLane

LONG_S = 30.0  # a wait that takes this long has failed its test


@pytest.fixture
def busy(lane):
    """Keep the lane busy until the returned event is set."""
    began, release = threading.Event(), threading.Event()

    def work():
        began.set()
        assert release.wait(LONG_S)

    lane.submit(work)
    assert began.wait(LONG_S)
    yield release
    release.set()


def test_job_gives_its_value_and_times(lane):
    job = lane.submit(lambda: time.sleep(0.02) or 'value')
    assert job.result() == 'value'
    assert job.finished
    assert job.started_s <= time.monotonic()
    assert 0.02 <= job.duration_s < LONG_S
    assert not job.cancelled


def test_error_of_a_job_is_raised_to_whoever_asks_and_the_lane_goes_on(lane):
    job = lane.submit(lambda: 1 / 0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            job.result()
    assert job.finished
    assert lane.submit(lambda: 'next').result() == 'next'


def test_jobs_run_one_at_a_time_in_the_order_they_came(lane, busy):
    order, running = [], threading.Lock()

    def work(index):
        assert running.acquire(blocking=False), 'two jobs run at once'
        order.append(index)
        running.release()

    jobs = [lane.submit(lambda index=index: work(index)) for index in range(20)]
    busy.set()
    for job in jobs:
        job.result()
    assert order == list(range(20))


def test_earliest_due_job_runs_first(lane, busy):
    order, now_s = [], time.monotonic()
    jobs = [
        lane.submit(lambda delay=delay: order.append(delay), at_s=now_s + delay)
        for delay in (0.03, 0.01, 0.02, -1.0)
    ]
    busy.set()
    for job in jobs:
        job.result()
    assert order == [-1.0, 0.01, 0.02, 0.03]


def test_job_does_not_begin_before_its_time(lane):
    at_s = time.monotonic() + 0.1
    job = lane.submit(lambda: None, at_s=at_s)
    job.result()
    assert job.started_s >= at_s


def test_job_for_later_does_not_hold_up_one_for_now(lane):
    later = lane.submit(lambda: 'later', at_s=time.monotonic() + LONG_S)
    time.sleep(0.02)  # the lane sleeps until then
    assert lane.submit(lambda: 'now').result() == 'now'
    assert not later.finished
    assert lane.cancel(later)


def test_hurried_job_begins_at_once(lane):
    job = lane.submit(lambda: 'value', at_s=time.monotonic() + LONG_S)
    time.sleep(0.02)
    began_s = time.monotonic()
    lane.hurry(job)
    assert job.result() == 'value'
    assert time.monotonic() - began_s < LONG_S / 2


def test_hurry_after_the_end_and_after_cancel_does_nothing(lane):
    done = lane.submit(lambda: 'value')
    done.result()
    lane.hurry(done)
    taken_back = lane.submit(lambda: pytest.fail('cancelled'), at_s=time.monotonic() + LONG_S)
    lane.cancel(taken_back)
    lane.hurry(taken_back)
    assert lane.submit(lambda: 'next').result() == 'next'
    assert not taken_back.finished


def test_job_cancelled_before_its_start_never_runs(lane, busy):
    ran = []
    job = lane.submit(lambda: ran.append('job'), done=lambda _: ran.append('done'))
    assert lane.cancel(job)
    assert job.cancelled
    assert not lane.cancel(job), 'there is nothing left to take back'
    busy.set()
    lane.submit(lambda: None).result()
    assert ran == []
    assert not job.finished


def test_job_cancelled_after_its_start_runs_to_its_end(lane):
    began, release = threading.Event(), threading.Event()

    def work():
        began.set()
        assert release.wait(LONG_S)
        return 'value'

    job = lane.submit(work)
    assert began.wait(LONG_S)
    assert not lane.cancel(job)
    release.set()
    assert job.result() == 'value'


@pytest.mark.parametrize('compute', [lambda: 'value', lambda: 1 / 0], ids=['value', 'error'])
def test_done_is_called_once_with_the_finished_job(lane, compute):
    heard, called = [], threading.Event()

    def done(job):
        heard.append((job, job.finished, threading.current_thread().name))
        called.set()

    job = lane.submit(compute, done=done)
    assert called.wait(LONG_S)
    assert heard == [(job, True, 'device lane')]


def test_fault_in_done_does_not_end_the_lane(lane, caplog):
    job = lane.submit(lambda: 'value', done=lambda job: 1 / 0)
    assert job.result() == 'value'
    assert lane.submit(lambda: 'next').result() == 'next'
    assert 'ZeroDivisionError' in caplog.text


def test_close_ends_waiting_jobs_with_an_error():
    lane = DeviceLane()
    heard = []
    waiting = [
        lane.submit(lambda: None, at_s=time.monotonic() + LONG_S, done=heard.append)
        for _ in range(3)
    ]
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(waiting[0].result)
        lane.close()
        with pytest.raises(RuntimeError, match='the device lane was closed'):
            asking.result(LONG_S)
    for job in waiting:
        with pytest.raises(RuntimeError, match='the device lane was closed'):
            job.result()
    assert heard == waiting


def test_close_lets_the_running_job_end():
    lane = DeviceLane()
    began = threading.Event()

    def work():
        began.set()
        time.sleep(0.05)
        return 'value'

    job = lane.submit(work)
    assert began.wait(LONG_S)
    lane.close()
    assert job.finished
    assert job.result() == 'value'


def test_closed_lane_takes_no_jobs():
    lane = DeviceLane()
    lane.close()
    lane.close()
    with pytest.raises(RuntimeError, match='the device lane is closed'):
        lane.submit(lambda: None)


def test_lane_may_be_closed_from_its_own_thread():
    lane = DeviceLane()
    lane.submit(lane.close).result()
    with pytest.raises(RuntimeError, match='the device lane is closed'):
        lane.submit(lambda: None)


def test_many_threads_lose_no_job(lane):
    def use(index):
        job = lane.submit(lambda: index, at_s=time.monotonic() + (index % 7) / 1000)
        if index % 3 == 0 and lane.cancel(job):
            return True
        if index % 3 == 1:
            lane.hurry(job)
        return job.result() == index

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(500), timeout=LONG_S))
