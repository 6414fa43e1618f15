"""Whatever a program does: the CPU and the three modes agree bit for bit."""

from contextlib import contextmanager

from hypothesis import HealthCheck, Phase, given, settings
import pytest

from offload_ros.rrto.shim import install, uninstall

from .random_programs import ACTIONS, PROGRAMS, program_of
from .sessions import MODES, Session, assert_equal, on_cpu

FRAMES = 9
replayed = []


@contextmanager
def sessions():
    """Open one session after the other."""
    opened = []

    def open_session(mode):
        session = Session(mode)
        if opened:
            session.make_current()
        else:
            install(session.client)
        opened.append(session)
        return session

    try:
        yield open_session
    finally:
        for each in opened:
            each.close()
        uninstall()


def check(instructions, frames=FRAMES, modes=MODES):
    """Run a program everywhere."""
    program = program_of(instructions)
    expected = on_cpu(program, frames)
    with sessions() as open_session:
        for mode in modes:
            session = open_session(mode)
            assert_equal(session.play(program, frames), expected, f'{mode} of {instructions}')
        replayed.append(session.statistics.inferences)
        del program
        assert session.handles() == 0, 'tensors are left on the server'


OPTIONS = {
    'deadline': None,
    'database': None,
    'suppress_health_check': list(HealthCheck),
    'phases': [Phase.generate, Phase.shrink],
}


pytestmark = pytest.mark.usefixtures('settled')


@settings(max_examples=110, derandomize=True, **OPTIONS)
@given(PROGRAMS)
def test_random_programs_agree(instructions):
    check(instructions, modes=MODES[bool(len(replayed) % 4) :])  # rpc takes the longest


def test_the_random_programs_have_many_operators_and_are_replayed():
    assert len(ACTIONS) >= 60
    assert sum(map(bool, replayed)) > len(replayed) / 2


@pytest.mark.long
@settings(max_examples=2000, **OPTIONS)
@given(PROGRAMS)
def test_many_random_programs_agree(instructions):
    check(instructions, frames=14, modes=('pipelined', 'replay'))
