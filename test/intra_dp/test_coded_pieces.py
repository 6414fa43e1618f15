"""Pieces that cross coded change no bit of a result."""

import random
import time

import pytest

from offload_ros.cuts import host as host_module
from offload_ros.cuts.value_codecs import VALUE_CODECS
from offload_ros.intra_dp.lower import lower

from ..cuts.conftest import LONG_S, no_endless_wait, site
from ..graph.equality import assert_same
from .step_plans import random_plan, streamed
from .test_runtime import network, opened

__all__ = ['no_endless_wait', 'site']


@pytest.mark.parametrize('name', ['alias', 'convnext', 'resnet', 'unet3d', 'vit', 'yolo'])
def test_pieces_coded_in_any_way_give_the_bits_of_raw_ones(site, monkeypatch, name):
    _, link, lane, local = opened(site, name)
    graph, _, example, _ = network(name)
    choice = random.Random(name)
    ids = range(-len(graph.inputs), len(graph.nodes))
    for seed, aside in ((1, 0), (2, 1 << 40)):
        monkeypatch.setattr(host_module, 'CODED_ASIDE_BYTES', aside)
        work = lower(local.rows, streamed(local.rows, random_plan(local.rows, seed), 2))
        codecs = {each: choice.choice(list(VALUE_CODECS)) for each in ids}
        raw, coded = (
            link.run_split(local, work, example, lane, time.monotonic() + LONG_S, codecs=each)
            for each in (None, codecs)
        )
        assert_same(coded.outputs, raw.outputs)
        assert not raw.completed_locally and not coded.completed_locally
        assert coded.bytes_up <= raw.bytes_up and coded.bytes_down <= raw.bytes_down
