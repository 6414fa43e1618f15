"""Which codec pays for each operator's output on a link, by what was measured on an example.

A codec pays where encoding, sending what is left and decoding take clearly less time than sending
the output as it is (``wire.codec_choice`` has the same rule for whole inputs, on live frames).
Which tensors those are follows from the bandwidth alone; of one profile, ``CodedProfiles`` gives
the few that differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
import math
import threading

from offload_ros.graph.profile import CODING_TIMES, Coding, Profile, ProfiledOperator

MARGIN = 0.1  # the share of the raw transfer's time that a codec has to save
_RAW = Coding('', 0)


def choose(
    codings: Sequence[Coding],
    raw_bytes: float,
    up_bytes_per_s: float = 0.0,
    down_bytes_per_s: float = 0.0,
    margin: float = MARGIN,
) -> Coding | None:
    """The fastest of ``codings`` on the way up, down or, where both are given, on both together;
    None where none saves the share ``margin`` of the raw transfer. A bandwidth of 0: that way is
    not of interest."""

    def duration_s(coding: Coding, amount: float) -> float:
        taken_s = 0.0
        if up_bytes_per_s > 0.0:
            taken_s += amount / up_bytes_per_s + coding.robot_encode_s + coding.server_decode_s
        if down_bytes_per_s > 0.0:
            taken_s += amount / down_bytes_per_s + coding.server_encode_s + coding.robot_decode_s
        return taken_s

    raw_s = duration_s(_RAW, raw_bytes)
    durations_s = [(duration_s(each, each.wire_bytes), place) for place, each in enumerate(codings)]
    best_s, place = min(durations_s, default=(raw_s, -1))
    return codings[place] if best_s < raw_s * (1.0 - margin) else None


def coded_for(
    profile: Profile, up_bytes_per_s: float, down_bytes_per_s: float, margin: float = MARGIN
) -> Profile:
    """``profile`` with what pays at these bandwidths: ``codec``, ``wire_bytes`` and times of each
    operator that has ``codings``. Inputs go up; an output that nobody reads goes down."""
    ways = (up_bytes_per_s, down_bytes_per_s)
    return _coded(profile, _choices(profile, *ways, margin))


def uncoded(profile: Profile) -> Profile:
    """Nothing compressed whatever the link: the setting of the published comparisons."""
    raw = _coded(profile, (None,) * len(profile))
    operators = tuple(replace(operator, codings=()) for operator in raw.operators)
    return replace(raw, operators=operators)


def codecs_of(profile: Profile) -> dict[int, str]:
    """The codec of each operator that has one, by id: for those who send."""
    return {each.id: each.codec for each in profile.operators if each.codec}


class CodedProfiles:
    """The profiles of one for any bandwidths; equal choices give the same object, so that what is
    made of it can be kept. Safe between threads."""

    def __init__(self, profile: Profile, margin: float = MARGIN) -> None:
        self._profile, self._margin = profile, margin
        self._has_codings = any(each.codings for each in profile.operators)
        self._coded: dict[tuple[Coding | None, ...], Profile] = {}
        self._known: dict[tuple[float, float], Profile] = {}
        self._lock = threading.Lock()

    def at(self, up_bytes_per_s: float, down_bytes_per_s: float) -> Profile:
        """See ``coded_for``; bandwidths in steps that matter less than the margin, so that there
        are not many profiles."""
        if not self._has_codings:
            return self._profile
        ways = _stepped(up_bytes_per_s), _stepped(down_bytes_per_s)
        with self._lock:
            if ways not in self._known:
                choices = _choices(self._profile, *ways, self._margin)
                coded = self._coded.setdefault(choices, _coded(self._profile, choices))
                self._known[ways] = coded
            return self._known[ways]


def _stepped(bytes_per_s: float) -> float:
    """The nearest of four steps for each doubling."""
    return 2.0 ** (round(4.0 * math.log2(bytes_per_s)) / 4.0) if bytes_per_s > 0.0 else 0.0


def _choices(
    profile: Profile, up_bytes_per_s: float, down_bytes_per_s: float, margin: float
) -> tuple[Coding | None, ...]:
    chosen: list[Coding | None] = []
    for place, operator in enumerate(profile.operators):
        up, down = up_bytes_per_s, down_bytes_per_s
        if operator.is_input:
            down = 0.0
        elif not profile.consumers[place]:
            up = 0.0
        size = operator.output_bytes
        chosen.append(
            choose(operator.codings, size, up, down, margin) if operator.codings else None
        )
    return tuple(chosen)


def _coded(profile: Profile, choices: Iterable[Coding | None]) -> Profile:
    operators = tuple(
        _with_coding(operator, coding)
        for operator, coding in zip(profile.operators, choices, strict=True)
    )
    # What has these codecs already is itself, with all that was made of it.
    return profile if operators == profile.operators else replace(profile, operators=operators)


def _with_coding(operator: ProfiledOperator, coding: Coding | None) -> ProfiledOperator:
    if not operator.codings:
        return operator
    used = coding or _RAW
    return replace(
        operator,
        codec=used.codec,
        wire_bytes=None if coding is None else coding.wire_bytes,
        **{name: getattr(used, name) for name in CODING_TIMES},
    )
