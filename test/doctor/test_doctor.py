"""The doctor as its user runs it, over real DDS with real nodes."""

from __future__ import annotations

from collections.abc import Iterator
import itertools
import os
from pathlib import Path
import subprocess
import threading
import time

import pytest
from sensor_msgs.msg import Image
from system import (
    Listener,
    Process,
    image_message,
    random_pixels,
    robot,
    running,
    server,
    until,
)

NETWORKS = str(Path(__file__).parent.parent / 'nodes')
_domains = itertools.count(os.getpid() * 4)
LIMIT_S = 40.0  # of one run; on an idle machine it takes up to 7.5 s


class Camera:
    """Publishes images with the time of now, on one topic after the other."""

    def __init__(self, listener: Listener) -> None:
        self._publishers = {
            topic: listener.publisher(Image, topic) for topic in ('cam', 'front/image')
        }
        self.topic = 'cam'
        self.listener = listener
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        pixels = random_pixels(1)
        while not self._ended.wait(0.05):
            message = image_message(pixels, int(time.time()))
            message.header.stamp.nanosec = int(time.time() % 1 * 1e9)
            self._publishers[self.topic].publish(message)

    def move_to_front(self) -> None:
        """The driver starts again with another topic."""
        self.topic = 'front/image'
        time.sleep(0.1)
        self.listener.destroy(self._publishers['cam'])

    def close(self) -> None:
        self._ended.set()
        self._thread.join(5.0)


def doctor(domain: int, *arguments: str, **environment: str) -> tuple[int, str]:
    """Exit status and output."""
    began_s = time.monotonic()
    run = subprocess.run(
        ['ros2', 'run', 'offload_ros', 'doctor', *arguments],
        env={**os.environ, 'ROS_DOMAIN_ID': str(domain), **environment},
        capture_output=True,
        text=True,
        timeout=120.0,
        check=False,
    )
    assert time.monotonic() - began_s < LIMIT_S
    output = run.stdout + run.stderr
    assert 'Traceback' not in output, output
    assert '\x1b[' not in run.stdout, 'plain text where there is no terminal'
    return run.returncode, run.stdout


def line(output: str, name: str) -> str:
    """The line of one finding."""
    lines = [each for each in output.splitlines() if each[6:].startswith(name)]
    assert len(lines) == 1, output
    return lines[0]


@pytest.fixture
def domain() -> int:
    """One whose ports no other program is given, and that no other test uses."""
    return 215 + next(_domains) % 17


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv('PYTHONPATH', NETWORKS, prepend=':')
    file = tmp_path / 'models.yaml'
    file.write_text(
        "models: {mean: {source: {python: 'networks:Identity'}, outputs: [mean],"
        ' inputs: [{name: image, topic: cam}]}}'
    )
    return file


@pytest.fixture
def camera(domain: int) -> Iterator[Camera]:
    listener = Listener(domain)
    made = Camera(listener)
    yield made
    made.close()
    listener.close()


def test_a_system_that_works_then_loses_its_camera_topic_and_its_server(domain, models, camera):
    the_server, the_robot = server(domain, models), robot(domain, models)
    with running(the_server, the_robot):
        the_robot.wait_for('is ready')
        status, output = doctor(domain)
        assert status == 0, output
        assert line(output, 'input mean.image').startswith('OK'), output
        assert line(output, 'model mean').endswith('is the same on /offload_server')
        assert line(output, 'connection').endswith('mean uses /offload_server')
        assert 'by server' in line(output, 'results mean')

        camera.move_to_front()
        the_server.stop()
        status, output = doctor(domain, '--timeout', '4')
        assert status == 1, output
        assert 'ros2 launch offload_ros server.launch.py' in line(output, 'server')
        missing = line(output, 'input mean.image')
        assert missing.startswith('FAIL') and 'topic: /front/image' in missing
        assert 'because of input mean.image' in line(output, 'results mean')
        assert '; begin with input mean.image: ' in output
        the_robot.stop()


def test_a_robot_that_is_not_there(domain, models):
    status, output = doctor(domain, '--models-file', str(models), '--timeout', '3')
    assert status == 1
    remedy = f'ros2 launch offload_ros robot.launch.py models_file:={models}'
    assert line(output, 'manager').endswith(remedy), output
    assert line(output, 'results mean').startswith('SKIP')


def test_an_inactive_manager(domain, models, camera):
    manager = Process(
        domain, 'ros2', 'run', 'offload_ros', 'offload_manager', '--ros-args',
        '-p', f'models_file:={models}', '-p', 'autostart:=false', '-r', '__ns:=/robot1',
    )  # fmt: skip
    with running(manager):
        nodes = camera.listener.node.get_node_names
        until(lambda: 'offload_manager' in nodes(), 'the manager is there')
        status, output = doctor(domain, '--namespace', 'robot1', '--timeout', '3')
        assert status == 1
        assert '/robot1/offload_manager is unconfigured' in line(output, 'manager'), output


@pytest.mark.parametrize(
    ('environment', 'name', 'remedy'),
    [
        ({'RMW_IMPLEMENTATION': 'rmw_none_cpp'}, 'rmw', 'unset RMW_IMPLEMENTATION'),
        ({'ROS_DOMAIN_ID': '400'}, 'domain', 'unset ROS_DOMAIN_ID'),
    ],
)
def test_settings_with_which_no_ros_program_starts(domain, environment, name, remedy):
    status, output = doctor(**{'domain': domain, **environment})
    assert status == 1 and remedy in line(output, name)


@pytest.mark.parametrize(
    'arguments', [['--timeout', '0'], ['--namespace', 'a b'], ['--manager', '/x'], ['--what']]
)
def test_wrong_usage(domain, arguments):
    assert doctor(domain, *arguments)[0] == 2
