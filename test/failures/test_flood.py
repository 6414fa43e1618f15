"""Another robot asks the server for as much as it can: fairness, honest refusals, no memory."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import itertools
import threading
import time

import numpy as np
from promise import ALONE_S, counted, models
import pytest
from rig import Footprint, Robot, mostly_by_server, pair_in, pixels_of
from stranger import Stranger
from system import Process, random_pixels, until

from offload_ros.nodes.topics import PACKETS_BYTES
from offload_ros.wire.exchange import Status

FLOOD_S = 10.0  # at most
QUEUE = 32  # requests of all robots may wait
# Of the server, bytes: the middleware's buffers of a robot's packets once they are large, and what
# waits.
GROWTH = {'small': 30e6, 'large': 30e6 + PACKETS_BYTES}

Pair = tuple[Robot, Process, Process]


@pytest.fixture(scope='module')
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with pair_in(tmp_path_factory.mktemp('flood'), models()) as made:
        made[0].rig.pace('offload_manager', ALONE_S)
        made[0].ready()
        yield made


@contextlib.contextmanager
def flood(rogue: Stranger, pixels: np.ndarray, model_hash: str) -> Iterator[list[float]]:
    """Requests one after the other, waiting for nothing; when each was sent."""
    stop, sent, numbers = threading.Event(), [time.monotonic()], itertools.count(1)

    def work() -> None:
        end_s = time.monotonic() + FLOOD_S
        while not stop.is_set() and time.monotonic() < end_s and len(sent) < 100_000:
            rogue.ask(next(numbers), {'image': pixels}, model_hash=model_hash, budget_s=5.0)
            sent.append(time.monotonic())

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    until(lambda: len(rogue.replies) > 50, 'the flood arrives')
    try:
        yield sent
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize('size', ['small', 'large'])
def test_flood_of_one_robot_takes_no_answer_from_another_and_no_memory(
    pair: Pair, size: str
) -> None:
    """Each frame of the other robot has its one right result in time, nearly all by the server
    (now and then the flood fills the middleware's own buffers, before any topic)."""
    robot, _, server = pair
    rig = robot.rig
    rogue = rig.stranger(f'/rogue_{size}')
    pixels = pixels_of(0) if size == 'small' else random_pixels(1, 200, 300)
    rig.pace('offload_server', 0.004)
    robot.served()
    before = Footprint(server)
    with counted(robot, f'flood of {size} requests') as count:
        with flood(rogue, pixels, robot.model_hash) as sent:
            flooded = robot.play(100, 20.0)
        robot.served()
    rate = len(sent) / (sent[-1] - sent[0])
    print(f'{rate:.0f} requests/s, {len(rogue.replies)} answered, {len(flooded)} frames meanwhile')
    mostly_by_server(flooded, share=0.1)
    assert len(count.results) > len(flooded)
    assert max(beat.queue_length for _, beat in rig.beats('/offload_server')) <= QUEUE
    statuses = {reply.status for reply in rogue.replies}
    assert Status.BUSY in statuses, 'the flood was no flood'
    assert len({reply.seq for reply in rogue.replies}) == len(rogue.replies)
    after = Footprint(server)
    print(f'server before: {before}; after: {after}')
    assert after.rss - before.rss < GROWTH[size]
    assert (after.threads, after.files) == (before.threads, before.files)
    robot.settle()
