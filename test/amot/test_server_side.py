"""The server's side over the in-process channel: equal answers, batches, and nothing kept for
nothing."""

from concurrent.futures import ThreadPoolExecutor
import threading
import time

import numpy as np
import pytest
import torch

from offload_ros.amot import batching, inference
from offload_ros.amot import host as host_module
from offload_ros.amot.batching import Batcher, Work
from offload_ros.amot.client import PatchesFailed, link_on
from offload_ros.amot.messages import Answered, More, Sample, Wanted
from offload_ros.amot.patches import cut, patches_of, sample
from offload_ros.amot.rounds import Patches
from offload_ros.models.model import load_model
from offload_ros.wire.channel import key_of
from offload_ros.wire.codecs import DELTA_ZSTD, encode
from offload_ros.wire.exchange import PATCHES as STREAM
from offload_ros.wire.shaper import LinkShape

from .tiny import (
    LONG_S,
    PATCH_BYTES,
    PATCH_PX,
    PATCHES,
    bundle_folder,
    config_of,
    images,
    model,
    networks,
    until,
)

CLOSE = {'rtol': 1e-4, 'atol': 1e-6}


def asked(image, seed=1, count=4, **changes):
    """(message, positions) of the first round."""
    positions = sample(seed, count, PATCHES)
    values = {
        'model': model().hash, 'seed': seed, 'count': count, 'limit': 5, 'fixed': 3,
        'granted': 3.0, 'confidence': 1.0, 'budget_s': LONG_S, 'adaptive': False,
        'data': memoryview(cut(image.numpy(), PATCH_PX, positions).tobytes()), **changes,
    }  # fmt: skip
    return Sample(**values), positions


def more_of(image, run, wanted, codec=None):
    """The second round."""
    plain = cut(image.numpy(), PATCH_PX, wanted.positions.astype(np.int64))
    data = plain.tobytes() if codec is None else encode(plain.reshape(-1), codec, 1, 3)
    return More(run, len(wanted.positions), codec or 0, memoryview(data))


def directly(image, positions, count=0):
    """(probabilities of the first pass, wanted positions, probabilities of the second)."""
    rows = patches_of(image[None], PATCH_PX)[0]
    have = torch.from_numpy(positions)[None]
    first = inference.first_pass(networks(), rows[positions][None], have)
    if not count:
        return first.probabilities[0].numpy(), None, None
    wanted = inference.missing_by_attention(first.attention, have, count)
    second = inference.second_pass(networks(), first.embeddings, rows[wanted[0]][None], wanted)
    return first.probabilities[0].numpy(), wanted[0].numpy(), second[0].numpy()


def converse(channel, deadline_s=LONG_S):
    return link_on(channel).converse(time.monotonic() + deadline_s)


@pytest.mark.parametrize('codec', [None, DELTA_ZSTD])
def test_two_rounds_answer_as_the_two_passes_do(serve, codec):
    server = serve()
    channel = server.channel()
    for seed, image in enumerate(images(6)):
        message, positions = asked(image, seed)
        first, wanted, second = directly(image, positions, 3)
        talk = converse(channel)
        answer = talk.ask(message)
        assert isinstance(answer, Wanted)
        np.testing.assert_array_equal(answer.positions, wanted)
        assert answer.confidence == pytest.approx(first.max(), rel=1e-4)
        answer = talk.ask(more_of(image, talk.number, answer, codec))
        assert isinstance(answer, Answered)
        np.testing.assert_allclose(answer.probabilities, second, **CLOSE)
        assert 0.0 < answer.compute_s <= answer.server_s
        assert server.sessions[0].runs == 0


def test_a_confident_first_round_is_the_answer(serve):
    channel = serve().channel()
    for seed, image in enumerate(images(8)):
        message, positions = asked(image, seed, confidence=0.6)
        first, _, _ = directly(image, positions)
        answer = converse(channel).ask(message)
        assert isinstance(answer, Answered if first.max() >= 0.6 else Wanted)
        if isinstance(answer, Answered):
            np.testing.assert_allclose(answer.probabilities, first, **CLOSE)


def test_without_a_second_pass_the_first_round_is_the_answer(serve):
    other = load_model(config_of(bundle_folder(seed=0, second=False)))
    assert other.hash == model().hash  # the robot cannot tell, and need not
    image = next(images(1))
    message, positions = asked(image)
    answer = converse(serve(other).channel()).ask(message)
    np.testing.assert_allclose(answer.probabilities, directly(image, positions)[0], **CLOSE)


def test_images_of_several_robots_are_one_batch_with_equal_answers(serve, monkeypatch):
    """First rounds together, then second rounds: as if each robot were alone."""
    robots = 4
    monkeypatch.setattr(batching, 'ACTIVE_S', 10 * LONG_S)
    server = serve(gather_s=LONG_S)
    channels = [server.channel() for _ in range(robots)]
    batcher = server.host.batcher
    batcher._heard_s = dict.fromkeys(server.sessions, time.monotonic())  # it waits for all of them

    def two_rounds(number, image):
        message, positions = asked(image, number)
        talk = converse(channels[number], 2 * LONG_S)
        wanted = talk.ask(message)
        answer = talk.ask(more_of(image, talk.number, wanted))
        _, positions, second = directly(image, positions, 3)
        np.testing.assert_array_equal(wanted.positions, positions)
        np.testing.assert_allclose(answer.probabilities, second, **CLOSE)
        return True

    with ThreadPoolExecutor(robots) as pool:
        assert all(pool.map(two_rounds, range(robots), images(robots)))
    assert (batcher.batches, batcher.images) == (2, 2 * robots)


def test_a_lossy_link_changes_no_answer(serve):
    shape = LinkShape(bytes_per_s=5e6, delay_s=0.001, loss=0.05)
    channel = serve().channel(up=shape, down=shape)
    for seed, image in enumerate(images(8)):
        message, positions = asked(image, seed)
        talk = converse(channel)
        wanted = talk.ask(message)
        answer = talk.ask(more_of(image, talk.number, wanted))
        expected = directly(image, positions, 3)[2]
        np.testing.assert_allclose(answer.probabilities, expected, **CLOSE)


# --- what is kept


def begun(server, channel, count=1):
    """Images that wait for their second round."""
    found = []
    for seed, image in enumerate(images(count)):
        talk = converse(channel)
        found.append((talk, image, talk.ask(asked(image, seed)[0])))
    return found


def test_a_cancelled_image_is_forgotten(serve):
    server = serve()
    channel = server.channel()
    ((talk, image, wanted),) = begun(server, channel)
    assert server.sessions[0].runs == 1
    talk.close()
    until(lambda: server.sessions[0].runs == 0)
    with pytest.raises(PatchesFailed, match='nothing is kept'):
        converse(channel).ask(more_of(image, talk.number, wanted))


def test_nothing_is_kept_for_a_robot_that_is_gone(serve):
    server = serve()
    channel = server.channel()
    begun(server, channel, 3)
    assert server.sessions[0].runs == 3
    server.links[0].server.close('the robot is gone')
    assert server.sessions[0].runs == 0
    assert not server.host._robots


def test_no_more_than_so_many_images_of_a_robot_are_kept(serve, monkeypatch):
    monkeypatch.setattr(host_module, 'MAX_RUNS', 3)
    server = serve()
    channel = server.channel()
    first, *_, last = begun(server, channel, 5)
    assert server.sessions[0].runs == 3
    with pytest.raises(PatchesFailed, match='nothing is kept'):
        first[0].ask(more_of(first[1], first[0].number, first[2]))
    assert isinstance(last[0].ask(more_of(last[1], last[0].number, last[2])), Answered)


def test_an_image_whose_second_round_does_not_come_is_forgotten(serve, monkeypatch):
    monkeypatch.setattr(host_module, 'KEEP_S', 0.05)
    server = serve()
    channel = server.channel()
    message, _ = asked(next(images(1)), budget_s=0.5)
    # Slower than that on a busy machine, and it says so: what counts is that nothing stays.
    try:
        converse(channel).ask(message)
    except PatchesFailed as error:
        assert 'busy' in str(error)
    until(lambda: server.sessions[0].runs == 0)


def test_the_second_round_is_taken_once(serve):
    server = serve()
    channel = server.channel()
    ((talk, image, wanted),) = begun(server, channel)
    message = more_of(image, talk.number, wanted)
    assert isinstance(talk.ask(message), Answered)
    with pytest.raises(PatchesFailed, match='nothing is kept'):
        converse(channel).ask(message)


# --- refusals


def refused(channel, message):
    """The server's word about a message that it refuses."""
    with pytest.raises(PatchesFailed) as caught:
        converse(channel).ask(message)
    return str(caught.value)


def test_what_does_not_fit_is_refused_and_nothing_kept(serve):
    server = serve()
    channel = server.channel()
    image = next(images(1))
    assert 'no A-MOT networks for model cdcdcdcd' in refused(
        channel, asked(image, model='cd' * 32)[0]
    )
    short, _ = asked(image, data=memoryview(b'abc'))
    assert f'{4 * PATCH_BYTES} bytes are wanted, 3 came' in refused(channel, short)
    many, _ = asked(image, count=4)
    too_many = Sample(**{**vars(many), 'count': 17})
    assert '17 patches of an image that has 16' in refused(channel, too_many)
    assert 'nothing is kept' in refused(channel, More(4711, 3))
    assert server.sessions[0].runs == 0
    ((talk, _, wanted),) = begun(server, channel)
    few = More(talk.number, 1, 0, memoryview(bytes(PATCH_BYTES)))
    assert f'1 patches came, {len(wanted.positions)} were wanted' in refused(channel, few)
    assert server.sessions[0].runs == 0


def test_garbage_gets_one_answer_and_harms_nobody(serve):
    server = serve()
    channel, other = server.channel(), server.channel()
    heard = []
    channel.listen(STREAM, lambda incoming: incoming.when_ended(heard.append))
    chance = np.random.default_rng(3)
    for number in range(1000, 1040):
        data = chance.integers(0, 256, int(chance.integers(0, 90)), dtype=np.uint8).tobytes()
        channel.send(key_of(STREAM, number), data)
    until(lambda: len(heard) == 40)
    assert all(bytes(each.buffer[:1]) == b'\x06' for each in heard)  # Failed
    image = next(images(1))
    assert isinstance(converse(other).ask(asked(image)[0]), Wanted)


def test_a_message_beyond_all_images_is_refused(serve, monkeypatch):
    monkeypatch.setattr(host_module, 'MAX_MESSAGE_BYTES', 2000)
    text = refused(serve().channel(), asked(next(images(1)))[0])
    assert text.startswith('patches did not reach the server: ')
    assert text.endswith('at most 2000 bytes are allowed')


def test_networks_that_do_not_belong_to_the_model_do_not_serve_it(serve):
    """Another classifier, another normalisation, half a folder: the model itself is served."""
    other = load_model(config_of(bundle_folder(1), source=config_of().source))
    server = serve(other)
    assert server.why[0].endswith('has another classifier than the source of the model')
    message, _ = asked(next(images(1)), model=other.hash)
    assert refused(server.channel(), message).startswith('its A-MOT networks cannot be used: ')
    grey = config_of().preprocess.__class__(resize=(64, 64), mean=(0.5,), std=(0.2,))
    why = serve(load_model(config_of(preprocess=grey))).why[0]
    assert why.startswith('preprocess.mean is [0.5, 0.5, 0.5], ')


def test_an_unloaded_model_is_not_served_any_more(serve):
    server = serve()
    channel = server.channel()
    message, _ = asked(next(images(1)))
    assert isinstance(converse(channel).ask(message), Wanted)
    server.engine.remove('scene', 'default')
    assert 'no A-MOT networks' in refused(channel, message)
    assert not server.host._served


# --- batches


def test_patches_that_waited_too_long_are_not_computed():
    began, go = threading.Event(), threading.Event()
    ran, failed, done = [], [], []

    def compute(given):
        ran.append(list(given))
        began.set()
        assert go.wait(LONG_S)
        return given

    def work(name, budget_s=LONG_S, group='g'):
        return Work(
            group, name, name, compute, lambda result, s: done.append(result), failed.append,
            time.monotonic() + budget_s,
        )  # fmt: skip

    batcher = Batcher(lambda function: function(), gather_s=0.0, max_batch=2)
    try:
        batcher.submit(work('first'))
        assert began.wait(LONG_S)
        batcher.submit(work('late', 0.0))
        for name in 'abc':
            batcher.submit(work(name))
        batcher.submit(work('other', group='h'))
        withdrawn = object()
        batcher.submit(work(withdrawn))
        batcher.withdraw(withdrawn)
        go.set()
        until(lambda: len(done) == 5)
    finally:
        batcher.close()
    assert ran[0] == ['first'] and sorted(map(len, ran[1:])) == [1, 1, 2]
    assert sorted(done) == ['a', 'b', 'c', 'first', 'other']
    assert len(failed) == 1 and failed[0].startswith('the server is busy: patches waited ')


def test_who_is_alone_does_not_wait_for_others():
    """Else each image of a single robot would take ``gather_s`` longer."""
    done = []

    def take(result, _):
        done.append(result)

    batcher = Batcher(lambda function: function(), gather_s=LONG_S, max_batch=8)
    try:
        for number in range(3):
            until_s = time.monotonic() + 4 * LONG_S
            batcher.submit(
                Work('g', 'robot', number, lambda given: given, take, done.append, until_s)
            )
            until(lambda n=number: done == list(range(n + 1)), LONG_S / 2)
    finally:
        batcher.close()


def test_a_batch_that_fails_is_told_to_each_and_the_next_one_runs():
    failed, done = [], []

    def compute(given):
        if 'bad' in given:
            raise MemoryError('no room')
        return given

    batcher = Batcher(lambda function: function(), gather_s=0.0)
    try:
        for name in ('bad', 'good'):
            batcher.submit(
                Work(
                    name, 'robot', name, compute, lambda result, s: done.append(result),
                    failed.append, time.monotonic() + LONG_S,
                )
            )  # fmt: skip
        until(lambda: done and failed)
    finally:
        batcher.close()
    assert (done, failed) == (['good'], ['on the server: MemoryError: no room'])
    batcher.submit(Work('g', 'r', 1, compute, done.append, failed.append, time.monotonic()))
    assert failed[-1] == 'the server is closing'


def test_embeddings_of_one_image_do_not_hold_its_batch(serve):
    """Else one image that waits would hold sixteen."""
    (served,) = serve().host._served.values()
    positions = sample(1, 4, PATCHES)
    given = [Patches(cut(image.numpy(), PATCH_PX, positions), positions) for image in images(8)]
    first = served.first(given)[3].embeddings
    assert first.untyped_storage().nbytes() == first.nbytes
