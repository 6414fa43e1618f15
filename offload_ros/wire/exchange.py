"""One request and its reply, as both sides see them; ``wire.framing`` makes transfers of them."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
import enum

import torch

# Streams of a channel: what its transfers are for (``wire.channel.key_of``).
REQUESTS = 1  # robot to server; the reply has the same key the other way
CANCELS = 2
REPORTS = 3  # of the link monitors to each other
PROBES = 4  # measure the link; thrown away
OPERATORS = 5  # of transparent programs to the server, and its answers (``rrto.messages``)
CREDITS = 6  # how much of ``OPERATORS`` the receiver has done
GRAPHS = 7  # of layer cuts: which graph, which run (``cuts.messages``), and the server's answers
VALUES = 8  # tensors that cross such a cut, both ways
PATCHES = 9  # of images to the server, its answers and what it still wants (``amot.messages``)


class Status(enum.IntEnum):
    """What became of a request."""

    OK = 0
    ERROR = 1  # the request is at fault or the model failed on it: do not send it again
    BUSY = 2  # the queue is full: it was not run
    EXPIRED = 3  # its budget had passed before it was run


class Kind(enum.IntEnum):
    """What a request asks for."""

    INFER = 0
    CANCEL = 1  # the answer to the request of this number is not needed any more


@dataclass(frozen=True)
class Request:
    """Run ``model`` on ``inputs``. ``budget_s``: the answer is of no use later than this after
    receipt."""

    robot: str
    session: str
    server_session: str
    seq: int
    model: str = ''
    model_hash: str = ''
    budget_s: float = 0.0
    inputs: Mapping[str, torch.Tensor] = field(default_factory=dict)
    buffers: Mapping[str, array[int]] = field(default_factory=dict)
    opaque: frozenset[str] = frozenset()  # inputs that are coded already, e.g. as JPEG
    priority: int = 128
    kind: Kind = Kind.INFER


@dataclass(frozen=True)
class Reply:
    """The answer. ``server_s``: receipt to sending on the server, contains ``queue_s`` and
    ``compute_s``. ``batched_with``: other requests that were computed in the same forward; unless
    it is 0, the last bits are not those of the model on one frame."""

    server: str
    server_session: str
    session: str
    seq: int
    status: Status
    detail: str = ''
    queue_s: float = 0.0
    compute_s: float = 0.0
    server_s: float = 0.0
    outputs: Mapping[str, torch.Tensor] = field(default_factory=dict)
    tensor_bytes: int = 0  # of the outputs, as they travelled
    batched_with: int = 0
