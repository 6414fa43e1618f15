"""Who lacks the key, or only has recordings, gets no session and changes nobody's."""

from dataclasses import replace

import pytest

from offload_ros.wire import handshake
from offload_ros.wire.handshake import (
    NEW_HELLO_S,
    PENDING_S,
    SPACING_S,
)
from offload_ros.wire.handshake_keys import Proofs
from offload_ros.wire.handshake_messages import (
    Confirm,
    HandshakeError,
    HandshakeRefused,
    Hello,
    Refusal,
    Welcome,
    read,
)
from offload_ros.wire.key_file import PresharedKey

KEY, OTHER_KEY = PresharedKey(bytes(range(32))), PresharedKey(bytes(range(1, 33)))
A, B, S = 'a' * 16, 'b' * 16, '5' * 16


def test_a_recording_of_everything_changes_nothing(make_site, assert_linked):
    site = make_site()
    recorded = []
    for session in (A, B):
        robot = site.add_robot(session=session)
        site.clock.now_s += 1.0
        at_robot, at_server, messages = site.connect(robot)
        recorded += messages
    replies = []
    for _ in range(3):
        site.clock.now_s += 1.0
        for message in recorded:
            for receive in (site.server.on_message, robot.on_welcome):
                try:
                    reply, established = receive(message)
                    assert established is None
                    replies.append(reply)
                except HandshakeError:
                    pass
    assert set(replies) <= {None, messages[1]}  # the Welcome that was recorded anyway
    assert not site.server._pending
    assert_linked(at_robot, at_server)


def test_a_recorded_hello_of_an_unfinished_handshake_leads_nowhere(make_site, assert_linked):
    site = make_site()
    hello, _, confirm = site.messages()
    site.clock.now_s += PENDING_S + 1.0  # the Welcome and its Confirm are forgotten
    restarted = site.add_robot(session=B)
    at_robot, at_server, _ = site.connect(restarted)
    welcome = site.server.on_hello(hello)
    for attempt in (confirm, Confirm(read(confirm, Confirm).welcome, '0' * 64).to_bytes()):
        with pytest.raises(HandshakeError):
            site.server.on_confirm(attempt)
    with pytest.raises(HandshakeError):
        restarted.on_welcome(welcome)
    assert_linked(at_robot, at_server)


def test_a_confirm_that_was_held_back_does_not_undo_a_later_session(make_site, assert_linked):
    site = make_site()
    _, _, held = site.messages()
    restarted = site.add_robot(session=B)
    at_robot, at_server, _ = site.connect(restarted)
    with pytest.raises(HandshakeError, match='not of a Welcome of now'):
        site.server.on_confirm(held)
    assert_linked(at_robot, at_server)


def test_a_wrong_confirm_does_not_spoil_the_right_one(make_site):
    site = make_site()
    hello, welcome, confirm = site.messages()
    for proof in (Proofs(OTHER_KEY).of_confirm(hello, welcome), '', '0' * 64):
        with pytest.raises(HandshakeError, match='not proven'):
            site.server.on_confirm(replace(read(confirm, Confirm), proof=proof).to_bytes())
    assert site.server.on_confirm(confirm) is not None


def test_proofs_of_one_role_or_message_are_no_proofs_of_another(make_site):
    site = make_site()
    hello, welcome, confirm = site.messages()
    for message in (hello, confirm):
        with pytest.raises(HandshakeError):
            site.robot.on_welcome(message)
    for message in (welcome, confirm):
        with pytest.raises(HandshakeError):
            site.server.on_hello(message)
    proofs = {read(hello, Hello).proof, read(welcome, Welcome).proof, read(confirm, Confirm).proof}
    for proof in proofs - {read(confirm, Confirm).proof}:
        with pytest.raises(HandshakeError, match='not proven'):
            site.server.on_confirm(replace(read(confirm, Confirm), proof=proof).to_bytes())
    made = Proofs(KEY)
    keys = {made._hello, made._welcome, made._confirm, KEY.derive('heartbeat'), KEY.secret}
    assert len(keys) == 5


def test_a_mirror_is_no_server(make_site):
    """A robot's own messages, its names exchanged, do not prove a server to it."""
    site = make_site()
    sent = site.hello()
    hello = read(sent, Hello)
    proofs = Proofs(KEY)
    for proof in (hello.proof, '0' * 64, '', proofs.of_confirm(sent, sent)):
        mirrored = Welcome(
            *handshake._parties(hello),
            hello=handshake.digest(sent),
            nonce=hello.nonce,
            runtime=hello.runtime,
            models={},
            ephemeral=hello.ephemeral,
            proof=proof,
        )
        with pytest.raises(HandshakeError, match='not proven'):
            site.robot.on_welcome(mirrored.to_bytes())


@pytest.mark.parametrize('session', [S, '6' * 16])
def test_a_welcome_for_one_robot_is_none_for_another(make_site, session):
    site, elsewhere = make_site(), make_site(server_session=session)
    other = site.add_robot('/other', B)
    site.hello(other)
    welcome = elsewhere.server.on_hello(elsewhere.hello())
    for robot in (site.robot, other):
        with pytest.raises(HandshakeError, match='not to a Hello of now'):
            robot.on_welcome(welcome)


def test_a_hello_to_another_session_of_the_server_is_dropped(make_site):
    site, restarted = make_site(), make_site(server_session='6' * 16)
    with pytest.raises(HandshakeError, match='another session'):
        restarted.server.on_hello(site.hello())


def test_a_key_holder_with_a_null_share_gets_no_session(make_site):
    """A point of low order makes the exchanged secret zero, for everyone."""
    site = make_site()
    hello = replace(read(site.hello(), Hello), ephemeral='0' * 64)
    hello = replace(hello, proof=Proofs(KEY).of_hello(hello)).to_bytes()
    welcome = site.server.on_hello(hello)
    proof = Proofs(KEY).of_confirm(hello, welcome)
    with pytest.raises(HandshakeError, match='no secret'):
        site.server.on_confirm(Confirm(handshake.digest(welcome), proof).to_bytes())
    site.clock.now_s += 2 * NEW_HELLO_S
    answer = replace(read(site.server.on_hello(site.hello()), Welcome), ephemeral='0' * 64)
    answer = replace(answer, proof=Proofs(KEY).of_welcome(site.hello(), answer))
    with pytest.raises(HandshakeError, match='no secret'):
        site.robot.on_welcome(answer.to_bytes())


@pytest.mark.parametrize('wrong', [{'server': '/other'}, {'robot_session': B}])
def test_a_key_holder_that_answers_for_another_pair_is_dropped(make_site, wrong):
    site = make_site()
    hello = site.hello()
    welcome = replace(read(site.server.on_hello(hello), Welcome), **wrong)
    welcome = replace(welcome, proof=Proofs(KEY).of_welcome(hello, welcome))
    with pytest.raises(HandshakeError, match='another pair'):
        site.robot.on_welcome(welcome.to_bytes())


def test_a_second_welcome_to_one_hello_is_dropped(make_site):
    """Its keys would come from a share that is gone; the first one holds."""
    site = make_site()
    hello, _, confirm = site.messages()
    site.clock.now_s += 2 * PENDING_S
    second = site.server.on_hello(hello)
    with pytest.raises(HandshakeError, match='another one'):
        site.robot.on_welcome(second)
    with pytest.raises(HandshakeError, match='not of a Welcome of now'):
        site.server.on_confirm(confirm)


# Refusals


@pytest.mark.parametrize(
    ('server_key', 'robot_key', 'text'),
    [
        (KEY, None, 'robot /robot has none: give the robot the server.s key file'),
        (None, KEY, 'server /gpu has none: give the server the robot.s key file'),
        (KEY, OTHER_KEY, 'different keys: give both the same key file'),
    ],
)
def test_keys_that_do_not_fit_are_refused_on_both_sides(make_site, server_key, robot_key, text):
    site = make_site(server_key)
    stranger = site.add_robot(key=robot_key)
    with pytest.raises(HandshakeRefused, match=text) as caught:
        site.server.on_hello(site.hello(stranger))
    with pytest.raises(HandshakeRefused, match=text):
        stranger.on_welcome(caught.value.reply)
    assert not site.server._pending


@pytest.mark.parametrize('key', [None, OTHER_KEY])
def test_a_stranger_of_the_same_name_does_not_hurt_the_session(make_site, assert_linked, key):
    site = make_site()
    at_robot, at_server, messages = site.connect()
    with pytest.raises(HandshakeRefused):
        site.server.on_hello(site.hello(site.add_robot(key=key, session=B)))
    impostor = make_site(key)
    welcome = impostor.server.on_hello(impostor.hello())
    with pytest.raises(HandshakeError):
        site.robot.on_welcome(welcome)
    site.clock.now_s += 1.0
    assert site.server.on_hello(messages[0]) == messages[1]
    assert_linked(at_robot, at_server)


def test_a_keyed_robot_takes_no_welcome_without_proof(make_site):
    site = make_site()
    welcome = read(site.server.on_hello(site.hello()), Welcome)
    bare = replace(welcome, ephemeral='', proof='').to_bytes()
    with pytest.raises(HandshakeRefused, match='has none'):
        site.robot.on_welcome(bare)
    assert site.robot.on_welcome(welcome.to_bytes())[1] is not None


def test_another_protocol_is_refused_by_name_on_both_sides(make_site):
    site = make_site()
    newer = site.hello().replace(b'"protocol":2', b'"protocol":3')
    with pytest.raises(HandshakeRefused, match='robot speaks protocol 3, this server 2') as caught:
        site.server.on_hello(newer)
    assert read(caught.value.reply, Refusal).reason == 'protocol'
    reply = caught.value.reply.replace(b'"protocol":2', b'"protocol":4')
    with pytest.raises(HandshakeRefused, match='4, this robot 2: install the same version'):
        site.robot.on_welcome(reply)


def test_a_forged_refusal_is_a_line_in_the_log_only(make_site, assert_linked):
    site = make_site()
    hello, welcome = site.hello(), site.server.on_hello(site.hello())
    for reason in Refusal.REASONS:
        with pytest.raises(HandshakeRefused):
            site.robot.on_welcome(Refusal(handshake.digest(hello), reason).to_bytes())
    confirm, at_robot = site.robot.on_welcome(welcome)
    with pytest.raises(HandshakeError, match='was welcomed'):
        site.robot.on_welcome(Refusal(handshake.digest(hello), 'full').to_bytes())
    assert_linked(at_robot, site.server.on_confirm(confirm))


def test_refusals_are_told_at_a_bounded_rate(make_site):
    site = make_site()
    replies = []
    for _ in range(100):
        site.clock.now_s += SPACING_S / 10
        with pytest.raises(HandshakeRefused) as caught:
            site.server.on_hello(site.hello(site.add_robot(key=None)))
        replies.append(caught.value.reply)
    assert 9 <= sum(reply is not None for reply in replies) <= 11
