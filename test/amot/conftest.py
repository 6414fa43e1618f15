"""Servers with A-MOT that end with the test."""

import faulthandler

import pytest
import torch

from .tiny import Server


@pytest.fixture
def no_endless_wait():
    """End the run with every thread's place if a test waits for ever."""
    faulthandler.dump_traceback_later(120, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def one_thread():
    """Sums are made in the same order then."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def serve(no_endless_wait, one_thread):
    """Make servers."""
    made = []

    def make(*models, **options):
        made.append(Server(*models, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()
