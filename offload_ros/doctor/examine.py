"""All checks in the order of cause and effect: mend the first FAIL first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from offload_ros.doctor import clock, inputs, middleware, models, results, sides
from offload_ros.doctor.finding import Finding, Level, fail, skip, warn
from offload_ros.doctor.seen import ManagerSeen, Seen
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


def guarded(
    name: str, check: Callable[..., Finding | list[Finding] | None], *arguments: Any
) -> list[Finding]:
    """The findings of a check; one that fails itself must not hide what the others found."""
    try:
        found = check(*arguments)
    except Exception as error:  # a mistake of the doctor's own: said, never a traceback
        text = f'this check itself failed: {type(error).__name__}: {error}'
        return [fail(name, ' '.join(text.split()), 'tell the maintainers of offload_ros')]
    if found is None:
        return []
    return found if isinstance(found, list) else [found]


def before_ros(around: Surroundings) -> list[Finding]:
    """Settings with which no ROS program starts; FAIL here means that nothing else can be seen."""
    return guarded('rmw', middleware.check_rmw, around.env, around.installed) + guarded(
        'domain', middleware.check_domain, around.env
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
        'dds profile', middleware.check_profile, around.env, around.profile, around.rmw, theirs
    ) + guarded('discovery', middleware.check_range, around.env)


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
    if not manager.name.endswith('/offload_manager'):  # the launch file's name for it
        node = manager.name.rpartition('/')[2]
        file = f' -p models_file:={path}' if path else ''
        robot = (
            f'ros2 run offload_ros offload_manager --ros-args -r __node:={node} '
            f'-r __ns:=/{namespace}{file}'
        )
    server = f'ros2 launch offload_ros server.launch.py{launched}'
    needed = any(models.needs_server(config, manager) for config in configs) or not configs
    if manager.present and not manager.parameters and models_file.level is Level.OK:
        models_file = warn(
            models_file.name,
            f'{manager.name} does not say which file it reads; taken is {models_file.text}',
            'ros2 run offload_ros doctor --models-file FILE',
        )
    found = [
        *guarded('loopback', middleware.check_loopback, seen.network),
        *guarded('nodes', middleware.check_nodes, seen.network, around.env),
        models_file,
    ]
    for config in configs:
        found += guarded('weights', models.check_weights, config, manager)
    found += guarded('manager', sides.check_manager, manager, around.env, around.processes, robot)
    found += guarded('clock', clock.check_clock, seen.clock, manager)
    frames: dict[str, list[Finding]] = {config.name: _frames(config, seen) for config in configs}
    found += [each for findings in frames.values() for each in findings]
    found += guarded(
        'server',
        sides.check_servers,
        seen.servers,
        seen.network,
        around.env,
        needed,
        around.processes,
        server,
    )
    for config in configs:
        found += guarded('model', models.check_model, config, manager, seen.servers)
    found += guarded('connection', sides.check_connection, manager, seen.servers)
    for config in configs:
        found += _results(config, seen, frames[config.name])
    return found


def _frames(config: ModelConfig, seen: Seen) -> list[Finding]:
    own = [each for each in seen.inputs if each.model == config.name]
    found: list[Finding] = []
    for each in own:
        found += guarded(each.name, inputs.check_input, each, seen.manager, seen.window_s)
    return found + guarded('inputs', inputs.check_matching, config, own)


def _results(config: ModelConfig, seen: Seen, frames: list[Finding]) -> list[Finding]:
    name = f'results {config.name}'
    result = next((each for each in seen.results if each.model == config.name), None)
    if result is None:
        return [skip(name, 'were not looked for')]
    topic = f'{seen.manager.name.rpartition("/")[0]}/inference/result/{config.name}'
    return guarded(name, results.check_results, result, seen.manager, frames, seen.window_s, topic)
