"""SCONet between robot and server: bits up, labels down, voxel by voxel as on one machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sensor_msgs.msg import Image
from system import (
    Listener,
    Process,
    answer_to,
    image_message,
    new_domain,
    outputs_of,
    robot,
    running,
    server,
    until,
)
import torch

from offload_ros.models.config_file import load_models_file
from offload_ros.models.model import load_model
from offload_ros.msg import InferenceResult
from offload_ros.navigation.voxels import packed

CONFIG = Path(__file__).parents[2] / 'config' / 'models_agrnav.yaml'
SIZES = {'small': (128, 16, 128), 'published': (256, 32, 256), 'plain': (256, 32, 256)}


def seen(variant: str) -> np.ndarray:
    """A floor and some upright boards: bits (W, H * D / 8) uint8."""
    width, height, depth = SIZES[variant]
    rng = np.random.default_rng(width)
    grid = np.zeros((width, height, depth), np.uint8)
    grid[:, 0] = rng.random((width, depth)) < 0.4
    for _ in range(40):
        x, z = rng.integers(0, width - 9), rng.integers(0, depth - 9)
        if rng.random() < 0.5:
            grid[x, : height // 2, z : z + 9] = 1
        else:
            grid[x : x + 9, : height // 2, z] = 1
    return packed(grid).reshape(width, -1)


@pytest.mark.parametrize('variant', sorted(SIZES))
def test_offloaded_labels_are_those_of_one_machine(variant):
    domain = new_domain()
    processes = [server(domain, CONFIG), robot(domain, CONFIG)]
    listener = Listener(domain)
    with running(*processes):
        try:
            run(domain, listener, variant)
            for process in processes:
                process.stop()
        finally:
            listener.close()


def run(domain: int, listener: Listener, variant: str) -> None:
    bits = seen(variant)
    publisher = listener.publisher(Image, 'agrnav/voxels')
    results = listener.results('agrnav')
    until(publisher.get_subscription_count, 'the manager subscribes')
    # On one machine nothing is coded: that would take longer than to copy it.
    for name, value in (('agrnav.variant', variant), ('link.emulate.bandwidth_mbps', '20.0')):
        setting = Process(domain, 'ros2', 'param', 'set', '/offload_manager', name, value)
        with running(setting):
            assert setting.ended() == 0, setting.output
    (config,) = load_models_file(CONFIG)
    torch.set_num_threads(1)
    model = load_model(config.variant_named(variant), 'cpu')
    wanted = model.run({'voxels': torch.from_numpy(bits)})['labels'].numpy()

    def offloaded(stamp: list[int] = [0]) -> InferenceResult | None:  # noqa: B006
        stamp[0] += 1
        message = image_message(bits, stamp[0], 'mono8')
        result = answer_to(publisher.publish, message, results)
        assert result.status == InferenceResult.OK, result.detail
        np.testing.assert_array_equal(outputs_of(result)['labels'], wanted)
        by_server = result.model_hash == model.hash and not result.fallback
        # The first ones tell how fast the link is.
        return result if by_server and result.bytes_down < wanted.nbytes / 8 else None

    result = until(offloaded, 'labels from the server, entropy-coded', 180.0)
    assert result.strategy_used == 'server'
    assert result.weights_trained == (variant == 'small')
    assert wanted.shape == SIZES[variant]
    assert 0 < result.bytes_up <= bits.nbytes
    assert result.bytes_down > 0
