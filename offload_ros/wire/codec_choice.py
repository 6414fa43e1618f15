"""Which codec pays for a tensor on the present link: measured on the tensor's own bytes.

A codec pays when encoding, sending what is left and decoding take clearly less than sending the
raw bytes. Its speed and ratio are tried on a small sample of a frame, seldom and within a time
budget, and corrected by what whole frames then show. The bandwidth enters at every choice, so a
change of the link needs no new trial.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
import math
import threading
import time
from typing import TypeAlias

import numpy as np

from offload_ros.wire.codecs import (
    BITS,
    BITS_ZSTD,
    DELTA_ZSTD,
    LZ4,
    RAW,
    SHUFFLE_ZSTD,
    ZSTD,
    Buffer,
    Bytes,
    NotBinaryError,
    decode,
    encode,
)

# What may pay for one-byte values and for wider ones; the likeliest first, as trials take turns.
CANDIDATES_OF_BYTES = (ZSTD, BITS_ZSTD, DELTA_ZSTD, LZ4, BITS)
CANDIDATES_OF_VALUES = (ZSTD, SHUFFLE_ZSTD, LZ4)
# Encoding and decoding before a codec's first trial: slower than machines that run robots are.
SLOWEST_S_PER_BYTE = 20e-9


@dataclass(frozen=True)
class ChoicePolicy:
    """When to try and when to use a codec. Times in seconds, sizes in bytes, the rest shares.

    ``margin``: a codec is used only where it takes this share less time than raw bytes.
    ``advantage``: another codec replaces the one in use only where it takes this share less.
    ``min_bytes``, ``min_transfer_s``: below, there is nothing worth saving and nothing is tried.
    ``budget_share`` of the raw transfer time, or ``budget_s`` if longer, is what the trials in one
    frame may take; ``min_sample_bytes`` to ``max_sample_bytes`` is what one tries.
    ``trial_period_s``: what was tried is tried again after this time, or when the ratio in use
    has moved by the share ``drift``, but not within ``min_trial_period_s``.
    """

    margin: float = 0.1
    advantage: float = 0.05
    min_bytes: int = 4096
    min_transfer_s: float = 0.5e-3
    budget_share: float = 0.02
    budget_s: float = 1e-3
    min_sample_bytes: int = 16 << 10
    max_sample_bytes: int = 256 << 10
    trial_period_s: float = 10.0
    min_trial_period_s: float = 1.0
    drift: float = 0.25

    def __post_init__(self) -> None:
        for name in ('margin', 'advantage', 'budget_share', 'drift'):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f'{name} must be from 0 to below 1, not {getattr(self, name)}')
        for name in ('min_transfer_s', 'budget_s', 'min_trial_period_s'):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f'{name} must be 0 or more, not {getattr(self, name)}')
        if not self.min_trial_period_s <= self.trial_period_s:
            raise ValueError('trial_period_s must not be below min_trial_period_s')
        if not 0 < self.min_sample_bytes <= self.max_sample_bytes or self.min_bytes < 0:
            raise ValueError('sizes must be positive, max_sample_bytes at least min_sample_bytes')


@dataclass(frozen=True)
class Measured:
    """What a codec makes of a tensor: coded bytes per raw byte, seconds per raw byte."""

    coded_share: float
    encode_s_per_byte: float
    decode_s_per_byte: float

    def duration_s(
        self, size: int, bandwidth_bytes_per_s: float, decode_ratio: float = 1.0
    ) -> float:
        """Seconds from ``size`` raw bytes here to the same there, where decoding takes
        ``decode_ratio`` times as long as here."""
        transfer = self.coded_share / bandwidth_bytes_per_s
        return size * (self.encode_s_per_byte + transfer + self.decode_s_per_byte * decode_ratio)


NEVER = Measured(math.inf, 0.0, 0.0)  # of bits, for data that is not binary
Measure: TypeAlias = Callable[[int, Bytes, int, int], Measured]


def measure(code: int, sample: Bytes, itemsize: int, channels: int) -> Measured:
    """Code and decode ``sample`` once."""
    began_s = time.perf_counter()
    try:
        coded = encode(sample, code, itemsize, channels)
    except NotBinaryError:
        return NEVER
    encoded_s = time.perf_counter()
    decode(coded, code, itemsize, sample.size)
    decoded_s = time.perf_counter()
    return Measured(
        len(coded) / sample.size,
        (encoded_s - began_s) / sample.size,
        (decoded_s - encoded_s) / sample.size,
    )


def sample_of(data: Bytes, size: int, granule: int, block: int = 16 << 10) -> Bytes:
    """Return about ``size`` bytes of ``data`` in evenly spread blocks of whole ``granule`` bytes.

    Blocks, because compressors look for repetitions in the neighbourhood.
    """
    if size >= data.size:
        return data
    block = max(1, min(block, size) // granule) * granule
    starts = np.linspace(0, data.size - block, max(1, size // block)) // granule * granule
    return np.concatenate([data[int(start) : int(start) + block] for start in starts])


@dataclass
class _Entry:
    """What is known of one tensor."""

    itemsize: int
    code: int = RAW
    measured: dict[int, Measured] = field(default_factory=dict)
    tried_s: dict[int, float] = field(default_factory=dict)
    tried_share: dict[int, float] = field(default_factory=dict)
    trying: bool = False


class CodecChooser:
    """Chooses per tensor of one link; thread-safe.

    ``key`` is any hashable name of the tensor, e.g. (model, direction, tensor name). Decoding is
    taken to be as fast at the other end as here until ``observe_decode`` says better.
    """

    def __init__(
        self,
        policy: ChoicePolicy | None = None,
        clock: Callable[[], float] = time.monotonic,
        measure: Measure = measure,
    ) -> None:
        """``clock``: steady seconds. ``measure``: replaced in tests."""
        self._policy = policy or ChoicePolicy()
        self._clock = clock
        self._measure = measure
        self._lock = threading.Lock()
        self._entries: dict[Hashable, _Entry] = {}
        self._trial_s_per_byte: dict[int, float] = {}
        self._decode_ratio = 1.0

    def encode(
        self,
        key: Hashable,
        data: Buffer,
        itemsize: int,
        bandwidth_bytes_per_s: float,
        channels: int = 1,
        opaque: bool = False,
    ) -> tuple[int, memoryview]:
        """Choose, code and take note; return (code, coded bytes), RAW where it did not shrink.

        Arguments as for ``choose``.
        """
        code = self.choose(key, data, itemsize, bandwidth_bytes_per_s, channels, opaque)
        if code != RAW:
            size = np.frombuffer(data, np.uint8).size
            began_s = self._clock()
            try:
                coded = encode(data, code, itemsize, channels)
            except NotBinaryError:
                self._reject(key, code)
            else:
                self.observe(key, code, size, len(coded), self._clock() - began_s)
                if len(coded) < size:
                    return code, coded
        return RAW, encode(data, RAW, itemsize, channels)

    def choose(
        self,
        key: Hashable,
        data: Buffer,
        itemsize: int,
        bandwidth_bytes_per_s: float,
        channels: int = 1,
        opaque: bool = False,
    ) -> int:
        """Return the code for ``data``, whole values of ``itemsize`` bytes.

        ``bandwidth_bytes_per_s``: NaN where unknown, then RAW. ``channels``: see
        ``codecs.channels_of``. ``opaque``: compressed already (a camera's JPEG), nothing is tried.
        """
        plain, policy = np.frombuffer(data, np.uint8), self._policy
        size = plain.size
        if opaque or size < policy.min_bytes or not bandwidth_bytes_per_s > 0:
            return RAW
        raw_s = size / bandwidth_bytes_per_s
        if raw_s < policy.min_transfer_s:
            return RAW
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or entry.itemsize != itemsize:
                entry = self._entries[key] = _Entry(itemsize)
            due = [] if entry.trying else self._due(entry)
            entry.trying = entry.trying or bool(due)
        if due:
            try:
                budget_s = max(policy.budget_s, policy.budget_share * raw_s)
                self._try(entry, due, plain, itemsize, channels, budget_s)
            finally:
                with self._lock:
                    entry.trying = False
        with self._lock:
            durations_s = {
                code: measured.duration_s(size, bandwidth_bytes_per_s, self._decode_ratio)
                for code, measured in entry.measured.items()
            }
            best = min(durations_s, key=durations_s.__getitem__, default=RAW)
            duration_s = durations_s.get(best, math.inf)
            current_s = durations_s.get(entry.code, math.inf)
            if current_s * (1 - policy.advantage) <= duration_s:
                best, duration_s = entry.code, current_s
            entry.code = best if duration_s < raw_s * (1 - policy.margin) else RAW
            return entry.code

    def observe(
        self, key: Hashable, code: int, raw_bytes: int, coded_bytes: int, encode_s: float
    ) -> None:
        """Take note of a whole tensor's coding; without effect for a key or code never tried."""
        with self._lock:
            entry = self._entries.get(key)
            before = entry.measured.get(code) if entry else None
            if entry is None or before is None or raw_bytes < 1:
                return
            share, known = coded_bytes / raw_bytes, before.coded_share
            entry.measured[code] = replace(
                before,
                coded_share=share if math.isinf(known) else (known + share) / 2,
                encode_s_per_byte=_moved(before.encode_s_per_byte, encode_s / raw_bytes),
            )
            # A sample and the whole differ anyway, so drift is counted from the first whole.
            tried = entry.tried_share.setdefault(code, share)
            if abs(share - tried) > self._policy.drift * tried:
                oldest_s = self._clock() - self._policy.min_trial_period_s
                if max(entry.tried_s.values()) <= oldest_s:
                    entry.tried_s = dict.fromkeys(entry.tried_s, -math.inf)
                    entry.tried_share.clear()

    def observe_decode(self, key: Hashable, code: int, raw_bytes: int, decode_s: float) -> None:
        """Take note of how long the receiver decoded a whole tensor: it tells how much faster or
        slower the receiver is with any codec."""
        with self._lock:
            entry = self._entries.get(key)
            here = entry.measured.get(code) if entry else None
            if here is None or raw_bytes < 1 or not (0 < decode_s < math.inf):
                return
            if here.decode_s_per_byte > 0:
                ratio = decode_s / raw_bytes / here.decode_s_per_byte
                self._decode_ratio = _moved(self._decode_ratio, ratio)

    def measured(self, key: Hashable) -> dict[int, Measured]:
        """What is known of every codec tried on ``key``, by code."""
        with self._lock:
            entry = self._entries.get(key)
            return dict(entry.measured) if entry else {}

    def _reject(self, key: Hashable, code: int) -> None:
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                entry.measured[code] = NEVER

    def _due(self, entry: _Entry) -> list[int]:
        """Codes to be tried, longest untried first; the one in use shows itself on whole frames."""
        codes = CANDIDATES_OF_BYTES if entry.itemsize == 1 else CANDIDATES_OF_VALUES
        tried_s = {code: entry.tried_s.get(code, -math.inf) for code in codes if code != entry.code}
        oldest_s = self._clock() - self._policy.trial_period_s
        due = [code for code, when_s in tried_s.items() if when_s <= oldest_s]
        return sorted(due, key=tried_s.__getitem__)

    def _try(
        self,
        entry: _Entry,
        due: list[int],
        data: Bytes,
        itemsize: int,
        channels: int,
        budget_s: float,
    ) -> None:
        """Try the codes that are due, as many and on as much as the budget allows."""
        policy, left_s = self._policy, budget_s
        for code in due:
            expected = self._trial_s_per_byte.get(code, SLOWEST_S_PER_BYTE)
            size = int(min(policy.max_sample_bytes, data.size, left_s / expected))
            if size < min(policy.min_sample_bytes, data.size):
                return
            sample = sample_of(data, size, itemsize * channels)
            began_s = self._clock()
            measured = self._measure(code, sample, itemsize, channels)
            took_s = self._clock() - began_s
            left_s -= took_s
            with self._lock:
                first = code not in self._trial_s_per_byte
                seen = took_s / sample.size
                self._trial_s_per_byte[code] = seen if first else _moved(expected, seen)
                entry.measured[code] = measured
                entry.tried_s[code] = self._clock()
                entry.tried_share.pop(code, None)


def _moved(before: float, seen: float) -> float:
    """Moving mean of a duration, in which one preempted call does not count for much."""
    return before + 0.3 * (min(seen, 3 * before) - before) if before > 0 else seen
