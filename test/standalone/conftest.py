# SPDX-License-Identifier: Apache-2.0
"""What the tests of the stand-ins share: when they run, and the `ros2` command as a process."""

from concurrent.futures import ThreadPoolExecutor
import importlib.util
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROS2 = ROOT / 'standalone' / 'bin' / 'ros2'


def pytest_collection_modifyitems(items):
    spec = importlib.util.find_spec('launch')
    origin = Path(spec.origin).resolve() if spec and spec.origin else Path('/')
    if (ROOT / 'standalone' / 'stand_ins') in origin.parents:
        return
    skip = pytest.mark.skip(reason='a ROS 2 installation is used instead of the stand-ins')
    for item in items:
        if Path(item.fspath).parent == Path(__file__).parent and (
            'stand_in' in item.fspath.basename or 'verbs' in item.fspath.basename
        ):
            item.add_marker(skip)


class Ros2:
    """Starts `ros2` in a domain of its own and ends whatever a failed test leaves running."""

    def __init__(self, env):
        self.env = env
        self._started = []

    def start(self, *words):
        process = subprocess.Popen(
            [sys.executable, str(ROS2), *map(str, words)],
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def run(self, *words, timeout=120):
        return subprocess.run(
            [sys.executable, str(ROS2), *map(str, words)],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def together(self, *commands):
        """(stdout, stderr, exit code) of several commands, which wait for discovery together."""
        with ThreadPoolExecutor(len(commands)) as pool:
            done = pool.map(lambda command: self.run(*command.split()), commands)
        return [(one.stdout, one.stderr, one.returncode) for one in done]

    def close(self):
        for process in self._started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            if not process.stdout.closed:
                process.communicate()


@pytest.fixture(scope='module')
def ros2(tmp_path_factory):
    home = tmp_path_factory.mktemp('ros_home')
    env = {
        **os.environ,
        'ROS_DOMAIN_ID': str(60 + os.getpid() % 20),
        'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
        'ROS_HOME': str(home),
        'AMENT_PREFIX_PATH': f'{home}:{os.environ["AMENT_PREFIX_PATH"]}',
    }
    runner = Ros2(env)
    runner.prefix = home
    yield runner
    runner.close()


@pytest.fixture(scope='module')
def package(ros2):
    """A package in an ament prefix: add(name, text) makes an executable, share is its folder."""
    folder = ros2.prefix / 'lib' / 'stand_in_test'
    index = ros2.prefix / 'share' / 'ament_index' / 'resource_index' / 'packages'
    share = ros2.prefix / 'share' / 'stand_in_test'
    for path in (folder, index, share):
        path.mkdir(parents=True)
    (index / 'stand_in_test').touch()

    def add(name, text):
        path = folder / name
        path.write_text(f'#!{sys.executable}\n{text}')
        path.chmod(0o755)
        return path

    add.share = share
    return add


@pytest.fixture
def eventually():
    """Wait until a condition has a true value, and return it."""

    def wait(condition, timeout_s=60.0):
        end = time.monotonic() + timeout_s
        while not (value := condition()):
            assert time.monotonic() < end, 'did not happen in time'
            time.sleep(0.02)
        return value

    return wait
