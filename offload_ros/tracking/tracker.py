"""Several people at once, and one of them as the target that the robot follows.

All of it is one pure step over frames, so that a late frame gives the tracks and the target that
it would have given in time (``History``).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from offload_ros.tracking.checks import require, within
from offload_ros.tracking.history import History
from offload_ros.tracking.tracks import (
    Detection,
    Key,
    Track,
    TrackConfig,
    alone,
    assign,
    continued,
    likeness,
    new_track,
)

CHOICES = ('centre', 'nearest', 'given')


@dataclass(frozen=True)
class TargetConfig:
    """Who is followed, and when somebody is taken for the target again after a loss.

    choose: ``centre`` takes the confirmed person nearest to the middle of the image, ``nearest``
    the one nearest to the camera (both stick to that person), ``given`` waits for ``follow``.

    After more than again_s unseen the target is found again in a track that began at most again_s
    before the loss, was in fewer than beside_frames frames seen apart from the target, is where a
    person can have walked to at walk_max_mps, has reacquire_hits detections (unknown_hits where no
    appearance can be compared), looks like the target (distance up to appearance_max), and has no
    rival of almost the same likeness (margin). While two could be it, none is taken. It is given up
    after forget_s.
    """

    choose: str = 'centre'
    again_s: float = 0.5
    beside_frames: int = 3
    walk_max_mps: float = 1.8
    reacquire_hits: int = 3
    unknown_hits: int = 5
    appearance_max: float = 0.5
    margin: float = 0.12
    forget_s: float = 120.0

    def __post_init__(self) -> None:
        require(self.choose in CHOICES, f'choose must be one of {", ".join(CHOICES)}')
        within('again_s', self.again_s, 0.0, 60.0)
        within('beside_frames', self.beside_frames, 1, 1000)
        within('walk_max_mps', self.walk_max_mps, 0.1, 10.0)
        within('reacquire_hits', self.reacquire_hits, 1, 100)
        within('unknown_hits', self.unknown_hits, self.reacquire_hits, 100)
        within('appearance_max', self.appearance_max, 0.0, 1.0)
        within('margin', self.margin, 0.0, 1.0)
        within('forget_s', self.forget_s, 1.0, 36_000.0)


@dataclass(frozen=True)
class TrackerConfig:
    """Tracks, target, and how late a frame may come."""

    tracks: TrackConfig = field(default_factory=TrackConfig)
    target: TargetConfig = field(default_factory=TargetConfig)
    history_s: float = 2.0
    history_limit: int = 100

    def __post_init__(self) -> None:
        within('history_s', self.history_s, 0.0, 60.0)
        within('history_limit', self.history_limit, 1, 10_000)


@dataclass(frozen=True, eq=False)
class People:
    """The tracks after a frame. ``target`` is one of them as last seen, also while unseen."""

    tracks: tuple[Track, ...] = ()
    target: Track | None = None
    stamp_s: float = float('-inf')


@dataclass(frozen=True, eq=False)
class Frame:
    """The detections of one image; camera (2,): where it was taken, in the map.

    follow: which track to follow from here on, None for no wish.
    """

    detections: tuple[Detection, ...]
    camera: tuple[float, float] = (0.0, 0.0)
    follow: Key | None = None


class PeopleTracker:
    """Tracks people over frames that may come late and out of order."""

    def __init__(self, config: TrackerConfig | None = None) -> None:
        """Begin without anybody."""
        self.config = config or TrackerConfig()
        self._history: History[People, Frame] = History(
            People(), self._step, self.config.history_s, self.config.history_limit
        )
        self._wish: Key | None = None
        self._numbers: dict[Key, int] = {}
        self._next = 1

    @property
    def people(self) -> People:
        """Return everybody after the newest frame."""
        return self._history.state

    def add(
        self,
        stamp_s: float,
        detections: tuple[Detection, ...],
        camera: tuple[float, float] = (0.0, 0.0),
    ) -> bool:
        """Add the detections of an image; False if its stamp is too old or known already."""
        most = self.config.tracks.detections_max
        wish = self._wish if stamp_s > self._history.newest_s else None
        added = self._history.add(stamp_s, Frame(tuple(detections)[:most], camera, wish))
        if added and wish is not None:
            self._wish = None
        return added

    def follow(self, key: Key) -> None:
        """Follow this track from the next frame on; KeyError if there is none like it."""
        if all(track.key != key for track in self.people.tracks):
            raise KeyError(f'no track {key}')
        self._wish = key

    def number(self, key: Key) -> int:
        """Return a small number for a track, the same each time, for messages and markers."""
        if key not in self._numbers:
            self._numbers[key] = self._next
            self._next += 1
            while len(self._numbers) > 1000:
                del self._numbers[next(iter(self._numbers))]
        return self._numbers[key]

    def _step(self, before: People, stamp_s: float, frame: Frame) -> People:
        config, detections = self.config.tracks, frame.detections
        chosen = assign(before.tracks, detections, stamp_s, config)
        tracks = []
        for place, track in enumerate(before.tracks):
            if place in chosen:
                index = chosen[place]
                free = alone(detections, index, config.apart_m)
                track = continued(track, stamp_s, detections[index], free, config)
            lasts = config.coast_s if track.confirmed else config.tentative_s
            if stamp_s - track.seen_s <= lasts:
                tracks.append(track)
        taken = set(chosen.values())
        for index, detection in enumerate(detections):
            if index not in taken and len(tracks) < config.tracks_max:
                tracks.append(new_track(Key(stamp_s, index), detection, config))
        return self._with_target(before, tuple(tracks), stamp_s, frame)

    def _with_target(
        self, before: People, tracks: tuple[Track, ...], stamp_s: float, frame: Frame
    ) -> People:
        target, rules = before.target, self.config.target
        for track in tracks:
            if track.key == frame.follow:
                target = track
        if target is not None and stamp_s - target.seen_s > rules.forget_s:
            target = None
        if target is None:
            target = self._first(tracks, stamp_s, frame)
        else:
            key = target.key
            target = next((track for track in tracks if track.key == key), target)
            if stamp_s - target.seen_s > rules.again_s:
                others = tuple(track for track in tracks if track.key != key)
                found = self._again(target, others, stamp_s)
                if found is not None:
                    # The target goes on in that track, under its own key and with its own looks.
                    again = replace(
                        found,
                        key=target.key,
                        hits=target.hits + found.hits,
                        looks=target.looks or found.looks,
                    )
                    tracks = tuple(again if each is found else each for each in others)
                    target = again
        if target is not None and target.seen_s == stamp_s:
            tracks = tuple(
                replace(each, beside=each.beside + 1)
                if each.seen_s == stamp_s and self._apart(each, target)
                else each
                for each in tracks
            )
        return People(tracks, target, stamp_s)

    def _first(self, tracks: tuple[Track, ...], stamp_s: float, frame: Frame) -> Track | None:
        """Return who is to be followed of those in view, while nobody is."""
        rules = self.config.target
        seen = [track for track in tracks if track.confirmed and track.seen_s == stamp_s]
        if not seen or rules.choose == 'given':
            return None
        if rules.choose == 'centre':
            return min(seen, key=lambda track: abs(track.bearing))
        camera = np.array(frame.camera)
        return min(
            seen, key=lambda track: float(np.hypot(*(track.filtered.belief.position - camera)))
        )

    def _apart(self, track: Track, target: Track) -> bool:
        """Return whether a track is another person than the target, not found twice."""
        gap = track.filtered.belief.position - target.filtered.belief.position
        return track.key != target.key and float(np.hypot(*gap)) > self.config.tracks.apart_m

    def _again(self, target: Track, tracks: tuple[Track, ...], stamp_s: float) -> Track | None:
        """Return the track in which the lost target has been found, if that is certain."""
        rules, near = self.config.target, []
        for track in tracks:
            # An older track was somebody else all the time. One that began a little before the
            # loss may be the target's, taken for somebody new.
            if track.beside >= rules.beside_frames:
                continue
            if track.key.born_s < target.seen_s - rules.again_s:
                continue
            moved = track.filtered.belief.position - target.filtered.belief.position
            reach = rules.walk_max_mps * (track.seen_s - target.seen_s)
            if float(np.hypot(*moved)) > self.config.tracks.jump_m + reach:
                continue
            different = likeness(target.looks, track.looks)
            if different is None or different <= rules.appearance_max:
                near.append((different, track))
        known = [(d, track) for d, track in near if d is not None]
        if known and len(known) == len(near):
            known.sort(key=lambda pair: pair[0])
            best, track = known[0]
            if len(known) > 1 and known[1][0] - best < rules.margin:
                return None
            return track if _firm(track, rules.reacquire_hits, stamp_s) else None
        if len(near) == 1:
            track = near[0][1]
            return track if _firm(track, rules.unknown_hits, stamp_s) else None
        return None


def _firm(track: Track, hits: int, stamp_s: float) -> bool:
    return track.confirmed and track.hits >= hits and track.seen_s == stamp_s
