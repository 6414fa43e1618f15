"""What ``transparent`` tells the program that it starts, by its environment."""

from __future__ import annotations

from dataclasses import dataclass
import json
import math
import os

OPTIONS = 'OFFLOAD_TRANSPARENT'
MODES = ('rpc', 'pipelined', 'replay')


@dataclass(frozen=True)
class Options:
    """``server``: node name, empty: the least loaded. ``wait_s``: until one is there.
    ``max_message_mb``: of one answer, and so of a tensor that the program reads."""

    mode: str = 'replay'
    server: str = ''
    key_file: str = ''
    wait_s: float = 10.0
    max_message_mb: float = 4096.0
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f'mode {self.mode!r} is not one of {", ".join(MODES)}')
        if not 0.0 <= self.wait_s < math.inf:
            raise ValueError(f'wait_s is {self.wait_s:g}: 0 or more seconds are wanted')
        if not 0.0 < self.max_message_mb < math.inf:
            raise ValueError(f'max_message_mb is {self.max_message_mb:g}: more than 0 is wanted')


def options_here() -> Options:
    """Of this process; the defaults when it was started otherwise. ``ValueError`` when somebody
    else has set them wrongly."""
    text = os.environ.get(OPTIONS)
    try:
        return Options(**json.loads(text)) if text else Options()
    except (TypeError, ValueError) as error:
        raise ValueError(
            f'{OPTIONS} is {text!r}: {error} (it is set by "ros2 run offload_ros transparent")'
        ) from None
