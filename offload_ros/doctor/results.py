"""What comes out: rate, who computed, how many were late, and why."""

from __future__ import annotations

from offload_ros.doctor.finding import Finding, Level, fail, ok, skip, warn
from offload_ros.doctor.seen import ManagerSeen, ResultsSeen


def check_results(
    seen: ResultsSeen,
    manager: ManagerSeen,
    inputs: list[Finding],
    window_s: float = 1.5,
    topic: str = '',
) -> Finding:
    """Results of one model; ``inputs``: findings of its inputs, which may explain that none comes.

    ``topic``: of the results.
    """
    name = f'results {seen.model}'
    if not manager.active:
        return skip(name, 'needs an active manager')
    if not manager.loaded(seen.model):
        return skip(name, 'the model is not loaded')
    if not seen.count:
        return _none(name, seen, manager, inputs, window_s)
    rate = f'{seen.rate_hz:.1f} Hz on {topic or seen.model}'
    if seen.errors:
        return fail(
            name,
            f'{seen.errors} of {seen.count} are errors: {seen.detail}',
            f"mend that for model '{seen.model}' in models.yaml, on both machines",
        )
    late = f', {100 * seen.late / seen.count:.0f} % late' if seen.late else ''
    if seen.fallbacks:
        share = 100 * seen.fallbacks / seen.count
        why = seen.reasons[0] if seen.reasons else 'the server did not answer'
        return warn(
            name,
            f'{rate}{late}, {share:.0f} % computed by the robot instead: {why}',
            _remedy_of(why, seen, manager),
        )
    if seen.late:
        return warn(
            name,
            f'{rate}{late}; the median takes {seen.total_ms:.0f} ms',
            _longer_deadline(seen, manager),
        )
    return ok(name, f'{rate}, by {", ".join(seen.used)}, median {seen.total_ms:.0f} ms')


def _none(
    name: str, seen: ResultsSeen, manager: ManagerSeen, inputs: list[Finding], window_s: float
) -> Finding:
    broken = [finding.name for finding in inputs if finding.level is Level.FAIL]
    text = f'none in {window_s:.1f} s'
    if broken:
        return fail(name, f'{text}, because of {broken[0]}', f"mend '{broken[0]}' above first")
    model = manager.model(seen.model)
    if model is not None and model.rate_hz > 0:
        return warn(
            name,
            f'{text}: the model is that slow ({model.rate_hz:.2f} Hz by its status)',
            'a faster server (device:=cuda) or a smaller variant; see total_ms in '
            'ros2 topic echo offload/status --once',
        )
    return fail(
        name,
        f'{text}, although frames come',
        f"look at the manager's log; ros2 param get {manager.name} {seen.model}.strategy",
    )


def _remedy_of(why: str, seen: ResultsSeen, manager: ManagerSeen) -> str:
    if 'in time' in why:
        return _longer_deadline(seen, manager) + ', or a faster link or server'
    if 'lost' in why or 'no server' in why or 'ended' in why:
        return "see 'server' above"
    if 'another' in why or 'has no model' in why:
        return f"see 'model {seen.model}' above"
    return "see 'server' and 'connection' above"


def _longer_deadline(seen: ResultsSeen, manager: ManagerSeen) -> str:
    now = manager.parameters.get(f'{seen.model}.deadline_ms')
    # Twice what it takes, and more than what is allowed now.
    wanted = max(2 * seen.total_ms, 1.5 * float(now or 0.0), 1.0)
    return f'ros2 param set {manager.name} {seen.model}.deadline_ms {min(wanted, 60_000.0):.1f}'
