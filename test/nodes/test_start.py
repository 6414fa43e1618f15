"""What whoever starts the nodes sees: one line for a mistake, described arguments, a quiet end."""

from __future__ import annotations

from pathlib import Path
import signal
import time

import pytest
from system import TINY, Process, new_domain, write_models

BAD_FILES = {
    'unknown key': (f'models: {{probe: {{{TINY}, colour: red}}}}', "unknown key 'colour'"),
    'wrong type': (
        f'models: {{probe: {{{TINY}, deadline_ms: soon}}}}',
        'deadline_ms must be a number',
    ),
    'duplicate': (f'models:\n  probe: {{{TINY}}}\n  probe: {{{TINY}}}', "'probe' is there twice"),
    'missing archive': (
        'models: {a: {source: {export: ./none.pt2}, inputs: [{name: image, topic: x}]}}',
        'none.pt2 does not exist',
    ),
    'no such module': (
        "models: {a: {source: {python: 'no.such:thing'}, inputs: [{name: image, topic: x}]}}",
        'cannot import',
    ),
}


@pytest.mark.parametrize('case', [*BAD_FILES, 'missing file'])
def test_bad_models_file_ends_the_process_with_one_line(tmp_path: Path, case: str) -> None:
    file, text = tmp_path / 'absent.yaml', 'absent.yaml: No such file'
    if case in BAD_FILES:
        content, text = BAD_FILES[case]
        file = write_models(tmp_path, content)
    processes = [
        Process(
            new_domain(),
            'ros2',
            'run',
            'offload_ros',
            executable,
            '--ros-args',
            '-p',
            f'models_file:={file}',
        )
        for executable in ('offload_server', 'offload_manager')
    ]
    for process in processes:
        assert process.ended() != 0
        errors = [line for line in process.output.splitlines() if line.startswith('error: ')]
        assert len(errors) == 1, process.output
        assert text in errors[0]
        assert 'Traceback' not in process.output


def test_strategy_of_models_file_is_checked(tmp_path: Path) -> None:
    models = write_models(tmp_path, f'models: {{probe: {{{TINY}, strategy: magic}}}}')
    process = Process(
        new_domain(),
        'ros2',
        'run',
        'offload_ros',
        'offload_manager',
        '--ros-args',
        '-p',
        f'models_file:={models}',
    )
    assert process.ended() != 0
    assert "there is no strategy 'magic'" in process.output
    assert 'Traceback' not in process.output


def test_launch_arguments_are_described() -> None:
    processes = [
        Process(new_domain(), 'ros2', 'launch', 'offload_ros', f'{file}.launch.py', '--show-args')
        for file in ('robot', 'server', 'demo')
    ]
    for process in processes:
        assert process.ended() == 0
        assert "'models_file'" in process.output
        assert 'No description given' not in process.output


def test_executables_end_quietly_when_interrupted_while_they_load(tmp_path: Path) -> None:
    models = write_models(tmp_path, f'models: {{probe: {{{TINY}}}}}')
    for executable in ('offload_server', 'offload_manager'):
        process = Process(
            new_domain(),
            'ros2',
            'run',
            'offload_ros',
            executable,
            '--ros-args',
            '-p',
            f'models_file:={models}',
        )
        time.sleep(0.8)
        assert process.stop() in (0, 130, -signal.SIGINT, 256 - signal.SIGINT), process.output
