"""Robot and server over each network profile, as their launch files start them.

All in one network namespace with nothing but a loopback interface: no packet leaves the machine.
``network:=localhost`` is what test_bring_up gets.
"""

from __future__ import annotations

from pathlib import Path
import shutil
import subprocess
import sys

import pytest
from rclpy.qos import QoSProfile

sys.path.insert(0, str(Path(__file__).parent.parent / 'nodes'))

INSIDE = """
set -e
mount -t tmpfs -o size=1g tmpfs /dev/shm
ip link set lo up
ip link set lo multicast on
ip route add 224.0.0.0/4 dev lo
exec "$@"
"""
MODELS = """
models:
  identity:
    source: {python: networks:Identity}
    inputs: [{name: image, topic: camera/image, type: sensor_msgs/msg/Image, encoding: rgb8}]
    outputs: [output]
    deadline_ms: 2000.0
    strategy: server
"""


def isolated(*command: str) -> list[str]:
    """``command`` in a network and /dev/shm of its own."""
    return ['unshare', '--net', '--mount', 'bash', '-c', INSIDE, 'isolated', *command]


def why_not() -> str:
    """Why namespaces cannot be made here; empty when they can."""
    if shutil.which('unshare') is None or shutil.which('ip') is None:
        return 'unshare (util-linux) and ip (iproute2) are needed'
    done = subprocess.run(isolated('true'), capture_output=True, text=True, check=False)
    return done.stderr.strip().splitlines()[-1] if done.returncode else ''


@pytest.mark.parametrize(
    ('robot_arguments', 'server_arguments', 'profile'),
    [
        (['network:=lan'], ['network:=lan'], 'lan.xml'),
        (['network:=routed', 'peers:=127.0.0.1'], ['network:=routed'], '/peers_'),
        (
            ['network:=routed', 'transport:=udp', 'peers:=127.0.0.1'],
            ['network:=routed', 'transport:=udp'],
            'udp.xml',
        ),
    ],
    ids=['lan', 'routed_tcp', 'routed_udp'],
)
def test_an_image_is_answered_by_the_server(
    tmp_path: Path, robot_arguments: list[str], server_arguments: list[str], profile: str
) -> None:
    reason = why_not()
    if reason:
        pytest.skip(f'no network namespace here (root is needed): {reason}')
    words = [str(tmp_path), profile, *robot_arguments, '--', *server_arguments]
    done = subprocess.run(
        isolated(sys.executable, __file__, *words),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def inside(folder: Path, profile: str, robot_arguments: list[str], server_arguments: list[str]):
    """Start both, send an image from a process without any profile, check its result.

    It fits the half megabyte of shared memory that such a process has.
    """
    import os

    from sensor_msgs.msg import Image
    from system import Listener, Process, answer_to, image_message, random_pixels, until

    models = folder / 'models.yaml'
    models.write_text(MODELS)
    nodes = str(Path(__file__).parent.parent / 'nodes')
    shell = {
        'PYTHONPATH': os.pathsep.join([nodes, os.environ.get('PYTHONPATH', '')]),
        'ROS_HOME': str(folder / 'home'),
    }
    launch = ['ros2', 'launch', 'offload_ros']
    common = [f'models_file:={models}', 'threads:=1']
    server = Process(0, *launch, 'server.launch.py', *common, *server_arguments, **shell)
    robot = Process(0, *launch, 'robot.launch.py', *common, *robot_arguments, **shell)
    camera = Listener(0)
    try:
        for side in (server, robot):
            until(lambda side=side: profile in side.output, f'{profile} in {side.output}')
        robot.wait_for('server /offload_server is ready')
        results = camera.results('identity')
        publisher = camera.publisher(Image, 'camera/image', QoSProfile(depth=2))
        until(publisher.get_subscription_count, 'a subscriber of the camera')
        image = image_message(random_pixels(1, 240, 320), 1)
        result = answer_to(publisher.publish, image, results)
        assert (result.strategy_used, result.fallback) == ('server', False), result.reason
        assert [side.stop() for side in (robot, server)] == [0, 0]
    finally:
        camera.close()
        for side in (robot, server):
            if side.process.poll() is None:
                side.kill()


if __name__ == '__main__':
    at = sys.argv.index('--')
    words, sys.argv = sys.argv, sys.argv[:1]  # rclpy would take them for remappings
    inside(Path(words[1]), words[2], words[3:at], words[at + 1 :])
