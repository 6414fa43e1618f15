"""A message that was changed or made up gives nothing and changes nothing."""

from dataclasses import replace
import json

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
import pytest

from offload_ros.wire import handshake
from offload_ros.wire.handshake import (
    SPACING_S,
)
from offload_ros.wire.handshake_messages import (
    HandshakeError,
    HandshakeRefused,
    Hello,
    Refusal,
    read,
)
from offload_ros.wire.key_file import PresharedKey

KEY = PresharedKey(bytes(range(32)))
# The first text that is drawn takes seconds; the machine may be busy.
slow = {'deadline': None, 'suppress_health_check': [HealthCheck.too_slow]}


class Tampering:
    """Changes to one message, drawn by hypothesis."""

    VALUES = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=20)
        | st.just('0' * 64)
        | st.just('x' * 70_000)
        | st.just('\ud800')
        | st.lists(st.text(max_size=3), max_size=3)
        | st.dictionaries(st.text(max_size=3), st.lists(st.text(max_size=3), max_size=2))
    )

    @staticmethod
    def bit(draw, message):
        position = draw(st.integers(0, 8 * len(message) - 1))
        changed = bytearray(message)
        changed[position // 8] ^= 1 << position % 8
        return bytes(changed)

    @staticmethod
    def cut(draw, message):
        return message[: draw(st.integers(0, len(message) - 1))]

    @staticmethod
    def insert(draw, message):
        position = draw(st.integers(0, len(message)))
        return message[:position] + draw(st.binary(min_size=1, max_size=9)) + message[position:]

    @classmethod
    def field(cls, draw, message):
        content = json.loads(message)
        name = draw(st.sampled_from([*content, 'extra']))
        content[name] = draw(cls.VALUES)
        return cls.packed(content)

    @classmethod
    def runtime(cls, draw, message):
        content = json.loads(message)
        assume('runtime' in content)
        content['runtime'][draw(st.sampled_from(['torch', 'threads', 'x\n']))] = draw(cls.VALUES)
        return cls.packed(content)

    @classmethod
    def missing(cls, draw, message):
        content = json.loads(message)
        del content[draw(st.sampled_from(list(content)))]
        return cls.packed(content)

    @staticmethod
    def spaces(draw, message):
        return json.dumps(json.loads(message), sort_keys=True).encode()

    @staticmethod
    def order(draw, message):
        content = json.loads(message)
        names = draw(st.permutations(list(content)))
        return Tampering.packed({name: content[name] for name in names}, sort_keys=False)

    @staticmethod
    def packed(content, sort_keys=True):
        text = json.dumps(content, separators=(',', ':'), sort_keys=sort_keys)
        return text.encode()


CHANGES = st.sampled_from(
    [
        Tampering.bit,
        Tampering.cut,
        Tampering.insert,
        Tampering.field,
        Tampering.runtime,
        Tampering.missing,
        Tampering.spaces,
        Tampering.order,
    ]
)


@given(CHANGES, st.data())
@settings(max_examples=400, **slow)
def test_a_changed_message_gives_nothing_and_changes_nothing(
    make_site, assert_linked, change, data
):
    site = make_site()
    hello = site.hello()
    bad = change(data.draw, hello)
    assume(bad != hello)
    with pytest.raises(HandshakeError):
        site.server.on_hello(bad)
    assert not site.server._pending

    welcome = site.server.on_hello(hello)
    bad = change(data.draw, welcome)
    assume(bad != welcome)
    with pytest.raises(HandshakeError):
        site.robot.on_welcome(bad)
    confirm, at_robot = site.robot.on_welcome(welcome)

    bad = change(data.draw, confirm)
    assume(bad != confirm)
    with pytest.raises(HandshakeError):
        site.server.on_confirm(bad)
    assert_linked(at_robot, site.server.on_confirm(confirm))


def test_every_single_changed_bit_is_noticed(make_site):
    site = make_site()
    hello, welcome = site.hello(), site.server.on_hello(site.hello())

    def check(message, receive):
        for bit in range(8 * len(message)):
            changed = bytearray(message)
            changed[bit // 8] ^= 1 << bit % 8
            with pytest.raises(HandshakeError):
                receive(bytes(changed))
        return receive(message)

    site.clock.now_s += 2 * SPACING_S
    assert check(hello, site.server.on_hello) == welcome
    confirm, _ = check(welcome, site.robot.on_welcome)
    assert check(confirm, site.server.on_confirm) is not None


@given(
    st.binary(max_size=200)
    | st.recursive(
        Tampering.VALUES, lambda inner: st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ).map(lambda value: json.dumps(value).encode()),
)
@settings(**slow)
@pytest.mark.parametrize('key', [KEY, None])
def test_strange_bytes_raise_nothing_but_a_handshake_error(make_site, key, data):
    site = make_site(key)
    site.hello()
    for receive in (
        site.server.on_hello,
        site.server.on_confirm,
        site.server.on_message,
        site.robot.on_welcome,
    ):
        with pytest.raises(HandshakeError):
            receive(data)
    assert not site.server._pending and not site.server._live


@given(CHANGES, st.integers(0, 2), st.data())
@settings(max_examples=300, **slow)
def test_without_a_key_a_changed_message_raises_nothing_else_either(make_site, change, which, data):
    site = make_site(None)
    bad = change(data.draw, site.messages()[which])
    receivers = (site.server.on_hello, site.robot.on_welcome, site.server.on_confirm)
    for receive in (*receivers, site.server.on_message):
        try:
            receive(bad)
        except HandshakeError as error:
            assert str(error).isprintable() and len(str(error)) < 900


@pytest.mark.parametrize(
    'data',
    [
        b'[' * 16_000,
        b'{"a":' * 3_000,
        b'1' * 16_000,
        b'{"protocol":' + b'9' * 5_000 + b'}',
        b'\xff' * 100,
        '{"protocol":2}'.encode('utf-16'),
        b'{"protocol":2,"kind":"hello"}',
        b'{"protocol":2,"kind":["hello"]}',
        b'{"protocol":NaN}',
        b'{"protocol":true}',
        b'{"protocol":2.0}',
        b'x' * (1 << 20),
        b'',
    ],
)
def test_messages_made_to_harm_the_parser_are_errors(make_site, data):
    site = make_site()
    for receive in (site.server.on_message, site.server.on_confirm, site.robot.on_welcome):
        with pytest.raises(HandshakeError):
            receive(data)


def test_a_version_is_shown_only_if_it_is_one(make_site):
    for digits in (21, 4000):
        with pytest.raises(HandshakeError, match='not readable') as caught:
            make_site().server.on_hello(b'{"protocol":' + b'9' * digits + b'}')
        assert not isinstance(caught.value, HandshakeRefused)


def test_a_refusal_without_a_known_reason_is_an_error(make_site):
    site = make_site()
    refusal = json.loads(Refusal(handshake.digest(site.hello()), 'full').to_bytes())
    for reason in ('bored', ['full'], {'full': 1}, None, 1):
        with pytest.raises(HandshakeError, match='reason'):
            site.robot.on_welcome(Tampering.packed({**refusal, 'reason': reason}))


def test_names_cannot_break_a_log(make_site):
    hello = read(make_site(None).hello(), Hello)
    for name in ('/robot\nERROR', '/robot\x1b[2J', '/robot\u202e', '', 'x' * 256):
        with pytest.raises(ValueError, match='robot'):
            replace(hello, robot=name)
