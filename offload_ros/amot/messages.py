"""What robot and server say to each other about the patches of an image: one small fixed head each.

Each message is one transfer of the stream ``PATCHES``; the answer to message n is transfer n the
other way. A robot sends ``Sample`` and gets ``Answered``, or ``Wanted``; then it sends ``More`` and
gets ``Answered``. ``Failed`` may come instead of either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
import enum
import math
import struct
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from offload_ros.wire.codecs import CODECS, RAW, decode
from offload_ros.wire.errors import WireError

VERSION = 1
PRIORITY = 160  # before images of other models, behind what is urgent
MAX_MESSAGE_BYTES = 16 << 20  # an image of 2048 x 2048, raw
MAX_PATCHES = 1 << 16
MAX_LIMIT = (1 << 16) - 1
MAX_WHY = 400
NUMBERS = 1 << 32
MAX_BUDGET_S = 4e6  # as milliseconds it fits 32 bits


class Kind(enum.IntEnum):
    """The first byte of a message."""

    SAMPLE = 1
    MORE = 2
    CANCEL = 3
    ANSWERED = 4
    WANTED = 5
    FAILED = 6


# Both begin with kind and version.
_SAMPLE = struct.Struct('<BBBBIHHHxxffI32s')
_MORE = struct.Struct('<BBBxIHxx')
_CANCEL = struct.Struct('<BBxxI')
_ANSWER = struct.Struct('<BBHfff')
SAMPLE_HEAD_BYTES, MORE_HEAD_BYTES = _SAMPLE.size, _MORE.size
_ADAPTIVE, _WEIGHTED = 1, 2


def _nothing() -> memoryview:
    return memoryview(b'')


@dataclass(frozen=True)
class Sample:
    """The first round of an image.

    model: content hash. seed, count: which patches (``patches.sample``); data: their bytes, coded
    with codec. Of a second round, in patches: limit, what the budget has room for now; granted,
    what this image brings on average, below 0 where the first round took more; fixed, what is asked
    for where nothing is adaptive. confidence: from it on there is none. budget_s: the answer is of
    no use later.
    """

    model: str
    seed: int
    count: int
    limit: int
    fixed: int
    granted: float
    confidence: float
    budget_s: float
    adaptive: bool = True
    weighted: bool = True
    codec: int = RAW
    data: memoryview = field(default_factory=_nothing)


@dataclass(frozen=True)
class More:
    """The patches that were wanted of ``run`` (number of its ``Sample``), in that order."""

    run: int
    count: int
    codec: int = RAW
    data: memoryview = field(default_factory=_nothing)


@dataclass(frozen=True)
class Cancel:
    """The answer to ``run`` is not needed any more."""

    run: int


@dataclass(frozen=True, eq=False)
class Answered:
    """The end: probabilities (K,) float32. Seconds spent computing for this round, and from receipt
    of this round's message to this one."""

    probabilities: npt.NDArray[np.float32]
    compute_s: float = 0.0
    server_s: float = 0.0


@dataclass(frozen=True, eq=False)
class Wanted:
    """Send these patches, positions (K,) uint16. confidence: of the first round."""

    positions: npt.NDArray[np.uint16]
    confidence: float
    compute_s: float = 0.0
    server_s: float = 0.0


@dataclass(frozen=True)
class Failed:
    """There will be no answer, and why."""

    why: str


Asked: TypeAlias = 'Sample | More | Cancel'
Answer: TypeAlias = 'Answered | Wanted | Failed'


def asked_to_buffers(asked: Asked) -> list[bytes | memoryview]:
    """One transfer."""
    if isinstance(asked, Sample):
        flags = _ADAPTIVE * asked.adaptive | _WEIGHTED * asked.weighted
        budget_ms = math.ceil(1000.0 * min(max(asked.budget_s, 0.001), MAX_BUDGET_S) - 1e-6)
        head = _SAMPLE.pack(
            Kind.SAMPLE, VERSION, asked.codec, flags, asked.seed, asked.count, asked.limit,
            asked.fixed, asked.granted, asked.confidence, budget_ms, bytes.fromhex(asked.model),
        )  # fmt: skip
        return [head, asked.data]
    if isinstance(asked, More):
        head = _MORE.pack(Kind.MORE, VERSION, asked.codec, asked.run, asked.count)
        return [head, asked.data]
    return [_CANCEL.pack(Kind.CANCEL, VERSION, asked.run)]


def asked_from_bytes(data: npt.NDArray[np.uint8]) -> Asked:
    """The robot's message in (n,) uint8; ``WireError`` says what is wrong with it.

    Coded patches are not decoded: see ``patches_of_message``.
    """
    view, kind = _begun(data)
    if kind is Kind.SAMPLE:
        _, _, codec, flags, seed, *numbers, budget_ms, digest = _head(_SAMPLE, view)
        count, limit, fixed, granted, confidence = numbers
        if flags & ~(_ADAPTIVE | _WEIGHTED) or codec not in CODECS:
            raise WireError(f'a sample of patches with flags {flags} and codec {codec}')
        if not count:
            raise WireError('a sample of no patches')
        if not 0.0 <= confidence <= 1.0:
            raise WireError(f'a confidence of {confidence}, 0 to 1 is wanted')
        if not -MAX_PATCHES <= granted <= MAX_PATCHES:
            raise WireError(f'{granted} patches are granted, at most {MAX_PATCHES} may be')
        return Sample(
            digest.hex(), seed, count, limit, fixed, granted, confidence, budget_ms / 1000.0,
            bool(flags & _ADAPTIVE), bool(flags & _WEIGHTED), codec, view[_SAMPLE.size :],
        )  # fmt: skip
    if kind is Kind.MORE:
        _, _, codec, run, count = _head(_MORE, view)
        if codec not in CODECS or not count:
            raise WireError(f'{count} more patches with codec {codec}')
        return More(run, count, codec, view[_MORE.size :])
    if kind is Kind.CANCEL:
        if len(view) != _CANCEL.size:
            raise WireError(f'a message about patches of {len(view)} bytes')
        return Cancel(_CANCEL.unpack(view)[2])
    raise WireError('a message about patches that only a server sends')


def patches_of_message(asked: Sample | More, total: int, patch_bytes: int) -> npt.NDArray[np.uint8]:
    """Its patches, (count, patch_bytes) uint8, of an image that has ``total``; ``WireError``.

    RAW: a view of the message. No more memory is taken than those patches need.
    """
    if asked.count > total:
        raise WireError(f'{asked.count} patches of an image that has {total}')
    plain = decode(asked.data, asked.codec, 1, asked.count * patch_bytes)
    return plain.reshape(asked.count, patch_bytes)


def answer_to_buffers(answer: Answer) -> list[bytes | memoryview]:
    """One transfer."""
    if isinstance(answer, Failed):
        text = answer.why.encode()[:MAX_WHY]
        return [_ANSWER.pack(Kind.FAILED, VERSION, len(text), 0.0, 0.0, 0.0), text]
    times = (answer.compute_s, answer.server_s)
    if isinstance(answer, Wanted):
        positions = np.ascontiguousarray(answer.positions, '<u2')
        head = _ANSWER.pack(Kind.WANTED, VERSION, len(positions), answer.confidence, *times)
        return [head, positions.data.cast('B')]
    values = np.ascontiguousarray(answer.probabilities, '<f4')
    head = _ANSWER.pack(Kind.ANSWERED, VERSION, len(values), 0.0, *times)
    return [head, values.data.cast('B')]


def answer_from_bytes(data: npt.NDArray[np.uint8]) -> Answer:
    """The server's message in (n,) uint8; ``WireError`` says what is wrong with it."""
    view, kind = _begun(data)
    if kind not in (Kind.ANSWERED, Kind.WANTED, Kind.FAILED):
        raise WireError('an answer about patches that only a robot sends')
    _, _, count, confidence, compute_s, server_s = _head(_ANSWER, view)
    rest = view[_ANSWER.size :]
    size = {Kind.ANSWERED: 4, Kind.WANTED: 2, Kind.FAILED: 1}[kind]
    if len(rest) != count * size:
        raise WireError(f'an answer with {count} values in {len(rest)} bytes')
    if kind is Kind.FAILED:
        text = bytes(rest[:MAX_WHY]).decode(errors='replace')
        return Failed(''.join(each if each.isprintable() else ' ' for each in text))
    for value in (compute_s, server_s):
        if not 0.0 <= value < 1e9:
            raise WireError(f'an answer that took {value} s')
    if not count:
        raise WireError('an answer without values')
    if kind is Kind.WANTED:
        positions = np.frombuffer(rest, '<u2').astype(np.uint16)
        if len(np.unique(positions)) != count:
            raise WireError('an answer that wants a patch twice')
        if not 0.0 <= confidence <= 1.0:
            raise WireError(f'a confidence of {confidence}')
        return Wanted(positions, confidence, compute_s, server_s)
    probabilities = np.frombuffer(rest, '<f4').astype(np.float32)
    if not (np.isfinite(probabilities).all() and (probabilities >= 0.0).all()):
        raise WireError('probabilities that are none')
    return Answered(probabilities, compute_s, server_s)


def bytes_in(buffers: Sequence[bytes | memoryview]) -> int:
    """Of one transfer."""
    return sum(len(each) for each in buffers)


def _begun(data: npt.NDArray[np.uint8]) -> tuple[memoryview, Kind]:
    view = data.data
    if len(view) < 2:
        raise WireError(f'a message about patches of {len(view)} bytes')
    if view[1] != VERSION:
        raise WireError(
            f'a message about patches of version {view[1]}, {VERSION} is understood: use the same '
            'version of this package on robot and server'
        )
    try:
        return view, Kind(view[0])
    except ValueError:
        raise WireError(f'a message about patches of kind {view[0]}') from None


def _head(form: struct.Struct, view: memoryview) -> tuple[Any, ...]:
    if len(view) < form.size:
        raise WireError(f'a message about patches of {len(view)} bytes ends in its head')
    return form.unpack_from(view)
