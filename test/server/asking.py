"""Requests of robots and a place for their answers, for the server's tests."""

import threading

import torch

from offload_ros.wire.exchange import Request

LONG_S = 30.0
X = torch.tensor([1.0, 2.0, 3.0])


class Answers:
    """Collects replies from any thread."""

    def __init__(self):
        self.replies = []
        self._changed = threading.Condition()

    def __call__(self, reply):
        with self._changed:
            self.replies.append(reply)
            self._changed.notify_all()

    def wait_for(self, count):
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.replies) >= count, LONG_S)
            return list(self.replies)


def request(seq=1, **fields):
    """Return a good request of one robot."""
    values = {
        'robot': '/robot',
        'session': 'robot session',
        'server_session': 'server session',
        'model': 'tiny',
        'model_hash': 'hash1234567',
        'budget_s': LONG_S,
        'inputs': {'x': X},
        **fields,
    }
    return Request(seq=seq, **values)
