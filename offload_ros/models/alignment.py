"""Weights at addresses at which every library computes the same bits."""

from __future__ import annotations

import itertools

import torch
from torch import nn

BOUNDARY = 64  # bytes; where torch itself puts tensors


def align(module: nn.Module) -> None:
    """Copy weights of ``module`` that begin elsewhere: those that were mapped from a file.

    On some CPUs (seen: AMD Zen 5 with MKL) a product has other last bits where a matrix begins at
    an odd address, so that two machines with the same weights would disagree.
    """
    with torch.no_grad():
        for tensor in itertools.chain(module.parameters(), module.buffers()):
            if tensor.device.type == 'cpu' and tensor.data_ptr() % BOUNDARY:
                tensor.data = tensor.data.clone()
