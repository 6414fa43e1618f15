"""Whatever strangers send: no crash, no wrong result, no use of memory without end."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
import itertools
import json
import random
import struct
import time
from typing import Any

import pytest
from rclpy.serialization import deserialize_message
from rig import MODEL, Footprint, Robot, mostly_by_server, pair_in, pixels_of
from stranger import handshakes_of, packet_of
from system import Process, until
import torch

from offload_ros.msg import Handshake
from offload_ros.wire.channel import key_of
from offload_ros.wire.exchange import CANCELS, PROBES, REPORTS, REQUESTS, Reply, Request, Status
from offload_ros.wire.framing import frame_reply, frame_request
from offload_ros.wire.handshake import MAX_PENDING
from offload_ros.wire.handshake_messages import Hello, Runtime
from offload_ros.wire.packet import ENCAPSULATION, OVERHEAD, Kind, Packet, header_of, join

GROWTH = 20e6  # bytes; what the garbage below would take if it were kept is far more
MODELS = MODEL.replace('4000.0', '1000.0')
Pair = tuple[Robot, Process, Process]


@pytest.fixture(scope='module')
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with pair_in(tmp_path_factory.mktemp('garbage'), MODELS) as made:
        made[0].ready()
        made[0].served()
        yield made


def test_without_a_key_anyone_reads_along_and_the_server_says_so_once(pair: Pair) -> None:
    """``test_key`` shows that a key ends that; here its way to look for frames finds them."""
    robot, _, server = pair
    heard = robot.rig.eavesdropper(robot.name)
    robot.served()
    until(lambda: len(heard.replies) > 20, 'replies are read')
    assert any(b'"model"' in each for each in heard.up.recorded)
    assert len(robot.frames_in(heard.up.recorded)) > 20
    warning = 'no key_file is given: anyone in this ROS domain may use this server'
    assert server.output.count(warning) == 1


@pytest.fixture
def unharmed(pair: Pair) -> Iterator[random.Random]:
    """Before and after a test the robot is served and nothing has grown; gives its randomness."""
    robot, *processes = pair
    robot.ready()
    before = [Footprint(process) for process in processes]
    first = robot.send()
    yield random.Random(3)
    robot.ready()
    robot.served()
    for result in robot.since(first):
        robot.judge(result)
    robot.settle()
    for stranger in robot.rig.strangers:
        stranger.close()
    for name, process, then in zip(('manager', 'server'), processes, before, strict=True):
        until(lambda p=process, t=then: Footprint(p).threads <= t.threads, 'threads ended')
        after = Footprint(process)
        print(f'{name} before: {then}; after: {after}')
        assert after.rss - then.rss < GROWTH
        assert after.files <= then.files + 2
        assert 'Traceback' not in process.output
        assert 'in the contact with the other side' not in process.output


def damaged(chance: random.Random, whole: bytes, keep: int = 0) -> bytes:
    """Some bytes of ``whole`` from ``keep`` on changed, now and then its end cut off."""
    changed = bytearray(whole)
    for _ in range(chance.randrange(1, 8)):
        changed[chance.randrange(keep, len(changed))] ^= chance.randrange(1, 256)
    if chance.random() < 0.3:
        return bytes(changed[: chance.randrange(keep, len(changed))])
    return bytes(changed)


def random_request(chance: random.Random, number: int, model_hash: str) -> bytes:
    """A header whose fields seldom fit each other, and some data."""

    def entry() -> Any:
        shapes = [[8, 8, 3], [2**63], [0] * 9, [], [2**32, 2**32], [0, 2**62], [3], [-1], 'x', None]
        return [
            chance.choice(['image', 'mean', '', 'x' * 1000, 'é\N{SNOWMAN}', '\n', 7]),
            chance.choice([0, 1, 5, 5, 5, 10, 99, 255, '5']),
            chance.choice([[8, 8, 3], *shapes]),
            chance.choice([0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 99]),
            chance.choice([192, 192, 0, 1, 2**40, -1, 1.5]),
        ][: chance.choice([5, 5, 5, 5, 4])]

    head = {
        'kind': chance.choice([0, 0, 1, 9, 255, -1, None]),
        'seq': chance.choice([number, number, number, 0, -1, 2**48, 2**70, 'x']),
        'model': chance.choice(['probe', 'probe', 'none', '', 7]),
        'hash': chance.choice([model_hash, model_hash, '', '00', 'x' * 2000]),
        'budget_s': chance.choice([1.0, 1.0, -1.0, float('nan'), float('inf'), 1e30, '1']),
        'priority': chance.choice([0, 128, 255, 256]),
        'tensors': [entry() for _ in range(chance.choice([0, 1, 1, 1, 2, 40]))],
    }
    for name in chance.sample(sorted(head), chance.choice([0, 0, 0, 1, 2])):
        del head[name]
    text = json.dumps(head).encode()
    start = struct.pack('<I', len(text)) + text
    return start + bytes(-len(start) % 64) + chance.randbytes(chance.choice([0, 1, 192, 1000]))


def test_random_requests_do_not_harm_the_server(pair: Pair, unharmed: random.Random) -> None:
    robot, chance = pair[0], unharmed
    stranger = robot.rig.stranger('/stranger')
    good = {'image': pixels_of(5)}
    asked = Request(
        '', '', '', 0, 'probe', robot.model_hash, 60.0, {'image': torch.from_numpy(pixels_of(5))}
    )
    whole = b''.join(frame_request(asked).buffers)
    for number in range(1, 1000):
        shape = number % 5
        if shape == 0:  # damaged, so that most of it is right
            stranger.send(number, damaged(chance, whole, 1))
        elif shape == 1:
            stranger.send(number, chance.randbytes(chance.choice([1, 3, 4, 100, 5000])))
        elif shape == 2:  # streams that are for something else, or that nobody listens to
            stream = chance.choice([0, CANCELS, REPORTS, PROBES, 77, 65535])
            content = chance.randbytes(chance.choice([1, 100, 20_000]))
            stranger.send(10**6 + number, content, stream)  # above the numbers of its own reports
        else:
            stranger.send(number, random_request(chance, number, robot.model_hash))
        if number % 20 == 0:
            robot.send()
            time.sleep(0.005)
    stranger.ask(5000, good, model_hash=robot.model_hash)
    assert stranger.reply_to(5000).status == Status.OK
    numbers = [reply.seq for reply in stranger.replies]
    assert len(numbers) == len(set(numbers)), 'one reply to each'
    refused = [reply for reply in stranger.replies if reply.status == Status.ERROR]
    assert len(refused) > 300
    assert all(reply.detail and '\n' not in reply.detail for reply in refused)


def random_packet(chance: random.Random, salt: int, numbers: Iterator[int]) -> bytes:
    """Fields that seldom fit each other, with the check of this connection."""
    key = key_of(
        chance.choice([0, REQUESTS, CANCELS, REPORTS, PROBES, 99]),
        chance.choice([0, 1, 2, 3, chance.randrange(2**48)]),
    )
    data = chance.randbytes(chance.choice([0, 1, 24, 40, 56, 100, 2000]))
    total = chance.choice([len(data), len(data), 0, 100, 10**6, 10**7, 6 * 10**7, 2**40, 2**64 - 1])
    packet = Packet(
        chance.choice([next(numbers), next(numbers), 0, 5, 2**63, 2**64 - 1]),
        chance.choice([key, key, 2**64 - 1]),
        chance.choice([0, 0, 1, 50, 2**63, 2**64 - 1]),
        total,
        chance.choice([0, 1, 1000, 2**32 - 1]),
        chance.choice([*Kind, *Kind, 0, 6, 255]),
        chance.choice([0, 128, 255]),
    )
    return join(header_of(packet, len(data), salt), [data])


def test_random_packets_of_a_robot_do_not_harm_the_server(
    pair: Pair, unharmed: random.Random
) -> None:
    """Whoever has a session may say anything in it: packets in the right form, of any content."""
    robot, chance = pair[0], unharmed
    rig = robot.rig
    stranger = rig.stranger('/stranger')
    own = rig.eavesdropper('/stranger')
    salt = stranger.salt
    numbers = itertools.count(10_000)
    for count in range(1500):
        own.up.publish(random_packet(chance, salt, numbers))
        if count % 10 == 0:
            robot.send()
            time.sleep(0.001)
    until(lambda: own.recorded, 'the server speaks to it')
    mostly_by_server(robot.play(60))  # from the first frame on, here and below


def flood(robot: Robot, tap: Any, messages: Iterator[bytes] | list[bytes]) -> int:
    """Publish all, slowly enough that the topic's reader need not drop others'; how many."""
    count = 0
    for count, message in enumerate(messages, 1):
        tap.publish(message)
        if count % 10 == 0:
            robot.send()
            time.sleep(0.005)
    return count


def test_strangers_packets_in_a_robots_session_change_nothing(
    pair: Pair, unharmed: random.Random
) -> None:
    """On the robot's own topics: garbage, damage, replays, and packets of another session."""
    robot, chance = pair[0], unharmed
    heard = robot.rig.eavesdropper(robot.name)
    stranger = robot.rig.stranger('/stranger')
    foreign = robot.rig.eavesdropper('/stranger')
    for number in range(30):
        stranger.ask(number, {'image': pixels_of(7)}, model_hash=robot.model_hash)
    robot.served()
    until(lambda: len(heard.replies) > 30 and len(foreign.replies) > 15, 'traffic to repeat')
    for tap, other in ((heard.up, foreign.up), (heard, foreign)):
        recorded = list(tap.recorded)
        assert len(recorded) > 60
        first = robot.send()
        flood(robot, tap, [chance.randbytes(chance.randrange(4, 300)) for _ in range(200)])
        flood(robot, tap, [ENCAPSULATION + chance.randbytes(60) for _ in range(100)])
        flood(robot, tap, [damaged(chance, chance.choice(recorded), 4) for _ in range(400)])
        flood(robot, tap, recorded[-300:])
        flood(robot, tap, list(other.recorded)[-200:])
        # Its own numbers and keys, with the check of another session.
        salted = [packet for each in recorded[-300:] if (packet := packet_of(each)) is not None]
        flood(robot, tap, [resalted(each, stranger.salt) for each in salted])
        mostly_by_server(robot.since(first)[:-1], share=0.05)


def resalted(packet: Packet, salt: int) -> bytes:
    """The same packet with the check of another session."""
    return join(header_of(packet, len(packet.data), salt), [packet.data])


def test_replayed_and_forged_replies_become_no_results(pair: Pair, unharmed: random.Random) -> None:
    """While each real request is in flight, all numbers that it may have are answered falsely."""
    robot, chance = pair[0], unharmed
    rig = robot.rig
    heard = rig.eavesdropper(robot.name)
    robot.served()
    until(lambda: heard.replies, 'a real reply')
    old = next(each for each in heard.recorded if is_reply(each))
    wrong = Reply('', '', '', 0, Status.OK, outputs={'mean': torch.ones(1, dtype=torch.double)})

    def forged(seq: int) -> Iterator[bytes]:
        """A reply to ``seq`` with another content, each wrong in another way."""
        data = b''.join(frame_reply(Reply(**{**vars(wrong), 'seq': seq})).buffers)
        newest = packet_of(heard.recorded[-1])
        assert newest is not None
        for number in (newest.number + 1, newest.number + 2, 2**63 + seq):
            packet = Packet(number, key_of(REQUESTS, seq), 0, len(data), data=data)
            for salt in (0, chance.randrange(2**32)):
                yield resalted(packet, salt)
        # A replay under this key: the check covers it.
        at = len(ENCAPSULATION) + 8
        yield old[:at] + struct.pack('<Q', key_of(REQUESTS, seq)) + old[at + 8 :]
        yield old

    rig.pace('offload_server', 0.05)
    first = robot.send()
    for _ in range(40):
        robot.send()
        newest = max(reply.seq for reply in list(heard.replies))
        for seq in range(newest + 1, newest + 4):
            for message in forged(seq):
                heard.publish(message)
                time.sleep(0.0005)
    rig.pace('offload_server', 0.0)
    robot.flush()
    assert len(robot.by_server('', robot.since(first))) > 10


def is_reply(received: bytes) -> bool:
    """Whether a packet carries a whole reply."""
    packet = packet_of(received)
    return (
        packet is not None
        and packet.kind == Kind.DATA
        and packet.key >> 48 == REQUESTS
        and packet.total == len(received) - OVERHEAD
    )


def test_random_and_replayed_handshakes_change_no_session(
    pair: Pair, unharmed: random.Random
) -> None:
    """Without a key all can be read and said: what is not an answer to something of now is not
    believed."""
    robot, chance = pair[0], unharmed
    rig = robot.rig
    doors = [handshakes_of(rig.listener, node) for node in ('/offload_server', robot.name)]
    heard = rig.eavesdropper(robot.name)
    for _ in range(2):  # handshakes to record: the robot takes the server for lost, and greets it
        assert not rig.set_parameters(robot.name, link__emulate__cut=True)
        until(lambda: robot.flush().strategy_used == 'device', 'the link is cut')
        assert not rig.set_parameters(robot.name, link__emulate__cut=False)
        robot.ready()
    until(lambda: all(door.recorded for door in doors), 'both sides are heard')
    # Taken now: the doors hear their own garbage too, later.
    recorded = [list(door.recorded) for door in doors]
    genuine = [content_of(each) for heard_there in recorded for each in heard_there]
    assert {json.loads(each)['kind'] for each in genuine} == {'hello', 'welcome', 'confirm'}
    robot.served()
    server_side = heard.recorded[-1]

    first = robot.send()
    contents: list[bytes] = []
    for _ in range(400):
        contents.append(damaged(chance, chance.choice(genuine)))
    for size in (0, 1, 10, 1000, 16_384, 16_385, 131_072, 131_073, 1_000_000):
        contents += [chance.randbytes(size), b'{' * size, b'[' * size, b'1' * size]
    for _ in range(3):
        contents += genuine
    for content in contents:
        for door in doors:
            door.publish(Handshake(data=array('B', content)))
        time.sleep(0.002)
        if chance.random() < 0.05:
            robot.send()
    for _ in range(200):  # no handshake messages at all
        for door, heard_there in zip(doors, recorded, strict=True):
            door.publish(damaged(chance, chance.choice(heard_there), 4))
        time.sleep(0.002)
    mostly_by_server(robot.since(first)[:-1], share=0.05)

    # Hellos of many that never go on: places are limited, and the real robot keeps its own.
    session = rig.session()
    for index in range(5 * MAX_PENDING):
        nobody = (f'/nobody_{index}', f'{index:016x}')
        hello = Hello(*nobody, '/offload_server', session, '0' * 64, Runtime('2', 1))
        doors[0].publish(Handshake(data=array('B', hello.to_bytes())))
        time.sleep(0.002)
    mostly_by_server(robot.play(60))
    assert heard.recorded[-1] != server_side
    assert session == heard.session, 'all that in one session of the server'


def content_of(received: bytes) -> bytes:
    """What a recorded handshake message holds."""
    return bytes(deserialize_message(received, Handshake).data)
