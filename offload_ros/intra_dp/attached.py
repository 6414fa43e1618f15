"""A module whose calls are answered together with a server, or by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import contextlib
from dataclasses import dataclass, field
from datetime import datetime, timezone
import logging
from pathlib import Path
import re
import threading
import time
from typing import Any, Protocol

import torch
from torch import nn

from offload_ros.cuts.client import link_on
from offload_ros.cuts.errors import CutFailed
from offload_ros.cuts.local_graph import LocalGraph
from offload_ros.cuts.measure import measure_graph
from offload_ros.cuts.model_graph import OpenedGraph
from offload_ros.graph.graph import GraphError
from offload_ros.graph.measuring import ProfilingError
from offload_ros.graph.of_model import graph_hash, twin_of
from offload_ros.graph.profile import Profile, ProfileError
from offload_ros.graph.profile_store import find_profile, save_profile
from offload_ros.intra_dp.calls import Call, Form, Weights, captured, is_close, taken_apart
from offload_ros.intra_dp.inference import Chosen, SplitInference
from offload_ros.intra_dp.message_costs import message_costs
from offload_ros.intra_dp.strategy import plan_text
from offload_ros.policy.goal import LEAST_LATENCY
from offload_ros.robot.lane import DeviceLane
from offload_ros.strategy import LinkState
from offload_ros.wire.channel import Channel
from offload_ros.wire.directory import ServerState

log = logging.getLogger('offload_ros.intra_dp')
LOOK_S, AGAIN_S, TOLD_AFTER_S = 0.1, 2.0, 3.0
REPEATS = 5
COMPARED = 3  # first calls that the module answers, too
MOST_FORMS = 4  # shapes of inputs for which a graph is kept


class Contact(Protocol):
    """What ``offload_ros.nodes.intra_dp.LibraryContact`` is."""

    def servers(self) -> list[tuple[ServerState, Channel]]:
        """Those that may be used, the least loaded first."""

    def link_state(self, server: str) -> LinkState:
        """The link to a server as it is now."""

    def why_none(self) -> str:
        """Why there is no server."""

    def close(self) -> None:
        """Leave."""


@dataclass
class Counts:
    """Of a model's calls."""

    calls: int = 0
    together: int = 0  # with a server
    completed: int = 0  # of these, the robot computed some of the server's part


@dataclass(eq=False)
class _Answering:
    """What is there for calls of one form. ``inference``: when it is ready; ``state``: what is
    being done for it, or why it stays on this machine."""

    call: Call
    weights: Weights
    state: str = 'its graph is being made'
    form: Form | None = None
    graph: OpenedGraph | None = None
    inference: SplitInference | None = None
    compared: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def close(self) -> None:
        self.over.set()
        if self.inference is not None:
            self.inference.close()
        if self.graph is not None:
            self.graph.release()


class Attached:
    """``module`` with its ``forward`` replaced, until ``close``."""

    def __init__(self, module: nn.Module, name: str, contact: Contact) -> None:
        self.name = re.sub(r'[^\w.-]', '_', name or type(module).__name__) or 'model'
        self.counts = Counts()
        self.last_plan = ''
        self.record_to: Path | None = None
        self.goal = LEAST_LATENCY  # of the next call
        self._module, self._contact = module, contact
        self._own = module.__dict__.get('forward')
        self._forward: Callable[..., Any] = module.forward
        self._lane = DeviceLane()
        self._lock = threading.RLock()
        self._measuring = threading.Event()
        self._answering: dict[Any, _Answering] = {}
        self._server = ''
        self._told: set[str] = set()
        self._closed = False
        self._chosen: tuple[str, Chosen] | None = None
        module.forward = self._called

    def close(self) -> None:
        """The module is as it was."""
        with self._lock:
            self._closed = True
            self._restore()
            answering = list(self._answering.values())
            self._answering.clear()
        for each in answering:
            each.close()
        self._lane.close()

    def status(self) -> str:
        """In one line."""
        counts = self.counts
        text = f'{self.name}: {counts.calls} calls, {counts.together} together with {self._server}'
        if not counts.together:
            text = f'{self.name}: {counts.calls} calls, all on this machine'
        if counts.completed:
            text += f' ({counts.completed} completed here)'
        if self.last_plan:
            text += f'; last: {self.last_plan}'
        for each in list(self._answering.values()):
            told = each.inference.plans.status() if each.inference is not None else each.state
            text += f'; {told}'
        return text

    def _called(self, *args: Any, **kwargs: Any) -> Any:
        self.counts.calls += 1
        call = None if _only_locally(self._module) else taken_apart(args, kwargs)
        answering = None if call is None else self._answering_of(call)
        if call is None or answering is None or answering.inference is None:
            return self._alone(args, kwargs)
        with self._lock:
            found = self._together(answering, call)
            if found is None:
                return self._learnt(answering, args, kwargs)
            if answering.compared < COMPARED:
                return self._compared(answering, found[0], args, kwargs)
            return found[0]

    def _answering_of(self, call: Call) -> _Answering | None:
        """Begins to prepare for a form of calls that is new."""
        with self._lock:
            found = self._answering.get(call.key)
            if found is not None and found.weights.changed():
                found.close()
                del self._answering[call.key]
                found = None
            if found is None and not self._closed and len(self._answering) < MOST_FORMS:
                copied = {name: each.clone() for name, each in call.tensors.items()}
                example = Call(copied, call.leaves, call.spec, call.key)
                found = _Answering(example, Weights(self._module))
                self._answering[call.key] = found
                threading.Thread(
                    target=self._prepare, args=(found,), name=f'prepare {self.name}', daemon=True
                ).start()
            return found

    def _alone(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """By the module itself; what is being measured waits meanwhile."""
        with self._lane_held() if self._measuring.is_set() else contextlib.nullcontext():
            return self._forward(*args, **kwargs)

    def _together(self, answering: _Answering, call: Call) -> tuple[Any] | None:
        """None where the plan leaves all to this machine, or there is no server (any more)."""
        inference, graph, form = answering.inference, answering.graph, answering.form
        assert inference is not None and graph is not None and form is not None
        self._chosen = None
        servers = self._contact.servers()
        if not servers:
            self._tell(f'{self._contact.why_none()}. Meanwhile {self.name} runs on this machine')
            return None
        server, channel = min(servers, key=lambda each: each[0].name != self._server)
        link = link_on(channel)
        opening = graph.opened_on(link)
        state = self._contact.link_state(server.name)
        inference.aim(self.goal)
        chosen = inference.choose(server.name, state, None if opening else link)
        self._server = server.name
        if chosen.ready.work is None:
            self._chosen = server.name, chosen
            self.last_plan = 'all on this machine'
            return None
        if self.record_to is not None:
            inference.record(self.record_to)
            self.record_to = None
        try:
            ran = inference.run(chosen, call.tensors, self._lane, float('inf'), lambda run: None)
        except CutFailed as error:
            graph.reopen_on(link)
            self._tell(f'server {server.name}: {error}. Meanwhile {self.name} runs on this machine')
            return None
        inference.learn(server.name, chosen, ran.total_s)
        self.counts.together += 1
        self.counts.completed += bool(ran.completed_locally)
        self.last_plan = plan_text(chosen, ran)
        self._told.clear()
        devices = {each.device for each in call.tensors.values()}
        device = next(iter(devices)) if len(devices) == 1 else torch.device('cpu')
        return (form.put_together({key: each.to(device) for key, each in ran.outputs.items()}),)

    def _compared(self, answering: _Answering, found: Any, args: Any, kwargs: Any) -> Any:
        """The module's own result. Where that is another one, Python code of the module decided by
        the data, which no graph can show: the server is not used again."""
        answering.compared += 1
        own = self._alone(args, kwargs)
        if not is_close(found, own):
            self._refuse(answering, 'its result is not that of its graph (does its Python code '
                         'decide by the data?)')  # fmt: skip
        return own

    def _refuse(self, answering: _Answering, why: str) -> None:
        answering.state = f'only on this machine: {why}'
        inference, answering.inference = answering.inference, None
        if inference is not None:
            inference.close()
        self._tell(f'model {self.name} runs on this machine only: {why}')

    def _learnt(self, answering: _Answering, args: tuple[Any, ...], kwargs: Any) -> Any:
        began_s = time.monotonic()
        result = self._alone(args, kwargs)
        if self._chosen is not None and answering.inference is not None:
            answering.inference.learn(*self._chosen, time.monotonic() - began_s)
        return result

    def _prepare(self, answering: _Answering) -> None:
        """In a thread of its own: the graph, a server, what both machines take, plans."""
        try:
            form, graph, parameters = captured(self._twin(), answering.call, self.name)
            device = next(iter(answering.call.tensors.values())).device
            local = LocalGraph(graph, parameters, device)
            answering.form, answering.graph = form, OpenedGraph(local)
            key = graph_hash(graph)
            profile = find_profile(key)
            while profile is None and not answering.over.is_set():
                profile = self._measured(answering, local)
            if profile is not None and not answering.over.is_set():
                answering.state = 'plans are being computed'
                answering.inference = SplitInference(local, key, profile)
        except (GraphError, ProfileError) as error:
            self._refuse(answering, str(error))
        except Exception as error:  # anybody's module
            answering.state = f'only on this machine: {type(error).__name__}: {error}'
            log.exception('model %s runs on this machine only', self.name)

    def _twin(self) -> nn.Module:
        """The module as it was, of the same tensors."""
        with self._lock:
            self._restore()
            try:
                return twin_of(self._module)
            finally:
                if not self._closed:
                    self._module.forward = self._called

    def _restore(self) -> None:
        if self._own is None:
            self._module.__dict__.pop('forward', None)
        else:
            self._module.forward = self._own

    def _measured(self, answering: _Answering, local: LocalGraph) -> Profile | None:
        """On this machine and a server; None when that did not work, some time later."""
        server = self._wait_for_server(answering)
        if server is None:
            return None
        name, channel = server[0].name, server[1]

        def progress(what: str, done: int, total: int) -> None:
            answering.state = f'both machines are being measured ({100 * done // total} %)'
            if answering.over.is_set():
                raise ProfilingError('the model was detached')

        link = link_on(channel)
        self._measuring.set()
        try:
            measured = measure_graph(
                link, local, answering.call.tensors, self._lane, REPEATS, progress,
                lambda count: message_costs(
                    link, self._lane, lambda: self._contact.link_state(name), count,
                    str(local.executor.device),
                ),
                datetime.now(timezone.utc).isoformat(timespec='seconds'),
            )  # fmt: skip
        except ProfilingError as error:
            answering.state = f'it was not measured: {error}'
            log.info('%s', answering.state)
            answering.over.wait(AGAIN_S)
            return None
        finally:
            self._measuring.clear()
        with contextlib.suppress(ProfileError):  # a folder that cannot be written: measured again
            save_profile(measured)
        return measured.profile

    def _wait_for_server(self, answering: _Answering) -> tuple[ServerState, Channel] | None:
        began_s = time.monotonic()
        while not answering.over.is_set():
            if servers := self._contact.servers():
                return servers[0]
            answering.state = 'no server is there'
            if time.monotonic() - began_s > TOLD_AFTER_S:
                self._tell(
                    f'{self._contact.why_none()}. Meanwhile {self.name} runs on this machine'
                )
            answering.over.wait(LOOK_S)
        return None

    @contextlib.contextmanager
    def _lane_held(self) -> Iterator[None]:
        begun, done = threading.Event(), threading.Event()

        def hold() -> None:
            begun.set()
            done.wait()

        self._lane.submit(hold)
        begun.wait()
        try:
            yield
        finally:
            done.set()

    def _tell(self, why: str) -> None:
        """Once, until a server has answered again."""
        if why not in self._told:
            self._told.add(why)
            log.warning('%s', why)


def _only_locally(module: nn.Module) -> bool:
    """Whether calls are not for their results alone."""
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    return module.training or tracing or torch.compiler.is_compiling()
