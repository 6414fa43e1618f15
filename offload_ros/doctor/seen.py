"""What was seen on the network, as plain values: checks judge it without ROS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from offload_ros.models.config import InputSpec


@dataclass(frozen=True)
class NetworkSeen:
    """``round_trip_s``: between two contexts of the doctor, None when nothing came back.

    ``heartbeat_nodes``: publishers of heartbeats that discovery knows, heard or not.
    """

    nodes: tuple[str, ...] = ()
    round_trip_s: float | None = None
    heartbeat_nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ServerModel:
    """One model in a server's heartbeat."""

    name: str
    variant: str
    hash: str
    weights_trained: bool = True


@dataclass(frozen=True)
class ServerSeen:
    """One server by its heartbeats; ``age_s``: since the last one.

    ``twins``: heartbeats of several sessions alternate, so several nodes have this name.
    """

    name: str
    rate_hz: float = 10.0
    age_s: float = 0.0
    device: str = 'cpu'
    busy: float = 0.0
    queue_length: int = 0
    queue_limit: int = 32
    models: tuple[ServerModel, ...] = ()
    closing: bool = False
    twins: bool = False


@dataclass(frozen=True)
class ModelSeen:
    """One model as the manager's status has it; ``server``: that would be used now, or empty."""

    name: str
    variant: str = ''
    hash: str = ''
    weights_trained: bool = True
    requested: str = 'server'
    used: str = ''
    reason: str = ''
    server: str = ''
    rate_hz: float = 0.0


@dataclass(frozen=True)
class ManagerSeen:
    """The manager that was looked for.

    ``state``: of its lifecycle, empty when it does not answer. ``servers``: alive by its own
    status. ``others``: managers of other names. ``subscriptions``: full topic names. ``twins``:
    several nodes have this name.
    """

    name: str = '/offload_manager'
    present: bool = False
    state: str = ''
    parameters: Mapping[str, Any] = field(default_factory=dict)
    models: tuple[ModelSeen, ...] = ()
    status_heard: bool = False
    servers: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    subscriptions: tuple[str, ...] = ()
    twins: bool = False

    @property
    def active(self) -> bool:
        """Whether it takes frames."""
        return self.present and self.state == 'active'

    def model(self, name: str) -> ModelSeen | None:
        """A model that its status names."""
        return next((model for model in self.models if model.name == name), None)

    def loaded(self, name: str) -> bool:
        """Whether its parameter says that the model is to be loaded."""
        return self.parameters.get(f'{name}.loaded') is not False


@dataclass(frozen=True)
class ClockSeen:
    """/clock: who publishes it, how often, its last time (s)."""

    publishers: tuple[str, ...] = ()
    rate_hz: float = 0.0
    time_s: float | None = None


@dataclass(frozen=True)
class Publisher:
    """One publisher of a topic; ``mismatch``: why a best-effort subscription does not match it."""

    node: str
    type: str
    mismatch: str = ''


@dataclass(frozen=True)
class Frame:
    """When a sensor message was stamped and received: ``wall_s`` on the system's clock, ``sim_s``
    on /clock."""

    stamp_s: float
    wall_s: float
    sim_s: float | None = None


@dataclass(frozen=True)
class InputSeen:
    """One input of a model. ``topic``: full name. ``alike``: topics of its type that are published.

    ``encoding``: of the last image. ``mistake``: why the last frame cannot become the input.
    """

    model: str
    spec: InputSpec
    topic: str
    publishers: tuple[Publisher, ...] = ()
    alike: tuple[str, ...] = ()
    frames: tuple[Frame, ...] = ()
    rate_hz: float = 0.0
    encoding: str = ''
    mistake: str = ''

    @property
    def name(self) -> str:
        """Of its finding."""
        return f'input {self.model}.{self.spec.name}'


@dataclass(frozen=True)
class ResultsSeen:
    """Results of one model; ``reasons`` and ``used``: most frequent first."""

    model: str
    count: int = 0
    rate_hz: float = 0.0
    fallbacks: int = 0
    late: int = 0
    errors: int = 0
    total_ms: float = 0.0
    used: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    detail: str = ''


@dataclass(frozen=True)
class Seen:
    """All of it; ``window_s``: how long rates were measured."""

    network: NetworkSeen = field(default_factory=NetworkSeen)
    manager: ManagerSeen = field(default_factory=ManagerSeen)
    servers: tuple[ServerSeen, ...] = ()
    clock: ClockSeen = field(default_factory=ClockSeen)
    inputs: tuple[InputSeen, ...] = ()
    results: tuple[ResultsSeen, ...] = ()
    window_s: float = 1.5
