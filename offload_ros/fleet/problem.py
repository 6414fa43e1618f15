"""What a fleet has and is asked: nodes, links, tasks, models and demand.

Queries of a robot and a task go, in any shares, to loaded models on the robot itself, on a server
that it has a link to, or on a cloud behind a link of its own or of such a server. A share that goes
nowhere counts as accuracy 0. The place that an error names is the one in the YAML form
(``problem_file``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
import math
from numbers import Real
import re
from types import MappingProxyType

NAME = re.compile(r'[A-Za-z][A-Za-z0-9_]*\Z')
NAME_RULE = 'letters, digits and _, beginning with a letter'
ADDRESS = re.compile(r'(/[A-Za-z_][A-Za-z0-9_]*)+\Z')
ADDRESS_RULE = "a node's full name, as /robot1/offload_manager"
MOST_ADDRESS = 200  # characters: topics' names are made of it
ROBOT, SERVER, CLOUD = KINDS = ('robot', 'server', 'cloud')
LINK_KINDS = ((ROBOT, SERVER), (ROBOT, CLOUD), (SERVER, CLOUD))
MOST_BATCH = 1024
DEFAULT_BATCH = 32  # of servers and clouds; robots answer queries one by one


@dataclass(frozen=True)
class Node:
    """A machine that can run models.

    memory_bytes: for models; speed: how many times faster it computes than the reference node of
    the models' times; load_limit: share of its time that it may compute, 0 (a node that only
    forwards) to 1; max_batch: queries that are computed at once, a power of two (0: 1 on a robot,
    else 32, which is then what it holds); models: those that it can run (``None``: any); address:
    full name of its ROS node (empty: ``/<name>/offload_manager`` of a robot, else ``/<name>``,
    which is then what it holds).
    """

    name: str
    kind: str
    memory_bytes: float
    speed: float
    load_limit: float = 1.0
    max_batch: int = 0
    models: tuple[str, ...] | None = None
    address: str = ''

    def __post_init__(self) -> None:
        at = _named('nodes', self.name)
        if self.kind not in KINDS:
            raise ValueError(f'{at}.kind is one of {", ".join(KINDS)}, not {self.kind!r}')
        _number(f'{at}.memory_bytes', self.memory_bytes, least=0.0)
        _number(f'{at}.speed', self.speed, above=0.0)
        _number(f'{at}.load_limit', self.load_limit, least=0.0, most=1.0)
        if self.max_batch == 0:
            object.__setattr__(self, 'max_batch', 1 if self.kind == ROBOT else DEFAULT_BATCH)
        whole = isinstance(self.max_batch, int) and 1 <= self.max_batch <= MOST_BATCH
        if not whole or self.max_batch.bit_count() != 1:
            raise ValueError(
                f'{at}.max_batch is a power of two from 1 to {MOST_BATCH}, not {self.max_batch!r}'
            )
        if self.address == '':
            manager = '/offload_manager' if self.kind == ROBOT else ''
            object.__setattr__(self, 'address', f'/{self.name}{manager}')
        text = isinstance(self.address, str) and len(self.address) <= MOST_ADDRESS
        if not text or not ADDRESS.match(self.address):
            raise ValueError(f'{at}.address is {ADDRESS_RULE}, not {self.address!r:.60}')

    def can_run(self, model: str) -> bool:
        """Whether ``models`` has it."""
        return self.models is None or model in self.models


@dataclass(frozen=True)
class Link:
    """From a node to one nearer to the cloud.

    capacity_bytes_per_s: for queries; latency_s: of an empty message there and the answer back. A
    query takes ``latency_s`` and the time of its bytes at the whole capacity.
    """

    source: str
    target: str
    capacity_bytes_per_s: float
    latency_s: float = 0.0

    def __post_init__(self) -> None:
        _number(f'{self.place}.capacity_bytes_per_s', self.capacity_bytes_per_s, above=0.0)
        _number(f'{self.place}.latency_s', self.latency_s, least=0.0)

    @property
    def place(self) -> str:
        return f'links[{self.source} to {self.target}]'


@dataclass(frozen=True)
class Task:
    """What robots ask. latency_limit_s: of a query, from asking to the answer."""

    name: str
    latency_limit_s: float = 1.0

    def __post_init__(self) -> None:
        _number(f'{_named("tasks", self.name)}.latency_limit_s', self.latency_limit_s, above=0.0)


@dataclass(frozen=True)
class Model:
    """A network for one or several tasks.

    size_bytes: of memory while it is loaded; accuracy: share of right answers by task, 0 to 1; a
    batch of b queries takes alpha_s + beta_s * b seconds on the reference node.
    """

    name: str
    size_bytes: float
    accuracy: Mapping[str, float]
    alpha_s: float
    beta_s: float

    def __post_init__(self) -> None:
        at = _named('models', self.name)
        _number(f'{at}.size_bytes', self.size_bytes, above=0.0)
        _number(f'{at}.alpha_s', self.alpha_s, least=0.0)
        _number(f'{at}.beta_s', self.beta_s, least=0.0)
        if self.alpha_s + self.beta_s <= 0.0:
            raise ValueError(f'{at}: alpha_s and beta_s are above 0 together')
        if not self.accuracy:
            raise ValueError(f'{at}.accuracy names at least one task')
        for task, accuracy in self.accuracy.items():
            _number(f'{at}.accuracy.{task}', accuracy, least=0.0, most=1.0)
        object.__setattr__(self, 'accuracy', MappingProxyType(dict(self.accuracy)))

    @property
    def work_s(self) -> float:
        """Of one query by itself, on the reference node."""
        return self.alpha_s + self.beta_s

    def batch_s(self, batch: int, speed: float) -> float:
        """How long ``batch`` queries take on a node of this speed."""
        return (self.alpha_s + self.beta_s * batch) / speed


@dataclass(frozen=True)
class Demand:
    """What one robot asks of one task. latency_limit_s: ``None`` is the task's."""

    robot: str
    task: str
    queries_per_s: float
    query_bytes: float
    latency_limit_s: float | None = None

    def __post_init__(self) -> None:
        _number(f'{self.place}.queries_per_s', self.queries_per_s, least=0.0)
        _number(f'{self.place}.query_bytes', self.query_bytes, least=0.0)
        if self.latency_limit_s is not None:
            _number(f'{self.place}.latency_limit_s', self.latency_limit_s, above=0.0)

    @property
    def place(self) -> str:
        return f'demand[{self.robot}, {self.task}]'


@dataclass(frozen=True)
class Problem:
    """A fleet. ``ValueError`` names what refers to nothing, or is there twice."""

    nodes: tuple[Node, ...]
    links: tuple[Link, ...]
    tasks: tuple[Task, ...]
    models: tuple[Model, ...]
    demand: tuple[Demand, ...] = field(default=())

    def __post_init__(self) -> None:
        for part, entries in (
            ('nodes', self.nodes),
            ('tasks', self.tasks),
            ('models', self.models),
        ):
            if not entries:
                raise ValueError(f'{part} is empty: give at least one')
            _once(f'{part}.', [each.name for each in entries])
        _once('', [each.place for each in self.links])
        _once('', [each.place for each in self.demand])
        _once('address ', [each.address for each in self.nodes])
        for node in self.nodes:
            for model_name in node.models or ():
                _known(f'nodes.{node.name}.models', 'model', model_name, self.model)
        for link in self.links:
            self._check_link(link)
        for model in self.models:
            for task in model.accuracy:
                _known(f'models.{model.name}.accuracy', 'task', task, self.task)
        for demand in self.demand:
            _known(f'{demand.place}.robot', 'node', demand.robot, self.node)
            _known(f'{demand.place}.task', 'task', demand.task, self.task)
            kind = self.node[demand.robot].kind
            if kind != ROBOT:
                raise ValueError(f'{demand.place}.robot is a robot, {demand.robot} is a {kind}')

    def _check_link(self, link: Link) -> None:
        for end, name in (('from', link.source), ('to', link.target)):
            _known(f'{link.place}.{end}', 'node', name, self.node)
        kinds = (self.node[link.source].kind, self.node[link.target].kind)
        if kinds not in LINK_KINDS:
            allowed = ', '.join(f'{source} to {target}' for source, target in LINK_KINDS)
            raise ValueError(f'{link.place} is one of {allowed}, not {kinds[0]} to {kinds[1]}')

    @cached_property
    def node(self) -> Mapping[str, Node]:
        return {each.name: each for each in self.nodes}

    @cached_property
    def task(self) -> Mapping[str, Task]:
        return {each.name: each for each in self.tasks}

    @cached_property
    def model(self) -> Mapping[str, Model]:
        return {each.name: each for each in self.models}

    @cached_property
    def link(self) -> Mapping[tuple[str, str], Link]:
        return {(each.source, each.target): each for each in self.links}

    @property
    def queries_per_s(self) -> float:
        """Of all robots and tasks."""
        return math.fsum(each.queries_per_s for each in self.demand)

    def limit_s(self, demand: Demand) -> float:
        """The latency that its queries are allowed."""
        if demand.latency_limit_s is not None:
            return demand.latency_limit_s
        return self.task[demand.task].latency_limit_s


def _named(part: str, name: str) -> str:
    if not isinstance(name, str) or not NAME.match(name):
        raise ValueError(f'{part}: a name has {NAME_RULE}, not {name!r}')
    return f'{part}.{name}'


def _number(
    at: str,
    value: float,
    least: float = -math.inf,
    most: float = math.inf,
    above: float = -math.inf,
) -> None:
    real = isinstance(value, Real) and not isinstance(value, bool)
    if real and least <= value <= most and value > above and math.isfinite(value):
        return
    rule = 'at least 0' if above < 0.0 else 'above 0'
    if math.isfinite(most):
        rule = f'from {least:g} to {most:g}'
    raise ValueError(f'{at} is a finite number {rule}, not {value!r}')


def _once(before: str, names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f'{before}{name} is there twice')
        seen.add(name)


def _known(at: str, what: str, name: str, known: Mapping[str, object]) -> None:
    if name not in known:
        raise ValueError(f"{at}: there is no {what} '{name}' (known: {', '.join(known)})")
