"""Intra-DP between real processes: the strategy, and a plain program with three lines."""

from __future__ import annotations

import json
from pathlib import Path
import sys
import time

from programs import server_in
import pytest
from system import Process, new_domain, outputs_of, running, write_models
from test_cuts import MODELS, Robot, write_profile

PROGRAM = """
import sys, time
import torch
from offload_ros import IntraDP

torch.set_num_threads(1)
torch.manual_seed(0)
model = torch.nn.Sequential(
    torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(16, 4, 3, padding=1)
).eval()
x = torch.rand(1, 3, 64, 96)
with torch.no_grad():
    want = model(x)
    idp = IntraDP()
    idp.attach(model)
    end_s = time.monotonic() + 60.0
    while 'plans for' not in idp.status() and time.monotonic() < end_s:
        torch.testing.assert_close(model(x), want, rtol=1e-4, atol=1e-5)
        time.sleep(0.01)
    for _ in range(100):
        torch.testing.assert_close(model(x), want, rtol=1e-4, atol=1e-5)
        time.sleep(0.002)
    print(idp.status(), flush=True)
    if len(sys.argv) > 1:
        idp.close()
    print('done', flush=True)
"""


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('XDG_DATA_HOME', str(tmp_path / 'data'))
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


def test_the_strategy_between_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A robot that is slow: its results come with the server's help, and one of them is
    recorded."""
    monkeypatch.setenv('OFFLOAD_ROBOT_SLOWDOWN', '50')
    models = write_models(tmp_path, MODELS)
    domain = new_domain()
    write_profile()
    robot = Robot(domain, models)
    with running(robot.process):
        by_device = {seed: outputs_of(robot.frame(seed)) for seed in range(3)}
        server = server_in(domain, models)
        with running(server):
            assert 'successful' in robot.set('intra_dp').output
            result = robot.until_plan(' on the server')
            assert result.strategy_used == 'intra_dp' and not result.fallback
            assert result.energy_j > 0.0
            for seed, want in by_device.items():
                result = robot.frame(seed)
                assert not result.fallback, result.reason
                found = outputs_of(result)
                assert found.keys() == want.keys()
                for name, values in want.items():
                    assert abs(found[name] - values).max() <= 1e-5 * abs(values).max(), name
            file = tmp_path / 'run.json'
            assert 'successful' in robot.set(str(file), 'record').output
            end_s = time.monotonic() + 90.0
            while not file.exists():
                robot.frame()
                assert time.monotonic() < end_s, result.plan
            assert json.loads(file.read_text())['bars']['server']
            assert 'not one of latency, energy' in robot.set('speed', 'objective').output
            assert 'successful' in robot.set('energy', 'objective').output
            result = robot.until_plan('least energy within')
            assert not result.fallback and outputs_of(result).keys() == by_device[0].keys()
            assert 'successful' in robot.set('latency', 'objective').output
            assert 'least energy' not in robot.frame().plan
            assert server.stop() == 0, server.output
        assert outputs_of(robot.frame(1)).keys() == by_device[1].keys()
        robot.listener.close()
        assert robot.process.stop() == 0, robot.process.output
    assert 'Traceback' not in robot.process.output


def test_a_plain_program_with_three_lines(tmp_path: Path) -> None:
    """With a server, which it measures and plans for; and without one."""
    models = write_models(tmp_path, MODELS)
    program = tmp_path / 'program.py'
    program.write_text(PROGRAM)
    domain = new_domain()
    server = server_in(domain, models)
    with running(server):
        process = Process(domain, sys.executable, str(program))
        with running(process):
            process.wait_for('done')
            assert process.ended() == 0, process.output
        assert 'plans for' in process.output, process.output
        assert 'Traceback' not in process.output
        assert server.stop() == 0, server.output
    # The profile is kept, so there are plans, but nobody to run them with.
    alone = Process(new_domain(), sys.executable, str(program), 'close')
    with running(alone):
        assert alone.ended() == 0, alone.output
    assert alone.output.count('no offload server is there') == 1, alone.output
