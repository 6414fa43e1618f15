"""Checks of one input topic, the likeliest cause first; and of stamps that must match."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from offload_ros.doctor.finding import Finding, fail, ok, warn
from offload_ros.doctor.seen import InputSeen, ManagerSeen
from offload_ros.models.config import ENCODINGS, ModelConfig

FAR_S = 1.0  # an image may be old on a thin link, but not this old
AHEAD_S = 0.1
OTHER_CLOCK_S = 3600.0


def check_input(seen: InputSeen, manager: ManagerSeen, window_s: float = 1.5) -> Finding:
    """The first thing that is wrong with an input, or its rate."""
    checks: list[Callable[[], Finding | None]] = [
        lambda: check_publisher(seen),
        lambda: check_type(seen),
        lambda: check_quality_of_service(seen),
        lambda: check_frames(seen, window_s),
        lambda: check_content(seen),
        lambda: check_subscribed(seen, manager),
        lambda: check_several(seen),
        lambda: check_stamp(seen, manager),
    ]
    for check in checks:
        finding = check()
        if finding is not None:
            return finding
    encoding = f' {seen.encoding}' if seen.encoding else ''
    kind = seen.spec.type.rpartition('/')[2]
    return ok(
        seen.name,
        f'{seen.topic}: {kind}{encoding} at {seen.rate_hz:.1f} Hz from '
        f'{", ".join(publisher.node for publisher in seen.publishers)}',
    )


def check_publisher(seen: InputSeen) -> Finding | None:
    """Somebody must publish the topic."""
    if seen.publishers:
        return None
    text = f'nobody publishes {seen.topic}'
    if seen.alike:
        return fail(
            seen.name,
            f'{text} ({seen.spec.type} is on {", ".join(seen.alike)})',
            f"is it that? topic: {seen.alike[0]} in models.yaml of model '{seen.model}'; "
            'else start the driver',
        )
    return fail(
        seen.name,
        f'{text}, nor any {seen.spec.type}',
        'start the driver of the sensor in this ROS_DOMAIN_ID; ros2 topic list -t shows what is '
        'there',
    )


def check_type(seen: InputSeen) -> Finding | None:
    """Its type must be the one of models.yaml; the middleware drops others silently."""
    types = sorted({publisher.type for publisher in seen.publishers})
    if seen.spec.type in types:
        return None
    return fail(
        seen.name,
        f'{seen.topic} is {", ".join(types)}, models.yaml says {seen.spec.type}',
        f"type: {types[0]} in models.yaml of model '{seen.model}', or another topic:",
    )


def check_quality_of_service(seen: InputSeen) -> Finding | None:
    """At least one publisher must match a best-effort subscription."""
    mismatches = [publisher.mismatch for publisher in seen.publishers if publisher.mismatch]
    if len(mismatches) < len(seen.publishers):
        return None
    return fail(
        seen.name,
        f'{seen.topic}: quality of service does not match: {mismatches[0]}',
        'let the driver publish with the sensor data profile',
    )


def check_frames(seen: InputSeen, window_s: float) -> Finding | None:
    """Frames must come, not only be announced."""
    if seen.frames:
        return None
    nodes = ', '.join(publisher.node for publisher in seen.publishers)
    return fail(
        seen.name,
        f'{nodes} publishes {seen.topic}, but no frame came in {window_s:.1f} s',
        f'does the sensor deliver? ros2 topic hz {seen.topic} on the machine of the driver; '
        'if it does: the same DDS profile for both',
    )


def check_content(seen: InputSeen) -> Finding | None:
    """The last frame must become the tensor that the model takes."""
    if not seen.mistake:
        return None
    remedy = f"mend inputs of model '{seen.model}' in models.yaml, or the driver"
    if seen.encoding and seen.encoding != seen.spec.encoding:
        remedy = 'let the driver publish ' + ', '.join(
            encoding for encoding in ENCODINGS if encoding != 'passthrough'
        )
        if seen.encoding in ENCODINGS:
            remedy = f"encoding: {seen.encoding} in models.yaml of model '{seen.model}'"
        elif seen.encoding.startswith('bayer'):
            remedy = 'ros2 run image_proc image_proc (debayers), and its topic in models.yaml'
    return fail(seen.name, seen.mistake, remedy)


def check_subscribed(seen: InputSeen, manager: ManagerSeen) -> Finding | None:
    """An active manager that has the model loaded must listen to the topic."""
    if not manager.active or manager.model(seen.model) is None or not manager.subscriptions:
        return None
    if seen.topic in manager.subscriptions:
        return None
    return warn(
        seen.name,
        f'{manager.name} does not listen to {seen.topic}: remapped, or another models.yaml',
        f"topic: of model '{seen.model}' in the manager's models.yaml, then start it again",
    )


def check_several(seen: InputSeen) -> Finding | None:
    """Frames of two sensors on one topic would be mixed."""
    nodes = [publisher.node for publisher in seen.publishers]
    if len(nodes) < 2:
        return None
    return warn(
        seen.name,
        f'{seen.topic} has {len(nodes)} publishers, whose frames mix: {", ".join(nodes)}',
        'stop one, or give each a topic (a namespace) of its own',
    )


def check_stamp(seen: InputSeen, manager: ManagerSeen) -> Finding | None:
    """Stamps must be set, and near the clock that the manager goes by."""
    frame = seen.frames[-1]
    if frame.stamp_s == 0:
        return warn(
            seen.name,
            f'{seen.topic}: stamps are 0: nobody can tell which frame a result is of',
            'set header.stamp in the driver',
        )
    simulated = manager.parameters.get('use_sim_time') is True
    now_s = frame.sim_s if simulated else frame.wall_s
    if now_s is None or not manager.parameters:
        return None  # the clock has a finding of its own; without a manager none is known
    age_s = now_s - frame.stamp_s
    if -AHEAD_S <= age_s <= FAR_S:
        return None
    other_s = frame.wall_s if simulated else frame.sim_s
    fits_other = other_s is not None and abs(other_s - frame.stamp_s) <= FAR_S
    clock = '/clock' if simulated else 'the system clock'
    text = f'{seen.topic}: stamps are {_apart(age_s)} {clock}, which the manager goes by'
    if fits_other or abs(age_s) > OTHER_CLOCK_S:
        wanted = str(not simulated).lower()
        return warn(
            seen.name,
            f'{text}: they are of {"the system clock" if simulated else "a simulation"}',
            f'ros2 param set {manager.name} use_sim_time {wanted}',
        )
    return warn(
        seen.name,
        text,
        'synchronise the clocks (chronyc tracking on both machines), or look for a slow driver',
    )


def _apart(age_s: float) -> str:
    amount = abs(age_s)
    text = f'{amount:.1f} s' if amount < OTHER_CLOCK_S else f'{amount / 86400:.1f} days'
    return f'{text} {"behind" if age_s > 0 else "ahead of"}'


def check_matching(config: ModelConfig, inputs: Sequence[InputSeen]) -> Finding | None:
    """Inputs of one model must have stamps within sync_slop_ms; None where nothing is to match."""
    stamps = [[frame.stamp_s for frame in seen.frames] for seen in inputs]
    if len(stamps) < 2 or not all(stamps):
        return None
    slop_s = config.sync_slop_ms / 1000.0
    nearest_s = [
        max(min(abs(stamp - first) for stamp in other) for other in stamps[1:])
        for first in stamps[0]
    ]
    name, best_s = f'inputs {config.name}', min(nearest_s)
    if best_s > slop_s:
        return fail(
            name,
            f'their stamps are {1000 * best_s:.0f} ms apart at best, sync_slop_ms is '
            f'{config.sync_slop_ms:.0f}: they never make a frame',
            f'synchronise the sensors, or sync_slop_ms: {1500 * best_s:.0f} in models.yaml of '
            f"model '{config.name}'",
        )
    matched = sum(each <= slop_s for each in nearest_s)
    return ok(name, f'{matched} of {len(nearest_s)} frames match within {1000 * slop_s:.0f} ms')
