"""Threads replay each for itself, and neither side's memory grows with the frames."""

import gc
import random
import threading

import pytest
import torch

from offload_ros.rrto.signatures import Signatures

from .sessions import assert_equal, image, layers, on_cpu


def test_threads_replay_each_for_itself(open_session):
    def work(device, number, results):
        model = layers(number, 6, 5, 4).to(device)
        results[number] = [
            model(image(100 * number + index, 3, 6).to(device)).cpu() for index in range(30)
        ]

    expected, found = {}, {}
    for number in range(3):
        work('cpu', number, expected)
    session = open_session()
    threads = [threading.Thread(target=work, args=('cuda', number, found)) for number in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    for number in range(3):
        assert_equal(found[number], expected[number], f'thread {number}')
    assert session.statistics.inferences >= 60


def test_a_new_thread_for_each_frame_replays(open_session):
    def program(device):
        model = layers(0, 6, 5, 4).to(device)

        def frame(index):
            found = []

            def work():
                found.append(model(image(index, 3, 6).to(device)).cpu())

            thread = threading.Thread(target=work)
            thread.start()
            thread.join(60)
            return found

        return frame

    expected = on_cpu(program, 300)
    session = open_session()
    assert_equal(session.play(program, 300), expected)
    assert all(cost.is_replay for cost in session.costs[3:])


def test_a_result_of_one_thread_used_by_another(open_session):
    def program(device):
        model = layers(0, 6, 5).to(device)

        def frame(index):
            kept = []

            def work():
                features = model(image(index, 3, 6).to(device))
                kept.append(features)
                kept.append(features.sum().item())

            thread = threading.Thread(target=work)
            thread.start()
            while not kept:
                pass
            doubled = (kept[0] * 2).cpu()  # while the other may be waiting for its read
            thread.join(60)
            return doubled, kept[1]

        return frame

    expected = on_cpu(program, 30)
    session = open_session()
    assert_equal(session.play(program, 30), expected)


@pytest.mark.parametrize('mode', ['rpc', 'pipelined', 'replay'])
def test_the_server_holds_the_same_number_of_tensors_after_300_frames(open_session, mode):
    session = open_session(mode)
    models, state = [layers(0, 6, 5, 4).to('cuda')], [torch.zeros(3, 4, device='cuda')]
    chance = random.Random(2)

    def frame(index):
        features = models[0](image(index, 3, 6).to('cuda'))
        state[0] = state[0] * 0.5 + features
        if chance.random() < 0.1:
            return (features * 2).cpu()
        if chance.random() < 0.1:
            return state[0].sum().item()
        return state[0].cpu()

    for index in range(20):
        frame(index)
    before = session.handles()
    for index in range(300):
        frame(index)
    assert session.handles() == before
    models.clear()
    state.clear()
    assert session.handles() == 0
    assert session.server.table.used_bytes == 0


def test_garbage_collection_at_every_operator(run_everywhere):
    class Node:
        def __init__(self, value):
            self.value, self.itself = value, self

    def program(device):
        model = layers(0, 6, 5, 4).to(device)

        def frame(index):
            features = image(index, 3, 6).to(device)
            for layer in model:
                features = Node(layer(features)).value * 1.0
                if index % 3 == 0:
                    gc.collect()
            return features.cpu()

        return frame

    session = run_everywhere(program, 10)
    assert session.costs[-1].replayed


def test_calls_that_are_new_for_ever_are_forgotten(run_everywhere, monkeypatch):
    """Both sides know a bounded number of calls; what replays is not forgotten."""
    monkeypatch.setattr(Signatures.__init__, '__defaults__', (40,))

    def program(device):
        model = layers(0, 6, 5, 4).to(device)

        def frame(index):
            found = [model(image(index, 3, 6).to(device)).cpu()]
            if index > 5:
                for number in range(5):
                    found.append((torch.zeros(2, device=device) + (7 * index + number)).cpu())
            return found

        return frame

    session = run_everywhere(program, 30)
    assert len(session.client.signatures) <= 40
    assert len(session.server._calls) <= 40
    assert session.costs[5].is_replay and session.costs[-1].replayed
