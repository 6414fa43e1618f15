"""The hosts of the testbed: apart from each other, paced as asked, and gone in the end."""

import contextlib
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import pytest

from benchmarks.testbed import Testbed, TestbedError, quota
from benchmarks.testbed import bed as bed_module

from ..tries import tries

ROOT = Path(__file__).resolve().parents[2]


def until(condition, timeout_s=5.0):
    """Whether it came true in time."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.02)
    return True


def namespaces():
    """Network namespaces of all processes of the machine."""
    found = set()
    for process in Path('/proc').glob('[0-9]*'):
        with contextlib.suppress(OSError):
            found.add(os.readlink(process / 'ns' / 'net'))
    return found


def test_each_host_has_its_own_shared_memory(needs_root):
    with Testbed() as bed:
        name = f'testbed_{os.getpid()}'
        assert bed.robot.run(['touch', f'/dev/shm/{name}']).returncode == 0
        assert bed.robot.run(['ls', '/dev/shm']).stdout.split() == [name]
        assert bed.server.run(['ls', '/dev/shm']).stdout == ''
        assert not Path('/dev/shm', name).exists()


def test_a_command_runs_in_the_callers_folder_with_the_hosts_environment(needs_root, tmp_path):
    shell = ['sh', '-c', 'pwd; echo $OFFLOAD_ROBOT_SLOWDOWN:$OFFLOAD_SERVER_SPEED:$EXTRA; exit 7']
    with Testbed(robot_slowdown=8, server_speed=0.5) as bed:
        robot = bed.robot.run(shell, cwd=tmp_path, environment={'EXTRA': 'more'})
        server = bed.server.run(shell)
    assert robot.stdout.split() == [str(tmp_path), '8::more']
    assert server.stdout.split() == [os.getcwd(), ':0.5:']
    assert robot.returncode == server.returncode == 7


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason='needs two cores')
def test_robot_and_server_have_a_core_each(needs_root):
    ask = [sys.executable, '-c', 'import os; print(*os.sched_getaffinity(0))']
    with Testbed() as bed:
        cores = [host.run(ask).stdout.split() for host in (bed.robot, bed.server)]
    assert len(cores[0]) == len(cores[1]) == 1 and cores[0] != cores[1]
    with Testbed(pinned=False) as bed:
        assert len(bed.robot.run(ask).stdout.split()) == len(os.sched_getaffinity(0))


def test_signals_reach_the_command(needs_root):
    with Testbed() as bed:
        for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGINT):
            process = bed.robot.popen(['sleep', '60'])
            process.send_signal(number)
            assert process.wait(5.0) == -number


def test_a_command_can_be_paused_and_goes_on(needs_root):
    count = 'import time\nwhile True: print(flush=True); time.sleep(0.01)'
    with Testbed() as bed:
        process = bed.robot.popen([sys.executable, '-c', count], stdout=subprocess.PIPE)
        process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        state = Path(f'/proc/{process.command_pid()}/stat')
        assert until(lambda: state.read_text().rsplit(')', 1)[1].split()[0] == 'T')
        process.send_signal(signal.SIGCONT)
        assert until(lambda: state.read_text().rsplit(')', 1)[1].split()[0] != 'T')
        process.terminate()
        assert process.wait(5.0) == -signal.SIGTERM
        process.stdout.close()


def test_a_stopped_command_does_not_keep_the_testbed(needs_root):
    with Testbed() as bed:
        process = bed.robot.popen(['sleep', '60'])
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.1)
        holder = bed.robot.pid
    assert process.returncode is not None
    assert not Path(f'/proc/{holder}').exists()


@tries(3)
def test_a_cpu_quota_is_a_share_of_a_core(needs_root):
    try:
        quota.controller()
    except TestbedError as error:
        pytest.skip(str(error))
    burn = (
        'import time\nend = time.monotonic() + 1.5\n'
        'while time.monotonic() < end: pass\nprint(time.process_time())'
    )
    with Testbed(cpu_quota=0.3) as bed:
        used_s = float(bed.robot.run([sys.executable, '-I', '-c', burn]).stdout)
    assert used_s / 1.5 == pytest.approx(0.3, rel=0.25)
    assert not list(quota.controller()[0].glob(f'offload_testbed_{os.getpid()}_*'))


def test_the_end_takes_everything_along_even_a_daemon(needs_root):
    before = namespaces()
    with Testbed(rtt_s=0.001) as bed:
        assert len(namespaces() - before) == 3
        daemon = bed.robot.run(['sh', '-c', 'setsid sleep 60 >/dev/null 2>&1 & echo $!'])
        assert daemon.returncode == 0
    assert until(lambda: not namespaces() - before)
    with pytest.raises(TestbedError, match='the robot is gone'):
        bed.robot.popen(['true'])


def test_a_killed_testbed_leaves_nothing_but_what_the_next_start_sweeps(needs_root):
    before = namespaces()
    try:
        settings = 'rtt_s=0.001, cpu_quota=0.5'
        groups = quota.controller()[0]
    except TestbedError:
        settings, groups = 'rtt_s=0.001', None
    script = (
        f'import sys; sys.path.append({str(ROOT)!r})\n'
        'from benchmarks.testbed import Testbed\n'
        f'with Testbed({settings}) as bed:\n'
        '    bed.robot.popen(["sleep", "61"])\n'
        '    bed.server.popen(["sh", "-c", "setsid sleep 61 & sleep 61"])\n'
        '    print("up", flush=True)\n'
        '    input()\n'
    )
    with subprocess.Popen(
        [sys.executable, '-c', script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout.readline() == 'up\n'
        assert len(namespaces() - before) == 3
        owner.kill()
        owner.wait(5.0)
        assert until(lambda: not namespaces() - before)
    if groups is not None:
        left = f'offload_testbed_{owner.pid}_*'
        assert len(list(groups.glob(left))) == 1
        with Testbed():
            assert not list(groups.glob(left))


def test_a_failure_while_building_leaves_nothing(needs_root, monkeypatch):
    before = namespaces()

    def fail(*arguments, **settings):
        raise TestbedError('no link today')

    monkeypatch.setattr(bed_module.link, 'Link', fail)
    with pytest.raises(TestbedError, match='no link today'), Testbed():
        pass
    assert until(lambda: not namespaces() - before)


def test_what_a_tool_objects_to_is_in_the_error(needs_root):
    with Testbed() as bed, pytest.raises(TestbedError, match=r'ip -batch.*Cannot find device'):
        bed._link._ip('link set no_such_device up')
