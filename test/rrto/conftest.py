"""Sessions of the offloaded device, with the shim put in place for one test at a time."""

import gc

import pytest
import torch

from offload_ros.rrto.shim import install, uninstall

from .sessions import MODES, Session, assert_equal, on_cpu


@pytest.fixture(scope='session')
def settled():
    """One thread of torch: sums are made in the same order then. Collections look only at what
    comes from now on."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
    torch.set_num_threads(threads)


@pytest.fixture
def open_session(settled):
    """Open sessions with ``open_session(mode, ...)``; the last one opened is the device."""
    sessions = []

    def open_one(mode='replay', **options):
        session = Session(mode, **options)
        if sessions:
            session.make_current()
        else:
            install(session.client)
        sessions.append(session)
        return session

    try:
        yield open_one
    finally:
        for each in sessions:
            each.close()
        uninstall()


@pytest.fixture
def session(open_session):
    """One session that replays."""
    return open_session()


@pytest.fixture
def run_everywhere(open_session):
    """``run_everywhere(program, frames)`` compares all modes with the CPU, gives the session that
    replayed."""

    def run(program, frames=8):
        expected = on_cpu(program, frames)
        for mode in MODES:
            session = open_session(mode)
            assert_equal(session.play(program, frames), expected, mode)
        return session

    return run
