"""Each tensor that leaves over a channel is coded as pays on its link now."""

from __future__ import annotations

from collections.abc import Callable
import math
import time

import torch

from offload_ros.wire.codec_choice import CodecChooser
from offload_ros.wire.codecs import channels_of
from offload_ros.wire.framing import Coder
from offload_ros.wire.link_monitor import Bandwidth

REFRESH_S = 0.1  # the bandwidth changes no faster, and costs more to ask than a choice


class LinkCoder:
    """Codecs for the outgoing tensors of one channel; ``outgoing`` gives the bandwidth."""

    def __init__(self, outgoing: Callable[[], Bandwidth]) -> None:
        self._outgoing = outgoing
        self._chooser = CodecChooser()
        self._bytes_per_s = math.nan
        self._asked_s = -math.inf

    def of(self, purpose: str) -> Coder:
        """The coder for one kind of message, e.g. of one model: equal names of tensors are not
        equal tensors."""

        def code(
            name: str, tensor: torch.Tensor, data: memoryview, opaque: bool
        ) -> tuple[int, memoryview]:
            now_s = time.monotonic()
            if now_s - self._asked_s > REFRESH_S:
                self._asked_s, self._bytes_per_s = now_s, self._outgoing().bytes_per_s
            channels = channels_of(tuple(tensor.shape))
            size = tensor.element_size()
            return self._chooser.encode(
                (purpose, name), data, size, self._bytes_per_s, channels, opaque
            )

        return code
