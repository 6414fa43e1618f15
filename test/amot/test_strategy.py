"""Strategy amot: what it answers and tells, its knobs, its budget, and how it gives up."""

from dataclasses import replace
import math
import random
import shutil
import threading
import time

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
import torch

from offload_ros.amot import inference
from offload_ros.amot.allocation import Distributions
from offload_ros.amot.fit import Geometry
from offload_ros.amot.options import AmotOptions
from offload_ros.amot.patches import patches_of
from offload_ros.amot.strategy import expected_accuracy
from offload_ros.models.config import InputSpec, Preprocess
from offload_ros.models.config_file import load_models_file
from offload_ros.models.errors import ConfigError
from offload_ros.models.model import load_model
from offload_ros.strategy import Frame, LinkState, StrategyRefused, Unanswered, make_strategy

from ..draws import examples
from .tiny import (
    IMAGE_BYTES,
    IMAGE_PX,
    LONG_S,
    PATCH_PX,
    PATCHES,
    bundle_folder,
    config_of,
    images,
    model,
    networks,
    until,
)

DISTRIBUTIONS = Distributions(
    0.25,
    (0.0, 0.5, 0.6, 1.0),
    (0, 2, 4, 8),
    np.array([[0.2, 0.1, 0.2, 0.3], [0.4, 0.2, 0.1, 0.1], [0.8, 0.1, 0.0, 0.0]]),
    (30, 40, 30),
)


def with_distributions(folder):
    """The networks with what a calibration would have left."""
    shutil.copytree(bundle_folder(), folder)
    DISTRIBUTIONS.write(folder / 'distributions.json')
    return folder


def frame(seq, image):
    return Frame(seq, {'image': image}, time.monotonic())


def run(strategy, seq, image):
    return strategy.run(frame(seq, image), time.monotonic() + LONG_S)


def knobs(robot, **changes):
    robot.link.amot['scene'] = replace(config_of().amot, **changes)


def test_results_tell_what_was_done(serve):
    server = serve()
    robot = server.robot()
    strategy = robot.strategy(model())
    knobs(robot, confidence=0.6, traffic_budget=0.6, adaptive=False)
    rounds = set()
    for seq, image in enumerate(images(12), 1):
        result = run(strategy, seq, image)
        count, many = int(result.outputs['patches'][0]), int(result.outputs['rounds'][0])
        rounds.add(many)
        probabilities = result.outputs['probabilities']
        assert probabilities.dtype == torch.float32 and probabilities.shape == (5,)
        assert probabilities.sum() == pytest.approx(1.0, abs=1e-4)
        assert result.outputs['rounds'].dtype == result.outputs['patches'].dtype == torch.uint32
        assert not result.exact and math.isnan(result.tolerance)
        # floor(0.3 * 16) at first, and then up to floor(0.6 * 16) in all.
        assert count == (4 if many == 1 else 9)
        text = f'amot: {count} of 16 patches, {many} round{"s" * (many - 1)}, '
        assert result.plan == (
            f'{text}{result.bytes_up / 1e3:.1f} kB, confidence {probabilities.max():.2f}, '
            'server /server'
        )
        assert many == 2 or probabilities.max() >= 0.6
        assert result.bytes_up <= count * 768 + 60 + 12 * (many - 1)
        assert result.uplink_s >= 0 and result.downlink_s >= 0 and result.server_s > 0
    assert rounds == {1, 2}
    assert server.sessions[0].runs == 0


def test_one_round_of_all_patches_is_the_classifier_itself(serve):
    """Of all patches nothing is rebuilt: the answer is that of the whole image."""
    robot = serve().robot()
    strategy = robot.strategy(model())
    knobs(robot, first_ratio=1.0, traffic_budget=1.0, confidence=0.0)
    # A head beside each image: the budget has no room for the last patch at first.
    for seq, image in enumerate(images(3), 1):
        strategy._sampler.traffic.bring(0.01)
        result = run(strategy, seq, image)
        assert int(result.outputs['patches'][0]) == PATCHES
        found = result.outputs['probabilities']
        whole = inference.whole(networks(), patches_of(image[None], PATCH_PX)).probabilities[0]
        torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-6)
        local = model().run({'image': image})['probabilities']
        torch.testing.assert_close(found, local, rtol=1e-3, atol=1e-5)


def test_images_of_another_size_are_resized(serve):
    robot = serve().robot()
    strategy = robot.strategy(model())
    knobs(robot, first_ratio=1.0, traffic_budget=1.0, confidence=0.0)
    (image,) = images(1, (96, 128))
    strategy._sampler.traffic.bring(0.01)
    found = run(strategy, 1, image).outputs['probabilities']
    local = model().run({'image': image})['probabilities']
    torch.testing.assert_close(found, local, rtol=0.05, atol=0.02)  # rounded to whole levels


def test_knobs_act_on_the_next_image(serve):
    robot = serve().robot()
    strategy = robot.strategy(model())
    (image,) = images(1)
    assert strategy.options == config_of().amot
    counts = []
    for seq, (ratio, confidence) in enumerate([(0.1, 0.0), (0.2, 0.0), (0.2, 1.0)], 1):
        knobs(robot, first_ratio=ratio, confidence=confidence, adaptive=False)
        outputs = run(strategy, seq, image).outputs
        counts.append((int(outputs['rounds'][0]), int(outputs['patches'][0])))
    assert counts == [(1, 1), (1, 3), (2, 6)]


def test_no_stream_takes_more_than_its_budget(serve, tmp_path):
    """With a server that allocates by distributions; bytes with all heads."""
    folder = with_distributions(tmp_path / 'scene')
    own = load_model(config_of(folder))
    server = serve(own)
    pictures = list(images(12))
    seconds = []

    @given(st.integers(0, 2**32 - 1))
    @settings(max_examples=examples(6, 100))
    def check(seed):
        chance = random.Random(seed)
        robot = server.robot()
        strategy = robot.strategy(own)
        brought = sent = 0
        for seq, image in enumerate(pictures, 1):
            if seq % 4 == 1:
                options = replace(
                    own.config.amot,
                    first_ratio=chance.choice((0.1, 0.25, 0.5)),
                    confidence=chance.choice((0.0, 0.5, 0.6, 1.0)),
                    traffic_budget=chance.choice((0.1, 0.3, 0.5, 0.8)),
                    adaptive=chance.random() < 0.5,
                    objective=chance.choice(('printed', 'weighted')),
                )
                robot.link.amot['scene'] = options
            brought += options.traffic_budget * IMAGE_BYTES
            try:
                result = run(strategy, seq, image)
            except Unanswered as error:
                assert 'traffic budget' in str(error)
                continue
            sent += result.bytes_up
            seconds.append(int(result.outputs['rounds'][0]) - 1)
            assert sent <= brought + 1e-6

    check()
    assert 0 < sum(seconds) < len(seconds)


def test_second_rounds_are_allocated_by_what_calibration_found(serve, tmp_path):
    """What sure images leave goes to those that are not, and options are those of calibration."""
    folder = with_distributions(tmp_path / 'scene')
    own = load_model(config_of(folder))
    robot = serve(own).robot()
    strategy = robot.strategy(own)
    options = replace(own.config.amot, first_ratio=0.25, traffic_budget=0.5, confidence=0.6)
    robot.link.amot['scene'] = options
    asked = []
    for seq, image in enumerate(images(40), 1):
        outputs = run(strategy, seq, image).outputs
        if int(outputs['rounds'][0]) == 2:
            asked.append(int(outputs['patches'][0]) - 4)
    assert set(asked) <= {2, 4, 8} and max(asked) == 8  # a fixed share would be 4 for each


def test_predictions_follow_what_was_measured(serve, tmp_path):
    folder = with_distributions(tmp_path / 'scene')
    own = load_model(config_of(folder))
    robot = serve(own).robot()
    strategy = robot.strategy(own)
    assert math.isnan(strategy.predict(LinkState()).latency_s)
    robot.link.amot['scene'] = replace(own.config.amot, confidence=0.0)
    for seq, image in enumerate(images(4), 1):
        result = run(strategy, seq, image)
    expected = strategy.predict(LinkState(1e6, 2e6, 0.05))
    assert expected.uplink_busy_s == pytest.approx(result.bytes_up / 1e6)
    assert expected.downlink_busy_s == pytest.approx(result.bytes_down / 2e6)
    link_s = 0.05 + result.bytes_up / 1e6 + result.bytes_down / 2e6
    assert link_s < expected.latency_s < link_s + LONG_S
    assert strategy.predict(LinkState()).accuracy == expected.accuracy


@pytest.mark.parametrize(
    ('changes', 'accuracy'),
    [
        # Nothing is asked for: the first round's shares.
        ({'confidence': 0.0}, 0.3 * 0.2 + 0.4 * 0.4 + 0.3 * 0.8),
        # Room for 8 patches for each: all that the table has.
        ({'traffic_budget': 0.75, 'confidence': 1.0}, 0.3 * 0.8 + 0.4 * 0.8 + 0.3 * 0.9),
        # Room for 2 for each, as many for each.
        (
            {'traffic_budget': 0.375, 'confidence': 1.0, 'adaptive': False},
            0.3 * 0.3 + 0.4 * 0.6 + 0.3 * 0.9,
        ),
        # The last interval is confident: its 2 go to the others, 200 for 30 * 4 + 40 * 2.
        ({'traffic_budget': 0.375, 'confidence': 0.6}, 0.3 * 0.5 + 0.4 * 0.6 + 0.3 * 0.8),
    ],
)
def test_expected_accuracy_is_what_calibration_found(tmp_path, changes, accuracy):
    DISTRIBUTIONS.write(tmp_path / 'distributions.json')
    options = replace(AmotOptions(str(tmp_path), first_ratio=0.25), **changes)
    found = expected_accuracy(options, Geometry(IMAGE_PX, PATCH_PX, 5))
    assert found == pytest.approx(accuracy)


def test_without_calibration_no_accuracy_is_expected(tmp_path):
    geometry = Geometry(IMAGE_PX, PATCH_PX, 5)
    assert math.isnan(expected_accuracy(AmotOptions(str(tmp_path)), geometry))


# --- giving up


def test_a_lost_server_ends_the_wait_at_once(serve):
    server = serve()
    robot = server.robot()
    strategy = robot.strategy(model())
    (image,) = images(1)
    run(strategy, 1, image)
    server.links[0].up.shape = replace(server.links[0].up.shape, cut=True)
    lost = threading.Timer(0.2, robot.lose)
    lost.start()
    with pytest.raises(Unanswered, match='server /server is lost'):
        strategy.run(frame(2, image), time.monotonic() + 10 * LONG_S)
    with pytest.raises(Unanswered, match='no server is there'):
        run(strategy, 3, image)


def test_cancel_and_deadline_and_close_end_it(serve):
    server = serve()
    robot = server.robot()
    strategy = robot.strategy(model())
    (image,) = images(1)
    run(strategy, 1, image)
    server.links[0].up.shape = replace(server.links[0].up.shape, cut=True)
    threading.Timer(0.1, strategy.cancel, [2]).start()
    with pytest.raises(Unanswered, match='cancelled'):
        run(strategy, 2, image)
    with pytest.raises(Unanswered, match='cancelled'):
        run(strategy, 2, image)
    with pytest.raises(Unanswered, match=r'did not answer in time|did not reach'):
        strategy.run(frame(3, image), time.monotonic() + 0.1)
    threading.Timer(0.1, strategy.close).start()
    with pytest.raises(Unanswered, match='the strategy was closed'):
        run(strategy, 4, image)
    server.links[0].up.shape = replace(server.links[0].up.shape, cut=False)
    until(lambda: server.sessions[0].runs == 0)


def test_a_server_that_asks_for_more_than_was_offered_is_refused(serve, monkeypatch):
    server = serve()
    robot = server.robot()
    strategy = robot.strategy(model())
    knobs(robot, confidence=1.0, adaptive=False)
    (served,) = server.host._served.values()
    greedy = served.wanted
    monkeypatch.setattr(served, 'wanted', lambda first, have, count: greedy(first, have, 12))
    (image,) = images(1)
    with pytest.raises(Unanswered, match='12 patches are wanted, 2 were offered'):
        run(strategy, 1, image)
    until(lambda: server.sessions[0].runs == 0)
    monkeypatch.undo()
    assert run(strategy, 2, image).outputs['rounds'][0] == 2


def test_answers_for_another_number_of_classes_are_refused(serve, monkeypatch):
    server = serve()
    robot = server.robot()
    strategy = robot.strategy(model())
    (served,) = server.host._served.values()
    first = served.first

    def shorter(given):
        return [replace(each, probabilities=each.probabilities[:3]) for each in first(given)]

    monkeypatch.setattr(served, 'first', shorter)
    knobs(robot, confidence=0.0)
    with pytest.raises(Unanswered, match='answers for 3 classes, the model has 5'):
        run(strategy, 1, next(images(1)))


def test_a_server_without_the_networks_says_why(serve):
    other = load_model(config_of(bundle_folder(1), source=config_of().source))
    robot = serve(other).robot()
    with pytest.raises(Unanswered, match='has another classifier than the source'):
        run(robot.strategy(other), 1, next(images(1)))


def test_another_classifier_on_the_server_is_told(serve):
    robot = serve(load_model(config_of(bundle_folder(1)))).robot()
    with pytest.raises(Unanswered, match="has another 'scene'"):
        run(robot.strategy(model()), 1, next(images(1)))


def test_a_server_that_never_heard_of_patches_does_not_hold_the_robot(serve):
    server = serve()
    robot = server.robot()
    server.links[0].server.listen(9, lambda incoming: None)
    with pytest.raises(Unanswered, match='did not answer in time'):
        robot.strategy(model()).run(frame(1, next(images(1))), time.monotonic() + 0.2)


# --- which models


@pytest.mark.parametrize(
    ('changes', 'text'),
    [
        ({'amot': None}, r'give it amot: \{networks: \./folder\} in models.yaml'),
        ({'preprocess': Preprocess(resize=(32, 64))}, r'resize must be \[64, 64\]'),
        ({'preprocess': None}, r'resize must be \[64, 64\]'),
        ({'preprocess': Preprocess(resize=(64, 64), letterbox=True)}, 'no letterbox'),
        ({'preprocess': Preprocess(resize=(64, 64), scale=1.0)}, 'its scale is 1/255'),
        ({'outputs': ('probabilities', 'logits')}, r'outputs must be \[probabilities\]'),
        ({'inputs': (InputSpec('image', 'c', encoding='bgr8'),)}, 'encoding rgb8, not bgr8'),
        (
            {'inputs': (InputSpec('image', 'c', type='sensor_msgs/msg/CompressedImage'),)},
            'type sensor_msgs/msg/Image is needed',
        ),
    ],
)
def test_models_that_cannot_be_sampled_are_refused(changes, text):
    changed = type(model())(config_of(**changes), model().network, 'hash', True)
    with pytest.raises(StrategyRefused, match=text):
        make_strategy('amot').prepare(changed, None)


def test_a_network_that_is_no_vit_is_refused():
    other = type(model())(config_of(), torch.nn.Linear(2, 2), 'hash', True)
    with pytest.raises(StrategyRefused, match='must be a ViT or DeiT classifier of transformers'):
        make_strategy('amot').prepare(other, None)


def test_the_trained_classifier_also_runs_whole(serve):
    """For strategies device and server: the same weights, on the whole image."""
    (image,) = images(1, (96, 128))
    assert set(model().run({'image': image})) == {'probabilities'}
    assert model().weights_trained


# --- models.yaml

ENTRY = """
models:
  scene:
    source: {transformers: ./scene/classifier}
    inputs: [{name: image, topic: camera/image_raw}]
    preprocess: {resize: [64, 64]}
    outputs: [probabilities]
    strategy: amot
    amot: {networks: ./scene, confidence: 0.7, adaptive: false}
    variants:
      same: {preprocess: {resize: [32, 32]}}
      other: {source: {python: 'networks:Conv'}}
      second: {source: {transformers: ./scene/classifier}, amot: {networks: ./scene}}
"""


@pytest.fixture
def models_file(tmp_path):
    (tmp_path / 'scene' / 'classifier').mkdir(parents=True)
    return lambda text=ENTRY: (
        tmp_path / 'models.yaml',
        (tmp_path / 'models.yaml').write_text(text),
    )


def test_models_yaml_names_the_networks_and_where_knobs_begin(models_file, tmp_path):
    path, _ = models_file()
    (config,) = load_models_file(path)
    assert config.amot == AmotOptions(
        str(tmp_path / 'scene'), confidence=0.7, adaptive=False, first_ratio=0.3
    )
    assert config.variant_named('same').amot == config.amot
    assert config.variant_named('other').amot is None  # another classifier
    assert config.variant_named('second').amot == AmotOptions(str(tmp_path / 'scene'))


@pytest.mark.parametrize(
    ('entry', 'text'),
    [
        ('./scene', 'amot: must be a mapping of keys to values'),
        ('{confidence: 0.5}', 'amot: networks is missing'),
        ('{networks: ./nowhere}', 'nowhere is not a folder'),
        ('{networks: ./scene, ratio: 1}', "unknown key 'ratio'"),
        ('{networks: ./scene, confidence: 1.5}', 'amot: confidence: from 0 to 1, not 1.5'),
        ('{networks: ./scene, first_ratio: 0}', 'first_ratio: a share from 0.01 to 1, not 0'),
        ('{networks: ./scene, adaptive: 1}', 'adaptive must be true or false'),
        ('{networks: ./scene, objective: best}', "'best' is not one of printed, weighted"),
    ],
)
def test_mistakes_in_models_yaml_are_told(models_file, entry, text):
    path, _ = models_file(
        ENTRY.replace('{networks: ./scene, confidence: 0.7, adaptive: false}', entry)
    )
    with pytest.raises(ConfigError, match=text) as caught:
        load_models_file(path)
    assert "model 'scene'" in str(caught.value)
