"""Checks of both sides: the manager is there and active, servers are heard, and they connect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from offload_ros.doctor.finding import Finding, fail, ok, skip, warn
from offload_ros.doctor.middleware import this_machine_only
from offload_ros.doctor.seen import ManagerSeen, NetworkSeen, ServerSeen
from offload_ros.doctor.shell import HostProcess, domain_of

LEAST_HEARTBEAT_HZ = 5.0
SILENT_S = 0.5
BUSY = 0.9


def check_manager(
    manager: ManagerSeen,
    env: Mapping[str, str],
    processes: Sequence[HostProcess] = (),
    launch: str = 'ros2 launch offload_ros robot.launch.py',
) -> Finding:
    """Whether it is there and active. ``launch``: the command that starts it."""
    name, node = 'manager', manager.name
    if not manager.present:
        return _no_manager(name, manager, env, processes, launch)
    if not manager.state:
        return fail(
            name,
            f'{node} is there but does not answer: it still loads its models, or it hangs',
            'look at its log; if it does not answer in a minute, start it again',
        )
    if manager.state != 'active':
        steps = ['activate'] if manager.state == 'inactive' else ['configure', 'activate']
        commands = ' && '.join(f'ros2 lifecycle set {node} {step}' for step in steps)
        return fail(name, f'{node} is {manager.state}, not active: it takes no frames', commands)
    if manager.twins:
        return warn(
            name,
            f'several nodes are named {node}: answers and results of both mix (a killed one is '
            'listed for 20 s)',
            'stop one, or give each robot its namespace: robot.launch.py namespace:=robot2',
        )
    if not manager.status_heard:
        return warn(
            name,
            f'{node} is active, but its status is not heard',
            'another program of that name? ros2 topic info -v offload/status',
        )
    models = ', '.join(model.name for model in manager.models) or 'no model is loaded'
    return ok(name, f'{node} is active: {models}')


def _no_manager(
    name: str,
    manager: ManagerSeen,
    env: Mapping[str, str],
    processes: Sequence[HostProcess],
    launch: str,
) -> Finding:
    text = f'{manager.name} is not there'
    if manager.others:
        namespace, _, node = manager.others[0].rpartition('/')
        return fail(
            name,
            f'{text}, but {", ".join(manager.others)} is',
            f'ros2 run offload_ros doctor --namespace {namespace or "/"} --manager {node}',
        )
    hidden = _hidden(env, processes, 'offload_manager', manager.name)
    return hidden_finding(name, text, hidden, env, launch) or fail(name, text, launch)


def _hidden(
    env: Mapping[str, str], processes: Sequence[HostProcess], executable: str, node: str = ''
) -> HostProcess | None:
    """A process of this machine that should have been seen; one of another domain comes last."""
    there = [
        process
        for process in processes
        if process.executable == executable and node in ('', process.node)
    ]
    return min(there, key=lambda process: process.domain != domain_of(env), default=None)


def hidden_finding(
    name: str, text: str, process: HostProcess | None, env: Mapping[str, str], launch: str
) -> Finding | None:
    """Why a process that runs on this machine is not seen on the network.

    ``launch``: starts another one, should that one be somebody else's.
    """
    if process is None:
        return None
    who = f'{text}, but process {process.pid} of this machine is {process.node}'
    if process.domain != domain_of(env):
        return fail(
            name,
            f'{who} in ROS_DOMAIN_ID {process.domain}, this shell is in {domain_of(env)}',
            f'export ROS_DOMAIN_ID={process.domain} if it is the one; else {launch}',
        )
    for variable in ('RMW_IMPLEMENTATION', 'ROS_AUTOMATIC_DISCOVERY_RANGE', 'ROS_LOCALHOST_ONLY'):
        theirs, ours = process.environment.get(variable, ''), env.get(variable, '')
        if theirs != ours:
            mend = f'export {variable}={theirs}' if theirs else f'unset {variable}'
            return fail(
                name, f"{who} with {variable}='{theirs}', this shell has '{ours}'", f'{mend} here'
            )
    return fail(
        name,
        f'{who}: it still starts, or its discovery fails',
        'wait ten seconds and run the doctor again; then look at its log',
    )


def check_servers(
    servers: Sequence[ServerSeen],
    network: NetworkSeen,
    env: Mapping[str, str],
    needed: bool = True,
    processes: Sequence[HostProcess] = (),
    launch: str = 'ros2 launch offload_ros server.launch.py',
) -> list[Finding]:
    """One finding per server heard, or why none is. ``needed``: a model's strategy wants one."""
    alive = [server for server in servers if not server.closing]
    if alive:
        return [_server(server) for server in alive]
    if not needed:
        return [skip('server', 'none is heard, and no model needs one (strategy device)')]
    if servers:
        return [fail('server', f'{servers[0].name} has just ended', f'on the server: {launch}')]
    if network.heartbeat_nodes:
        return [
            fail(
                'server',
                f'{", ".join(network.heartbeat_nodes)} is there, but no heartbeat comes: it is '
                'not active, still loads its models, was killed less than 20 s ago, or a firewall '
                'lets only discovery through',
                f'ros2 lifecycle get {network.heartbeat_nodes[0]} (active?); sudo ufw allow in '
                'proto udp from <server> on the robot',
            )
        ]
    hidden = _hidden(env, processes, 'offload_server')
    found = hidden_finding('server', 'no server is heard', hidden, env, launch)
    if found is not None:
        return [found]
    far = ''
    if this_machine_only(env):
        far = ' (on another machine: here and there export ROS_AUTOMATIC_DISCOVERY_RANGE=SUBNET)'
        if env.get('ROS_DISTRO') == 'humble' or env.get('ROS_LOCALHOST_ONLY'):
            far = ' (on another machine: unset ROS_LOCALHOST_ONLY here and there)'
    text = f'no server is heard in ROS_DOMAIN_ID {domain_of(env)}'
    return [fail('server', text, f'on the server: {launch}{far}')]


def _server(server: ServerSeen) -> Finding:
    name = 'server'
    load = (
        f'{100 * server.busy:.0f} % busy, {server.queue_length} of {server.queue_limit} requests '
        'wait'
    )
    if server.twins:
        return fail(
            name,
            f'several servers are named {server.name}: robots use one and ignore the others',
            f'give each a name: ros2 launch offload_ros server.launch.py name:='
            f'{server.name.rpartition("/")[2]}_2',
        )
    if server.age_s > SILENT_S:
        return fail(
            name,
            f'{server.name} fell silent {server.age_s:.1f} s ago',
            'is its process there, does ping reach its machine?',
        )
    if server.rate_hz < LEAST_HEARTBEAT_HZ:
        return warn(
            name,
            f'{server.name}: {server.rate_hz:.1f} of 10 heartbeats a second come: a lossy link, '
            'or a machine too busy',
            'ping -i 0.2 the server; use a cable or 5 GHz Wi-Fi; look at top on the server',
        )
    full = server.queue_limit > 0 and server.queue_length >= server.queue_limit
    if full or server.busy > BUSY:
        return warn(
            name,
            f'{server.name} is overloaded: {load}',
            'start a second server, or device:=cuda, or lower the rate of the cameras',
        )
    return ok(
        name,
        f'{server.name} on {server.device}: heartbeats at {server.rate_hz:.1f} Hz, {load}',
    )


def check_connection(manager: ManagerSeen, servers: Sequence[ServerSeen]) -> Finding:
    """Whether requests and replies get through between this manager and a server."""
    name = 'connection'
    alive = [server.name for server in servers if not server.closing]
    if not manager.active:
        return skip(name, 'needs an active manager')
    pinned = str(manager.parameters.get('server.name') or '')
    there = [server.strip('/') for server in alive]
    if pinned and pinned.strip('/') not in there:
        return fail(
            name,
            f"server.name is '{pinned}', which is not there (there is: {_listed(alive)})",
            f"ros2 param set {manager.name} server.name ''",
        )
    if not alive:
        return skip(name, 'needs a server')
    if not manager.status_heard:
        return skip(name, "needs the manager's status")
    if not any(server in manager.servers for server in alive):
        return fail(
            name,
            f'{manager.name} does not hear {_listed(alive)}, which is heard here',
            "give both the same ROS_STATIC_PEERS and firewall; compare 'domain' and 'discovery' "
            'above on both machines',
        )
    used = {model.name: model.server for model in manager.models if model.server}
    if used:
        return ok(name, ', '.join(f'{model} uses {server}' for model, server in used.items()))
    comparable = {model.hash for server in servers for model in server.models}
    if not any(model.hash in comparable for model in manager.models):
        return skip(name, 'no model is the same on both sides')
    return fail(
        name,
        f'{manager.name} hears {_listed(alive)}, but its greetings are not answered: messages '
        'pass in one direction only',
        'allow UDP from the robot on the server (sudo ufw allow in proto udp from <robot>)',
    )


def _listed(names: Sequence[str]) -> str:
    return ', '.join(names) or 'none'
