"""``torch.cuda`` as a program finds it on a machine with one device."""

import time

import pytest
import torch

from .conftest import reset_default_device


def test_the_device_is_there(device):
    assert torch.cuda.is_available() and torch.cuda.is_initialized()
    assert torch.cuda.device_count() == 1 and torch.cuda.current_device() == 0
    assert torch.cuda.get_device_name() == torch.cuda.get_device_name('cuda:0') == 'Test device'
    assert torch.cuda.get_device_capability(0) == (8, 6)
    properties = torch.cuda.get_device_properties(torch.device('cuda'))
    assert (properties.total_memory, properties.multi_processor_count) == (8 << 30, 16)
    assert torch.cuda.mem_get_info() == (6 << 30, 8 << 30)
    assert torch.cuda.memory_allocated() == torch.cuda.max_memory_reserved() == 0
    assert torch.cuda.is_bf16_supported()
    torch.cuda.set_device(0)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.init()
    with torch.cuda.device(0), torch.cuda.device('cuda:0'), torch.cuda.device_of(torch.ones(1)):
        assert torch.ones(2, device='cuda').is_cuda
    with torch.cuda.nvtx.range('part'):
        pass


@pytest.mark.skipif(not hasattr(torch, 'accelerator'), reason='this torch has no accelerator API')
def test_the_device_is_the_accelerator(device):
    assert torch.accelerator.is_available() and torch.accelerator.device_count() == 1
    assert torch.accelerator.current_accelerator().type == 'cuda'
    torch.accelerator.synchronize()
    assert device.log[-1] == 'synchronize'


def test_streams_and_events(device):
    stream = torch.cuda.Stream()
    assert torch.cuda.current_stream() == torch.cuda.default_stream() != stream
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    assert isinstance(start, torch.cuda.Event)
    with torch.cuda.stream(stream):
        assert torch.cuda.current_stream() is stream
        start.record()
        x = torch.ones(2).cuda() + 1
        x.record_stream(stream)
        end.record()
    stream.wait_stream(torch.cuda.current_stream())
    stream.wait_event(end)
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    device.log.clear()
    end.synchronize()
    assert device.log == ['synchronize'] and end.query()
    assert 0 < start.elapsed_time(end) < 1e4
    with pytest.raises(ValueError, match='enable_timing'):
        torch.cuda.Event().elapsed_time(end)
    torch.cuda.synchronize()
    stream.synchronize()
    assert device.log == ['synchronize'] * 3


def test_event_ends_when_the_work_before_it_is_done(device):
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    end.record()
    synchronize = device.synchronize
    device.synchronize = lambda: (time.sleep(0.05), synchronize())
    torch.cuda.synchronize()
    device.synchronize = synchronize
    assert start.elapsed_time(end) >= 50


@pytest.mark.parametrize(
    'seed',
    [
        lambda: torch.manual_seed(5),
        lambda: torch.cuda.manual_seed(5),
        lambda: torch.cuda.manual_seed_all(5),
        lambda: torch.cuda.default_generators[0].manual_seed(5),
    ],
)
def test_seed_reaches_the_device(device, seed):
    expected = torch.rand(3, generator=torch.Generator().manual_seed(5))
    seed()
    assert torch.equal(torch.rand(3, device='cuda').cpu(), expected)
    assert torch.cuda.initial_seed() == 5


def test_state_of_the_generator_is_kept_and_put_back(device):
    state = torch.cuda.get_rng_state()
    assert state.dtype is torch.uint8 and state.device.type == 'cpu'
    first = torch.rand(4, device='cuda')
    torch.cuda.set_rng_state(state)
    assert torch.equal(torch.rand(4, device='cuda'), first)
    with torch.random.fork_rng():
        torch.cuda.manual_seed(1)
    torch.cuda.set_rng_state_all([state])
    assert torch.equal(torch.rand(4, device='cuda'), first)


def test_generator_of_the_device(device):
    generator = torch.Generator(device='cuda')
    assert isinstance(generator, torch.Generator) and generator.device.type == 'cuda'
    generator.manual_seed(3)
    expected = torch.randn(4, generator=torch.Generator().manual_seed(3))
    assert torch.equal(torch.randn(4, generator=generator, device='cuda').cpu(), expected)
    state = generator.get_state()
    first = torch.rand(2, generator=generator, device='cuda')
    generator.set_state(state)
    assert torch.equal(torch.rand(2, generator=generator, device='cuda'), first)
    assert generator.initial_seed() == 3
    plain = torch.Generator().manual_seed(0)
    assert type(plain) is torch._C.Generator and isinstance(plain, torch.Generator)
    with pytest.raises(RuntimeError, match="Expected a 'cuda' device type for generator"):
        torch.rand(2, generator=plain, device='cuda')


def test_dead_generator_is_freed(device):
    numbers = set(device._generators)
    generator = torch.Generator('cuda')
    (number,) = set(device._generators) - numbers
    del generator
    assert -number in device.freed
    torch.ones(1, device='cuda')
    assert set(device._generators) == numbers


def test_data_loader_pins_and_seeds_workers(device):
    data = torch.utils.data.TensorDataset(torch.arange(6.0))
    loader = torch.utils.data.DataLoader(data, batch_size=2, pin_memory=True, num_workers=1)
    batches = [batch.cuda(non_blocking=True) for (batch,) in loader]
    assert torch.cat(batches).tolist() == list(range(6))


def test_default_tensor_type(device):
    try:
        torch.set_default_tensor_type('torch.cuda.FloatTensor')
        assert torch.zeros(2).is_cuda and torch.tensor([1.0]).dtype is torch.float32
    finally:
        torch.set_default_tensor_type('torch.FloatTensor')
        reset_default_device()
