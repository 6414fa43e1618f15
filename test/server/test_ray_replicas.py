"""Replicas by Ray: the bits of this process, the loopback interface alone, and a new replica for
one that dies."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from types import ModuleType

import pytest
import torch

from offload_ros.models.batch import NotBatched
from offload_ros.models.config_file import load_models_file
from offload_ros.models.errors import ConfigError, ModelError
from offload_ros.models.model import load_model
from offload_ros.server.batching import Batching
from offload_ros.server.engine import Engine
from offload_ros.server.ray_replicas import (
    RayReplicas,
    devices_of_replicas,
    packed,
    unpacked,
)
from offload_ros.wire.exchange import Status

from .asking import LONG_S, Answers, request

MODELS = """
models:
  doubled:
    source: {python: replicated:Doubled}
    inputs: [{name: x, topic: t, type: sensor_msgs/msg/LaserScan}]
    outputs: [y, process]
  fails:
    source: {python: replicated:Fails}
    inputs: [{name: x, topic: t, type: sensor_msgs/msg/LaserScan}]
    outputs: [y]
"""
NETWORKS = """
import os
import torch
from torch import nn

class Doubled(nn.Module):
    weights_trained = True
    def forward(self, x):
        return x * 2, torch.tensor([os.getpid(), torch.get_num_threads()])

class Fails(nn.Module):
    weights_trained = True
    def forward(self, x):
        raise ValueError('never')
"""


@pytest.fixture(scope='module')
def file(tmp_path_factory):
    """Return the path of a models.yaml whose networks every process can import."""
    folder = tmp_path_factory.mktemp('replicas')
    (folder / 'replicated.py').write_text(NETWORKS)
    (folder / 'models.yaml').write_text(MODELS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv('PYTHONPATH', str(folder), prepend=os.pathsep)
        yield str(folder / 'models.yaml')


@pytest.fixture(scope='module')
def models(file):
    """Return this process's own, by name."""
    return {config.name: load_model(config) for config in load_models_file(file)}


@pytest.fixture(scope='module')
def backend(file):
    """Return two replicas, the second ones of this process."""
    if importlib.util.find_spec('ray') is None:
        pytest.skip("Ray is not installed: pip install 'ray>=2.52'")
    RayReplicas(file, 'cpu', 1, 1).close()
    return RayReplicas(file, 'cpu', 2, 1)


@pytest.fixture(scope='module')
def engine(models, backend):
    """Return an engine with them."""
    built = Engine('/server', 's', models.values(), backend=backend)
    yield built
    built.close()
    assert not listening(of_ray())


@pytest.fixture
def ask(engine, models):
    """Return what asks one request and waits for the reply."""

    def asked(seq, x, name='doubled'):
        answers = Answers()
        engine.submit(
            request(seq, model=name, model_hash=models[name].hash, inputs={'x': x}), answers
        )
        return answers.wait_for(1)[0]

    return asked


def of_ray():
    """Return the processes below this one."""
    psutil = pytest.importorskip('psutil')
    return [each.pid for each in psutil.Process().children(recursive=True)]


def listening(pids):
    """Return the addresses on which TCP ports of these processes, and of this one, are open."""
    psutil = pytest.importorskip('psutil')
    found = set()
    for pid in pids:
        try:
            connections = psutil.Process(pid).net_connections('tcp')
        except psutil.NoSuchProcess:
            continue
        found |= {each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN}
    return found


def test_replicas_compute_what_this_process_would(ask, models):
    seen = set()
    for seq in range(8):
        x = torch.rand(1000 + seq, generator=torch.Generator().manual_seed(seq))
        reply = ask(seq, x)
        assert reply.status == Status.OK
        assert torch.equal(reply.outputs['y'], models['doubled'].run({'x': x})['y'])
        process, threads = reply.outputs['process'].tolist()
        assert threads == 1
        seen.add(process)
    assert os.getpid() not in seen
    assert seen <= set(of_ray())


def test_no_port_is_open_to_the_network(engine):
    addresses = listening([os.getpid(), *of_ray()])
    assert addresses
    assert addresses <= {'127.0.0.1', '::1', '::ffff:127.0.0.1'}


def test_an_error_of_the_model_is_told_as_without_replicas(ask):
    reply = ask(1, torch.ones(3), 'fails')
    assert reply.status == Status.ERROR
    assert reply.detail == "model 'fails' failed: ValueError: never"


def test_large_inputs_pass_too(ask):
    x = torch.rand(3_000_000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ask(1, x).outputs['y'], x * 2)


def test_batches_are_computed_in_a_replica(backend, models, engine):
    frames = [{'x': torch.full((5,), float(each))} for each in range(3)]
    found = backend.run_batch(0, models['doubled'], frames)
    assert [each['y'].tolist() for each in found] == [[0.0] * 5, [2.0] * 5, [4.0] * 5]
    with pytest.raises(NotBatched, match='never'):
        backend.run_batch(0, models['fails'], frames)


def test_robots_requests_are_batched_in_replicas(engine, models):
    engine.batching = Batching(4, 0.0)
    answers, count, sizes = Answers(), 0, set()
    end_s = time.monotonic() + LONG_S
    while sizes <= {0} and time.monotonic() < end_s:
        for robot in range(8):
            x = torch.full((7,), float(count))
            engine.submit(
                request(
                    count,
                    model='doubled',
                    model_hash=models['doubled'].hash,
                    session=f'robot {robot}',
                    inputs={'x': x},
                ),
                answers,
            )
            count += 1
        for reply in answers.wait_for(count):
            assert reply.outputs['y'].tolist() == [2.0 * reply.seq] * 7
            sizes.add(reply.batched_with)
    engine.batching = Batching(1)
    assert max(sizes) > 0


def test_models_come_and_go_while_it_runs(engine, models, ask):
    assert engine.remove('fails', models['fails'].variant)
    assert 'no model' in ask(1, torch.ones(3), 'fails').detail
    engine.add(models['fails'])
    assert "model 'fails' failed" in ask(2, torch.ones(3), 'fails').detail


def test_a_model_that_has_changed_on_disk_is_refused(backend, models, monkeypatch):
    monkeypatch.setattr(models['doubled'], 'hash', 'another one')
    with pytest.raises(ModelError, match='files have changed since the server loaded them'):
        backend.add(models['doubled'])
    backend.remove(models['doubled'])


def test_a_replica_that_dies_is_replaced_and_nobody_waits_for_it(ask, engine):
    victim = int(ask(0, torch.ones(3)).outputs['process'][0])
    os.kill(victim, signal.SIGKILL)
    end_s = time.monotonic() + 2 * LONG_S
    statuses, processes, seq = [], set(), 0
    # Its death is noticed when it is asked; then another one is started.
    while not (Status.ERROR in statuses and len(processes) == 2) and time.monotonic() < end_s:
        seq += 1
        reply = ask(seq, torch.ones(3))
        statuses.append(reply.status)
        if reply.status == Status.OK:
            processes.add(int(reply.outputs['process'][0]))
        else:
            assert 'is lost (ActorDiedError): another one is started' in reply.detail
            processes.clear()
    assert len(processes) == 2
    assert victim not in processes
    assert statuses.count(Status.ERROR) == 1


def test_a_strange_process_of_this_machine_is_not_let_in(engine, backend):
    """Ray runs what a client sends: without the token nobody is one."""
    address = backend._ray.get_runtime_context().gcs_address
    host, port = address.rsplit(':', 1)
    socket.create_connection((host, int(port)), 5.0).close()
    program = (
        'import sys, ray\n'
        f'ray.init(address={address!r}, log_to_driver=False, _node_ip_address="127.0.0.1")\n'
        'print("in")\n'
    )

    def lets_in(**environment):
        done = subprocess.run(
            [sys.executable, '-c', program],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=100.0,
            check=False,
        )
        return 'in' in done.stdout.split()

    assert lets_in(), 'who has the token is'
    assert not lets_in(RAY_AUTH_TOKEN='0' * 64)


# Below: without Ray.


def test_missing_ray_is_told_in_one_line(file, monkeypatch):
    monkeypatch.setitem(sys.modules, 'ray', None)
    with pytest.raises(ConfigError, match=r"needs Ray, .*: pip install 'ray>=2\.52'") as error:
        RayReplicas(file, 'cpu', 2, 1)
    assert '\n' not in str(error.value)


def test_ray_that_was_imported_before_is_told(file, monkeypatch):
    monkeypatch.setitem(sys.modules, 'ray', ModuleType('ray'))
    monkeypatch.setenv('RAY_AUTH_TOKEN', 'another one')
    with pytest.raises(ConfigError, match='the code of a model must not import it'):
        RayReplicas(file, 'cpu', 2, 1)


def test_tensors_of_all_dtypes_and_shapes_pass_as_they_are():
    tensors = {
        'bytes': torch.arange(6, dtype=torch.uint8).reshape(2, 3),
        'strange': torch.rand(3, 4).to(torch.bfloat16).t(),
        'one': torch.tensor(7, dtype=torch.int64),
        'empty': torch.zeros(0, 5),
        'truth': torch.tensor([True, False]),
        'part': torch.rand(100)[3:9],
        'wide': torch.tensor([1, 65535], dtype=torch.uint16),
    }
    passed = packed(tensors)
    assert passed['part'][2].nbytes == 24
    found = unpacked(passed)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
        assert found[name].data_ptr() % 64 == 0


@pytest.mark.parametrize(
    ('device', 'gpus', 'devices'),
    [
        ('cpu', ['A'], ['cpu'] * 3),
        ('cuda', [], ['cuda'] * 3),
        ('cuda:1', ['A', 'A'], ['cuda:1'] * 3),
        ('cuda', ['A'], ['cuda:0'] * 3),
        ('cuda', ['A', 'B', 'A'], ['cuda:0', 'cuda:2', 'cuda:0']),
    ],
)
def test_replicas_share_gpus_of_a_kind(device, gpus, devices):
    assert devices_of_replicas(device, 3, gpus) == devices
