"""The server is gone: the program gets an error at once, never a stale answer, and never waits."""

import threading
import time

import pytest
import torch

from offload_ros.rrto.link import ServerLost
from offload_ros.rrto.server_unit import FrameRunner

from .sessions import MODES, image, layers

LOST = 'the link is cut'


@pytest.mark.parametrize('mode', MODES)
def test_everything_is_refused_once_the_server_is_lost(open_session, mode):
    session = open_session(mode)
    model = layers(0, 6, 5, 4).to('cuda')
    for index in range(5):
        result = model(image(index, 3, 6).to('cuda'))
        result.cpu()
    session.link.lose(LOST)
    for action in (
        lambda: model(image(5, 3, 6).to('cuda')).cpu(),
        result.cpu,
        lambda: result.sum().item(),
        torch.cuda.get_rng_state,
        torch.cuda.mem_get_info,
    ):
        with pytest.raises(ServerLost, match=LOST):
            action()


@pytest.mark.parametrize('moment', ['before the read', 'in the read', 'after one of two reads'])
def test_the_server_dies_in_mid_inference(session, monkeypatch, moment):
    model = layers(0, 6, 5, 4).to('cuda')

    def frame(index):
        features = model(image(index, 3, 6).to('cuda'))
        if moment == 'before the read' and index == 6:
            session.link.lose(LOST)
        total = features.sum().item()
        if moment == 'after one of two reads' and index == 6:
            session.link.lose(LOST)
        return total, (features * 2).cpu()

    for index in range(6):
        session.measured(lambda: frame(index))  # noqa: B023
    assert session.costs[-1].is_replay
    if moment == 'in the read':
        halt = threading.Event()
        advance = FrameRunner.advance

        def slow(*arguments):
            session.link.lose(LOST)
            halt.wait(10.0)
            advance(*arguments)

        monkeypatch.setattr(FrameRunner, 'advance', slow)
    began_s = time.monotonic()
    try:
        with pytest.raises(ServerLost, match=LOST):
            frame(6)
            frame(7)  # where both reads of the one before were there already
    finally:
        if moment == 'in the read':
            halt.set()
    assert time.monotonic() - began_s < 5.0


def test_a_stale_read_of_an_aborted_frame_is_not_taken_for_the_next(open_session):
    session = open_session()
    model = layers(0, 6, 5, 4).to('cuda')
    expected = layers(0, 6, 5, 4)
    for index in range(40):
        features = model[:2](image(index, 3, 6).to('cuda'))
        if index >= 5 and index % 2:
            features = features + 1  # the server has pushed, or will push, the read of the other
            found, wanted = features.cpu(), expected[:2](image(index, 3, 6)) + 1
        else:
            found, wanted = model[2:](features).cpu(), expected(image(index, 3, 6))
        assert torch.equal(found, wanted)
    assert session.statistics.aborts > 0


def test_threads_that_wait_are_told(session, monkeypatch):
    model = layers(0, 6, 5, 4).to('cuda')
    halt, errors = threading.Event(), []
    receive = session.server.receive
    waiting = threading.Semaphore(0)

    def stuck(data):
        waiting.release()
        halt.wait(10.0)
        receive(data)

    def work():
        try:
            model(image(0, 3, 6).to('cuda')).cpu()
        except ServerLost as error:
            errors.append(error)

    monkeypatch.setattr(session.server, 'receive', stuck)
    threads = [threading.Thread(target=work) for _ in range(3)]
    for each in threads:
        each.start()
    assert waiting.acquire(timeout=10.0)
    session.link.lose(LOST)
    for each in threads:
        each.join(10.0)
        assert not each.is_alive()
    halt.set()
    assert len(errors) == 3


def test_closing_the_session_frees_what_the_server_holds(session):
    model = layers(0, 6, 5, 4).to('cuda')
    for index in range(5):
        model(image(index, 3, 6).to('cuda')).cpu()
    assert len(session.server.table) > 0
    session.close()
    assert len(session.server.table) == 0 and session.server.table.used_bytes == 0
