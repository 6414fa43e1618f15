"""What robot and server say to each other about graphs: a JSON head, then bytes.

Each message is one transfer of the stream ``GRAPHS``; the answer to message n is transfer n the
other way. Values travel beside them as transfers of ``VALUES``, whose number holds the number of
the run and the value's place among those that cross (``value_key``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
import enum
import json
import math
import struct
from typing import Any, NamedTuple

import numpy as np
import torch

from offload_ros.cuts.value_codecs import VALUE_CODECS
from offload_ros.wire.channel import key_of
from offload_ros.wire.errors import WireError
from offload_ros.wire.exchange import VALUES
from offload_ros.wire.tensors import CODE_OF_DTYPE, DTYPE_OF_CODE, MAX_AXES

PRIORITY = 160  # before images of other models, behind what is urgent
PART_BYTES = 4 << 20  # a graph and its parameters travel in such parts
MAX_MESSAGE_BYTES = PART_BYTES + (1 << 20)
MAX_TEXT, MAX_PORTS, MAX_RANGES, MAX_CODECS = 400, 64, 100_000, 4096
NUMBERS, PLACES = 1 << 32, 1 << 16
_LENGTH = struct.Struct('<I')


class Ask(enum.IntEnum):
    """What a robot wants."""

    OPEN = 0  # use a graph
    PART = 1  # of its upload
    FINISH = 2  # all parts are there
    RUN = 3
    CANCEL = 4  # a run
    RELEASE = 5  # a graph
    PLAN = 6  # use a plan of steps
    MEASURE = 7  # what a graph takes, stage by stage (``hosted_measure``)


class Answer(enum.IntEnum):
    """What a server says."""

    READY = 0
    SEND = 1  # the graph is not here: upload it
    REFUSED = 2  # it cannot be used here; why
    DONE = 3  # a run has ended
    FAILED = 4  # a run cannot end; why
    UNKNOWN = 5  # a run of a graph or plan that is not open: open it again


@dataclass(frozen=True)
class Port:
    """An input of the model as the robot gives it."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Asked:
    """A message of the robot. ``graph``: content hash. Of OPEN: the bytes of an upload, and the
    model (name, content hash, inputs) of which a server that has it can make the graph by itself.
    Of PART: where ``data`` belongs. Of RUN: what the server computes (``nodes``, or the ``plan``
    that was opened), for how long the result is of use, how values are coded (id in a profile,
    code), and whether a timeline is wanted. Of CANCEL: which run. Of PLAN: its key, its steps
    (``data``) and how many of them are the robot's. Of MEASURE: see ``hosted_measure``."""

    ask: Ask
    graph: str = ''
    graph_bytes: int = 0
    parameter_bytes: int = 0
    model: str = ''
    model_hash: str = ''
    inputs: tuple[Port, ...] = ()
    of_parameters: bool = False
    offset: int = 0
    data: memoryview = field(default_factory=lambda: memoryview(b''))
    nodes: tuple[tuple[int, int], ...] = ()  # runs of ids [first, last]
    budget_s: float = 0.0
    run: int = 0
    plan: str = ''
    robot_steps: int = 0
    codecs: tuple[tuple[int, int], ...] = ()
    timeline: bool = False
    stage: str = ''
    part: int = 0
    repeats: int = 1


class Answered(NamedTuple):
    """A message of the server; of DONE: seconds that were spent computing, and since receipt, and
    in ``data`` what happened when (``intra_dp.run_timeline``), if it was asked for. Of MEASURE:
    ``data`` is a report in JSON."""

    answer: Answer
    why: str = ''
    compute_s: float = 0.0
    server_s: float = 0.0
    data: bytes = b''


def value_key(run: int, place: int) -> int:
    """The key of a value's transfer."""
    return key_of(VALUES, run << 16 | place)


def asked_to_buffers(asked: Asked) -> list[bytes | memoryview]:
    """One transfer."""
    fields = {
        name: value
        for name, value in _fields(asked).items()
        if name != 'data' and value != Asked.__dataclass_fields__[name].default
    }
    fields['ask'] = int(asked.ask)
    if asked.inputs:
        fields['inputs'] = [
            [each.name, list(each.shape), CODE_OF_DTYPE[each.dtype]] for each in asked.inputs
        ]
    return [*_framed(fields), *([asked.data] if len(asked.data) else [])]


def _fields(asked: Asked) -> dict[str, Any]:
    """Fields by name, not copied."""
    return {name: getattr(asked, name) for name in Asked.__dataclass_fields__}


def asked_from_bytes(data: np.ndarray) -> Asked:
    """The message in (n,) uint8; ``WireError`` says what is wrong with it."""
    head, rest = _parsed(data)
    unknown = head.keys() - Asked.__dataclass_fields__.keys()
    if unknown or 'data' in head:
        raise WireError('a message about graphs with fields that nobody knows')
    try:
        ask = Ask(_whole({'ask': None, **head}, 'ask', 256))
    except ValueError:
        raise WireError(f'a message about graphs asks for {head.get("ask")!r:.20}') from None
    graph, plan = _text(head, 'graph'), _text(head, 'plan')
    if ask is not Ask.CANCEL and not _is_hash(graph):
        raise WireError('a graph is named by the 64 hex digits of its SHA-256')
    if not _is_hash(plan) and (plan or ask is Ask.PLAN):
        raise WireError('a plan is named by the 64 hex digits of its SHA-256')
    return Asked(
        ask,
        graph,
        _whole(head, 'graph_bytes', 1 << 48),
        _whole(head, 'parameter_bytes', 1 << 48),
        _text(head, 'model'),
        _text(head, 'model_hash'),
        _ports(head.get('inputs', [])),
        _flag(head, 'of_parameters'),
        _whole(head, 'offset', 1 << 48),
        rest,
        _ranges(head.get('nodes', [])),
        _seconds(head, 'budget_s'),
        _whole(head, 'run', NUMBERS),
        plan,
        _whole(head, 'robot_steps', 1 << 31),
        _codecs(head.get('codecs', [])),
        _flag(head, 'timeline'),
        _text(head, 'stage'),
        _whole(head, 'part', 1 << 16),
        _whole({'repeats': 1, **head}, 'repeats', 1 << 16),
    )


def answered_to_buffers(answered: Answered) -> list[bytes | memoryview]:
    """One transfer."""
    head = {**answered._asdict(), 'why': answered.why[:MAX_TEXT]}
    data = head.pop('data')
    return [*_framed(head), *([data] if data else [])]


def answered_from_bytes(data: np.ndarray) -> Answered:
    """The message in (n,) uint8; ``WireError`` says what is wrong with it."""
    head, rest = _parsed(data)
    try:
        answer = Answer(_whole({'answer': None, **head}, 'answer', 256))
    except ValueError:
        raise WireError('an answer about a graph that nobody knows') from None
    return Answered(
        answer,
        _text(head, 'why'),
        _seconds(head, 'compute_s'),
        _seconds(head, 'server_s'),
        bytes(rest),
    )


def _framed(head: dict[str, Any]) -> list[bytes | memoryview]:
    text = json.dumps(head).encode()
    return [_LENGTH.pack(len(text)) + text]


def _parsed(data: np.ndarray) -> tuple[dict[str, Any], memoryview]:
    view = data.data
    size = _LENGTH.unpack_from(view)[0] if len(view) >= _LENGTH.size else len(view)
    if _LENGTH.size + size > len(view):
        raise WireError(f'a message about graphs of {len(view)} bytes ends in its head')
    try:
        head = json.loads(bytes(view[_LENGTH.size : _LENGTH.size + size]))
    except (ValueError, RecursionError):
        head = None
    if not isinstance(head, dict):
        raise WireError('a message about graphs whose head is no JSON object')
    return head, view[_LENGTH.size + size :]


def _is_whole(value: Any, limit: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < limit


def _is_hash(text: str) -> bool:
    return len(text) == 64 and set(text) <= set('0123456789abcdef')


def _flag(head: dict[str, Any], name: str) -> bool:
    value = head.get(name, False)
    if not isinstance(value, bool):
        raise WireError(f'{name} is true or false')
    return value


def _codecs(found: Any) -> tuple[tuple[int, int], ...]:
    if not isinstance(found, list) or len(found) > MAX_CODECS:
        raise WireError(f'codecs is a list of at most {MAX_CODECS}')
    for each in found:
        if not isinstance(each, list) or len(each) != 2 or not all(type(x) is int for x in each):
            raise WireError('codecs are a list of [id, code]')
        if not -MAX_PORTS <= each[0] < 1 << 24 or each[1] not in VALUE_CODECS:
            raise WireError(f'codec {each} is unknown')
    return tuple((id, code) for id, code in found)


def _whole(head: dict[str, Any], name: str, limit: int) -> int:
    value = head.get(name, 0)
    if not _is_whole(value, limit):
        raise WireError(f'{name} is {value!r:.40}, a whole number below {limit} is wanted')
    return int(value)


def _text(head: dict[str, Any], name: str) -> str:
    value = head.get(name, '')
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise WireError(f'{name} is {value!r:.40}, a text is wanted')
    return ''.join(each if each.isprintable() else ' ' for each in value)  # it may enter a log


def _seconds(head: dict[str, Any], name: str) -> float:
    value = head.get(name, 0.0)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e9:
        raise WireError(f'{name} is {value!r:.40}, seconds are wanted')
    return float(value)


def _ports(found: Any) -> tuple[Port, ...]:
    if not isinstance(found, list) or len(found) > MAX_PORTS:
        raise WireError(f'inputs is a list of at most {MAX_PORTS}')
    ports = []
    for each in found:
        if not isinstance(each, list) or len(each) != 3 or not isinstance(each[1], list):
            raise WireError('an input is described by name, shape and dtype')
        name, shape, code = each
        if len(shape) > MAX_AXES or not all(_is_whole(extent, 1 << 40) for extent in shape):
            raise WireError('the shape of an input is a list of whole numbers')
        if not _is_whole(code, 256) or code not in DTYPE_OF_CODE:
            raise WireError('the dtype of an input is unknown')
        if math.prod(shape) > 1 << 40:
            raise WireError('an input has more elements than memory')
        ports.append(Port(_text({'name': name}, 'name'), tuple(shape), DTYPE_OF_CODE[code]))
    return tuple(ports)


def _ranges(found: Any) -> tuple[tuple[int, int], ...]:
    if not isinstance(found, list) or len(found) > MAX_RANGES:
        raise WireError('the nodes of a run are a list of [first, last]')
    ranges, least = [], 0
    for each in found:
        if (
            not isinstance(each, list)
            or len(each) != 2
            or not all(_is_whole(x, 1 << 24) for x in each)
        ):
            raise WireError('the nodes of a run are a list of [first, last]')
        first, last = each
        if not least <= first <= last:
            raise WireError('the nodes of a run are in order, each once')
        ranges.append((first, last))
        least = last + 1
    return tuple(ranges)


def ids_of(ranges: Sequence[tuple[int, int]], count: int) -> frozenset[int]:
    """The nodes of a run; ``WireError`` beyond the ``count`` of the graph."""
    if ranges and ranges[-1][1] >= count:
        raise WireError(f'node {ranges[-1][1]} of a graph that has {count}')
    return frozenset(node for first, last in ranges for node in range(first, last + 1))
