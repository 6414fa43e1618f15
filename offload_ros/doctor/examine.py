"""All checks in the order of cause and effect: mend the first FAIL first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from offload_ros.doctor import clock, inputs, middleware, models, results, sides
from offload_ros.doctor.finding import Finding, fail, skip
from offload_ros.doctor.seen import ManagerSeen, Seen, ServerSeen
from offload_ros.doctor.shell import HostProcess, domain_of
from offload_ros.models.config import ModelConfig


@dataclass(frozen=True)
class Surroundings:
    """What is known before ROS is started. ``profile``: this package's Fast DDS profile."""

    env: Mapping[str, str]
    profile: str
    installed: Sequence[str] = ()
    processes: Sequence[HostProcess] = field(default_factory=list)

    @property
    def rmw(self) -> str:
        """The middleware that is used."""
        return middleware.rmw_name(self.env, self.installed)


def guarded(name: str, check: Callable[[], Finding | list[Finding] | None]) -> list[Finding]:
    """The findings of a check; one that fails itself must not hide what the others found."""
    try:
        found = check()
    except Exception as error:  # a mistake of the doctor's own: said, never a traceback
        text = f'this check itself failed: {type(error).__name__}: {error}'
        return [fail(name, ' '.join(text.split()), 'tell the maintainers of offload_ros')]
    if found is None:
        return []
    return found if isinstance(found, list) else [found]


def before_ros(around: Surroundings) -> list[Finding]:
    """Settings with which no ROS program starts; FAIL here means that nothing else can be seen."""
    return guarded('rmw', lambda: middleware.check_rmw(around.env, around.installed)) + guarded(
        'domain', lambda: middleware.check_domain(around.env)
    )


def settings(around: Surroundings, manager: ManagerSeen) -> list[Finding]:
    """The other settings of this shell."""
    process = next(
        (
            each
            for each in around.processes
            if each.node == manager.name and each.domain == domain_of(around.env)
        ),
        None,
    )
    theirs = process.environment if process is not None and manager.present else None
    return guarded(
        'dds profile',
        lambda: middleware.check_profile(around.env, around.profile, around.rmw, theirs),
    ) + guarded('discovery', lambda: middleware.check_range(around.env))


def network(
    around: Surroundings,
    seen: Seen,
    configs: Sequence[ModelConfig],
    models_file: Finding,
    path: str = '',
) -> list[Finding]:
    """Everything that was seen on the network, from the least that must work to the results.

    ``path``: of models.yaml, empty where launch files find it by themselves.
    """
    manager = seen.manager
    launched = f' models_file:={path}' if path else ''
    namespace = manager.name.rpartition('/')[0].strip('/')
    space = f' namespace:={namespace}' if namespace else ''
    robot = f'ros2 launch offload_ros robot.launch.py{space}{launched}'
    server = f'ros2 launch offload_ros server.launch.py{launched}'
    needed = any(models.needs_server(config, manager) for config in configs) or not configs
    found = [
        *guarded('loopback', lambda: middleware.check_loopback(seen.network)),
        *guarded('nodes', lambda: middleware.check_nodes(seen.network, around.env)),
        models_file,
    ]
    for config in configs:
        found += guarded('weights', lambda config=config: models.check_weights(config, manager))  # type: ignore[misc]
    found += guarded(
        'manager', lambda: sides.check_manager(manager, around.env, around.processes, robot)
    )
    found += guarded('clock', lambda: clock.check_clock(seen.clock, manager))
    found += guarded(
        'server',
        lambda: sides.check_servers(
            seen.servers, seen.network, around.env, needed, around.processes, server
        ),
    )
    held = hashes(seen.servers)
    for config in configs:
        found += guarded(
            'model',
            lambda config=config: models.check_model(config, manager, held),  # type: ignore[misc]
        )
    found += guarded('connection', lambda: sides.check_connection(manager, seen.servers))
    for config in configs:
        found += _one_model(config, seen)
    return found


def hashes(servers: Sequence[ServerSeen]) -> tuple[tuple[str, dict[str, tuple[str, ...]]], ...]:
    """Each living server's name, and the hashes that it has of each model."""
    return tuple(
        (
            server.name,
            {
                name: tuple(model.hash for model in server.models if model.name == name)
                for name in sorted({model.name for model in server.models})
            },
        )
        for server in servers
        if not server.closing
    )


def _one_model(config: ModelConfig, seen: Seen) -> list[Finding]:
    own = [each for each in seen.inputs if each.model == config.name]
    found: list[Finding] = []
    for each in own:
        found += guarded(
            each.name,
            lambda each=each: inputs.check_input(each, seen.manager, seen.window_s),  # type: ignore[misc]
        )
    found += guarded('inputs', lambda: inputs.check_matching(config, own))
    given = list(found)
    name = f'results {config.name}'
    result = next((each for each in seen.results if each.model == config.name), None)
    if result is None:
        return [*found, skip(name, 'were not looked for')]
    namespace = seen.manager.name.rpartition('/')[0]
    topic = f'{namespace}/inference/result/{config.name}'
    return found + guarded(
        name,
        lambda: results.check_results(result, seen.manager, given, seen.window_s, topic),
    )
