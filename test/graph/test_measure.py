"""Measured profiles: times that are right where the truth is known, and a profile that fits its
graph."""

from __future__ import annotations

import json
import math
import threading
import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from offload_ros.graph.capture import capture
from offload_ros.graph.classify import classify
from offload_ros.graph.codings import coded_for
from offload_ros.graph.execute import Executor
from offload_ros.graph.intervals import Interval
from offload_ros.graph.local import Kind
from offload_ros.graph.measure import NodeTimes, is_view, measure_nodes, profile_of
from offload_ros.graph.of_model import capture_model, example_inputs, graph_hash
from offload_ros.graph.profile import ProfileError, TransferCost
from offload_ros.graph.profile_file import read_profile
from offload_ros.graph.profile_store import (
    MeasuredProfile,
    find_measured,
    find_profile,
    load_profile,
    profiles_folder,
    save_profile,
)
from offload_ros.graph.profiling import (
    OPEN,
    SHARES,
    WHOLE,
    ProfilingError,
    ProfilingHost,
    Request,
    Subject,
    Survey,
)
from offload_ros.graph.schedule import Evaluator, Link
from offload_ros.graph.shares import SharePasses, ShareSample, fit_shares, measure_shares
from offload_ros.graph.split_plan import Plan
from offload_ros.graph.stopwatch import Walk, live_nodes
from offload_ros.models.config import InputSpec, ModelConfig, Preprocess, Source
from offload_ros.models.model import Model
from offload_ros.robot.lane import DeviceLane

from .conftest import captured
from .networks import NETWORKS

GIVEN = NodeTimes({}, 1.0, {})


def evenly(graph, whole_s=1.0, nbytes=None):
    """Times as if every node took equally long."""
    return NodeTimes({node.id: 1.0 for node in graph.nodes}, whole_s, nbytes or {})


def parts_of(name):
    _, example, graph, parameters = captured(name)
    return example, graph, parameters, Executor(graph, parameters), classify(graph)


@pytest.mark.parametrize('name', list(NETWORKS))
def test_a_profile_has_the_ids_links_and_bytes_of_its_graph(name):
    example, graph, _, executor, split = parts_of(name)
    times = measure_nodes(executor, example, 1)
    profile = profile_of(graph, split, times, evenly(graph, 0.5, times.nbytes))
    inputs = {name: -1 - place for place, name in enumerate(graph.inputs)}
    assert {each.id for each in profile.operators if each.is_input} == set(inputs.values())
    live = {node for node in live_nodes(graph) if split.kinds[node] is not Kind.CONSTANT}
    assert {each.id for each in profile.operators if not each.is_input} == live
    for operator in profile.operators:
        if operator.is_input:
            continue
        node = graph.nodes[operator.id]
        assert set(operator.inputs) - set(inputs.values()) == set(node.predecessors) & live
        static = all(spec.is_static for spec in node.outputs)
        if static and len(node.outputs) == 1:
            assert operator.output_bytes == node.outputs[0].nbytes
    assert math.isclose(profile.column('robot_s').sum(), times.whole_s, rel_tol=1e-9)
    assert math.isclose(profile.column('server_s').sum(), 0.5, rel_tol=1e-9)
    assert all(
        operator.robot_s == 0.0
        for operator in profile.operators
        if operator.id >= 0 and is_view(graph.nodes[operator.id])
    )


@pytest.mark.parametrize('name', ['resnet', 'unet3d', 'vit'])
def test_windows_of_a_profile_cover_what_slices_need(name):
    _, graph, _, _, split = parts_of(name)
    profile = profile_of(graph, split, evenly(graph), evenly(graph))
    places = profile.positions
    checked = 0
    for operator in profile.operators:
        if not operator.split:
            continue
        for start in (0, operator.width // 2, operator.width - 1):
            local = split.operators[operator.id]
            needs = local.input_intervals(Interval(start, start + 1))
            for reference, relation, need in zip(
                local.call.tensors, local.relations, needs, strict=True
            ):
                if relation is None or split.is_constant(reference) or need.empty:
                    continue
                key = getattr(reference, 'node', None)
                producer = profile.operators[places[key if key is not None else -1]]
                low = math.floor(start * operator.stride - operator.padding)
                high = math.ceil(start * operator.stride - operator.padding + operator.kernel)
                assert max(0, low) <= need.start
                assert need.stop <= min(producer.width, high)
                checked += 1
    assert checked > 20 or name == 'vit'


class Sleeper(nn.Module):
    """Two operators; a hook makes them slow."""

    def forward(self, image):
        return (image + 1).relu() * 2


def test_times_are_those_of_the_operators():
    graph, parameters = capture(Sleeper().eval(), torch.zeros(1, 3, 8, 9), 'sleeper')
    executor = Executor(graph, parameters)
    slow_s = {0: 0.004, 1: 0.001, 2: 0.002}
    for call, seconds in zip(executor._calls, slow_s.values(), strict=True):
        original = call.function

        def slow(*args, original=original, seconds=seconds, **kwargs):
            time.sleep(seconds)
            return original(*args, **kwargs)

        object.__setattr__(call, 'function', slow)
    for _ in range(20):  # never shorter; longer where the machine is busy, but not each time
        times = measure_nodes(executor, {'image': torch.zeros(1, 3, 8, 9)}, 3)
        assert all(seconds <= times.node_s[node] for node, seconds in slow_s.items())
        assert times.whole_s >= 0.007
        if all(times.node_s[node] < seconds + 0.05 for node, seconds in slow_s.items()):
            break
    assert max(times.node_s.values()) < 0.06 and times.whole_s < 0.2
    profile = profile_of(graph, classify(graph), times, times.slower(0.1))
    assert math.isclose(profile.column('server_s').sum(), 0.1 * times.whole_s)


def test_a_walk_in_pieces_computes_what_the_whole_run_computes():
    for name in ('densenet', 'yolo_tail', 'alias'):
        example, graph, _, executor, _ = parts_of(name)
        whole = executor(example)
        walk = Walk(executor, example)
        for start in range(0, len(graph.nodes), 3):
            walk.run(range(start, min(start + 3, len(graph.nodes))))
        for output, reference in graph.outputs.items():
            if reference in walk.values:
                assert torch.equal(walk.values[reference], whole[output])
        assert set(walk.values) <= set(graph.outputs.values())  # everything else was freed


def test_sizes_that_only_a_run_tells_are_measured():
    class Positive(nn.Module):
        def forward(self, x):
            return x[x > 0] * 2

    x = torch.tensor([1.0, -1.0, 2.0, 3.0, -5.0])
    graph, parameters = capture(Positive().eval(), x, 'positive')
    times = measure_nodes(Executor(graph, parameters), {'x': x}, 1)
    profile = profile_of(graph, classify(graph), times, times)
    assert profile.operators[-1].output_bytes == 3 * 4
    with pytest.raises(ProfileError, match='known only to a run'):
        profile_of(graph, classify(graph), GIVEN, GIVEN)


def made_up(floor_s, slope, extents=(16, 40, 64), whole_s=(1.0, 2.0, 4.0)):
    """Samples of operators that cost max(floor, (a + b * share) * whole)."""
    samples = []
    for node, (extent, whole) in enumerate(zip(extents, whole_s, strict=True)):
        for length in sorted({1, *(round(extent * each) for each in (1 / 8, 1 / 4, 1 / 2, 3 / 4))}):
            factor = 1.0 - slope * (1.0 - length / extent)
            samples.append(ShareSample(node, length, extent, max(floor_s, factor * whole)))
        samples.append(ShareSample(node, extent, extent, whole))
    return samples


def test_the_fit_finds_the_lines_and_the_floors_it_was_made_of():
    fit = fit_shares(made_up(floor_s=0.02, slope=0.9))
    for line in fit.lines.values():  # shares of the whole operator
        assert line == pytest.approx((0.1, 0.9), rel=1e-3)
    assert fit.node_line(1, 0.5) == pytest.approx((0.05, 0.45), rel=1e-3)
    assert fit.node_line(7, 0.5) is None
    assert fit.floors_s[0] == pytest.approx(0.1 + 0.9 / 16)
    half = next(each for each in fit.errors if each.share == 0.5)
    assert half.measured_s == pytest.approx(half.fitted_s, rel=0.01)
    assert half.proportional_s < 0.95 * half.measured_s
    assert half.median_error < 0.01


def test_no_line_falls_or_begins_below_nothing():
    took = {1: 3.0, 8: 2.0, 32: 1.0, 64: 0.5}  # larger parts are faster: a machine at its worst
    fit = fit_shares([ShareSample(0, length, 64, each) for length, each in took.items()])
    fixed, rate = fit.lines[0]
    assert fixed > 0.0 and rate == 0.0
    took = {8: 0.001, 16: 0.02, 32: 0.5, 64: 4.0}  # convex: a line would begin below 0
    fit = fit_shares([ShareSample(0, length, 64, each) for length, each in took.items()])
    fixed, rate = fit.lines[0]
    assert fixed >= 0.0 and rate > 0.0


def test_a_fit_of_nothing_is_refused():
    with pytest.raises(ProfileError, match='none that can be split'):
        fit_shares([ShareSample(0, 8, 8, 1.0)])


def test_shares_of_a_convolution_cost_between_floor_and_whole():
    network = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()).eval()
    image = torch.rand(1, 16, 96, 161)
    graph, parameters = capture(network, image, 'conv')
    split = classify(graph)
    executor = Executor(graph, parameters)
    samples = measure_shares(executor, split, parameters, {'input': image}, 3)
    lengths = {each.length for each in samples if each.node == 0}
    assert lengths == {1, 20, 40, 80, 161}
    passes = SharePasses(executor, split, parameters, {'input': image}, 3)
    for _ in range(passes.count):
        passes.run_next()
    assert {len(each) for each in passes._seconds.values()} == {3}, 'each part in three passes'
    took = {each.length: each.seconds for each in samples if each.node == 0}
    assert took[1] < took[161]
    fit = fit_shares(samples)
    times = measure_nodes(executor, {'input': image}, 2)
    profile = profile_of(graph, split, times, times, fit, fit)
    lines = [each.robot_part for each in profile.operators if each.split and not each.is_input]
    assert len(lines) == 2 and all(sum(each) > 0.0 for each in lines)
    for operator in profile.operators:
        if operator.robot_floor_s is not None:
            assert operator.robot_floor_s <= operator.robot_s
    # Charging floors must not make whole operators dearer.
    link = Link.of_megabytes_per_s(1.0)
    local = Evaluator(profile).schedule(Plan.cut(profile, [False] * len(profile)), link)
    assert local.latency_s == pytest.approx(times.whole_s)


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(3, 8, 3, padding=1)
        self.two = nn.Conv2d(8, 4, 3, stride=2)

    def forward(self, x):
        return {'map': self.two(self.one(x).relu()), 'mean': x.mean()}


def tiny_model(compressed=False, shape=(31, 43)):
    torch.manual_seed(4)
    kind = 'sensor_msgs/msg/CompressedImage' if compressed else 'sensor_msgs/msg/Image'
    config = ModelConfig(
        name='tiny',
        source=Source(python='networks:Tiny'),
        inputs=(InputSpec('image', 'camera', kind),),
        outputs=('mean', 'map'),
        preprocess=Preprocess(resize=shape, mean=(0.4,) * 3, std=(0.2,) * 3),
    )
    return Model(config, Tiny().eval(), 'ab' * 32, False)


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def test_the_graph_of_a_model_is_the_model_from_the_sensors_own_bytes():
    model = tiny_model()
    frame = {'image': torch.randint(0, 256, (50, 67, 3), dtype=torch.uint8)}
    graph, parameters = capture_model(model, frame)
    assert graph.inputs['image'].dtype == torch.uint8
    assert same(Executor(graph, parameters)(frame), model.run(frame))
    assert any(
        parameters[name].data_ptr() == model.network.one.weight.data_ptr() for name in parameters
    )


def test_a_compressed_image_of_any_number_of_bytes_fits_the_graph():
    cv2 = pytest.importorskip('cv2')
    model = tiny_model(compressed=True)
    frames = []
    for quality in (30, 90):
        pixels = torch.randint(0, 256, (40, 52, 3), dtype=torch.uint8).numpy()
        data = cv2.imencode('.jpg', pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        frames.append({'image': torch.from_numpy(data)})
    graph, parameters = capture_model(model, frames[0])
    executor = Executor(graph, parameters)
    for frame in frames:
        assert same(executor(frame), model.run(frame))
    times = measure_nodes(executor, frames[1], 1)
    profile = profile_of(graph, classify(graph), times, times)
    assert profile.input_bytes == frames[1]['image'].numel()


def test_a_model_may_answer_frames_while_it_is_captured():
    model = tiny_model()
    frame = example_inputs(model)
    expected = model.run(frame)
    ended, wrong, runs = threading.Event(), [], []

    def answer():
        while not ended.is_set():
            runs.append(1)
            try:
                if not same(model.run(frame), expected):
                    wrong.append('other results')
            except Exception as error:
                wrong.append(repr(error))

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        hashes = {graph_hash(capture_model(model, frame)[0]) for _ in range(8)}
    finally:
        ended.set()
        thread.join()
    assert not wrong and len(runs) > 8
    assert len(hashes) == 1


def hosts(model, lend=lambda compute: compute(), slowdown=50.0):
    costs = {'fixed_s': [0.001, 0.002, 0.009], 'server_handling': (0.003, 2e-9)}
    robot = ProfilingHost(
        lambda name, _: Subject(
            model, lend, slowdown, example_inputs(model), lambda server, count: costs
        )
    )
    server = ProfilingHost(lambda name, hash: Subject(model, lend))
    return robot, server


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_DATA_HOME', str(tmp_path))
    return tmp_path


def test_a_survey_of_two_machines_gives_a_profile_that_strategies_find(own_folder):
    model = tiny_model()
    lane = DeviceLane()
    pieces = []

    def lend(compute):
        pieces.append(1)
        return lane.submit(compute).result()

    robot, server = hosts(model, lend)
    seen = []
    try:
        survey = Survey('tiny', robot.answer, server.answer, 2)
        measured = survey.run(lambda *step: seen.append(step), '2026-01-01T00:00:00+00:00')
    finally:
        lane.close()
    assert [done for _, done, _ in seen] == list(range(len(seen)))
    assert seen[-1][1] == seen[-1][2]
    graph, _ = capture_model(model, example_inputs(model))
    assert measured.graph_hash == graph_hash(graph)
    assert len(pieces) > len(graph.nodes)  # the device is lent in pieces
    profile = measured.profile
    # The robot is paced to a fiftieth of the speed; the tests' machine is noisy.
    ratio = profile.column('robot_s').sum() / profile.column('server_s').sum()
    assert 5.0 < ratio < 500.0
    assert profile.robot.encode.fixed_s + profile.server.decode.fixed_s == 0.002
    assert profile.server.encode.fixed_s + profile.robot.decode.fixed_s == 0.002
    assert profile.server.handling == TransferCost(0.003, 2e-9)
    assert profile.robot.handling == TransferCost()
    coded = {each.id: each.codings for each in profile.operators if each.codings}
    assert coded  # zeros get smaller
    assert (
        coded_for(profile, 1e5, 1e5).column('message_bytes').sum()
        < profile.column('output_bytes').sum()
    )
    path = save_profile(measured)
    assert path.parent == profiles_folder() == own_folder / 'offload_ros' / 'profiles'
    assert find_profile(measured.graph_hash) == profile
    assert load_profile(path) == find_measured(measured.graph_hash) == measured
    assert read_profile(path) == profile  # the plan command reads it too
    assert find_profile('0' * 64) is None
    assert robot._session is None and server._session is None


def test_a_broken_profile_is_passed_over(own_folder):
    profiles_folder().mkdir(parents=True)
    key = 'cd' * 32
    (profiles_folder() / f'x-{key[:16]}.json').write_text('{"format"')
    assert find_profile(key) is None
    with pytest.raises(ProfileError, match='not valid JSON'):
        load_profile(profiles_folder() / f'x-{key[:16]}.json')
    assert find_profile('../../etc') is None


def test_a_profile_that_cannot_be_written_says_so(tmp_path):
    _, graph, *_ = parts_of('vgg')
    profile = profile_of(graph, classify(graph), evenly(graph), evenly(graph))
    (tmp_path / 'file').write_text('')
    with pytest.raises(ProfileError, match='cannot be written'):
        save_profile(MeasuredProfile(profile, 'ab' * 32), tmp_path / 'file' / 'x.json')
    with pytest.raises(ProfileError, match='64 hexadecimal'):
        MeasuredProfile(profile, 'short')


def test_hosts_refuse_with_the_reason():
    model = tiny_model()
    robot, server = hosts(model)
    with pytest.raises(ProfilingError, match='start again'):
        robot.answer(Request('tiny', WHOLE))
    opened = robot.answer(Request('tiny', OPEN))
    with pytest.raises(ProfilingError, match='repeats must lie'):
        robot.answer(Request('tiny', SHARES, 0, 0))
    with pytest.raises(ProfilingError, match='part 3 is not the next'):
        robot.answer(Request('tiny', SHARES, 3))
    with pytest.raises(ProfilingError, match='no stage'):
        robot.answer(Request('tiny', 'dance'))
    with pytest.raises(ProfilingError, match='not safetensors'):
        server.answer(Request('tiny', OPEN, graph=opened.graph, example=b'garbage'))
    with pytest.raises(ProfilingError, match='not JSON'):
        server.answer(Request('tiny', OPEN, graph='{', example=opened.example))
    other = json.loads(opened.graph)
    name = next(key for key in other['parameters'] if key.endswith('one.weight'))
    other = opened.graph.replace(name, name[:-6] + 'weighs')
    with pytest.raises(ProfilingError, match='different graphs'):
        server.answer(Request('tiny', OPEN, graph=other, example=opened.example))
    blind = ProfilingHost(lambda *_: Subject(model, lambda compute: compute()))
    with pytest.raises(ProfilingError, match='has seen no frame yet'):
        blind.answer(Request('tiny', OPEN))


def test_a_model_that_capture_refuses_is_not_measured():
    class Random(nn.Module):
        def forward(self, x):
            return {'map': x + torch.rand(1), 'mean': x.mean()}

    model = tiny_model()
    model.network = Random().eval()
    host = ProfilingHost(
        lambda *_: Subject(model, lambda compute: compute(), 1.0, example_inputs(model))
    )
    with pytest.raises(ProfilingError, match='cannot be captured'):
        host.answer(Request('tiny', OPEN))


def test_only_one_measures_at_a_time_and_what_is_left_open_is_let_go():
    model = tiny_model()
    inside, go_on = threading.Event(), threading.Event()

    def lend(compute):
        inside.set()
        go_on.wait(10.0)
        return compute()

    host = ProfilingHost(lambda *_: Subject(model, lend, 1.0, example_inputs(model)), idle_s=0.05)
    thread = threading.Thread(target=lambda: host.answer(Request('tiny', OPEN)))
    thread.start()
    assert inside.wait(10.0)
    with pytest.raises(ProfilingError, match='another measurement'):
        host.answer(Request('tiny', OPEN))
    go_on.set()
    thread.join()
    assert host._session is not None
    time.sleep(0.1)
    host.expire()
    assert host._session is None


def test_cuda_operators_are_timed_by_events(monkeypatch):
    """Without a GPU: the events of a stream that is known."""
    from offload_ros.graph import stopwatch

    clock = [0.0]

    class Event:
        def record(self, stream):
            self.at_ms = clock[0]

        def elapsed_time(self, other):
            return other.at_ms - self.at_ms

    synchronised = []
    monkeypatch.setattr(stopwatch, '_event', Event)
    cuda = SimpleNamespace(
        current_stream=lambda device: None, synchronize=lambda device: synchronised.append(1)
    )
    monkeypatch.setattr(stopwatch.torch, 'cuda', cuda)
    watch = stopwatch.Stopwatch(torch.device('cuda'))

    def work(ms):
        clock[0] += ms
        return ms

    assert watch.time(3, lambda: work(4.0)) == 4.0
    watch.time(5, lambda: work(0.5))
    assert watch.take() == {3: 0.004, 5: 0.0005}
    assert synchronised == [1]
    assert watch.take() == {}
