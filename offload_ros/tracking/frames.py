"""A tree of frames, some moving, some not: what /tf and /tf_static tell (REP-105)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from offload_ros.tracking.geometry import PoseBuffer, PoseMissing, Rigid

_DEEPEST = 64
IDENTITY = Rigid(np.eye(3), np.zeros(3))


class FrameTree:
    """Where each frame is in its parent, by stamp."""

    def __init__(self, limit: int = 600) -> None:
        """Keep up to ``limit`` poses of each moving frame."""
        self._limit = limit
        self._edges: dict[str, tuple[str, PoseBuffer | Rigid]] = {}

    def fixed(
        self, parent: str, child: str, translation: npt.ArrayLike, quaternion: npt.ArrayLike
    ) -> None:
        """Set a frame that does not move in its parent; ValueError for values that are no pose."""
        self._edges[_name(child)] = _name(parent), Rigid.of_quaternion(translation, quaternion)

    def moving(
        self,
        parent: str,
        child: str,
        stamp_s: float,
        translation: npt.ArrayLike,
        quaternion: npt.ArrayLike,
    ) -> bool:
        """Add a pose of a moving frame; False for one that is not newer than the newest."""
        name, above = _name(child), _name(parent)
        known = self._edges.get(name)
        if known is None or known[0] != above or not isinstance(known[1], PoseBuffer):
            buffer = PoseBuffer(self._limit)
            added = buffer.add(stamp_s, translation, quaternion)  # raises before anything changes
            self._edges[name] = above, buffer
            return added
        return known[1].add(stamp_s, translation, quaternion)

    def clear(self) -> None:
        """Forget where moving frames were, as after a jump of time; fixed ones stay."""
        self._edges = {
            name: edge for name, edge in self._edges.items() if isinstance(edge[1], Rigid)
        }

    def newest_s(self, child: str) -> float:
        """Newest stamp of a moving frame in its parent; minus infinity where nothing is known."""
        edge = self._edges.get(_name(child))
        return edge[1].newest_s if edge and isinstance(edge[1], PoseBuffer) else float('-inf')

    def lookup(self, target: str, source: str, stamp_s: float) -> Rigid:
        """Return the source frame as seen from the target frame at a stamp.

        PoseMissing when they are not connected, or a pose at that stamp is not known.
        """
        wanted, given = _name(target), _name(source)
        above = self._chain(wanted)
        common = next((name for name in self._chain(given) if name in above), None)
        if common is None:
            raise PoseMissing(f'no transform connects {given!r} with {wanted!r}')
        return (
            self._within(wanted, common, stamp_s)
            .inverse()
            .then(self._within(given, common, stamp_s))
        )

    def _chain(self, name: str) -> list[str]:
        """Return the frame and its ancestors, nearest first."""
        chain = [name]
        while name in self._edges and len(chain) < _DEEPEST:
            name = self._edges[name][0]
            chain.append(name)
        return chain

    def _within(self, name: str, ancestor: str, stamp_s: float) -> Rigid:
        pose = IDENTITY
        while name != ancestor:
            name, edge = self._edges[name]
            pose = (edge if isinstance(edge, Rigid) else edge.at(stamp_s)).then(pose)
        return pose


def _name(frame: str) -> str:
    return frame.lstrip('/')
