"""Every frame taken up gets exactly one answer, in time where the robot can, whatever a strategy
does."""

import math
import sys
import threading
import time
from types import ModuleType

import pytest
import torch

from offload_ros import strategy as strategies
from offload_ros.models.errors import InputError
from offload_ros.policy.power import PowerModel
from offload_ros.robot.lane import DeviceLane
from offload_ros.robot.pacing import Pacer
from offload_ros.robot.pipeline import Pipeline
from offload_ros.strategy import Link, Result, StrategyRefused, Unanswered

LONG_S = 30.0  # a wait that takes this long has failed its test


class Run:
    """A pipeline with its answers in order; ``wait_for(n)`` returns the first n."""

    def __init__(self, model, lane, read=None, publish=None):
        self.answers, self.parts = [], []
        self._changed = threading.Condition()
        self._before_publish = publish or (lambda answer: None)
        self.pipeline = Pipeline(
            model, Link(lane, None), read or (lambda parts: ({'x': parts}, {})), self._publish
        )

    def _publish(self, answer, parts):
        self._before_publish(answer)
        with self._changed:
            self.answers.append(answer)
            self.parts.append(parts)
            self._changed.notify_all()

    def wait_for(self, count):
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.answers) >= count, LONG_S)
            return self.answers[:count]

    def ask(self, parts, received_s=None):
        """Offer one frame and return its answer."""
        count = len(self.answers)
        self.pipeline.offer(parts, received_s)
        return self.wait_for(count + 1)[-1]


@pytest.fixture
def start(lane, monkeypatch):
    """Return a function that starts a pipeline; a stub given to it is the strategy 'stub'."""
    runs = []

    def begin(model, stub=None, **options):
        if stub is not None:
            strategies.strategy_names()  # the package's own are registered before a test's
            monkeypatch.setitem(strategies._REGISTRY, 'stub', lambda: stub)
        run = Run(model, lane, **options)
        runs.append(run)
        return run

    yield begin
    for run in runs:
        run.pipeline.close()


def idle(lane):
    """Wait until the lane has done what it has: above all, timed the model."""
    lane.submit(lambda: None).result()


def test_device_strategy_gives_what_the_model_gives(start, make_model, x):
    run = start(make_model())
    answer = run.ask(x)
    assert torch.equal(answer.outputs['output'], x * 2)
    assert (answer.seq, answer.strategy_requested, answer.strategy_used) == (1, 'device', 'device')
    assert (answer.plan, answer.error, answer.fallback, answer.exact) == (
        'robot cpu',
        '',
        False,
        True,
    )
    assert (answer.model, answer.model_hash, answer.weights_trained) == ('tiny', 'hash', True)
    assert 0.0 < answer.robot_s == answer.total_s
    assert not answer.late
    assert run.parts[0] is x


@pytest.mark.parametrize('strategy', ['device', 'stub'])
def test_hundreds_of_frames_offered_faster_than_computed_get_one_answer_each(
    start, make_model, doubled, stub, strategy
):
    offered = 600
    run = start(make_model(doubled(0.001), strategy=strategy), stub())
    for index in range(offered):
        run.pipeline.offer(torch.full((3,), float(index)))
        time.sleep(0.0003)
    statistics = run.pipeline.statistics
    deadline_s = time.monotonic() + LONG_S
    while statistics.accepted + statistics.dropped < offered and time.monotonic() < deadline_s:
        time.sleep(0.01)
    answers = run.wait_for(statistics.accepted)
    assert statistics.accepted + statistics.dropped == offered
    assert statistics.accepted == statistics.results == len(run.answers)
    assert [answer.seq for answer in answers] == list(range(1, len(answers) + 1))
    assert all(
        torch.equal(a.outputs['output'], p * 2) for a, p in zip(answers, run.parts, strict=True)
    )
    assert all(not answer.error for answer in answers)
    assert run.parts[-1][0] == offered - 1, 'the last frame is never dropped'


def test_newest_frame_wins(start, make_model, stub):
    release = threading.Event()
    slow = stub()
    slow.answer = lambda frame, _: release.wait(LONG_S) and slow.result(frame)
    run = start(make_model(strategy='stub'), slow)
    run.pipeline.offer(torch.zeros(3))
    while not slow.frames:
        time.sleep(0.001)
    for index in range(1, 6):
        run.pipeline.offer(torch.full((3,), float(index)))
    release.set()
    run.wait_for(2)
    assert [parts[0].item() for parts in run.parts] == [0.0, 5.0]
    assert run.pipeline.statistics.dropped == 4


def test_strategy_that_gives_up_is_replaced_at_once_with_its_reason(start, make_model, stub, x):
    def give_up(frame, deadline_s):
        raise Unanswered('no server is there')

    run = start(make_model(strategy='stub'), stub(give_up))
    answer = run.ask(x)
    assert torch.equal(answer.outputs['output'], x * 2)
    assert (answer.strategy_requested, answer.strategy_used) == ('stub', 'device')
    assert (answer.fallback, answer.reason) == (True, 'no server is there')
    assert (answer.error, answer.late) == ('', False)
    assert answer.total_s < 10.0, 'the deadline of 20 s is not waited for'
    assert run.pipeline.statistics.fallbacks == 1


def test_silent_strategy_is_overtaken_by_the_robot_in_time(
    start, make_model, doubled, stub, lane, x
):
    module = doubled(0.4)
    silent = stub()
    run = start(make_model(module, strategy='stub', deadline_ms=2000.0), silent)
    run.ask(x)  # begins to time the model, which takes 0.4 s
    idle(lane)
    module.seconds, calls = 0.0, module.calls
    silent.answer = silent.never
    answer = run.ask(x)
    assert torch.equal(answer.outputs['output'], x * 2)
    assert (answer.strategy_used, answer.fallback) == ('device', True)
    assert answer.reason == 'strategy stub did not answer before the robot had to'
    # Begun 0.4 s before the deadline and over at once: that leaves 0.4 s for a loaded machine.
    assert answer.total_s > 1.2
    assert not answer.late
    assert module.calls == calls + 1
    assert answer.seq in silent.cancelled, 'the strategy is told to end'


def test_silent_strategy_is_overtaken_when_it_said_so(start, make_model, doubled, stub, lane, x):
    module, asking = doubled(0.0), stub()
    run = start(make_model(module, strategy='stub', deadline_ms=30_000.0), asking)
    run.ask(x)
    idle(lane)

    def late(frame, deadline_s):
        frame.compute_at(time.monotonic() + 0.1)
        asking.never(frame, deadline_s)

    asking.answer = late
    answer = run.ask(x)
    assert torch.equal(answer.outputs['output'], x * 2)
    assert (answer.strategy_used, answer.fallback, answer.late) == ('device', True, False)
    assert 0.1 <= answer.total_s < 15.0, 'long before the deadline'
    assert answer.seq in asking.cancelled


def test_robot_that_was_asked_for_is_not_needed_when_the_answer_comes(
    start, make_model, doubled, stub, lane, x
):
    module, asking = doubled(0.0), stub()
    run = start(make_model(module, strategy='stub', deadline_ms=30_000.0), asking)
    run.ask(x)
    idle(lane)
    calls = module.calls

    def in_time(frame, deadline_s):
        frame.compute_at(time.monotonic() + 20.0)
        return asking.result(frame)

    asking.answer = in_time
    answer = run.ask(x)
    idle(lane)
    assert (answer.strategy_used, answer.fallback, module.calls) == ('stub', False, calls)


def test_slow_strategy_that_answers_before_the_robot_is_used(
    start, make_model, doubled, stub, lane, x
):
    module = doubled()
    slow = stub()
    run = start(make_model(module, strategy='stub'), slow)
    run.ask(x)
    idle(lane)
    calls = module.calls
    slow.answer = lambda frame, _: time.sleep(0.2) or slow.result(frame)
    answer = run.ask(x)
    assert (answer.strategy_used, answer.plan, answer.fallback) == ('stub', 'stub', False)
    assert answer.reason == ''
    assert answer.total_s >= 0.2
    time.sleep(0.05)
    assert module.calls == calls, 'the robot does not compute what it need not'


def test_strategy_that_answers_while_the_robot_computes_is_used(
    start, make_model, doubled, stub, lane, x
):
    module = doubled(0.5)
    run = start(make_model(module, strategy='stub', deadline_ms=600.0), racing := stub())

    def answer_later(frame, deadline_s):
        assert module.began.wait(LONG_S)
        return racing.result(frame)

    run.ask(x)
    idle(lane)
    module.began.clear()
    racing.answer = answer_later
    answer = run.ask(x)
    assert (answer.strategy_used, answer.fallback) == ('stub', False)


def test_model_too_heavy_for_the_deadline_begins_at_it_and_is_late(
    start, make_model, doubled, stub, lane, x
):
    module = doubled(0.4)
    run = start(make_model(module, strategy='stub', deadline_ms=200.0), silent := stub())
    run.ask(x)
    idle(lane)
    silent.answer = silent.never
    received_s = time.monotonic()
    run.pipeline.offer(x, received_s)
    answer = run.wait_for(2)[-1]
    assert module.began_s - received_s >= 0.2, 'until the deadline the strategy may answer'
    assert answer.late
    assert answer.fallback
    assert torch.equal(answer.outputs['output'], x * 2)
    assert answer.total_s >= 0.6


def test_strategy_has_more_time_than_the_deadline_when_the_robot_is_slower_still(
    start, make_model, doubled, stub, lane, x
):
    run = start(make_model(doubled(0.5), strategy='stub', deadline_ms=100.0), slow := stub())
    run.ask(x)
    idle(lane)
    slow.answer = lambda frame, _: time.sleep(0.2) or slow.result(frame)
    answer = run.ask(x)
    assert (answer.strategy_used, answer.late, answer.error) == ('stub', True, '')


def test_frame_that_waited_before_its_offer_is_late(start, make_model, x):
    run = start(make_model(deadline_ms=1000.0))
    answer = run.ask(x, received_s=time.monotonic() - 1.5)
    assert answer.late
    assert answer.total_s >= 1.5
    assert run.pipeline.statistics.late == 1


def test_unexpected_error_of_a_strategy_is_an_error_answer(start, make_model, stub, x):
    faulty = stub(lambda frame, deadline_s: {}['missing'])
    run = start(make_model(strategy='stub'), faulty)
    answer = run.ask(x)
    assert answer.error == "KeyError: 'missing'"
    assert dict(answer.outputs) == {}
    assert run.pipeline.statistics.errors == 1
    faulty.answer = lambda frame, deadline_s: faulty.result(frame)
    assert run.ask(x).error == '', 'the next frame is answered'


def test_strategy_that_returns_no_result_is_an_error_answer(start, make_model, stub, x):
    run = start(make_model(strategy='stub'), stub(lambda frame, deadline_s: None))
    assert 'AttributeError' in run.ask(x).error


def test_input_of_another_shape_is_an_error_answer(start, make_model, stub):
    run = start(make_model(strategy='stub'), untouched := stub())
    answer = run.ask(torch.zeros(4))
    assert answer.error == "model 'tiny', input 'x': shape (4) came, (3) is wanted"
    assert untouched.frames == []


@pytest.mark.parametrize(
    ('fault', 'text'),
    [
        (InputError('encoding is unknown'), 'encoding is unknown'),
        (InputError(''), 'InputError'),
        (OSError('broken'), 'OSError: broken'),
    ],
    ids=['input', 'no text', 'other'],
)
def test_message_that_cannot_be_read_is_an_error_answer(start, make_model, x, fault, text):
    faults = [fault]

    def read(parts):
        if faults:
            raise faults.pop()
        return {'x': parts}, {}

    run = start(make_model(), read=read)
    assert run.ask(x).error == text
    assert run.ask(x).error == ''


@pytest.mark.parametrize('strategy', ['device', 'stub'])
def test_model_that_fails_is_an_error_answer(start, make_model, doubled, stub, x, strategy):
    module = doubled()
    module.error = RuntimeError('out of memory\ntraceback')

    def give_up(frame, deadline_s):
        raise Unanswered('no server')

    run = start(make_model(module, strategy=strategy), stub(give_up))
    assert run.ask(x).error == "model 'tiny' failed: RuntimeError: out of memory"
    module.error = None
    assert run.ask(x).error == ''


def test_robot_that_fails_does_not_take_the_strategys_answer_away(
    start, make_model, doubled, stub, x
):
    module = doubled()
    module.error = RuntimeError('out of memory')
    patient = stub()
    run = start(make_model(module, strategy='stub', deadline_ms=300.0), patient)

    def answer_later(frame, deadline_s):
        with patient.changed:  # the robot fails after 0.15 s
            cancelled = patient.changed.wait_for(lambda: frame.seq in patient.cancelled, 0.25)
        if cancelled:
            raise Unanswered('cancelled')
        return patient.result(frame)

    patient.answer = answer_later
    answer = run.ask(x)
    assert (answer.error, answer.strategy_used) == ('', 'stub')


def test_model_is_timed_again_when_it_failed_on_the_first_frame(
    start, make_model, doubled, stub, lane, x
):
    module = doubled()
    module.error = RuntimeError('bad frame')
    run = start(make_model(module, strategy='stub'), stub())
    run.ask(x)
    idle(lane)
    module.error, calls = None, module.calls
    run.ask(x)
    idle(lane)
    assert module.calls == calls + 2
    run.ask(x)
    idle(lane)
    assert module.calls == calls + 2, 'once is enough'


def test_model_is_timed_at_the_pace_of_the_robot(make_model, doubled, stub, monkeypatch, x):
    strategies.strategy_names()
    monkeypatch.setitem(strategies._REGISTRY, 'stub', stub)
    lane = DeviceLane(Pacer(5.0))
    run = Run(make_model(doubled(0.02), strategy='stub'), lane)
    try:
        run.ask(x)
        idle(lane)
        timed_s = run.pipeline._link.local['tiny'].percentile(50)
        assert timed_s >= 5.0 * 0.02
    finally:
        run.pipeline.close()
        lane.close()


def test_strategy_whose_cancel_fails_does_not_stop_the_robot(
    start, make_model, stub, x, monkeypatch
):
    faulty = stub()
    monkeypatch.setattr(faulty, 'cancel', lambda seq: 1 / 0)

    def give_up(frame, deadline_s):
        raise Unanswered('lost')

    faulty.answer = give_up
    run = start(make_model(strategy='stub'), faulty)
    for _ in range(3):
        assert run.ask(x).error == ''


def test_result_that_cannot_be_published_becomes_an_error_result(start, make_model, x):
    def publish(answer):
        if answer.outputs and answer.seq == 1:
            raise ValueError('no message carries complex64')

    run = start(make_model(), publish=publish)
    answer = run.ask(x)
    assert answer.error == (
        'the result cannot be published: ValueError: no message carries complex64'
    )
    assert dict(answer.outputs) == {}
    assert run.ask(x).error == ''


def test_publisher_that_fails_does_not_end_the_pipeline(start, make_model, x):
    broken = threading.Event()
    broken.set()
    failed = threading.Semaphore(0)

    def publish(answer):
        if broken.is_set():
            failed.release()
            raise RuntimeError('publisher is gone')

    run = start(make_model(), publish=publish)
    run.pipeline.offer(x)
    assert failed.acquire(timeout=LONG_S)
    assert failed.acquire(timeout=LONG_S)
    broken.clear()
    assert run.ask(x).error == ''


def test_times_elsewhere_are_not_the_robots(start, make_model, stub, x):
    timed = Result({'output': x}, 'stub', uplink_s=0.01, server_s=0.02, downlink_s=0.03)
    run = start(
        make_model(strategy='stub'), stub(lambda frame, deadline_s: time.sleep(0.1) or timed)
    )
    answer = run.ask(x)
    assert answer.robot_s == pytest.approx(answer.total_s - 0.06)


def test_energy_is_the_power_models_of_what_the_robot_did(start, make_model, doubled, stub, x):
    """Computing, communicating and waiting cost different watts (``policy.power``)."""
    watts = PowerModel(computing_w=100.0, communicating_w=10.0, standby_w=1.0)

    def ask(answer, seconds=0.0):
        run = start(make_model(doubled(seconds), strategy='stub'), stub(answer))
        run.pipeline._power = watts
        return run.ask(x)

    timed = Result({'output': x}, 'stub', uplink_s=0.01, server_s=0.02, downlink_s=0.03)
    answer = ask(lambda frame, deadline_s: time.sleep(0.1) or timed)
    want_j = 100.0 * (answer.total_s - 0.06) + 10.0 * 0.04 + 1.0 * 0.02
    assert answer.energy_j == pytest.approx(want_j)

    def give_up(frame, deadline_s):
        time.sleep(0.3)
        raise Unanswered('too late')

    answer = ask(give_up, seconds=0.05)
    waited_s = answer.total_s - answer.computing_s
    assert answer.fallback and waited_s > 0.25 and 0.04 < answer.computing_s < 5.0
    assert answer.energy_j == pytest.approx(100.0 * answer.computing_s + waited_s)
    assert math.isnan(ask(lambda frame, deadline_s: None).energy_j), 'no result'


def test_strategy_change_takes_effect_on_the_next_frame(start, make_model, stub, x):
    run = start(make_model(), stub())
    used = []
    for name in ('device', 'stub', 'stub', 'device'):
        run.pipeline.set_strategy(name)
        used.append(run.ask(x).strategy_used)
    assert used == ['device', 'stub', 'stub', 'device']
    assert run.pipeline.strategy == 'device'


def test_strategy_change_while_a_frame_runs_leaves_that_frame_alone(start, make_model, stub, x):
    release = threading.Event()
    slow = stub()
    slow.answer = lambda frame, _: release.wait(LONG_S) and slow.result(frame)
    run = start(make_model(strategy='stub'), slow)
    run.pipeline.offer(x)
    while not slow.frames:
        time.sleep(0.001)
    run.pipeline.set_strategy('device')
    release.set()
    assert run.wait_for(1)[0].strategy_used == 'stub'
    assert run.ask(x).strategy_used == 'device'


def test_deadline_change_takes_effect_on_the_next_frame(start, make_model, doubled, x):
    run = start(make_model(doubled(0.1)))
    assert not run.ask(x).late
    run.pipeline.deadline_s = 0.05
    assert run.ask(x).late


def test_deadline_change_while_a_frame_runs_leaves_that_frame_alone(start, make_model, doubled, x):
    module = doubled(0.1)
    run = start(make_model(module))
    run.pipeline.offer(x)
    assert module.began.wait(LONG_S)
    run.pipeline.deadline_s = 0.001
    assert not run.wait_for(1)[0].late


def test_unknown_strategy_is_refused_with_those_that_can_run_the_model(start, make_model, x):
    run = start(make_model())
    with pytest.raises(StrategyRefused) as refusal:
        run.pipeline.set_strategy('teleport')
    assert str(refusal.value) == (
        "model 'tiny': there is no strategy 'teleport'; there are amot, auto, device, dsccs, "
        'fleet, intra_dp, layer_cut, mcop, rrto, server, spso_ga; '
        'admissible: auto, device, fleet, rrto, server'
    )
    assert run.pipeline.strategy == 'device'
    assert run.ask(x).strategy_used == 'device'


def test_strategy_that_cannot_run_the_model_is_refused_with_those_that_can(
    start, make_model, stub, monkeypatch
):
    choosy = stub()

    def prepare(model, link):
        raise StrategyRefused('the model is not a CNN')

    monkeypatch.setattr(choosy, 'prepare', prepare)
    run = start(make_model(), choosy)
    assert run.pipeline.admissible() == ['auto', 'device', 'fleet', 'rrto', 'server']
    with pytest.raises(StrategyRefused) as refusal:
        run.pipeline.set_strategy('stub')
    assert str(refusal.value) == (
        "model 'tiny': the model is not a CNN; admissible: auto, device, fleet, rrto, server"
    )


def test_strategy_that_fails_to_prepare_is_refused(start, make_model, stub, monkeypatch):
    faulty = stub()
    run = start(make_model(), faulty)
    admissible = run.pipeline.admissible()
    assert 'stub' in admissible
    monkeypatch.setattr(faulty, 'prepare', lambda model, link: 1 / 0)
    with pytest.raises(StrategyRefused, match="strategy 'stub': ZeroDivisionError"):
        run.pipeline.set_strategy('stub')


def test_model_whose_configured_strategy_is_unknown_is_refused(make_model, lane):
    with pytest.raises(StrategyRefused, match="there is no strategy 'teleport'"):
        Run(make_model(strategy='teleport'), lane)


@pytest.fixture
def custom(monkeypatch, stub):
    """Return an importable module that holds a strategy of somebody else."""
    module = ModuleType('somebodys_package')
    module.Custom = stub
    module.Nothing = object
    module.function = lambda: pytest.fail('called')
    monkeypatch.setitem(sys.modules, 'somebodys_package', module)
    return module


def test_custom_strategy_by_module_and_class_runs(start, make_model, custom, x):
    run = start(make_model(strategy='somebodys_package:Custom'))
    answer = run.ask(x)
    assert torch.equal(answer.outputs['output'], x * 2)
    assert answer.strategy_used == 'somebodys_package:Custom'
    assert answer.plan == 'stub'


@pytest.mark.parametrize(
    ('name', 'text'),
    [
        ('not_there:Custom', "strategy 'not_there:Custom': ModuleNotFoundError: No module"),
        ('somebodys_package:Missing', "has no attribute 'Missing'"),
        ('somebodys_package:Nothing', 'is not a class with the methods prepare, predict, run'),
        ('somebodys_package:function', 'is not a class with the methods'),
        ('os:getcwd', 'is not a class with the methods'),
        (':Custom', "strategy ':Custom': ValueError"),
        ('.relative:Custom', "strategy '.relative:Custom': TypeError"),
        ('', "there is no strategy ''"),
    ],
)
def test_custom_strategy_that_is_none_is_refused(start, make_model, custom, name, text):
    run = start(make_model())
    with pytest.raises(StrategyRefused) as refusal:
        run.pipeline.set_strategy(name)
    assert text in str(refusal.value)
    assert 'admissible: auto, device, fleet, rrto, server' in str(refusal.value)


def test_another_model_runs_from_the_next_frame_on(start, make_model, doubled, stub, x):
    class Tripled(doubled):
        def forward(self, x):
            return x * 3

    first = stub()
    run = start(make_model(strategy='stub'), first)
    run.ask(x)
    run.pipeline.replace_model(make_model(Tripled(), strategy='stub'))
    run.pipeline.set_strategy('device')
    answer = run.ask(x)
    assert torch.equal(answer.outputs['output'], x * 3)
    assert answer.seq == 2
    assert first.closed


def test_close_while_busy_lets_the_frame_end(start, make_model, doubled, x):
    module = doubled(0.2)
    run = start(make_model(module))
    run.pipeline.offer(x)
    assert module.began.wait(LONG_S)
    run.pipeline.offer(x)
    run.pipeline.close()
    statistics = run.pipeline.statistics
    assert (statistics.accepted, statistics.results, statistics.dropped) == (1, 1, 1)
    assert len(run.answers) == 1


def test_close_ends_a_strategy_that_waits(start, make_model, stub, x):
    silent = stub()
    silent.answer = silent.never
    run = start(make_model(strategy='stub', deadline_ms=60_000.0), silent)
    run.pipeline.offer(x)
    while not silent.frames:
        time.sleep(0.001)
    began_s = time.monotonic()
    run.pipeline.close()
    assert time.monotonic() - began_s < LONG_S
    assert len(run.answers) == 1
    assert run.answers[0].reason == 'the stub never answers'


def test_close_closes_every_strategy_although_one_fails(start, make_model, stub, monkeypatch):
    faulty = stub()
    run = start(make_model(strategy='stub'), faulty)
    other = stub()
    monkeypatch.setitem(strategies._REGISTRY, 'other', lambda: other)
    run.pipeline.prepare_strategy('other')
    monkeypatch.setattr(faulty, 'close', lambda: 1 / 0)
    run.pipeline.close()
    assert other.closed


def test_closed_pipeline_takes_no_frames(start, make_model, x):
    run = start(make_model())
    run.pipeline.close()
    run.pipeline.offer(x)
    run.pipeline.close()
    assert run.pipeline.statistics.accepted == 0
    assert run.answers == []


def test_close_of_the_lane_while_a_frame_waits_gives_an_error_answer(make_model, stub, x, start):
    from offload_ros.robot.lane import DeviceLane

    lane = DeviceLane()
    run = Run(make_model(), lane)
    lane.close()
    assert run.ask(x).error == 'RuntimeError: the device lane is closed'
    run.pipeline.close()
