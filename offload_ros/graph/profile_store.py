"""Measured profiles as files of the user: written by ``ros2 run offload_ros profile``, found by the
strategies by the hash of the model's graph."""

from __future__ import annotations

from collections.abc import Mapping
import contextlib
from dataclasses import dataclass, field
import json
import logging
import os
from pathlib import Path
import re
from typing import Any

from offload_ros.graph.profile import Profile, ProfileError, require
from offload_ros.graph.profile_file import parse_profile, profile_document

HASH_DIGITS = 16  # of the hash, in a file's name
_HASH = re.compile(r'[0-9a-f]{64}\Z')
_MODEL = re.compile(r'[\w.-]{1,200}\Z', re.ASCII)


@dataclass(frozen=True)
class MeasuredProfile:
    """A profile with what it was measured on.

    ``graph_hash``: see ``of_model.graph_hash``; the ids of ``profile`` are its nodes. ``robot`` and
    ``server``: see ``measure.machine_of``. ``share_errors``: by side, what the fit of partial
    operators misses. ``measured_at``: ISO 8601, given by whoever measures; may be empty.
    """

    profile: Profile
    graph_hash: str
    model_hash: str = ''
    robot: Mapping[str, Any] = field(default_factory=dict)
    server: Mapping[str, Any] = field(default_factory=dict)
    share_errors: Mapping[str, Any] = field(default_factory=dict)
    measured_at: str = ''

    def __post_init__(self) -> None:
        require(
            _HASH.match(self.graph_hash),
            f'graph_hash must be 64 hexadecimal digits, not {self.graph_hash!r:.80}',
        )

    def document(self) -> dict[str, Any]:
        """As JSON: a profile's own form, with more."""
        return {
            **profile_document(self.profile),
            'graph_hash': self.graph_hash,
            'model_hash': self.model_hash,
            'machines': {'robot': dict(self.robot), 'server': dict(self.server)},
            'share_errors': dict(self.share_errors),
            'measured_at': self.measured_at,
        }

    @classmethod
    def from_document(cls, document: Any) -> MeasuredProfile:
        """The inverse of ``document``; ``ProfileError``."""
        profile = parse_profile(document)
        machines = document.get('machines', {})
        require(
            isinstance(machines, dict) and isinstance(document.get('graph_hash'), str),
            'this profile was not measured here: it does not say of which graph it is',
        )
        return cls(
            profile,
            document['graph_hash'],
            str(document.get('model_hash', '')),
            dict(machines.get('robot', {})),
            dict(machines.get('server', {})),
            dict(document.get('share_errors', {})),
            str(document.get('measured_at', '')),
        )


def profiles_folder() -> Path:
    """``$XDG_DATA_HOME/offload_ros/profiles``, by default below ``~/.local/share``."""
    base = os.environ.get('XDG_DATA_HOME') or '~/.local/share'
    return Path(base).expanduser() / 'offload_ros' / 'profiles'


def default_path(measured: MeasuredProfile) -> Path:
    """Where ``find_profile`` looks for it. ``ProfileError`` for a model's name that is none."""
    name = measured.profile.model
    require(_MODEL.match(name) and name[0] != '.', f'{name!r:.80} cannot be part of a file name')
    return profiles_folder() / f'{name}-{measured.graph_hash[:HASH_DIGITS]}.json'


def save_profile(measured: MeasuredProfile, path: str | Path | None = None) -> Path:
    """Write it to ``path``, or where ``find_profile`` looks; the path. ``ProfileError`` when that
    cannot be written."""
    path = default_path(measured) if path is None else Path(path).expanduser()
    text = json.dumps(measured.document(), indent=1, allow_nan=False) + '\n'
    part = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding='utf-8')
        part.replace(path)  # a strategy never reads half a file
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise ProfileError(f'{path} cannot be written: {error.strerror or error}') from None
    return path


def load_profile(path: str | Path) -> MeasuredProfile:
    """Read a measured profile; ``ProfileError`` names the file and what is wrong with it."""
    path = Path(path)
    try:
        return MeasuredProfile.from_document(json.loads(path.read_text(encoding='utf-8')))
    except OSError as error:
        raise ProfileError(f'{path}: {error.strerror or error}') from None
    except (ProfileError, RecursionError, TypeError) as error:
        raise ProfileError(f'{path}: {error}') from None
    except ValueError as error:  # of the decoders of text and JSON
        raise ProfileError(f'{path}: not valid JSON: {error}') from None


def find_measured(graph_hash: str) -> MeasuredProfile | None:
    """The newest measured profile of a graph; None where there is none that can be read."""
    if not _HASH.match(graph_hash):
        return None
    found = profiles_folder().glob(f'*-{graph_hash[:HASH_DIGITS]}.json')
    for path in sorted(found, key=_changed_s, reverse=True):
        try:
            measured = load_profile(path)
        except ProfileError as error:
            logging.getLogger(__name__).warning('%s: measure again', error)
            continue
        if measured.graph_hash == graph_hash:
            return measured
    return None


def find_profile(graph_hash: str) -> Profile | None:
    """What operators of a graph cost on this robot and its server, measured before; or None."""
    measured = find_measured(graph_hash)
    return None if measured is None else measured.profile


def changed_s(graph_hash: str) -> float:
    """When the newest measured profile of a graph was written (seconds of the wall clock); 0:
    there is none."""
    found = profiles_folder().glob(f'*-{graph_hash[:HASH_DIGITS]}.json')
    return max(map(_changed_s, found), default=0.0)


def _changed_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
