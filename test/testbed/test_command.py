"""The testbed as a command: output, exit status, errors of one line, and its end."""

import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import pytest

from benchmarks.testbed import command, host

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, str(ROOT / 'benchmarks' / 'testbed')]


def testbed(*words, **options):
    return subprocess.run(
        [*COMMAND, *words], capture_output=True, text=True, timeout=30, check=False, **options
    )


testbed.__test__ = False


def test_output_of_both_and_the_exit_status_of_the_robot(needs_root):
    done = testbed(
        *('--mbit', '50', '--rtt-ms', '2', '--loss', '0.001', '--robot-slowdown', '8'),
        *('--', 'robot', 'sleep 0.3; echo slow $OFFLOAD_ROBOT_SLOWDOWN; exit 5'),
        *('--', 'server', 'echo serving; sleep 60'),
    )
    assert done.returncode == 5, done.stderr
    assert sorted(done.stdout.splitlines()) == ['robot  | slow 8', 'server | serving']


def test_several_words_are_a_command_without_a_shell(needs_root):
    done = testbed('--', 'robot', 'echo', '$HOME', '*')
    assert (done.returncode, done.stdout) == (0, 'robot  | $HOME *\n')


def test_a_robot_killed_by_a_signal_gives_the_shells_status(needs_root):
    assert testbed('--', 'robot', 'kill -9 $$').returncode == 137


def test_it_runs_as_a_module_where_the_checkout_is_on_the_path(needs_root):
    path = f'{os.environ.get("PYTHONPATH", "")}:{ROOT}'
    done = subprocess.run(
        [sys.executable, '-m', 'benchmarks.testbed', '--trace', 'outdoor', '--', 'robot', 'true'],
        env={**os.environ, 'PYTHONPATH': path, 'PYTHONSAFEPATH': '1'},
        timeout=30,
        check=False,
    )
    assert done.returncode == 0


@pytest.mark.parametrize(('number', 'status'), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_everything(needs_root, number, status):
    with subprocess.Popen(
        [*COMMAND, '--', 'robot', 'readlink /proc/self/ns/net; exec sleep 60'],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        namespace = process.stdout.readline().split()[-1]
        process.send_signal(number)
        assert process.wait(10.0) == status
        assert 'Traceback' not in process.stderr.read()
    time.sleep(0.1)
    for link in Path('/proc').glob('[0-9]*/ns/net'):
        try:
            assert os.readlink(link) != namespace
        except OSError:
            continue


@pytest.mark.parametrize(
    ('words', 'reason'),
    [
        ([], 'what shall the robot run'),
        (['--', 'server', 'true'], 'what shall the robot run'),
        (['--', 'drone', 'true'], "not 'drone'"),
        (['--', 'robot'], 'robot or server, once, and a command'),
        (['--', 'robot', 'a', '--', 'robot', 'b'], 'once'),
        (['--mbit', '-1', '--', 'robot', 'true'], 'a rate must be'),
        (['--mbit', 'fast', '--', 'robot', 'true'], "invalid float value: 'fast'"),
        (['--speed', '1', '--', 'robot', 'true'], 'unrecognized arguments: --speed'),
        (['--loss', '1', '--', 'robot', 'true'], 'loss must be'),
        (['--rtt-ms', '-3', '--', 'robot', 'true'], 'rtt_s must be'),
        (['--robot-slowdown', '0.5', '--', 'robot', 'true'], 'robot_slowdown must be'),
        (['--server-speed', '2', '--', 'robot', 'true'], 'server_speed must be'),
        (['--trace', '/no/such.csv', '--', 'robot', 'true'], 'cannot be read: No such file'),
    ],
)
def test_a_wrong_command_line_gives_one_line(capsys, words, reason):
    assert command.main(words) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and errors[0].startswith('testbed: ') and reason in errors[0]


def test_without_root_it_says_what_it_needs(monkeypatch, capsys):
    monkeypatch.setattr(host.shutil, 'which', lambda tool: f'/sbin/{tool}')
    monkeypatch.setattr(host.os, 'geteuid', lambda: 1000)
    assert command.main(['--', 'robot', 'true']) == 1
    assert capsys.readouterr().err == f'testbed: {host.unavailable()}\n'
    assert 'needs root' in host.unavailable()


@pytest.mark.parametrize('tool', ['ip', 'tc', 'unshare', 'nsenter'])
def test_without_a_tool_it_names_the_package(monkeypatch, tool):
    monkeypatch.setattr(host.shutil, 'which', lambda name: None if name == tool else name)
    assert f'{tool!r}: install the package {host.TOOLS[tool]}' in host.unavailable()
