"""Frames of two robots in one batch, and a server whose models run in replicas, as nodes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
import time

import pytest
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from system import (
    Listener,
    Process,
    answer_to,
    image_message,
    new_domain,
    outputs_of,
    random_pixels,
    robot,
    running,
    server,
    until,
    write_models,
)

MODELS = (
    "models: {tiny: {source: {python: 'networks:Identity'}, inputs: [{name: image, topic: cam}], "
    'outputs: [mean], deadline_ms: 8000.0, strategy: server}}'
)


def set_batching(listener: Listener, largest: int, gather_ms: float) -> None:
    """``ros2 param set`` of both at once."""
    most = ParameterValue(type=ParameterType.PARAMETER_INTEGER, integer_value=largest)
    wait = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=gather_ms)
    parameters = [Parameter(name='batch.max', value=most)]
    parameters.append(Parameter(name='batch.gather_ms', value=wait))
    response = listener.call(
        SetParameters,
        '/offload_server/set_parameters',
        SetParameters.Request(parameters=parameters),
    )
    assert all(each.successful for each in response.results), response


def test_frames_of_two_managers_are_batched(tmp_path: Path) -> None:
    models, domain = write_models(tmp_path, MODELS), new_domain()
    names = ('robot1', 'robot2')
    processes = [server(domain, models)]
    processes += [robot(domain, models, f'namespace:={name}') for name in names]
    with running(*processes):
        listeners = [Listener(domain, f'/{name}') for name in names]
        try:
            assert plays(listeners, processes)
            for process in processes:
                assert process.stop() in (0, -2)
        finally:
            for listener in listeners:
                listener.close()


def plays(listeners: list[Listener], processes: list[Process]) -> bool:
    """Send frames of both robots at the same time until one batch of both was seen."""
    for process in processes[1:]:
        process.wait_for('server /offload_server is ready')
    image = image_message(random_pixels(0), 0)
    cameras = [each.publisher(type(image), 'cam') for each in listeners]
    results = [each.results('tiny') for each in listeners]
    for index, camera in enumerate(cameras):
        first = answer_to(camera.publish, image_message(random_pixels(1), 1), results[index])
        assert first.plan == 'server /offload_server', first.reason
        assert (first.exact, first.tolerance) == (True, 0.0)
    set_batching(listeners[0], 8, 300.0)
    end_s, stamp = time.monotonic() + 60.0, 100
    while time.monotonic() < end_s:
        stamp += 1
        sent = [random_pixels(10 * stamp + index) for index in range(2)]
        for camera, pixels in zip(cameras, sent, strict=True):
            camera.publish(image_message(pixels, stamp))
        time.sleep(0.1)
        for each, pixels in zip(results, sent, strict=True):
            found = [result for result in list(each) if result.header.stamp.sec == stamp]
            for result in found:
                assert abs(float(outputs_of(result)['mean'][0]) - pixels.mean()) < 1e-9
        batched = [[each for each in list(one) if 'batch of 2' in each.plan] for one in results]
        if all(batched):
            for each in (*batched[0], *batched[1]):
                assert each.plan == 'server /offload_server, in a batch of 2'
                assert (each.exact, each.status) == (False, 0)
                assert each.tolerance == pytest.approx(1e-4)
            return True
    return False


@pytest.mark.skipif(
    importlib.util.find_spec('ray') is None,
    reason="Ray is not installed: pip install 'ray>=2.52'",
)
def test_a_server_with_replicas_serves_and_ends(tmp_path: Path) -> None:
    models, domain = write_models(tmp_path, MODELS), new_domain()
    listener = Listener(domain)
    processes = [server(domain, models, 'backend:=ray', 'replicas:=2'), robot(domain, models)]
    with running(*processes):
        try:
            processes[1].wait_for('server /offload_server is ready')
            camera = listener.publisher(type(image_message(random_pixels(0), 0)), 'cam')
            results = listener.results('tiny')
            for stamp in range(1, 5):
                pixels = random_pixels(stamp)
                result = answer_to(camera.publish, image_message(pixels, stamp), results)
                assert float(outputs_of(result)['mean'][0]) == pixels.mean()
            until(lambda: results[-1].plan == 'server /offload_server', 'the server answers')
            assert results[-1].exact
            for process in reversed(processes):
                assert process.stop() in (0, -2)
        finally:
            listener.close()


@pytest.mark.parametrize(
    ('arguments', 'text'),
    [
        (('replicas:=2',), 'replicas is 2: more than one needs backend ray'),
        (('backend:=ray',), "backend 'ray' needs Ray"),
    ],
)
def test_a_backend_that_cannot_be_is_told_in_one_line(
    tmp_path: Path, arguments: tuple[str, ...], text: str
) -> None:
    if 'Ray' in text and importlib.util.find_spec('ray') is not None:
        pytest.skip('Ray is installed here')
    process = server(new_domain(), write_models(tmp_path, MODELS), *arguments)
    with running(process):
        process.wait_for(text)
        process.ended()
        assert 'Traceback' not in process.output
