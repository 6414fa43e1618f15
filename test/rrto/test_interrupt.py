"""Ctrl-C at any moment: the program gets its KeyboardInterrupt, may catch it and go on."""

import _thread
import random
import threading
import time

import pytest
import torch

from offload_ros.rrto.shim.interrupts import defer_interrupts, deferred, stop_deferring

from .sessions import MODES, image, layers


@pytest.fixture(autouse=True)
def deferring(settled):
    defer_interrupts()
    yield
    stop_deferring()


@pytest.mark.parametrize('mode', MODES)
def test_a_program_that_catches_it_in_a_read_goes_on(open_session, monkeypatch, mode):
    session = open_session(mode)
    model, same = layers(0, 6, 5, 4).to('cuda'), layers(0, 6, 5, 4)
    receive = session.server.receive

    def slow(data):
        time.sleep(0.05)
        receive(data)

    interrupted = 0
    for index in range(12):
        x = image(index, 3, 6)
        if index in (4, 5, 8):
            monkeypatch.setattr(session.server, 'receive', slow)
            timer = threading.Timer(0.02, _thread.interrupt_main)
            timer.start()
            try:
                model(x.to('cuda')).cpu()
                timer.join()
                time.sleep(0.5)
            except KeyboardInterrupt:
                interrupted += 1
            monkeypatch.setattr(session.server, 'receive', receive)
        assert torch.equal(model(x.to('cuda')).cpu(), same(x))
    assert interrupted == 3


@pytest.mark.parametrize('mode', ['pipelined', 'replay'])
def test_at_random_moments_it_leaves_a_session_that_works(open_session, mode):
    open_session(mode)
    model, same = layers(0, 6, 5, 4).to('cuda'), layers(0, 6, 5, 4)
    moments = random.Random(1)
    interrupted = 0
    for index in range(100):
        x = image(index, 3, 6)
        timer = threading.Timer(moments.random() * 0.004, _thread.interrupt_main)
        try:
            timer.start()
            for _ in range(6):
                found = model(x.to('cuda')).cpu()
                assert torch.equal(found, same(x))
            timer.join()
            while (later := deferred.later) is not None:  # it came inside a finaliser
                later.join()
            time.sleep(0.5)
        except KeyboardInterrupt:
            interrupted += 1
        assert torch.equal(model(x.to('cuda')).cpu(), same(x))
    assert interrupted == 100
