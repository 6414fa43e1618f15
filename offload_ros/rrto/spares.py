"""Results of a unit's steps that are there before the program asks for them.

To make a tensor takes longer than to compare a call, so it is done while the program waits for a
read; and a tensor that the program has dropped by then is not made anew but used once more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from sys import getrefcount
from typing import Any, NamedTuple
from weakref import getweakrefcount

import torch

from offload_ros.rrto.metadata import TensorMeta
from offload_ros.rrto.results import Form, Fresh, Value, put_together
from offload_ros.rrto.sequences import OUTPUT_BITS
from offload_ros.rrto.shim.tensor import HandleOwner, RemoteTensor, in_advance

_base: Any = torch._C.TensorBase  # type: ignore[attr-defined]
# References from C++. Without it nothing tells whether a tensor is free: then none is used again.
_use_count: Any = getattr(_base, '_use_count', None)
_requires_grad: Any = _base.requires_grad.__get__
_has_names: Any = getattr(_base, 'has_names', None)
_any_requires_grad: Any = getattr(torch._C, '_any_requires_grad', None)


def _count(items: list[Any], place: int) -> int:
    return getrefcount(items[place])


def _counts_of_free() -> tuple[tuple[int, int], tuple[int, int]]:
    """What is counted for a tensor that two lists hold, and for an owner that a list and a tensor
    hold: how many of them come from counting depends on the version of Python. One by one, and all
    of a list."""
    tensors, owners = [object()], [object()]
    holders = [*tensors], {'_owner': owners[0]}
    one = _count(tensors, 0), _count(owners, 0)
    several = next(zip(map(getrefcount, tensors), map(getrefcount, owners), strict=True))
    del holders
    return one, several


(_FREE_TENSOR, _FREE_OWNER), _FREE = _counts_of_free()


class Frame:
    """The occurrence of a unit that is walked. ``shifted``: number of its first operator <<
    ``OUTPUT_BITS``, 0 while there is none; ``carried``: handles from the occurrence before."""

    __slots__ = ('carried', 'shifted')

    def __init__(self, shifted: int = 0, carried: Sequence[int] = ()) -> None:
        self.shifted = shifted
        self.carried = carried


class StepOwner(HandleOwner):
    """Owner of what a step gives: in each frame of another handle, until it is kept beyond one.

    So nothing has to be written into a tensor when it is handed out; and whether a call is given
    the result of a certain step is seen by the identity of its owner.
    """

    __slots__ = ('frame', 'kept', 'offset')

    def __init__(self, frame: Frame, offset: int, freed: deque[int]) -> None:
        self.freed = freed
        self.shared = False
        self.frame: Frame | None = frame
        self.offset = offset
        self.kept = 0

    @property
    def handle(self) -> int:  # type: ignore[override]
        """0 as long as there is no frame."""
        frame = self.frame
        if frame is None:
            return self.kept
        shifted = frame.shifted
        return shifted and shifted + self.offset

    def keep(self) -> int:
        """It outlives the frame, with the handle of now; which that is."""
        self.kept = handle = self.handle  # before the other: any thread may look at any time
        self.frame = None
        return handle


class Made(NamedTuple):
    """A step whose ``outputs`` can all be made in advance. ``view``: torch takes them for views of
    another tensor."""

    step: int
    form: Form
    outputs: tuple[Fresh | Value, ...]
    view: bool


class Spares:
    """Results of the next occurrence of a unit of ``length`` steps, of which ``steps`` are made in
    advance.

    ``results``: by step, None where it is not made. ``owners``: of their tensors, one after the
    other.
    """

    def __init__(self, steps: Sequence[Made], length: int, freed: deque[int]) -> None:
        self.frame = Frame()
        self.results: list[Any] = [None] * length
        self.owners: list[Any] = []
        self._tensors: list[Any] = []
        self._metas: list[TensorMeta] = []
        self._steps: list[tuple[Made, int, int]] = []  # with the places of its tensors
        self._freed = freed
        for made in steps:
            first = len(self._metas)
            for output, each in enumerate(made.outputs):
                if isinstance(each, Fresh):
                    self._metas.append(each.meta)
                    self.owners.append(self._owner(made.step, output))
            self._steps.append((made, first, len(self._metas)))
        self._tensors = [None] * len(self._metas)
        # A view keeps the tensor alive that it is of, perhaps another view.
        indices = range(len(steps))
        self._views = [index for index in reversed(indices) if steps[index].view]
        self._others = [index for index in indices if not steps[index].view]
        self._missing = list(range(len(steps)))
        self.fill()

    def fill(self) -> None:
        """Make what is missing."""
        results, tensors, owners = self.results, self._tensors, self.owners
        missing, self._missing = self._missing, []
        for index in missing:
            made, first, _ = self._steps[index]
            given: list[Any] = []
            place = first
            for output, each in enumerate(made.outputs):
                if isinstance(each, Value):
                    given.append(each.value)
                    continue
                if owners[place] is None:
                    owners[place] = self._owner(made.step, output)
                if tensors[place] is None:
                    tensors[place] = in_advance(owners[place], each.meta)
                given.append(tensors[place])
                place += 1
            results[made.step] = put_together(made.form, given)

    def give_up(self, count: int) -> list[int]:
        """The frame is over, of which the first ``count`` steps were walked. Gives the offsets of
        the handles that the program still holds; they are its own from now on."""
        tensors, owners, metas = self._tensors, self.owners, self._metas
        held: list[int] = []
        for index in self._views:  # what has been a view can be no other view
            if self._steps[index][0].step < count:
                self._give_up(index, held)
        counts = zip(map(getrefcount, tensors), map(getrefcount, owners), strict=True)
        free = [each == _FREE for each in counts]
        usable = _usable([tensor for tensor in tensors if tensor is not None])
        for index in self._others:
            made, first, end = self._steps[index]
            if made.step >= count:
                break
            if not (
                usable
                and end - first == 1
                and free[first]
                and _is_as_new(tensors[first], owners[first], metas[first])
            ):
                self._give_up(index, held)
        self.frame.shifted, self.frame.carried = 0, ()
        return held

    def _give_up(self, index: int, held: list[int]) -> None:
        """Forget the results of a step; what the program still holds of them is its own."""
        tensors = self._tensors
        made, first, end = self._steps[index]
        self._missing.append(index)
        if end - first == 1 and self._is_free(first):
            self.results[made.step] = tensors[first] = None
            return
        # All of a list before one of them goes: they are counted.
        for place in [place for place in range(first, end) if not self._is_free(place)]:
            tensor, owner = tensors[place], self.owners[place]
            handle = owner.keep()
            held.append(owner.offset)
            if tensor.__dict__.get('_owner') is owner:
                tensor._h = handle
            self.owners[place] = None
        self.results[made.step] = None
        tensors[first:end] = [None] * (end - first)

    def exchange(self, other: Spares, count: int) -> None:
        """``other`` goes on with the frame: both begin with the same ``count`` steps."""
        other.frame.shifted = self.frame.shifted
        later = (first for made, first, _ in self._steps if made.step >= count)
        places = next(later, len(self.owners))
        for mine, theirs in ((self, other), (other, self)):
            for owner in mine.owners[:places]:
                if owner is not None:
                    owner.frame = theirs.frame
        for one, two, end in (
            (self.results, other.results, count),
            (self._tensors, other._tensors, places),
            (self.owners, other.owners, places),
        ):
            one[:end], two[:end] = two[:end], one[:end]
        self.frame.shifted, self.frame.carried = 0, ()

    def _owner(self, step: int, output: int) -> StepOwner:
        return StepOwner(self.frame, step << OUTPUT_BITS | output, self._freed)

    def _is_free(self, place: int) -> bool:
        """Whether the program has dropped a tensor and its handle."""
        return (
            _count(self._tensors, place) == _FREE_TENSOR
            and _count(self.owners, place) == _FREE_OWNER
            and _is_alone(self._tensors[place], self.owners[place])
        )


def _is_alone(tensor: RemoteTensor, owner: StepOwner) -> bool:
    """Whether nobody else has a tensor or its owner, beyond what Python counts."""
    return not owner.shared and _use_count is not None and _use_count(tensor) == 1


def _usable(tensors: list[RemoteTensor]) -> bool:
    """Whether none of them is part of a graph of gradients."""
    if _any_requires_grad is not None:
        return not _any_requires_grad(*tensors)
    return not any(map(_requires_grad, tensors))


def _is_as_new(tensor: RemoteTensor, owner: StepOwner, meta: TensorMeta) -> bool:
    """Nothing tells it from one that was just made."""
    attributes = tensor.__dict__
    return (
        _is_alone(tensor, owner)
        and len(attributes) == 2  # its owner, which is known to be right, and the other
        and attributes.get('_meta') is meta
        and type(tensor) is RemoteTensor
        and not getweakrefcount(tensor)
        and (_has_names is None or not _has_names(tensor))
    )
