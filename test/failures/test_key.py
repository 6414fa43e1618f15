"""With a key file: who has none, another one, or only records, gets nothing and changes nothing."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
import json
import os
from pathlib import Path
import time
from typing import Any

import numpy as np
import pytest
from rclpy.serialization import deserialize_message
from rig import (
    MODEL,
    Footprint,
    Rig,
    Robot,
    all_by_robot,
    mostly_by_server,
    rig_in,
    robots_of,
    stop_all,
)
from stranger import Eavesdropper, Tap, handshakes_of, heartbeats_of_all, packet_of
from system import Process, new_domain, until

from offload_ros.msg import Handshake, ServerHeartbeat
from offload_ros.wire.channel import key_of
from offload_ros.wire.exchange import REQUESTS
from offload_ros.wire.handshake_keys import Established, transcript
from offload_ros.wire.handshake_messages import Hello, Runtime, digest
from offload_ros.wire.key_file import make_key
from offload_ros.wire.packet import OVERHEAD, Kind, Packet, header_of, join

GROWTH = 20e6  # bytes
SERVER = '/offload_server'
IS_THERE, ENDS = 'server /offload_server is there', 'server /offload_server ends'
NOT_PROVEN = 'is not proven by this key: dropped (give robot and server the same key file)'


@dataclass
class Site:
    """A robot and a server with one key, and all that was said between them."""

    rig: Rig
    key: Path
    robot: Robot
    manager: Process
    server: Process
    told: list[tuple[float, int]]  # robots that the server counts
    beats: Tap
    doors: tuple[Tap, Tap]  # handshakes to the server, and to the robot
    packets: Eavesdropper
    first: int = 0  # frame since which the server was always there


@pytest.fixture(scope='module')
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp('key')
    key = folder / 'key'
    make_key(key)
    with rig_in(folder, MODEL.replace('4000.0', '1000.0')) as rig:
        listener = rig.listener
        doors = (handshakes_of(listener, SERVER), handshakes_of(listener, '/offload_manager'))
        beats, told = heartbeats_of_all(listener), robots_of(rig)
        manager, server = rig.manager(key_file=key), rig.server(key_file=key)
        robot = Robot(rig, base=20_000)  # most pixels of each frame are 255
        robot.ready()
        packets = rig.eavesdropper(robot.name)
        made = Site(rig, key, robot, manager, server, told, beats, doors, packets)
        while len(doors[1].recorded) < 2:  # a whole handshake, to repeat and to learn from
            reconnect(made)
        robot.served()
        yield made
        stop_all(manager, *(p for p in rig.processes if p is not manager and not p.told_to_end))


@pytest.fixture
def unchanged(site: Site) -> Iterator[None]:
    """Before and after a test the robot is served, the server has one robot, nothing has grown."""
    robot = site.robot
    robot.ready()
    until(lambda: site.told and site.told[-1][1] == 1, 'one robot is connected')
    server = site.server
    before = [Footprint(process) for process in (site.manager, server)]
    first, since = robot.send(), len(site.told)
    site.first = first
    yield
    robot.served()
    until(lambda: len(site.told) > since + 1, 'the server tells its robots')
    if site.server is server:  # else it was restarted by the test
        mostly_by_server(robot.since(site.first)[:-1], share=0.05)
        assert {count for _, count in site.told[since:]} == {1}
    for result in robot.since(first):
        robot.judge(result)
    robot.settle()
    for stranger in site.rig.strangers:
        stranger.close()
    for process, then in zip((site.manager, site.server), before, strict=True):
        after = Footprint(process)
        print(f'before: {then}; after: {after}')
        assert after.rss - then.rss < GROWTH
        assert 'Traceback' not in process.output


def repeat(site: Site, tap: Tap, messages: list[bytes]) -> None:
    """Publish a record, while the robot goes on."""
    for count, message in enumerate(messages):
        tap.publish(message)
        if count % 8 == 0:
            site.robot.send()
            time.sleep(0.005)


def test_robot_and_server_with_the_same_key_work_and_nobody_reads_along(
    site: Site, unchanged: None
) -> None:
    recorded = site.packets.up.recorded
    before = len(recorded)
    results = site.robot.play(100)
    mostly_by_server(results)
    assert all(result.exact for result in results)
    said = [packet_of(each) for each in recorded[before:]]
    carried = [p for p in said if p is not None and p.kind == Kind.DATA and p.key >> 48 == REQUESTS]
    assert len(carried) > 50
    # Sealed: as long as what it holds and a tag, and not like it.
    assert all(len(p.data) == p.total + 16 for p in carried)
    assert not site.robot.frames_in(recorded)
    assert not any(b'"model"' in each for each in recorded)
    assert not any(b'"status"' in each for each in site.packets.recorded)
    assert not site.packets.replies
    heard = np.frombuffer(b''.join(bytes(p.data) for p in carried), np.uint8)
    assert np.bincount(heard, minlength=256).max() < 3 * len(heard) / 256


@pytest.mark.parametrize('own_key', [False, True], ids=['no key', 'another key'])
def test_stranger_gets_nothing_and_changes_nothing(
    site: Site, unchanged: None, tmp_path: Path, own_key: bool
) -> None:
    key = tmp_path / 'other'
    if own_key:
        make_key(key)
    session = site.rig.session()
    for name in ('/stranger', site.robot.name):  # the robot's: it does not push that out
        door = handshakes_of(site.rig.listener, name)
        stranger = site.rig.stranger(name, connect=False, key=key if own_key else None)
        until(lambda s=stranger: s.heartbeats, 'the stranger hears the server')
        first = site.robot.send()
        until(
            lambda d=door, s=stranger: s.greet(session) or time.sleep(0.05) or refusals_in(d),
            'it is refused',
        )
        site.robot.play_until(lambda s=stranger: s.heartbeats > 20, 'it hears more')
        # What it is told is why, and nothing else.
        assert not stranger.connected
        assert not stranger.links()
        assert not stranger.replies
        if name != site.robot.name:
            assert len(refusals_in(door)) == len(door.recorded)
        mostly_by_server(site.robot.since(first)[:-1], share=0.05)
        stranger.close()


def refusals_in(door: Tap) -> list[bytes]:
    """Recorded handshakes that say no."""
    contents = [content_of(each) for each in door.recorded]
    return [each for each in contents if json.loads(each)['kind'] == 'refusal']


def content_of(received: bytes) -> bytes:
    """What a recorded handshake message holds."""
    return bytes(deserialize_message(received, Handshake).data)


def test_forged_packets_are_dropped_though_their_check_is_right(
    site: Site, unchanged: None
) -> None:
    """Whoever reads the handshake knows the check's salt; the seal is what counts."""
    salts = salts_of(site)
    for tap, salt in zip((site.packets.up, site.packets), salts, strict=True):
        before = len(tap.recorded)
        site.robot.play(40)
        recorded = [each for each in tap.recorded[before:] if len(each) > OVERHEAD]
        assert len(recorded) > 40
        again = packet_of(recorded[-1])
        assert again is not None
        assert rebuilt(again, salt) == recorded[-1], 'the salt is right'
        forged = []
        for number, received in enumerate(recorded):
            said = packet_of(received)
            assert said is not None
            for key in (said.key, key_of(REQUESTS, number)):
                forged.append(rebuilt(said._replace(number=10**6 + number, key=key), salt))
            for kind in Kind:  # control packets too: an ACK, a CANCEL, a REFUSE of everything
                number_, data = 2 * 10**6 + number, bytes(40)
                forged.append(rebuilt(Packet(number_, said.key, kind=kind, data=data), salt))
        repeat(site, tap, forged)


def rebuilt(packet: Packet, salt: int) -> bytes:
    """A packet with the check that belongs to it."""
    return join(header_of(packet, len(packet.data), salt), [packet.data])


def salts_of(site: Site) -> tuple[int, int]:
    """Of packets up and down in the present session, from what all heard of its handshake."""
    contents = [content_of(each) for door in site.doors for each in door.recorded]
    by_digest = {digest(content): content for content in contents}
    kinds = [(json.loads(content), content) for content in contents]
    (confirm, _) = [each for each in kinds if each[0]['kind'] == 'confirm'][-1]
    welcome = by_digest[confirm['welcome']]
    hello = by_digest[json.loads(welcome)['hello']]
    salt = int.from_bytes(transcript(hello, welcome)[:4], 'little')
    return Established('', '', Runtime('', 1), '', None, None, salt).robot_salts


def everything(site: Site) -> list[tuple[Tap, list[bytes]]]:
    """All that was recorded until now, by topic."""
    taps = (*site.doors, site.packets.up, site.packets, site.beats)
    return [(tap, list(tap.recorded)[-400:]) for tap in taps]


def reconnect(site: Site) -> None:
    """A handshake more to record."""
    assert not site.rig.set_parameters(site.robot.name, link__emulate__cut=True)
    until(lambda: site.robot.flush().strategy_used == 'device', 'the link is cut')
    assert not site.rig.set_parameters(site.robot.name, link__emulate__cut=False)
    site.robot.ready()


def test_replay_of_everything_in_the_same_session_changes_nothing(
    site: Site, unchanged: None
) -> None:
    for tap, recorded in everything(site):
        assert recorded, tap.topic
        repeat(site, tap, recorded)


def test_replay_of_everything_after_the_server_was_restarted_changes_nothing(
    site: Site, unchanged: None
) -> None:
    """Its end, too: the closing heartbeat of a session that was."""
    before = everything(site)
    old = site.rig.session()
    stop_all(site.server)
    ends = partial(filter, partial(says_end, old), site.beats.recorded)
    closing = until(lambda: list(ends()), 'the last heartbeat')
    site.robot.flush()
    # While there is no server, its records make no server.
    texts = (IS_THERE, ENDS, 'is lost')
    heard, ended, lost = (site.manager.output.count(text) for text in texts)
    for tap, recorded in (*before, (site.beats, closing)):
        repeat(site, tap, recorded)
    all_by_robot(site.robot.play(40), 'no server is there')
    assert site.manager.output.count(IS_THERE) == heard
    site.server = site.rig.server(key_file=site.key)
    site.robot.ready()
    new = site.rig.eavesdropper(site.robot.name)
    assert new.session != old
    site.robot.served()
    first = site.robot.send()
    for tap, recorded in (*before, (site.beats, closing)):
        repeat(site, tap, recorded)
    # What was sealed for the old session, now on the topics of the new one.
    repeat(site, new.up, before[2][1])
    repeat(site, new, before[3][1])
    mostly_by_server(site.robot.since(first)[:-1], share=0.05)
    # A busy machine may keep the server silent for so long that it is lost, and found again.
    lost = site.manager.output.count('is lost') - lost
    assert site.manager.output.count(IS_THERE) == heard + 1 + lost
    assert site.manager.output.count(ENDS) == ended
    site.packets = new


def says_end(session: str, received: bytes) -> bool:
    """Whether this heartbeat is the last one of a session."""
    message = deserialize_message(received, ServerHeartbeat)
    return bool(message.closing) and message.session == session


def test_heartbeats_that_are_changed_are_not_believed(site: Site, unchanged: None) -> None:
    """Each field of a genuine one: the end that nobody said, another load, another model."""
    recorded = site.beats.recorded[-1]
    genuine = deserialize_message(recorded, ServerHeartbeat)
    assert len(genuine.proof) == 32
    for fields in (
        {'closing': True},
        {'closing': True, 'counter': genuine.counter + 1000},
        {'counter': 2**64 - 1},  # would shut out all that come after it
        {'queue_length': 10_000},
        {'models': []},
        {'session': '0' * 16},
        {'server': '/other'},
        {'proof': b''},
        {'proof': bytes(32), 'closing': True},
        {'proof': bytes(1_000_000), 'closing': True},
    ):
        forged: Any = deserialize_message(recorded, ServerHeartbeat)
        forged.counter += 50
        for name, value in fields.items():
            setattr(forged, name, value)
        for _ in range(5):
            site.beats.publish(forged)
            site.robot.send()
            time.sleep(0.01)
    (state,) = until(lambda: site.robot.statuses[-1].servers, 'the server is listed')
    assert (state.server, state.queue_length < 100) == (SERVER, True)


def test_many_hellos_in_the_robots_name_do_not_shut_it_out(site: Site, unchanged: None) -> None:
    session = site.rig.session()
    for number in range(300):
        hello = Hello(
            robot=site.robot.name,
            robot_session=f'{number:016x}',
            server=SERVER,
            server_session=session,
            nonce=os.urandom(32).hex(),
            runtime=Runtime('2', 1),
            ephemeral=os.urandom(32).hex(),
            proof=os.urandom(32).hex(),
        )
        site.doors[0].publish(Handshake(data=array('B', hello.to_bytes())))
        if number == 150:  # it may even begin a new session meanwhile
            reconnect(site)
        time.sleep(0.001)
    site.first = site.robot.send()


@pytest.mark.parametrize(
    ('robots', 'servers', 'text'),
    [
        ('other', 'key', NOT_PROVEN),
        ('', 'key', "has a key and robot /offload_manager has none: give the robot the server's"),
        ('key', '', NOT_PROVEN),
    ],
    ids=['another key', 'robot without', 'server without'],
)
def test_robot_whose_key_does_not_fit_computes_by_itself_and_says_what_to_do(
    tmp_path: Path, robots: str, servers: str, text: str
) -> None:
    for name in ('key', 'other'):
        make_key(tmp_path / name)
    with rig_in(tmp_path) as rig:
        options = [{'key_file': tmp_path / name} if name else {} for name in (robots, servers)]
        manager, server = rig.manager(**options[0]), rig.server(**options[1])
        robot = Robot(rig)
        robot.flush()
        until(lambda: rig.beats(SERVER), 'the server is there')
        until(lambda: 'key file' in manager.output, 'the robot says why')
        all_by_robot(robot.play(60))
        said = [line for line in manager.output.splitlines() if 'key file' in line]
        assert len({line.partition(']: ')[2] for line in said}) == 1, manager.output
        assert len(said) <= 2, 'one line, again every ten seconds'
        assert text in said[0]
        assert 'connected' not in server.output
        stop_all(manager, server)


@pytest.mark.parametrize('executable', ['offload_server', 'offload_manager'])
def test_bad_key_file_ends_the_process_with_one_line(tmp_path: Path, executable: str) -> None:
    good, short = tmp_path / 'good', tmp_path / 'short'
    make_key(good)
    good.chmod(0o640)
    short.write_text('c2hvcnQ=\n')
    short.chmod(0o600)
    cases = (
        (tmp_path / 'none', 'is not there: make one with'),
        (good, 'is open to others: run chmod 600'),
        (short, 'does not hold a key'),
    )
    (tmp_path / 'models.yaml').write_text(MODEL)
    processes = [
        (
            Process(
                new_domain(), 'ros2', 'run', 'offload_ros', executable, '--ros-args',
                '-p', f'models_file:={tmp_path / "models.yaml"}', '-p', f'key_file:={file}',
            ),
            text,
        )
        for file, text in cases
    ]  # fmt: skip
    for process, text in processes:
        assert process.ended() == 1, process.output
        errors = [line for line in process.output.splitlines() if line.startswith('error: ')]
        assert len(errors) == 1, process.output
        assert text in errors[0]
        assert 'Traceback' not in process.output
