"""``ros2 run offload_ros profile`` against running nodes that answer frames meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
import json
from pathlib import Path
import signal
import threading

import pytest
from sensor_msgs.msg import Image
from system import (
    Listener,
    Process,
    answer_to,
    image_message,
    new_domain,
    random_pixels,
    robot,
    running,
    server,
    until,
    write_models,
)

from offload_ros.graph.profile_file import read_profile
from offload_ros.graph.profile_store import load_profile
from offload_ros.srv import ProfileModel

MODELS = """
models:
  conv:
    source: {python: 'networks:Conv'}
    inputs: [{name: image, topic: camera}]
    outputs: [map, mean]
  lonely:
    source: {python: 'networks:Conv'}
    inputs: [{name: image, topic: nowhere}]
    outputs: [map, mean]
"""


def profile(domain: int, *arguments: str, **environment: str) -> Process:
    """The command."""
    command = ('ros2', 'run', 'offload_ros', 'profile', *arguments)
    return Process(domain, *command, **environment)


@pytest.fixture(scope='module')
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Listener, Process]]:
    """A domain with robot and server of MODELS, somebody who listens, and the server's process."""
    models = write_models(tmp_path_factory.mktemp('profile'), MODELS)
    domain = new_domain()
    far, near = server(domain, models), robot(domain, models)
    listener = Listener(domain)
    with running(far, near):
        try:
            near.wait_for('is ready')
            yield domain, listener, far
            assert near.stop() != 1
        finally:
            listener.close()


def test_both_ends_are_measured_while_frames_are_answered(
    system: tuple[int, Listener, Process], tmp_path: Path
) -> None:
    domain, listener, _ = system
    camera = listener.publisher(Image, 'camera')
    results = listener.results('conv')
    answer_to(camera.publish, image_message(random_pixels(1), 1), results)
    file = tmp_path / 'conv.json'
    command = profile(domain, '--model', 'conv', '--repeats', '2', '--output', str(file))
    ended = threading.Event()
    answered = []

    def look() -> None:
        stamp = 2
        while not ended.is_set():
            message = image_message(random_pixels(stamp), stamp)
            answered.append(answer_to(camera.publish, message, results))
            stamp += 1

    looker = threading.Thread(target=look)
    with running(command):
        looker.start()
        try:
            assert command.ended(180.0) == 0, command.output
        finally:
            ended.set()
            looker.join(25.0)
    assert len(answered) > 3
    # Frames and measurement share two cores: now and then the server is too late for one.
    late = [result.reason for result in answered if result.fallback]
    assert len(late) <= 0.2 * len(answered), late
    measured = load_profile(file)
    assert measured.profile == read_profile(file)
    assert measured.profile.model == 'conv'
    assert measured.profile.input_bytes == 48 * 64 * 3
    assert measured.robot['threads'] == measured.server['threads'] == 1
    assert measured.profile.column('robot_s').sum() > 0.0
    assert measured.profile.column('server_s').sum() > 0.0
    assert {'robot', 'server'} == set(measured.share_errors)
    assert measured.profile.robot.encode.fixed_s > 0.0  # of messages
    parts = [each for each in measured.profile.operators if each.split and not each.is_input]
    assert parts and all(each.robot_part and each.server_part for each in parts)
    assert 'of the computing meanwhile' in command.output
    # Noise does not shrink, but as floats it does.
    coded = {each.id: each.codings for each in measured.profile.operators if each.codings}
    assert coded and -1 not in coded
    assert measured.measured_at
    assert 'ros2 run offload_ros plan --profile' in command.output


def test_what_cannot_be_measured_is_refused_with_the_reason(
    system: tuple[int, Listener, Process],
) -> None:
    domain, listener, _ = system
    refusals = {
        ('offload_manager', 'other', 'open'): "no model 'other' (there are: conv, lonely)",
        ('offload_server', 'other', 'open'): "no model 'other' (there are: conv, lonely)",
        ('offload_manager', 'lonely', 'open'): "model 'lonely' has seen no frame yet",
        ('offload_server', 'conv', 'whole'): 'start again',
    }
    for (node, model, stage), text in refusals.items():
        request = ProfileModel.Request(model=model, stage=stage)
        answer = listener.call(ProfileModel, f'/{node}/profile_model', request)
        assert not answer.success
        assert text in answer.message
    commands = {
        'there is no server /elsewhere': ['--model', 'conv', '--server', 'elsewhere'],
    }
    processes = {text: profile(domain, *words) for text, words in commands.items()}
    with running(*processes.values()):
        for text, process in processes.items():
            assert process.ended(180.0) == 1
            assert text in process.output
            assert 'Traceback' not in process.output


def test_a_server_that_ends_in_the_middle_ends_the_measurement(
    system: tuple[int, Listener, Process],
) -> None:
    domain, _, far = system
    command = profile(domain, '--model', 'conv', '--repeats', '1000')
    with running(command):
        asked = ProfileModel.Request(model='conv', stage='whole')
        listener = system[1]

        def measuring() -> bool:
            answer = listener.call(ProfileModel, '/offload_server/profile_model', asked)
            return answer.success and 'whole_s' in json.loads(answer.report)

        until(measuring, 'a measurement', 120.0)
        far.stop(signal.SIGINT)
        assert command.ended(180.0) == 1
    assert 'offload_server' in command.output
    assert 'Traceback' not in command.output
