"""Results made in advance are used again, and the program cannot tell them from new ones."""

import gc
import threading
import time
import weakref

import pytest
import torch

from offload_ros.rrto import spares
from offload_ros.rrto.walk import Walk

from .sessions import assert_equal, image, layers

FRAMES = 9


def chain(values, length=6):
    for _ in range(length):
        values = torch.tanh(values) * 1.5
    return values


@pytest.mark.parametrize('grad', [False, True])
def test_dropped_results_are_not_made_anew(open_session, monkeypatch, grad):
    made = []
    in_advance = spares.in_advance
    monkeypatch.setattr(
        spares, 'in_advance', lambda owner, meta: made.append(meta) or in_advance(owner, meta)
    )
    open_session()
    model = layers(0, 6, 5, 4).to('cuda')
    counts = []
    with torch.set_grad_enabled(grad):
        for index in range(FRAMES):
            before = len(made)
            chain(model(image(index, 3, 6).to('cuda'))).cpu()
            counts.append(len(made) - before)
    assert max(counts) > 12, 'nothing was made in advance'
    # Those that the program and torch's call of the read hold are.
    assert all(count <= 4 for count in counts[-4:]), counts


KEEPERS = {
    'the tensor': lambda kept, values, index: kept.append(values),
    'a share of it': lambda kept, values, index: kept.append(values.data),
    'a view of it': lambda kept, values, index: kept.append(values.reshape(-1)[2:5]),
    'a detached one in place': lambda kept, values, index: kept.append(values.detach().mul_(2)),
    'a tensor that took its values': lambda kept, values, index: setattr(kept[0], 'data', values),
    'one of a list': lambda kept, values, index: kept.append(torch.chunk(values, 2)[1]),
    'a parameter': lambda kept, values, index: kept.append(torch.nn.Parameter(values)),
    'a closure in a cycle': lambda kept, values, index: kept.append([values, kept]),
}


@pytest.mark.parametrize('every', [1, 3])
@pytest.mark.parametrize('keeper', KEEPERS.values(), ids=KEEPERS)
def test_what_the_program_keeps_stays_as_it_was(run_everywhere, keeper, every):
    def program(device):
        model = layers(0, 6, 5, 4).to(device)
        kept = [torch.zeros(4, 4).to(device)]

        def frame(index):
            values = model(image(index, 4, 6).to(device))
            if index % every == 0:
                keeper(kept, values, index)
            found = chain(values).cpu()
            old = [each[0] if isinstance(each, list) else each for each in kept]
            return found, [each.detach().cpu() for each in old[-3:]]

        return frame

    with torch.no_grad():
        run_everywhere(program, FRAMES)


def test_a_new_result_carries_nothing_of_an_old_one(run_everywhere):
    def program(device):
        model = layers(0, 6, 5, 4).to(device)
        seen = []

        def frame(index):
            values = model(image(index, 3, 6).to(device))
            middle = torch.tanh(values)
            told = [
                hasattr(middle, 'note'),
                middle.grad is None,
                middle.requires_grad,
                middle._version,
                [each() is None for each in seen],
            ]
            match index % 5:
                case 1:
                    middle.note = index
                case 2:
                    middle.grad = torch.ones_like(middle)
                case 3:
                    middle.requires_grad_()
                case 4:
                    seen.append(weakref.ref(middle))
            values = chain(middle.detach() if index % 5 == 3 else middle)
            del middle  # before the read, at which it is decided what is used again
            gc.collect()
            return values.detach().cpu(), told

        return frame

    with torch.no_grad():
        run_everywhere(program, 3 * FRAMES)


def test_results_in_a_graph_of_gradients_are_made_anew(open_session):
    """As torch records it where an upload requires a gradient."""
    session = open_session()
    model = layers(0, 6, 5, 4).to('cuda').requires_grad_(False)
    for index in range(FRAMES):
        uploaded = image(index, 3, 6).requires_grad_(index % 3 == 1)
        with torch.enable_grad():
            found = chain(model(uploaded.to('cuda'))).detach().cpu()
        expected = chain(layers(0, 6, 5, 4).requires_grad_(False)(uploaded.detach()))
        assert torch.equal(found, expected)
    assert session.statistics.replayed


def test_a_thread_that_walks_is_not_overtaken(open_session):
    """Another uses its results in the middle of its walk: that ends the walk where it stands."""

    def program(device):
        model = layers(0, 6, 5).to(device)
        published = []

        def work(count, results):
            with torch.no_grad():
                for index in range(count):
                    values = model(image(index, 3, 6).to(device))
                    published.append((index, values))
                    results[index] = chain(values, 30).cpu()

        return published, work

    count = 60
    expected = {}
    program('cpu')[1](count, expected)
    features = dict(program_features(count))
    session = open_session()
    published, work = program('cuda')
    found, used = {}, []
    thread = threading.Thread(target=work, args=(count, found))
    thread.start()
    while thread.is_alive() or published:
        if published:
            index, values = published.pop(0)
            used.append((index, (values * 2).cpu()))
        time.sleep(0)
    thread.join(60)
    assert_equal([found[index] for index in range(count)], [expected[i] for i in range(count)])
    assert len(used) == count
    for index, values in used:
        assert torch.equal(values, features[index] * 2), index
    assert session.statistics.inferences


def program_features(count):
    model = layers(0, 6, 5)
    with torch.no_grad():
        for index in range(count):
            yield index, model(image(index, 3, 6))


def test_who_stops_a_walk_waits_for_its_thread(open_session):
    session = open_session()
    model = layers(0, 6, 5).to('cuda')
    for index in range(6):
        values = model(image(index, 3, 6).to('cuda'))
        if index < 5:
            values.cpu()
    walk = session.client.recording_here().walk
    assert isinstance(walk, Walk) and walk.open
    walk.busy = True
    told = []
    for _ in range(2):
        thread = threading.Thread(target=lambda: told.append((walk.stop(), walk.open)))
        thread.start()
        thread.join(10)
        walk.busy = False
    assert told == [(False, False), (True, False)]
    assert torch.equal(values.cpu(), layers(0, 6, 5)(image(5, 3, 6)))
