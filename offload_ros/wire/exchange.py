"""One request and its reply, as both sides see them; the nodes turn them into messages and back."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
import enum

import torch


class Status(enum.IntEnum):
    """Values of ``msg/InferenceReply.msg``."""

    OK = 0
    ERROR = 1
    BUSY = 2
    EXPIRED = 3


class Kind(enum.IntEnum):
    """What a request asks for; values of ``msg/InferenceRequest.msg``."""

    INFER = 0
    HELLO = 1
    CANCEL = 2


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
    priority: int = 128
    kind: Kind = Kind.INFER


@dataclass(frozen=True)
class Reply:
    """The answer. ``server_s``: receipt to sending on the server, contains ``queue_s`` and
    ``compute_s``."""

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
