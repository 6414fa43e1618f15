"""Replicas of a server's models in processes of their own, kept by Ray.

Plain actors, not Ray Serve: what Serve adds (a router with queues and batches, HTTP) the engine has
already, with deadlines, cancelling and turns that Serve's queues do not know. Ray's processes are
children of this one, hear on the loopback interface alone, and end with it.
"""

from __future__ import annotations

from collections.abc import Sequence
import contextlib
import logging
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
from typing import Any

import numpy as np
import torch

from offload_ros.models.batch import run_batch
from offload_ros.models.config_file import load_models_file
from offload_ros.models.errors import ConfigError, InputError, ModelError
from offload_ros.models.model import Model, load_model
from offload_ros.server.backend import ReplicaLost, Tensors
from offload_ros.wire.tensors import CODE_OF_DTYPE, DTYPE_OF_CODE, data_of

OBJECT_STORE_BYTES = 256 << 20  # shared memory for large inputs and outputs on their way
LOAD_S = 600.0  # for a model
HUNG_S = 60.0  # a computation that takes longer is ended, with its replica
LOOPBACK = '127.0.0.1'
SETTINGS = {  # which Ray reads from the environment
    'RAY_USAGE_STATS_ENABLED': '0',
    'RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO': '0',  # replicas see all GPUs: ``device`` chooses
    # Who reaches Ray's ports can run code: none of them is open to the network, and a token keeps
    # this machine's other users out.
    'RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER': '0',  # loopback only, on Linux too
    'RAY_AUTH_MODE': 'token',
    'RAY_AUTH_TOKEN': secrets.token_hex(32),  # one for this process: Ray reads it once
}

Packed = dict[str, tuple[int, tuple[int, ...], np.ndarray]]
log = logging.getLogger(__name__)


class Replica:
    """All models of one process; runs in that process. Errors travel as exceptions of
    ``models.errors``."""

    def __init__(self, models_file: str, device: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self._configs = {config.name: config for config in load_models_file(models_file)}
        self._device = device
        self._models: dict[tuple[str, str], Model] = {}

    def ready(self) -> bool:
        """Whether it was made."""
        return True

    def load(self, name: str, variant: str, content_hash: str) -> None:
        """Have a model; ``ModelError`` when it is not the one that the server has."""
        if (name, content_hash) in self._models:
            return
        if name not in self._configs:
            raise ModelError(f"model '{name}' is not in models.yaml any more: restart the server")
        model = load_model(self._configs[name].variant_named(variant), self._device)
        if model.hash != content_hash:
            raise ModelError(
                f"model '{name}' ({variant}): its files have changed since the server loaded them: "
                'restart the server'
            )
        self._models[name, content_hash] = model

    def unload(self, name: str, content_hash: str) -> None:
        """Free a model."""
        self._models.pop((name, content_hash), None)

    def warm_up(self, name: str, content_hash: str) -> None:
        """See ``Model.warm_up``."""
        self._model(name, content_hash).warm_up()

    def run(self, name: str, content_hash: str, inputs: Packed) -> Packed:
        """See ``Model.run``."""
        return packed(self._model(name, content_hash).run(unpacked(inputs)))

    def run_batch(self, name: str, content_hash: str, frames: Sequence[Packed]) -> list[Packed]:
        """See ``models.batch.run_batch``."""
        model = self._model(name, content_hash)
        return [packed(each) for each in run_batch(model, [unpacked(each) for each in frames])]

    def _model(self, name: str, content_hash: str) -> Model:
        model = self._models.get((name, content_hash))
        if model is None:
            raise ModelError(f"a replica does not have the model '{name}'")
        return model


class RayReplicas:
    """``Backend`` of ``replicas`` processes. ``ConfigError`` when Ray is missing or does not start.

    ``models_file`` is read by each. ``threads``: of an operator in each, as in this process, so
    that their bits are those that it would compute.
    """

    remote = True

    def __init__(self, models_file: str, device: str, replicas: int, threads: int) -> None:
        self.workers = replicas
        self._models_file, self._threads = models_file, threads
        self._devices = devices_of_replicas(device, replicas, _gpu_names())
        self._lock = threading.Lock()
        self._models: dict[tuple[str, str], str] = {}  # name and content hash -> variant
        self._replicas: list[Any] = []
        self._closed = False
        self._ray: Any = _imported()
        self._folder = tempfile.mkdtemp(prefix='offload_ray_')
        try:
            self._start()
        except Exception as error:  # Ray raises what its processes meet
            self.close()
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ConfigError(f"backend 'ray' does not start: {first}") from error

    def _start(self) -> None:
        before = signal.getsignal(signal.SIGTERM)
        self._ray.init(
            address='local',
            num_cpus=self.workers,
            num_gpus=0,
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _node_ip_address=LOOPBACK,
            _temp_dir=self._folder,
        )
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray's would end the node without its farewell
        address = self._ray.util.get_node_ip_address()
        if address != LOOPBACK:
            raise RuntimeError(f'Ray listens on {address}, not on the loopback interface alone')
        groups = {'compute': 1, 'manage': 1}  # loading does not hold up computing
        self._actor = self._ray.remote(
            num_cpus=1, max_restarts=0, max_task_retries=0, concurrency_groups=groups
        )(Replica)
        self._replicas = [self._new(worker) for worker in range(self.workers)]
        self._ray.get([each.ready.remote() for each in self._replicas], timeout=LOAD_S)

    def add(self, model: Model) -> None:
        """Load ``model`` in all replicas at a time."""
        with self._lock:
            self._models[model.name, model.hash] = model.variant
        asked = []
        for worker in range(self.workers):
            with contextlib.suppress(ReplicaLost):  # whoever replaces it loads all models
                load = self._ask(worker, 'manage', 'load', model.name, model.variant, model.hash)
                asked.append((worker, load))
        for worker, load in asked:
            with contextlib.suppress(ReplicaLost):
                self._wait(worker, load, LOAD_S)

    def remove(self, model: Model) -> None:
        """Free ``model`` in all replicas."""
        with self._lock:
            self._models.pop((model.name, model.hash), None)
        for worker in range(self.workers):
            with contextlib.suppress(ReplicaLost):
                self._ask(worker, 'manage', 'unload', model.name, model.hash)

    def warm_up(self, worker: int, model: Model) -> None:
        """Run ``model`` once in the thread that computes."""
        self._call(worker, 'warm_up', model.name, model.hash)

    def run(self, worker: int, model: Model, inputs: Tensors) -> dict[str, torch.Tensor]:
        """As ``Model.run`` does here."""
        model.check_inputs(inputs)
        return unpacked(self._call(worker, 'run', model.name, model.hash, packed(inputs)))

    def run_batch(
        self, worker: int, model: Model, frames: Sequence[Tensors]
    ) -> list[dict[str, torch.Tensor]]:
        """As ``models.batch.run_batch`` does here."""
        given = [packed(each) for each in frames]
        found = self._call(worker, 'run_batch', model.name, model.hash, given)
        return [unpacked(each) for each in found]

    def restore(self, worker: int) -> bool:
        """Start a new replica in the place of one that was lost."""
        if self._closed:
            return False
        try:
            with contextlib.suppress(Exception):
                self._ray.kill(self._replicas[worker])
            self._replicas[worker] = self._new(worker)
            with self._lock:
                models = dict(self._models)
            for (name, content_hash), variant in models.items():
                try:
                    asked = self._ask(worker, 'manage', 'load', name, variant, content_hash)
                    self._wait(worker, asked, LOAD_S)
                    self._call(worker, 'warm_up', name, content_hash)
                except (InputError, ModelError) as error:  # whoever asks for it is told
                    log.warning('replica %d: %s', worker, error)
        except Exception as error:  # of Ray: tried again
            log.warning('replica %d does not start: %s', worker, error)
            return False
        log.warning('replica %d runs again', worker)
        return True

    def close(self) -> None:
        """End all processes."""
        self._closed = True
        for replica in self._replicas:
            with contextlib.suppress(Exception):
                self._ray.kill(replica)
        self._ray.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _new(self, worker: int) -> Any:
        return self._actor.remote(self._models_file, self._devices[worker], self._threads)

    def _call(self, worker: int, method: str, *arguments: Any) -> Any:
        return self._wait(worker, self._ask(worker, 'compute', method, *arguments), HUNG_S)

    def _ask(self, worker: int, group: str, method: str, *arguments: Any) -> Any:
        call = getattr(self._replicas[worker], method)
        try:
            return call.options(concurrency_group=group).remote(*arguments)
        except Exception as error:  # Ray is not well, or closed
            raise _lost(worker, error) from None

    def _wait(self, worker: int, reference: Any, limit_s: float) -> Any:
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference, timeout=limit_s)
        except errors.RayTaskError as error:
            if isinstance(error.cause, (InputError, ModelError)):
                raise error.cause from None
            raise ModelError(f'in a replica: {type(error.cause).__name__}: {error.cause}') from None
        except Exception as error:  # it died or hangs, or Ray itself is not well
            raise _lost(worker, error) from None


def _imported() -> Any:
    """Ray, with ``SETTINGS``; ``ConfigError`` when there is none."""
    if sys.modules.get('ray') is not None and any(
        os.environ.get(name) != value for name, value in SETTINGS.items()
    ):
        raise ConfigError(
            "backend 'ray': Ray was imported before its settings were made: the code of a model "
            'must not import it'
        )
    os.environ.update(SETTINGS)
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            f"backend 'ray' needs Ray, which cannot be imported ({error}): pip install "
            "'ray>=2.52', or leave backend at in_process"
        ) from None
    return ray


def _lost(worker: int, error: Exception) -> ReplicaLost:
    kind = type(error).__name__  # e.g. ActorDiedError, GetTimeoutError
    return ReplicaLost(f'replica {worker} of the models is lost ({kind}): another one is started')


def devices_of_replicas(device: str, replicas: int, gpus: Sequence[str]) -> list[str]:
    """Where each replica computes. ``gpus``: names of all. 'cuda' without a number: in turn on all
    that are of the first one's kind, so that equal bits come from each."""
    same = [index for index, name in enumerate(gpus) if name == gpus[0]]
    if device != 'cuda' or not same:
        return [device] * replicas
    return [f'cuda:{same[each % len(same)]}' for each in range(replicas)]


def packed(tensors: Tensors) -> Packed:
    """As Ray passes them between processes on one machine: code of the dtype, shape, (N,) uint8."""
    return {
        name: (
            CODE_OF_DTYPE[tensor.dtype],
            tuple(tensor.shape),
            np.asarray(data_of(tensor), dtype=np.uint8),
        )
        for name, tensor in tensors.items()
    }


def unpacked(given: Packed) -> dict[str, torch.Tensor]:
    """The tensors of ``packed``, in memory of their own, where torch itself would put them."""
    tensors = {}
    for name, (code, shape, data) in given.items():
        tensor = torch.empty(shape, dtype=DTYPE_OF_CODE[code])
        if tensor.numel():
            np.copyto(np.asarray(data_of(tensor)), data)
        tensors[name] = tensor
    return tensors


def _gpu_names() -> list[str]:
    return [torch.cuda.get_device_name(each) for each in range(torch.cuda.device_count())]
