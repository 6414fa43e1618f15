"""doc/your_robot.md as its reader does it: its files, a server, a robot, a camera, its commands."""

from __future__ import annotations

import os
from pathlib import Path
import re
import shutil
import subprocess
import sys

import pytest
from system import Listener, Process, new_domain, outputs_of, robot, running, server, until

from offload_ros.msg import InferenceResult

DOC = Path(__file__).parents[2] / 'doc'
PAGE = (DOC / 'your_robot.md').read_text()


@pytest.mark.parametrize('file', ['my_network.py', 'camera.py', 'models.yaml'])
def test_the_page_shows_the_files_that_run(file: str) -> None:
    kind = 'yaml' if file.endswith('yaml') else 'python'
    assert f'```{kind}\n{(DOC / "examples" / file).read_text()}```' in PAGE


def test_what_the_page_says_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ('my_network.py', 'camera.py', 'models.yaml'):
        shutil.copy(DOC / 'examples' / name, tmp_path)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path), prepend=os.pathsep)
    subprocess.run([sys.executable, 'my_network.py'], cwd=tmp_path, check=True)
    domain, models = new_domain(), tmp_path / 'models.yaml'
    processes = [
        server(domain, models, 'network:=localhost'),
        robot(domain, models, 'network:=localhost'),
    ]
    with running(*processes):
        processes[1].wait_for('server /offload_server is ready')
        # As the page exports it for the camera: what the launch has printed.
        profile = re.search(r'FASTDDS_DEFAULT_PROFILES_FILE=(\S+)', processes[1].output)
        environment = {'FASTDDS_DEFAULT_PROFILES_FILE': profile[1]} if profile else {}
        camera = Process(domain, sys.executable, str(tmp_path / 'camera.py'), **environment)
        listener = Listener(domain)
        with running(camera):
            results = listener.results('detector')

            def served() -> InferenceResult | None:
                found = [each for each in list(results) if each.strategy_used == 'server']
                return found[-1] if found else None

            result = until(served, 'a result of the server')
            assert result.status == InferenceResult.OK and result.weights_trained
            assert result.header.frame_id == 'camera' and not result.fallback
            (probabilities,) = outputs_of(result).values()
            assert probabilities.shape == (10,) and abs(probabilities.sum() - 1.0) < 1e-5
            set_auto = ('ros2', 'param', 'set', '/offload_manager', 'detector.strategy', 'auto')
            assert Process(domain, *set_auto).ended() == 0
            until(lambda: results[-1].strategy_requested == 'auto', 'auto')
            assert processes[0].stop() != 1
            until(lambda: 'no server is there' in results[-1].reason, 'the robot goes on')
            assert results[-1].status == InferenceResult.OK
        listener.close()
        processes[1].stop()
