"""What kind of call an operator is."""

import pytest
import torch

from offload_ros.rrto.metadata import TensorMeta, meta_of
from offload_ros.rrto.shim.classify import (
    WHOLE,
    check_devices,
    finish_read,
    is_read,
    must_decompose,
    read_source,
    server_arguments,
    stays_on_host,
)
from offload_ros.rrto.shim.kernels import whole_overloads

aten = torch.ops.aten
CPU = torch.device('cpu')
CUDA = torch.device('cuda', 0)


@pytest.mark.parametrize(
    'func',
    [
        aten.to.dtype,
        aten.contiguous.default,
        aten.reshape.default,
        aten.dropout.default,
        aten.einsum.default,
        aten.item.default,
    ],
)
def test_composites_are_taken_apart(func):
    assert must_decompose(func)


@pytest.mark.parametrize('func', [aten.add.Tensor, aten.view.default, aten.embedding.default])
def test_operators_with_kernels_are_not(func):
    assert not must_decompose(func)


def test_whole_operators_exist_and_give_no_view():
    overloads = whole_overloads()
    assert {name.partition('.')[0] for name in overloads} >= {'linear', 'matmul', 'lstm', 'conv2d'}
    for name in overloads:
        packet, _, overload = name.partition('.')
        func = getattr(getattr(aten, packet), overload or 'default')
        assert packet in WHOLE and not must_decompose(func)
        # Of `out=` variants the result is that very argument.
        assert overload.endswith('out') or not any(r.alias_info for r in func._schema.returns)


def test_reads_are_recognised(device):
    x, cpu = torch.ones(2).cuda(), torch.ones(2)
    assert is_read(aten._to_copy.default, (x,), {'device': CPU})
    assert not is_read(aten._to_copy.default, (x,), {'dtype': torch.float16})
    assert not is_read(aten._to_copy.default, (x,), {'device': CUDA})
    assert is_read(aten.copy_.default, (cpu, x), {})
    assert not is_read(aten.copy_.default, (x, cpu), {})
    assert not is_read(aten.copy_.default, (x, x), {})
    assert is_read(aten._local_scalar_dense.default, (x,), {})
    assert is_read(aten.equal.default, (x, x), {})
    assert not is_read(aten.add.Tensor, (x, x), {})
    assert read_source(aten.copy_.default, (cpu, x), {}) is x
    assert read_source(aten._to_copy.default, (x,), {'device': CPU}) is x
    assert read_source(aten.equal.default, (x, x), {}) is None


def test_read_is_finished_as_the_call_wants_it(device):
    x, cpu, values = torch.zeros(2, 3).cuda(), torch.zeros(2, 3), torch.rand(2, 3)
    kwargs = {'device': CPU, 'dtype': torch.float64}
    found = finish_read(aten._to_copy.default, (x,), kwargs, values)
    assert torch.equal(found, values.double())
    assert finish_read(aten._to_copy.default, (x,), {'device': CPU}, values) is values
    assert finish_read(aten.copy_.default, (cpu, x), {}, values) is cpu
    assert torch.equal(cpu, values)
    truth = finish_read(aten.equal.default, (x, x), {}, torch.tensor(True))
    assert truth is True
    number = finish_read(aten._local_scalar_dense.default, (x,), {}, torch.tensor(7))
    assert number == 7 and type(number) is int


def test_devices_may_be_mixed_where_torch_allows_it(device):
    x, scalar, index = torch.ones(3).cuda(), torch.tensor(2.0), torch.tensor([0, 1])
    check_devices(aten.add.Tensor, (x, scalar), {})
    check_devices(aten.index.Tensor, (x, [index]), {})
    check_devices(aten.index_put_.default, (x, [index], scalar), {})
    check_devices(aten.copy_.default, (x, torch.ones(3)), {})
    lstm = aten.lstm.data
    assert stays_on_host(lstm) == (1,) and stays_on_host(aten.lstm.input) == ()
    check_devices(lstm, (x, index, [x], [x], True, 1, 0.0, False, False), {})
    for func, args, kwargs in (
        (aten.add.Tensor, (x, torch.ones(3)), {}),
        (aten.add.out, (x, x), {'out': scalar}),
        (aten.add_.Tensor, (scalar, x), {}),
        (aten.index_put_.default, (x, [index], torch.ones(2)), {}),
        (aten.cat.default, ([x, scalar],), {}),
        (aten.gather.default, (x, 0, index), {}),
    ):
        with pytest.raises(RuntimeError, match='Expected all tensors to be on the same device'):
            check_devices(func, args, kwargs)


def test_arguments_are_recorded_with_the_device_indexed():
    given = {'device': torch.device('cuda'), 'dtype': torch.int64, 'pin_memory': False}
    assert server_arguments(given) == {'device': CUDA, 'dtype': torch.int64}
    assert server_arguments({}) == {}
    with pytest.raises(RuntimeError, match='invalid device ordinal'):
        server_arguments({'device': torch.device('cuda', 2)})
    with pytest.raises(RuntimeError, match=r'no torch\.sparse_coo tensors'):
        server_arguments({'layout': torch.sparse_coo})


def test_equal_metadata_is_one_object():
    one, other = meta_of(torch.ones(2, 3).t()), meta_of(torch.rand(2, 3).t())
    assert one is other == TensorMeta((3, 2), (1, 3), 0, torch.float32)
    assert meta_of(torch.ones(4)[1:]).offset == 1
    with pytest.raises(NotImplementedError, match='only strided tensors'):
        meta_of(torch.ones(2, 2).to_sparse())
