"""Programs as they are, run by ``transparent`` over real DDS: they must not notice."""

from __future__ import annotations

from collections.abc import Iterator
import os
from pathlib import Path
import signal
import stat
import sys
import textwrap
import time

from programs import CLASSIFY, FOR_EVER, Program, run, server_in, transparent
import pytest
from system import TINY, Listener, Process, new_domain, running, until, write_models

DOMAIN = new_domain()
# What a program that used the device says of it at its start and its end.
USED = 'offload_ros: cuda:0 is /offload_server'
SESSION = 'offload_ros: mode replay'
UNUSED = 'offload_ros: the program has not used its device'


@pytest.fixture(scope='module')
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    models = write_models(tmp_path_factory.mktemp('server'), f'models: {{probe: {{{TINY}}}}}')
    process = server_in(DOMAIN, models)
    with running(process):
        yield process
        assert process.stop() == 0, process.output


@pytest.fixture(scope='module')
def on_cpu(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the classifying program prints on a machine without CUDA."""
    return run(DOMAIN, sys.executable, '-c', CLASSIFY).out


def script(folder: Path, text: str, name: str = 'app.py') -> str:
    """A file with the program; its path."""
    file = folder / name
    file.write_text(textwrap.dedent(text))
    return str(file)


def offloaded(*command: str, **environment: str) -> Program:
    """Run a program to its end, transparently."""
    return run(DOMAIN, *transparent('--', *command), **environment)


def test_program_prints_the_same_as_on_the_cpu(
    server: Process, on_cpu: str, tmp_path: Path
) -> None:
    """Through ``ros2 run``, as the README says it; its session is over when it has ended."""
    file = script(tmp_path, CLASSIFY)
    command = ['ros2', 'run', 'offload_ros', 'transparent', '--', sys.executable, file]
    program = run(DOMAIN, *command)
    assert program.status == 0, program.errors
    assert program.out == on_cpu
    assert len(on_cpu.splitlines()) == 8
    lines = program.errors.splitlines()
    assert lines[0].startswith(f'{USED} (cpu, torch '), program.errors
    assert lines[1].startswith(SESSION)
    assert 'replayed in 0 inferences' not in lines[1]
    assert len(lines) == 4


@pytest.mark.parametrize('mode', ['rpc', 'pipelined'])
def test_other_modes_print_the_same(server: Process, on_cpu: str, mode: str) -> None:
    program = run(DOMAIN, *transparent('--mode', mode, '--', sys.executable, '-c', CLASSIFY))
    assert (program.status, program.out) == (0, on_cpu), program.errors
    assert f'mode {mode}: ' in program.errors
    assert ' 0 of them replayed' in program.errors


def test_module_entry_point_and_quiet(server: Process, on_cpu: str, tmp_path: Path) -> None:
    package = tmp_path / 'pkg'
    package.mkdir()
    (package / '__init__.py').touch()
    script(package, CLASSIFY, '__main__.py')
    program = offloaded(sys.executable, '-m', 'pkg', PYTHONPATH=f'{tmp_path}:{path()}')
    assert (program.status, program.out) == (0, on_cpu), program.errors
    assert USED in program.errors

    entry = Path(script(tmp_path, '#!/usr/bin/env python3\n' + CLASSIFY, 'classify'))
    entry.chmod(entry.stat().st_mode | stat.S_IXUSR)
    program = run(DOMAIN, *transparent('--quiet', str(entry)))
    assert (program.status, program.out, program.errors) == (0, on_cpu, '')


def path() -> str:
    """PYTHONPATH of the tests."""
    return os.environ.get('PYTHONPATH', '')


def test_arguments_stdin_and_exit_status_pass_through(server: Process, tmp_path: Path) -> None:
    file = script(
        tmp_path,
        """
        import sys
        import torch
        print(sys.argv[1:], sys.argv[0] == __file__)
        numbers = torch.tensor([float(line) for line in sys.stdin], device='cuda')
        print(numbers.sum().item())
        sys.exit(int(sys.argv[2]))
        """,
    )
    command = transparent('--', sys.executable, file, '--mode', '7', '--', '-x', "a 'b")
    program = Program(DOMAIN, *command, stdin=True).end('1\n2.5\n4\n')
    assert program.status == 7, program.errors
    assert program.out == "['--mode', '7', '--', '-x', \"a 'b\"] True\n7.5\n"
    assert SESSION in program.errors

    program = offloaded(sys.executable, '-c', 'import torch; torch.ones(2).cuda().view(3)')
    assert program.status == 1
    assert "RuntimeError: shape '[3]' is invalid for input of size 2" in program.errors


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_program_as_ever(server: Process, number: signal.Signals) -> None:
    program = Program(DOMAIN, *transparent('--', sys.executable, '-c', FOR_EVER))
    program.wait_for('endless')
    time.sleep(0.2)
    program.process.send_signal(number)
    program.end()
    assert program.status == -number
    if number == signal.SIGINT:
        assert program.errors.count('Traceback') == 1, program.errors
        assert program.errors.count('KeyboardInterrupt') == 1
        assert SESSION in program.errors


def test_statistics_on_request(server: Process) -> None:
    program = Program(DOMAIN, *transparent('--', sys.executable, '-c', FOR_EVER))
    program.wait_for('endless')
    assert program.process.stderr is not None
    program.process.send_signal(signal.SIGUSR1)
    lines = [program.process.stderr.readline() for _ in range(4)]
    assert lines[0].startswith(USED)
    assert lines[1].startswith(SESSION)
    program.kill()
    program.end()

    own = """
import os, signal, torch
signal.signal(signal.SIGUSR1, lambda *_: print('mine'))
os.kill(os.getpid(), signal.SIGUSR1)
"""
    program = offloaded(sys.executable, '-c', own)
    assert (program.out, program.errors) == ('mine\n', '')


def test_program_without_torch_is_untouched(tmp_path: Path) -> None:
    code = 'import sys, threading; print(sorted(sys.modules), threading.active_count())'
    plain = run(DOMAIN, sys.executable, '-c', code)
    program = offloaded(sys.executable, '-c', code)
    assert program.status == 0
    new = set(program.out.split()) - set(plain.out.split())
    assert not [name for name in new if 'rclpy' in name or 'offload_ros' in name], new
    assert program.out.endswith(' 1\n')
    assert program.errors == ''


def test_program_that_uses_no_cuda_connects_to_nothing(server: Process) -> None:
    """Not even a node: nothing of ROS is heard of it."""
    code = """
import threading, torch
torch.manual_seed(1)
print(torch.rand(3).sum().item() > 0, [thread.name for thread in threading.enumerate()])
import rclpy
rclpy.init(); node = rclpy.create_node('look')
import time; time.sleep(1.0)
print([name for name in node.get_node_names() if 'transparent' in name])
node.destroy_node(); rclpy.shutdown()
"""
    connected = server.output.count('connected')
    program = offloaded(sys.executable, '-c', code)
    assert program.out == "True ['MainThread']\n[]\n", program.out + program.errors
    assert (program.status, program.errors) == (0, '')
    assert server.output.count('connected') == connected


def test_another_sitecustomize_still_runs(server: Process, tmp_path: Path) -> None:
    script(tmp_path, "import sys; sys.mine = 'mine'; VALUE = 5", 'sitecustomize.py')
    code = (
        'import sys, sitecustomize, torch\n'
        'print(sys.mine, sitecustomize.VALUE, torch.ones(2).cuda().sum().item())'
    )
    program = offloaded(sys.executable, '-c', code, PYTHONPATH=f'{tmp_path}:{path()}')
    assert program.out == 'mine 5 2.0\n', program.errors


def test_rclpy_program_runs_beside_the_hidden_contact(server: Process) -> None:
    """Its own context, node, timer, parameters and signals."""
    code = """
import rclpy, torch
from rclpy.node import Node
from std_msgs.msg import Float32
rclpy.init()
class Sums(Node):
    def __init__(self):
        super().__init__('sums')
        self.publisher = self.create_publisher(Float32, 'sum', 10)
        self.weights = torch.arange(4.0).cuda()
        self.count = 0
        self.create_timer(0.02, self.tick)
    def tick(self):
        self.count += 1
        self.publisher.publish(Float32(data=(self.weights * self.count).sum().item()))
node = Sums()
print('spins', flush=True)
try:
    rclpy.spin(node)
except (KeyboardInterrupt, rclpy.executors.ExternalShutdownException):
    print('ended', node.count > 10)
node.destroy_node()
rclpy.try_shutdown()
"""
    listener = Listener(DOMAIN)
    from std_msgs.msg import Float32

    sums = listener.collect(Float32, '/sum')
    for number in (signal.SIGINT, signal.SIGTERM):
        del sums[:]
        program = Program(DOMAIN, *transparent('--', sys.executable, '-c', code))
        program.wait_for('spins')
        until(lambda: len(sums) > 20, 'its messages')
        program.process.send_signal(number)
        program.end()
        assert (program.status, program.out) == (0, 'spins\nended True\n'), program.errors
        assert 'Traceback' not in program.errors, program.errors
        assert all(message.data % 6 == 0 for message in sums)
    listener.close()


def test_two_programs_at_once_are_isolated(server: Process, on_cpu: str) -> None:
    """The same program twice, and one whose seed and tensors are others."""
    other = CLASSIFY.replace('manual_seed(0)', 'manual_seed(1)').replace('range(8)', 'range(40)')
    want = run(DOMAIN, sys.executable, '-c', other).out
    programs = [
        Program(DOMAIN, *transparent('--', sys.executable, '-c', code))
        for code in (CLASSIFY, other, CLASSIFY)
    ]
    for program, expected in zip(programs, (on_cpu, want, on_cpu), strict=True):
        program.end()
        assert (program.status, program.out) == (0, expected), program.errors
        assert SESSION in program.errors


def test_children_have_sessions_of_their_own(server: Process, tmp_path: Path) -> None:
    """Spawned ones compute; forked ones of a parent that used the device are told not to."""
    file = script(
        tmp_path,
        """
        import multiprocessing, os, sys
        import torch
        def work(number):
            return (torch.full((3,), float(number)).cuda() * 2).sum().item()
        def forked():
            try:
                torch.ones(1).cuda()
            except RuntimeError as error:
                print('forked:', 'spawn' in str(error), flush=True)
        if __name__ == '__main__':
            child = os.fork()
            if not child:  # before the parent has used it
                print('early:', work(1), flush=True)
                sys.exit(0)
            os.waitpid(child, 0)
            with multiprocessing.get_context('spawn').Pool(1) as pool:
                print(pool.map(work, range(3)), work(9), flush=True)
            child = os.fork()
            if not child:
                forked()
                sys.exit(0)
            print(os.waitpid(child, 0)[1], work(5))
        """,
    )
    program = offloaded(sys.executable, file)
    assert program.out == 'early: 6.0\n[0.0, 6.0, 12.0] 54.0\nforked: True\n0 30.0\n', (
        program.out + program.errors
    )
    assert program.status == 0


def test_large_tensors_travel_whole(server: Process) -> None:
    """Larger than any message may be."""
    code = """
import torch
x = torch.randint(-100, 100, (30_000_000,), dtype=torch.int32)
y = x.cuda()
print(torch.equal(y.cpu(), x), (y.sum() == x.sum()).item())
"""
    program = offloaded(sys.executable, '-c', code)
    assert (program.status, program.out) == (0, 'True True\n'), program.errors


@pytest.mark.parametrize(
    ('arguments', 'status', 'text'),
    [
        (['--', 'no-such-command'], 127, "there is no command 'no-such-command'"),
        ([], 2, 'no command: ros2 run'),
        (['--wait-s', '-1', '--', 'true'], 2, 'wait_s is -1: 0 or more'),
        (['--mode', 'fast', '--', 'true'], 2, "choose from 'rpc', 'pipelined', 'replay'"),
        (['--key-file', '/no/key', '--', 'true'], 2, 'is not there: make one with'),
    ],
)
def test_mistakes_get_one_clear_line(arguments: list[str], status: int, text: str) -> None:
    program = run(DOMAIN, *transparent(*arguments))
    assert program.status == status
    assert text in program.errors.replace('choose from rpc', "choose from 'rpc'")
    assert 'Traceback' not in program.errors
