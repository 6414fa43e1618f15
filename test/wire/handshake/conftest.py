"""A server and robots that shake hands on a clock of the test."""

import pytest

from offload_ros.wire.handshake import (
    RobotHandshake,
    ServerHandshake,
)
from offload_ros.wire.handshake_messages import (
    Runtime,
)
from offload_ros.wire.key_file import PresharedKey

KEY = PresharedKey(bytes(range(32)))
LAPTOP, GPU = Runtime('2.13.0', 4, 'laptop'), Runtime('2.13.0+cu', 8, 'GPU')
A, S = 'a' * 16, '5' * 16
MODELS = {'pose': ['b' * 64, 'a' * 64], 'empty': []}


class Clock:
    """Steady clock of a test."""

    now_s = 100.0

    def __call__(self):
        return self.now_s


class Site:
    """A server, and robots that talk to it."""

    def __init__(self, key=KEY, server_session=S):
        self.clock, self.key = Clock(), key
        self.server = ServerHandshake(
            '/gpu', server_session, GPU, lambda: MODELS, key, 'host g', lambda: 41, self.clock
        )
        self.robot = self.add_robot()

    def add_robot(self, name='/robot', session=A, key=...):
        key = self.key if key is ... else key
        return RobotHandshake(name, session, LAPTOP, key, 'host r', self.clock)

    def hello(self, robot=None):
        return (robot or self.robot).hello('/gpu', self.server.session)

    def connect(self, robot=None):
        """Go through the handshake; what robot and server have then, and the messages."""
        robot = robot or self.robot
        hello = self.hello(robot)
        welcome = self.server.on_hello(hello)
        confirm, at_robot = robot.on_welcome(welcome)
        at_server = self.server.on_confirm(confirm)
        robot.settle('/gpu', self.server.session)
        return at_robot, at_server, [hello, welcome, confirm]

    def messages(self):
        """A Hello, a Welcome and a Confirm, of which the server has not seen the last."""
        hello = self.hello()
        welcome = self.server.on_hello(hello)
        return [hello, welcome, self.robot.on_welcome(welcome)[0]]


def _assert_linked(at_robot, at_server, number=0):
    """Both have the same keys, one for each direction."""
    up = at_robot.seal_up.seal(b'', number, b'request')
    down = at_server.seal_down.seal(b'', number, b'reply')
    assert at_server.seal_up.open(b'', number, up) == b'request'
    assert at_robot.seal_down.open(b'', number, down) == b'reply'
    for seal, sealed in ((at_robot.seal_down, up), (at_server.seal_up, down)):
        with pytest.raises(ValueError, match='did not seal'):
            seal.open(b'', number, sealed)
    assert at_robot.salt == at_server.salt


@pytest.fixture(scope='session')
def make_site():
    """Return the class ``Site``: ``make_site(key, server_session)``."""
    return Site


@pytest.fixture(scope='session')
def assert_linked():
    """Return a function that uses the keys of both sides: ``assert_linked(robot's, server's)``."""
    return _assert_linked
