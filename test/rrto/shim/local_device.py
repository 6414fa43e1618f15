"""A device in this process: the operators run at once, on the CPU, in a thread of their own.

The thread stands for the server: nothing of the program's grad mode, inference mode, autocast or
default device reaches it.
"""

from collections import deque
from concurrent.futures import ThreadPoolExecutor
import threading

import torch
from torch.utils._pytree import tree_map

from offload_ros.rrto.metadata import meta_of
from offload_ros.rrto.shim import classify
from offload_ros.rrto.shim.device import DeviceProperties
from offload_ros.rrto.shim.tensor import HandleOwner, RemoteTensor, remote, set_metadata

aten = torch.ops.aten
CPU = torch.device('cpu')


class LocalDevice:
    """Oracle of the shim: ``log`` holds the name of every operator that reached it."""

    def __init__(self):
        self.freed = deque()
        self.log = []
        self.tensors = {}
        self.uploaded = 0
        self._op = 0
        self._lock = threading.RLock()
        self._generators = {0: torch.Generator().manual_seed(67280421310721)}
        self._thread = ThreadPoolExecutor(1, 'local-device')

    def call(self, func, args, kwargs):
        with self._lock:
            self._forget()
            assert not classify.must_decompose(func), f'{func} should not arrive whole'
            classify.check_devices(func, args, kwargs)
            kwargs = classify.server_arguments(kwargs)
            self.log.append(str(func))
            if classify.is_read(func, args, kwargs):
                source = classify.read_source(func, args, kwargs)
                if source is not None:
                    return classify.finish_read(func, args, kwargs, self.read(source))
                result = self._run(func, args, kwargs)
                return classify.finish_read(func, args, kwargs, torch.tensor(result))
            return self._run(func, args, kwargs)

    def _forget(self):
        while self.freed:
            handle = self.freed.popleft()
            del (self.tensors if handle >= 0 else self._generators)[abs(handle)]

    def _run(self, func, args, kwargs):
        self._op += 1
        number = self._op << 16
        known = {}  # id of a server tensor -> the program's

        def to_server(each):
            if isinstance(each, RemoteTensor):
                tensor = self.tensors[each._h]
                known[id(tensor)] = each
                return tensor
            if isinstance(each, torch.Tensor):
                self.uploaded += each.nbytes
                return each.detach().clone()
            if isinstance(each, torch.device):
                return CPU
            if isinstance(each, torch._C.Generator):
                return self._generators[classify.generator_number(each)]
            return each

        server_args, server_kwargs = tree_map(to_server, (args, kwargs))
        out = self._thread.submit(self._compute, func, server_args, server_kwargs).result()
        for each in known.values():
            meta = meta_of(self.tensors[each._h])
            if meta != each._meta:
                set_metadata(each, meta)

        def to_program(each):
            nonlocal number
            if not isinstance(each, torch.Tensor):
                return each
            if id(each) in known:
                return known[id(each)]
            handle = number
            number += 1
            self.tensors[handle] = each
            return remote(HandleOwner(handle, self.freed), meta_of(each))

        return tree_map(to_program, out)

    def _compute(self, func, args, kwargs):
        random = torch.Tag.nondeterministic_seeded in func.tags and not kwargs.get('generator')
        with torch.no_grad():
            if not random:
                return func(*args, **kwargs)
            before = torch.get_rng_state()
            torch.set_rng_state(self._generators[0].get_state())
            try:
                return func(*args, **kwargs)
            finally:
                self._generators[0].set_state(torch.get_rng_state())
                torch.set_rng_state(before)

    def read(self, tensor):
        with self._lock:
            return self._thread.submit(self._copy, self.tensors[tensor._h]).result()

    def _copy(self, tensor):
        tensor = tensor.detach().resolve_conj().resolve_neg()
        dense = torch.ops.aten.is_non_overlapping_and_dense.default(tensor)
        layout = torch.preserve_format if dense else torch.contiguous_format
        return tensor.clone(memory_format=layout)

    def synchronize(self):
        self.log.append('synchronize')

    def manual_seed(self, seed, generator=0):
        made = self._generators.setdefault(generator, torch.Generator())
        made.manual_seed(seed)

    def get_rng_state(self, generator=0):
        return self._generators[generator].get_state()

    def set_rng_state(self, state, generator=0):
        self._generators[generator].set_state(state)

    def memory(self):
        return 6 << 30, 8 << 30

    def properties(self):
        return DeviceProperties('Test device', 8 << 30, 8, 6, 16)

    def close(self):
        self._thread.shutdown()
