"""Streams and events of a device that does everything in the order of the program."""

from __future__ import annotations

import importlib
import threading
import time
from types import TracebackType
from typing import Any
import weakref

import torch

from offload_ros.rrto.shim.patches import Patches
from offload_ros.rrto.shim.tensor import DEVICE, current

_EventBase: Any = torch._C._CudaEventBase
_waiting: weakref.WeakSet[Event] = weakref.WeakSet()


class Event(_EventBase):  # type: ignore[misc]
    """An event whose time is taken when the program first learns that it is reached.

    ``elapsed_time`` of two events is the time from the first ``record`` to the end of the work
    before the second, on the program's clock: the transmission is part of it.
    """

    def __new__(cls, *_: Any, **options: Any) -> Event:
        if isinstance(_EventBase.__new__, type(object.__new__)):  # a CUDA build's, made in C
            event: Event = _EventBase.__new__(cls, **options)
        else:
            event = object.__new__(cls)
        return event

    def __init__(self, enable_timing: bool = False, *_: Any, **__: Any) -> None:
        self._timed = enable_timing
        self._recorded_s: float | None = None
        self._reached_s: float | None = None

    device = DEVICE

    def record(self, stream: Any = None) -> None:
        """Note the present moment."""
        self._recorded_s, self._reached_s = time.perf_counter(), None
        _waiting.add(self)

    def wait(self, stream: Any = None) -> None:
        """What follows on any stream comes later in any case."""

    def query(self) -> bool:
        """Whether what was called before ``record`` is done; waits for it, so always true."""
        self.synchronize()
        return True

    def synchronize(self) -> None:
        """Return when what was called before ``record`` is done."""
        if self._recorded_s is not None and self._reached_s is None:
            synchronize()

    def elapsed_time(self, end_event: Event) -> float:
        """Milliseconds; ``ValueError`` or ``RuntimeError`` as torch's for events without a time."""
        if not (self._timed and end_event._timed):
            raise ValueError('Both events must be created with argument enable_timing=True.')
        if self._recorded_s is None or end_event._recorded_s is None:
            raise ValueError('Both events must be recorded before calculating elapsed time.')
        end_event.synchronize()
        assert end_event._reached_s is not None
        return (end_event._reached_s - self._recorded_s) * 1e3

    def __repr__(self) -> str:
        return '<torch.cuda.Event of the offloaded device>'

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


class Stream:
    """A stream: a mere name, since operators run in the order of the program."""

    def __init__(
        self, device: Any = None, priority: int = 0, stream_id: int = -1, **_: Any
    ) -> None:
        self.device = DEVICE
        self.device_index, self.device_type = 0, 1
        self.priority = priority
        self.stream_id = self.cuda_stream = stream_id if stream_id >= 0 else id(self)

    def wait_event(self, event: Any) -> None:
        """What follows comes later in any case."""

    def wait_stream(self, stream: Any) -> None:
        """What follows comes later in any case."""

    def record_event(self, event: Event | None = None) -> Event:
        """Record ``event`` (or a new one) and give it."""
        event = event or Event()
        event.record(self)
        return event

    def query(self) -> bool:
        """Whether everything called so far is done; waits for it, so always true."""
        synchronize()
        return True

    def synchronize(self) -> None:
        """Return when everything called so far is done."""
        synchronize()

    def __enter__(self) -> Stream:
        self._context = StreamContext(self)
        self._context.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._context.__exit__(*error)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and other.stream_id == self.stream_id

    def __hash__(self) -> int:
        return hash(self.stream_id)

    def __repr__(self) -> str:
        return f'<torch.cuda.Stream device={DEVICE} cuda_stream={self.cuda_stream:#x}>'


DEFAULT = Stream(stream_id=0)
_current = threading.local()  # as CUDA's: every thread has its own


class StreamContext:
    """``with torch.cuda.stream(stream)``."""

    def __init__(self, stream: Stream | None) -> None:
        self.stream = stream
        self._before = DEFAULT

    def __enter__(self) -> None:
        self._before = current_stream()
        set_stream(self.stream)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        set_stream(self._before)


def set_stream(stream: Stream | None) -> None:
    """``torch.cuda.set_stream``."""
    if stream is not None:
        _current.stream = stream


def current_stream(device: Any = None) -> Stream:
    """``torch.cuda.current_stream``."""
    return getattr(_current, 'stream', DEFAULT)


def default_stream(device: Any = None) -> Stream:
    """``torch.cuda.default_stream``."""
    return DEFAULT


def synchronize(device: Any = None) -> None:
    """``torch.cuda.synchronize``: returns when everything called before is done."""
    current().synchronize()
    now_s = time.perf_counter()
    for event in list(_waiting):
        event._reached_s = now_s
    _waiting.clear()


def _register_bases() -> None:
    """An older torch's compiler, when it is imported, insists on abstract classes of its own."""
    try:
        bases: Any = importlib.import_module('torch._streambase')
        bases._EventBase.register(Event)
        bases._StreamBase.register(Stream)
    except (ImportError, AttributeError):
        return


def apply(patches: Patches) -> None:
    """Put all of this in place."""
    _register_bases()
    for name, value in {
        'Event': Event,
        'Stream': Stream,
        'StreamContext': StreamContext,
        'stream': StreamContext,
        'set_stream': set_stream,
        'current_stream': current_stream,
        'default_stream': default_stream,
        'synchronize': synchronize,
    }.items():
        patches.set(torch.cuda, name, value)
    for name in ('Event', 'Stream'):
        patches.set(torch.cuda.streams, name, getattr(torch.cuda, name))
