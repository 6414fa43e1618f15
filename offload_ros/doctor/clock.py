"""Which clock there is, and which one the manager goes by."""

from __future__ import annotations

from offload_ros.doctor.finding import Finding, fail, ok, warn
from offload_ros.doctor.seen import ClockSeen, ManagerSeen


def check_clock(clock: ClockSeen, manager: ManagerSeen) -> Finding:
    """/clock has one publisher where time is simulated, none elsewhere."""
    name, who = 'clock', manager.name
    simulated = manager.parameters.get('use_sim_time')
    if len(clock.publishers) > 1:
        return fail(
            name,
            f'{len(clock.publishers)} nodes publish /clock, time jumps between them: '
            f'{", ".join(clock.publishers)}',
            'stop all but one (of several worlds: -p publish_clock:=false)',
        )
    if simulated and not clock.publishers:
        return fail(
            name,
            f'{who} has use_sim_time, but nobody publishes /clock: its time stands still',
            f'ros2 param set {who} use_sim_time false, or start the simulation',
        )
    if clock.publishers and clock.time_s is None:
        return warn(
            name,
            f'{clock.publishers[0]} publishes /clock, but no time came: the simulation is paused',
            'let it go on',
        )
    if clock.publishers and simulated is False:
        return warn(
            name,
            f'{clock.publishers[0]} publishes /clock, but {who} goes by the system clock',
            f'ros2 param set {who} use_sim_time true, or stop the simulation',
        )
    if clock.publishers:
        goes = f'{who} goes by it' if simulated else 'a simulation runs'
        return ok(name, f'/clock from {clock.publishers[0]} at {clock.rate_hz:.0f} Hz; {goes}')
    return ok(name, 'system clock (nobody publishes /clock)')
