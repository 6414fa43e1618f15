"""Robot and server agree on a session, whatever the network does."""

from collections import Counter
import hashlib
import hmac
import itertools
import random

from cryptography.hazmat.primitives.asymmetric import x25519
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
import pytest

from offload_ros.wire import handshake
from offload_ros.wire.handshake import (
    MAX_ATTEMPTS,
    MAX_PENDING,
    MAX_PENDING_OF_ROBOT,
    MAX_ROBOTS,
    NEW_HELLO_S,
    PENDING_S,
    RENEW_S,
    SPACING_S,
)
from offload_ros.wire.handshake_keys import Proofs
from offload_ros.wire.handshake_messages import (
    MAX_HASHES,
    Confirm,
    HandshakeError,
    HandshakeRefused,
    Hello,
    Runtime,
    read,
)
from offload_ros.wire.key_file import PresharedKey
from offload_ros.wire.seal import Seal

KEY = PresharedKey(bytes(range(32)))
KEYS = pytest.mark.parametrize('key', [KEY, None], ids=['keyed', 'keyless'])
LAPTOP, GPU = Runtime('2.13.0', 4, 'laptop'), Runtime('2.13.0+cu', 8, 'GPU')
A, B, S = 'a' * 16, 'b' * 16, '5' * 16
# The first text that is drawn takes seconds; the machine may be busy.
slow = {'deadline': None, 'suppress_health_check': [HealthCheck.too_slow]}


@KEYS
def test_both_sides_learn_of_each_other(make_site, key):
    at_robot, at_server, _ = make_site(key).connect()
    assert (at_robot.peer, at_robot.peer_session, at_robot.runtime) == ('/gpu', S, GPU)
    assert (at_robot.host, at_robot.heartbeat) == ('host g', 41)
    assert at_robot.models == {'pose': {'a' * 64, 'b' * 64}, 'empty': frozenset()}
    assert (at_server.peer, at_server.peer_session, at_server.runtime) == ('/robot', A, LAPTOP)
    assert at_server.host == 'host r' and at_server.salt == at_robot.salt
    assert (at_robot.seal_up is None) == (at_server.seal_down is None) == (key is None)


def test_with_a_key_both_directions_are_sealed(make_site, assert_linked):
    at_robot, at_server, _ = make_site().connect()
    assert_linked(at_robot, at_server)


def test_every_session_has_keys_of_its_own(make_site):
    site = make_site()
    first = site.connect()[0]
    site.robot.forget('/gpu', S)
    second = site.connect()[1]
    sealed = first.seal_up.seal(b'', 0, b'')
    with pytest.raises(ValueError, match='did not seal'):
        second.seal_up.open(b'', 0, sealed)
    assert first.salt != second.salt


def test_keys_depend_on_the_exchange_not_on_the_file_alone(make_site):
    """Who gets the key file later, and has recorded all messages, lacks the private shares."""
    site = make_site()
    hello, welcome, confirm = site.messages()
    established = site.server.on_confirm(confirm)
    for attempt in (*site.robot._attempts.values(), *site.server._live.values()):
        assert attempt.share is None
    guessed = handshake.establish(
        Proofs(KEY), x25519.X25519PrivateKey.generate(), hello, welcome, read(hello, Hello)
    )
    with pytest.raises(ValueError, match='did not seal'):
        guessed.seal_up.open(b'', 0, established.seal_up.seal(b'', 0, b''))


def test_keys_of_a_session_are_derived_as_described(make_site, monkeypatch):
    """From exchanged secret, key file and both messages, by HKDF (RFC 5869) written out here."""
    shares = []
    generate = x25519.X25519PrivateKey.generate

    class Recorded:
        @staticmethod
        def generate():
            shares.append(generate())
            return shares[-1]

    monkeypatch.setattr(handshake, 'X25519PrivateKey', Recorded)
    at_robot, at_server, (hello, welcome, _) = make_site().connect()
    robot, server = shares
    agreed = robot.exchange(server.public_key())
    salt = hashlib.sha256(len(hello).to_bytes(8, 'little') + hello + welcome).digest()
    extracted = hmac.digest(salt, agreed + KEY.secret, 'sha256')
    up, down = (
        Seal(hmac.digest(extracted, b'offload_ros session ' + way + b'\1', 'sha256'))
        for way in (b'up', b'down')
    )
    assert at_server.seal_up.open(b'', 0, up.seal(b'', 0, b'request')) == b'request'
    assert at_robot.seal_down.open(b'', 0, down.seal(b'', 0, b'reply')) == b'reply'


@KEYS
def test_doubled_messages_make_no_second_session(make_site, key):
    site = make_site(key)
    hello, welcome, confirm = site.messages()
    site.clock.now_s += 2 * SPACING_S
    assert site.hello() == hello
    assert site.server.on_hello(hello) == welcome
    assert site.robot.on_welcome(welcome) == (confirm, None)
    assert site.server.on_confirm(confirm) is not None
    assert site.server.on_confirm(confirm) is None
    site.clock.now_s += 2 * SPACING_S
    assert site.server.on_hello(hello) == welcome
    assert site.robot.on_welcome(welcome) == (confirm, None)
    site.robot.settle('/gpu', S)
    assert site.robot.on_welcome(welcome) == (None, None)


def test_one_entry_serves_all_messages_to_a_server(make_site, assert_linked):
    site = make_site()
    welcome, none = site.server.on_message(site.hello())
    assert none is None
    confirm, at_robot = site.robot.on_welcome(welcome)
    reply, at_server = site.server.on_message(confirm)
    assert reply is None
    assert_linked(at_robot, at_server)


# Restarts and limits


def test_a_restarted_robot_replaces_its_old_session_once_confirmed(make_site, assert_linked):
    site = make_site()
    at_robot, at_server, _ = site.connect()
    restarted = site.add_robot(session=B)
    welcome = site.server.on_hello(site.hello(restarted))
    assert site.server._live['/robot'].hello.robot_session == A
    confirm, new_at_robot = restarted.on_welcome(welcome)
    new_at_server = site.server.on_confirm(confirm)
    assert new_at_server.peer_session == B
    assert_linked(new_at_robot, new_at_server)
    assert_linked(at_robot, at_server)  # that one ends only by its owner's hand


@KEYS
def test_two_robots_of_one_name_are_told_so(make_site, key):
    site = make_site(key)
    site.connect()
    site.connect(site.add_robot(session=B))
    site.robot.forget('/gpu', S)
    with pytest.raises(HandshakeRefused, match='another robot named /robot took over') as caught:
        site.server.on_hello(site.hello())
    with pytest.raises(HandshakeRefused, match='a name of its own'):
        site.robot.on_welcome(caught.value.reply)
    site.server.forget('/robot', A)  # is not the one that is there
    with pytest.raises(HandshakeRefused):
        site.server.on_hello(site.hello())
    site.server.forget('/robot', B)
    assert site.connect()[1].peer_session == A


def test_a_session_that_the_server_forgot_begins_anew(make_site, assert_linked):
    site = make_site()
    _, _, messages = site.connect()
    site.server.forget('/robot', A)
    site.clock.now_s += 1.0
    with pytest.raises(HandshakeError, match='used up'):
        site.server.on_hello(messages[0])
    site.robot.forget('/gpu', S)
    at_robot, at_server, _ = site.connect()
    assert_linked(at_robot, at_server)


def test_a_hello_that_waited_long_gets_a_new_welcome(make_site, assert_linked):
    site = make_site()
    late = site.server.on_hello(site.hello())
    site.clock.now_s += PENDING_S + 1.0
    assert site.server.on_hello(site.hello()) != late
    site.clock.now_s += 2 * SPACING_S
    assert_linked(*site.connect()[:2])


def test_a_robot_whose_confirm_is_lost_for_good_starts_anew(make_site, assert_linked):
    site = make_site()
    hello, _, _ = site.messages()
    site.clock.now_s += RENEW_S
    assert site.hello() == hello
    site.clock.now_s += 0.1
    assert site.hello() != hello
    assert_linked(*site.connect()[:2])


def test_hellos_of_one_robot_are_limited(make_site, assert_linked):
    site = make_site()
    opened = []
    for _ in range(300):
        site.robot.forget('/gpu', S)
        site.clock.now_s += NEW_HELLO_S / 10
        try:
            opened.append(site.server.on_hello(site.hello()))
        except HandshakeError as error:
            assert 'too soon' in str(error)
    assert 27 <= len(opened) <= 33
    assert len(site.server._pending) <= MAX_PENDING_OF_ROBOT
    # And none of that stops another robot.
    assert_linked(*site.connect(site.add_robot('/other', B))[:2])


def test_a_hello_sent_often_is_answered_seldom(make_site):
    site = make_site()
    hello = site.hello()
    answers = []
    for _ in range(100):
        site.clock.now_s += SPACING_S / 10
        answers.append(site.server.on_hello(hello))
    assert 9 <= sum(answer is not None for answer in answers) <= 11
    assert len(set(answers)) == 2


def test_strangers_fill_no_memory(make_site):
    site = make_site(None)
    for number in range(2 * MAX_PENDING):
        site.server.on_hello(site.hello(site.add_robot(f'/robot{number}', A)))
    assert len(site.server._pending) == MAX_PENDING
    assert site.connect()[1].peer == '/robot'
    site.clock.now_s += 2 * PENDING_S
    with pytest.raises(HandshakeError):
        site.server.on_confirm(Confirm('0' * 64).to_bytes())
    assert not site.server._pending


def test_a_full_server_refuses_new_robots_and_keeps_its_own(make_site):
    site = make_site()
    waiting = site.add_robot('/late', B)
    welcome = site.server.on_hello(site.hello(waiting))
    robots = [site.add_robot(f'/robot{number}', A) for number in range(MAX_ROBOTS)]
    for robot in robots:
        site.connect(robot)
    with pytest.raises(HandshakeRefused, match='as many robots as it takes'):
        site.server.on_hello(site.hello(site.add_robot('/more', B)))
    with pytest.raises(HandshakeRefused, match='as many robots as it takes'):
        site.server.on_confirm(waiting.on_welcome(welcome)[0])
    site.connect(site.add_robot('/robot0', B))
    site.server.forget('/robot1', A)
    site.connect(site.add_robot('/more', B))


def test_a_robot_remembers_a_bounded_number_of_servers(make_site):
    site = make_site()
    _, _, messages = site.connect()
    for number in range(2 * MAX_ATTEMPTS):
        site.robot.hello(f'/server{number}', S)
    assert len(site.robot._attempts) == MAX_ATTEMPTS
    assert site.hello() == messages[0]  # the one that works is kept


def test_more_models_than_a_welcome_holds_are_a_mistake_of_the_server(make_site):
    hashes = [f'{number:064x}' for number in range(MAX_HASHES)]
    site = make_site()
    site.server._models = lambda: {'pose': hashes}
    assert len(site.connect()[0].models['pose']) == MAX_HASHES
    site.server._models = lambda: {'pose': hashes, 'more': []}
    site.robot.forget('/gpu', S)
    with pytest.raises(ValueError, match='more than 1000'):
        site.server.on_hello(site.hello())


@pytest.mark.parametrize('wrong', [{'torch': 'x' * 101}, {'threads': -1}, {'description': 'a\nb'}])
def test_a_wrong_runtime_is_a_mistake_of_the_caller(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Runtime(**{'torch': '2.13.0', 'threads': 4, **wrong})


# The network


def simulate(make_site, seed, key, loss, ticks):
    """Robot and server over a network that loses, doubles, delays and replays; then it is good.

    Return what both have at the end and all sessions that began.
    """
    chance = random.Random(seed)
    site = make_site(key)
    network, everything, begun = [], [], Counter()
    at = {'robot': None, 'server': None}

    def send(to, message):
        everything.append((to, message))
        for _ in range(chance.choice((1, 1, 2)) if bad else 1):
            if not bad or chance.random() > loss:
                delay_s = chance.choice((0.0, 0.05, 0.3, 1.5)) if bad else 0.0
                network.append((site.clock.now_s + delay_s, to, message))

    def deliver(to, message):
        if to == 'packet':  # the server's first packet of a session
            if at['robot'] is not None and message == at['robot'].salt:
                site.robot.settle('/gpu', S)
            return
        receive = site.server.on_message if to == 'server' else site.robot.on_welcome
        try:
            reply, established = receive(message)
        except HandshakeError:
            return
        if reply is not None:
            send('robot' if to == 'server' else 'server', reply)
        if established is not None:
            at[to] = established
            begun[to, established.salt] += 1

    for tick in itertools.count():
        bad = tick < ticks
        if tick > ticks + 50 * RENEW_S:
            break
        site.clock.now_s += 0.1
        if not any(each.settled for each in site.robot._attempts.values()):
            send('server', site.hello())
        if at['server'] is not None:
            send('packet', at['server'].salt)
        if bad and everything and chance.random() < 0.5:
            network.append((site.clock.now_s, *chance.choice(everything)))
        while due := [each for each in network if each[0] <= site.clock.now_s]:
            each = chance.choice(due) if bad else due[0]
            network.remove(each)
            deliver(*each[1:])
    return at['robot'], at['server'], begun


@given(st.integers(0, 2**32), st.floats(0.0, 0.95), st.integers(0, 120))
@settings(max_examples=60, **slow)
@pytest.mark.parametrize('key', [KEY, None], ids=['keyed', 'keyless'])
def test_both_sides_agree_after_any_loss_doubling_delay_and_replay(
    make_site, assert_linked, key, seed, loss, ticks
):
    at_robot, at_server, begun = simulate(make_site, seed, key, loss, ticks)
    assert at_robot is not None and at_server is not None
    assert at_robot.salt == at_server.salt
    assert set(begun.values()) == {1}  # no side ever begins a session twice: keys are new
    if key is not None:
        assert_linked(at_robot, at_server)
