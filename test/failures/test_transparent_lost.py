"""A transparent program whose server is not there, dies, hangs, is full or refuses it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
import signal
import sys
import time

from programs import FOR_EVER, Program, server_in, transparent
import pytest
from rig import MODEL, SLOW, Footprint
from system import Process, new_domain, until

from offload_ros.wire.key_file import make_key

LOST_S = 2.5  # promise: a program knows so soon that its server is gone
GOES_ON_S = 4.0  # promise: with a fallback it goes on so soon (1.1 s on a quiet machine)
FREED_S = 3.0  # promise: a server is free of a program so soon after its end
# Prints when it learns of the loss, uses the device again, and ends by itself.
SURVIVES = """
import sys, time
import torch
from offload_ros.rrto.link import ServerLost
network = torch.nn.Sequential(*[torch.nn.Linear(600, 600) for _ in range(30)]).to('cuda')
x = torch.ones(200, 600)
with torch.no_grad():
    want = network(x.cuda()).cpu()
    print('endless', flush=True)
    try:
        while True:
            assert torch.equal(network(x.cuda()).cpu(), want)
    except ServerLost as error:
        print('lost', time.monotonic(), error, flush=True)
uses = lambda: x.cuda(), lambda: network[0].weight + 1, torch.cuda.synchronize, network.cpu
for use in uses:
    try:
        use()
        print('used', flush=True)
    except (ServerLost, RuntimeError) as error:
        print(type(error).__name__, flush=True)
print('local', (x + 1).sum().item())
"""
ONE = 'import torch; print(torch.ones(3).cuda().sum().item())'
ASKS = """
import torch
print(torch.cuda.is_available(), torch.cuda.is_available(), torch.cuda.device_count())
x = torch.ones(2).to('cuda' if torch.cuda.is_available() else 'cpu')
print(x.sum().item())
torch.ones(2).cuda()
"""


class Site:
    """One ROS domain and the models of its servers."""

    def __init__(self, folder: Path) -> None:
        self.domain = new_domain()
        self.folder = folder
        self.models = folder / 'models.yaml'
        self.models.write_text(MODEL)
        self.started: list[Process | Program] = []

    def server(self, wait: bool = False, **parameters: object) -> Process:
        """A server that starts; ``wait``: that is ready."""
        server = server_in(self.domain, self.models, wait, **parameters)
        self.started.append(server)
        return server

    def program(self, code: str, *options: str) -> Program:
        """A program that starts, and waits for the server if it is faster."""
        wait = () if '--wait-s' in options else ('--wait-s', '60')
        command = transparent(*wait, *options, '--', sys.executable, '-c', code)
        program = Program(self.domain, *command)
        self.started.append(program)
        return program

    def close(self) -> None:
        for each in self.started:
            if each.process.poll() is None:
                each.kill()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGSTOP, signal.SIGINT])
def test_program_whose_server_goes_in_the_middle_gets_an_error_at_once(
    site: Site, number: signal.Signals
) -> None:
    """Dies, is silent as behind a link that is cut, ends in order."""
    server = site.server()
    program = site.program(SURVIVES)
    program.wait_for('endless')
    time.sleep(0.5)
    gone_s = time.monotonic()
    server.send(number)
    program.end()
    ended_s = time.monotonic()
    if number == signal.SIGSTOP:
        server.send(signal.SIGCONT)
    lost = next(line for line in program.out.splitlines() if line.startswith('lost'))
    told_s = float(lost.split()[1]) - gone_s
    print(f'{number.name}: known after {told_s:.3f} s, ended after {ended_s - gone_s:.3f} s')
    assert told_s <= SLOW * LOST_S
    assert 'server /offload_server is lost' in lost
    assert program.out.splitlines()[2:] == ['ServerLost'] * 4 + ['local 240000.0'], program.out
    assert program.status == 0, program.errors
    assert 'Traceback' not in program.errors


def test_new_program_works_after_the_server_was_restarted(site: Site) -> None:
    server = site.server()
    program = site.program(FOR_EVER)
    program.wait_for('endless')
    server.send(signal.SIGKILL)
    program.end()
    assert program.status == 1
    assert 'offload_ros.rrto.link.ServerLost: ' in program.errors
    site.server()
    program = site.program(ONE).end()
    assert (program.status, program.out) == (0, '3.0\n'), program.errors


def test_without_a_server_cuda_is_not_available_and_says_so_once(site: Site) -> None:
    began_s = time.monotonic()
    program = site.program(ASKS, '--wait-s', '1').end()
    assert time.monotonic() - began_s < 60.0
    assert program.out == 'False False 0\n2.0\n', program.errors
    assert program.status == 1
    said = [line for line in program.errors.splitlines() if line.startswith('offload_ros: ')]
    assert said[0].startswith('offload_ros: no offload server is ready within 1 s (seen: none)')
    assert said[0].endswith('(torch.cuda.is_available() is False)')
    assert len(said) == 1
    assert program.errors.count('ServerLost: no offload server is ready') == 1

    direct = site.program('import torch; torch.ones(2).cuda()', '--wait-s', '0.2').end()
    assert direct.status == 1
    assert 'ServerLost: no offload server is ready within 0.2 s' in direct.errors


def test_program_waits_for_a_server_that_comes_later(site: Site) -> None:
    program = site.program(ONE, '--wait-s', '30')
    time.sleep(1.0)
    site.server()
    program.end()
    assert (program.status, program.out) == (0, '3.0\n'), program.errors


def test_key_must_fit(site: Site) -> None:
    for name in ('key', 'other'):
        make_key(site.folder / name)
    site.server(wait=True, key_file=site.folder / 'key')
    wait = ('--wait-s', '3')
    right, wrong, none = (
        site.program(ASKS if key != 'key' else ONE, *wait, *given)
        for key, given in (
            ('key', ('--key-file', str(site.folder / 'key'))),
            ('other', ('--key-file', str(site.folder / 'other'))),
            ('', ()),
        )
    )
    assert (right.end().status, right.out) == (0, '3.0\n'), right.errors
    for program, text in (
        (wrong, 'not proven by this key: dropped (give robot and server the same key file)'),
        (none, 'has a key and robot /_transparent_'),
    ):
        assert program.end().out == 'False False 0\n2.0\n', program.errors
        assert text in program.errors.splitlines()[0]


def test_server_that_runs_no_programs_says_so(site: Site) -> None:
    site.server(wait=True, **{'rrto.sessions': 0})
    program = site.program(ONE, '--wait-s', '10').end()
    assert program.status == 1
    assert 'this server runs no operators of programs (parameter rrto.sessions is 0)' in (
        program.errors
    )


def test_full_server_says_so_and_is_free_after_a_program_was_killed(site: Site) -> None:
    """No thread, tensor or session of it stays."""
    server = site.server(**{'rrto.sessions': 1})
    assert site.program(ONE).end().out == '3.0\n'
    assert site.program(ONE).end().out == '3.0\n'  # the first one's session is over at once
    time.sleep(FREED_S)  # the last one's threads end
    before = Footprint(server)
    first = site.program(SURVIVES)
    first.wait_for('endless')
    full = site.program(ONE).end()
    assert full.status == 1
    assert '1 programs run on this server already (parameter rrto.sessions)' in full.errors
    assert Footprint(server).threads > before.threads
    after = [killed(first, server, before)]
    for _ in range(3):
        program = site.program(SURVIVES)
        program.wait_for('endless')
        after.append(killed(program, server, before))
    print(f'before: {before}; after each: {", ".join(map(str, after))}')
    # Weights of 43 MB each: what kept them would hold them twice more at the end.
    rss = [each.rss for each in after]
    assert min(rss[2:]) < max(rss[:2]) + 20e6
    assert after[-1].files <= before.files + 2
    assert server.stop() == 0


def killed(program: Program, server: Process, before: Footprint) -> Footprint:
    """What the server holds when it has noticed that ``program`` was killed."""
    program.process.send_signal(signal.SIGKILL)
    killed_s = time.monotonic()
    until(
        lambda: Footprint(server).threads <= before.threads, 'its threads are gone', SLOW * FREED_S
    )
    print(f'free after {time.monotonic() - killed_s:.2f} s')
    return Footprint(server)


def test_too_much_memory_is_an_error_of_the_program(site: Site) -> None:
    server = site.server(**{'rrto.memory_mb': 50.0})
    code = """
import torch
kept = [torch.ones(1_000_000).cuda()]
for number in range(30):
    try:
        kept.append(kept[0] + number)
        torch.cuda.synchronize()
    except torch.OutOfMemoryError as error:
        print('full at', number, 'rrto.memory_mb' in str(error))
        break
try:
    torch.empty(20_000_000, device='cuda')
except torch.OutOfMemoryError as error:
    print('too large', 'rrto.memory_mb' in str(error))
try:
    torch.ones(20_000_000).cuda()
except torch.OutOfMemoryError as error:
    print('too large', 'rrto.memory_mb' in str(error))
kept = kept[:2]
print((kept[0] + kept[1]).sum().item(), torch.cuda.mem_get_info()[1] == 50_000_000)
"""
    program = site.program(code).end()
    assert program.status == 0, program.errors
    lines = program.out.splitlines()
    assert lines[0] in ('full at 10 True', 'full at 11 True'), program.out
    assert lines[1:3] == ['too large True'] * 2
    assert lines[3] == '2000000.0 True'
    assert 'Traceback' not in server.output


GOES_ON = """
import copy, time
import torch
torch.manual_seed(0)
local = torch.nn.Sequential(*[torch.nn.Linear(300, 300) for _ in range(12)])
network = copy.deepcopy(local).to('cuda')
total, expected = torch.zeros(300, device='cuda'), torch.zeros(300)
x = torch.rand(20, 300)
same, longest = True, (0.0, 0)
with torch.no_grad():
    print('endless', flush=True)
    for index in range(400):
        x = x + 0.001
        begin = time.monotonic()
        features = network(x.cuda())
        total += features.mean(0)  # state on the device
        found = features.cpu()
        longest = max(longest, (time.monotonic() - begin, index))
        wanted = local(x)
        expected += wanted.mean(0)
        same = same and torch.allclose(found, wanted, rtol=1e-4, atol=1e-5)
        time.sleep(0.005)
print('longest', *longest)
print('same', same, torch.allclose(total.cpu(), expected, rtol=1e-4, atol=1e-4))
"""


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGSTOP])
def test_program_with_a_fallback_goes_on_when_its_server_goes_in_the_middle(
    site: Site, number: signal.Signals
) -> None:
    server = site.server()
    program = site.program(GOES_ON, '--fallback', 'local')
    program.wait_for('endless')
    time.sleep(1.0)
    server.send(number)
    program.end()
    if number == signal.SIGSTOP:
        server.send(signal.SIGCONT)
    assert program.status == 0, program.errors
    lines = dict(line.split(' ', 1) for line in program.out.splitlines() if ' ' in line)
    assert lines['same'] == 'True True'
    longest_s = float(lines['longest'].split()[0])
    print(f'{number.name}: the longest frame took {longest_s:.3f} s')
    assert longest_s <= SLOW * GOES_ON_S
    assert 'is lost' in program.errors
    assert 'the program goes on on this machine' in program.errors
    assert 'Traceback' not in program.errors


def test_program_with_a_fallback_begins_without_a_server(site: Site) -> None:
    program = site.program(ONE, '--fallback', 'local', '--wait-s', '0.5').end()
    assert (program.status, program.out) == (0, '3.0\n'), program.errors
    assert 'no offload server is ready within 0.5 s' in program.errors
    assert 'cuda:0 is this machine' in program.errors


def test_placement_needs_the_fallback(site: Site) -> None:
    program = site.program(ONE, '--placement', 'auto').end()
    assert program.status == 2
    assert 'placement auto wants a copy on this machine: give --fallback local' in program.errors


def test_placement_measures_both_sides(site: Site) -> None:
    site.server()
    stateless = GOES_ON.replace('total += features', 'total = features')
    program = site.program(stateless, '--fallback', 'local', '--placement', 'auto')
    program.end()
    assert program.status == 0, program.errors
    assert 'same True' in program.out
    line = next(each for each in program.errors.splitlines() if 'unit ' in each and 'robot' in each)
    assert 'server ' in line and ' ms, robot ' in line
    print(line)
