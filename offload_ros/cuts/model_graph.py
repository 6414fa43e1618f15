"""A robot's model as a graph that can be cut: captured in the background, on a server when needed.

Strategies of one model share both.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
import logging
import threading
import time
import weakref

import torch

from offload_ros.cuts.client import GraphLink, LocalGraph
from offload_ros.cuts.errors import CutFailed
from offload_ros.cuts.messages import Port
from offload_ros.graph.graph import GraphError
from offload_ros.graph.of_model import capture_model, graph_hash
from offload_ros.models.model import Model

log = logging.getLogger(__name__)
AGAIN_S = 2.0  # after a server refused, it is asked again
_capturer = ThreadPoolExecutor(1, 'capture')


class OpenedGraph:
    """A graph and the servers that have it."""

    def __init__(self, local: LocalGraph | None = None) -> None:
        self.local = local
        self._lock = threading.Lock()
        self._openings: weakref.WeakKeyDictionary[GraphLink, _Opening] = weakref.WeakKeyDictionary()

    def opened_on(self, link: GraphLink) -> str:
        """Why it cannot be run on a server yet; empty when it can. Begins to open it there."""
        assert self.local is not None
        with self._lock:
            opening = self._openings.get(link)
            if opening is None or opening.failed_before(time.monotonic() - AGAIN_S):
                opening = self._openings[link] = _Opening(link, self.local)
        return opening.why

    def reopen_on(self, link: GraphLink) -> None:
        """A run failed: the server may have lost the graph."""
        with self._lock:
            self._openings.pop(link, None)

    def release(self) -> None:
        """The servers that have it are told that it is not needed any more."""
        with self._lock:
            links = [link for link, opening in self._openings.items() if not opening.why]
            self._openings.clear()
        for link in links:
            if self.local is not None:
                link.release(self.local.key)


class ModelGraph(OpenedGraph):
    """``model`` for inputs of one set of shapes. ``local`` is there when ``why_not`` is empty."""

    def __init__(self, model: Model, inputs: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.model_name = model.name
        self.hash = ''  # without weights: what profiles are of
        self.is_exact = True  # bit-equal to the model on one machine
        self.why_not = f"the graph of model '{model.name}' is being made"
        self.refused = False
        self._users: weakref.WeakSet[object] = weakref.WeakSet()
        example = {name: tensor.detach().clone() for name, tensor in inputs.items()}
        # The work knows this object weakly: what nobody wants any more is not captured.
        self.made: Future[None] = _capturer.submit(_capture, weakref.ref(self), model, example)

    def take(self, user: object) -> None:
        """``user`` needs it until ``leave``."""
        with self._lock:
            self._users.add(user)

    def leave(self, user: object) -> None:
        """After the last user, the servers that have it are told."""
        with self._lock:
            self._users.discard(user)
            if self._users:
                return
        self.release()


class _Opening:
    """In a thread of its own: sending weights takes a while."""

    def __init__(self, link: GraphLink, local: LocalGraph) -> None:
        self.why = 'the graph is being sent to the server'
        self._failed_s: float | None = None
        threading.Thread(target=self._open, args=(link, local), name='open', daemon=True).start()

    def failed_before(self, time_s: float) -> bool:
        """Whether it failed, and long enough ago to try again."""
        return self._failed_s is not None and self._failed_s < time_s

    def _open(self, link: GraphLink, local: LocalGraph) -> None:
        try:
            sent = link.open(local)
        except Exception as error:
            if not isinstance(error, CutFailed):
                log.exception('opening graph %s', local.graph.name)
            self.why, self._failed_s = str(error) or type(error).__name__, time.monotonic()
            return
        if sent:
            log.info('the server has got the graph of %s', local.graph.name)
        self.why = ''


def _capture(
    wanted: weakref.ref[ModelGraph], model: Model, example: dict[str, torch.Tensor]
) -> None:
    if wanted() is None:
        return
    local, key, is_exact = None, '', True
    try:
        graph, parameters = capture_model(model, example)
        ports = tuple(
            Port(name, tuple(tensor.shape), tensor.dtype) for name, tensor in example.items()
        )
        local = LocalGraph(graph, parameters, model.device, model.name, model.hash, ports)
        key = graph_hash(graph)
        is_exact = not any('not bit-equal' in note for note in graph.notes)
        why = ''
    except GraphError as error:
        why = str(error)
    except Exception as error:  # anybody's network
        log.exception("model '%s' is not captured", model.name)
        why = f"model '{model.name}' cannot be captured: {type(error).__name__}: {error}"
    made = wanted()
    if made is not None:
        made.local, made.hash, made.is_exact = local, key, is_exact
        made.refused, made.why_not = bool(why), why


_graphs: weakref.WeakValueDictionary[tuple[object, ...], ModelGraph] = weakref.WeakValueDictionary()
_making = threading.Lock()


def graph_of(model: Model, inputs: Mapping[str, torch.Tensor]) -> ModelGraph:
    """The graph for inputs of such shapes; one for all who ask while somebody keeps it."""
    shapes: list[object] = []
    for place, (name, tensor) in enumerate(inputs.items()):
        # A compressed image has any number of bytes.
        compressed = tensor.ndim == 1 and not place and model.preprocess is not None
        shapes.append((name, tensor.dtype, () if compressed else tuple(tensor.shape)))
    key = (id(model.network), model.hash, str(model.device), *shapes)
    with _making:
        found = _graphs.get(key)
        if found is None:
            found = _graphs[key] = ModelGraph(model, inputs)
        return found
