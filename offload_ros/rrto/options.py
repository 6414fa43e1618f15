"""What ``transparent`` tells the program that it starts, by its environment."""

from __future__ import annotations

from dataclasses import dataclass
import json
import math
import os

OPTIONS = 'OFFLOAD_TRANSPARENT'
MODES = ('rpc', 'pipelined', 'replay')
FALLBACKS = ('none', 'local')
PLACEMENTS = ('server', 'whole', 'auto')
CUT_METHOD = 'layer_cut'  # of ``graph.methods``


@dataclass(frozen=True)
class Options:
    """``server``: node name, empty: the least loaded. ``wait_s``: until one is there.
    ``max_message_mb``: of one answer, and so of a tensor that the program reads. ``fallback``:
    ``local``, the program goes on on this machine when there is no server any more. ``placement``:
    ``whole``, units run on this machine also while there is one, where that is predicted to be
    faster; ``auto`` or ``auto:METHOD``, they may also be cut between both."""

    mode: str = 'replay'
    server: str = ''
    key_file: str = ''
    wait_s: float = 10.0
    max_message_mb: float = 4096.0
    quiet: bool = False
    fallback: str = 'none'
    placement: str = 'server'

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f'mode {self.mode!r} is not one of {", ".join(MODES)}')
        if self.fallback not in FALLBACKS:
            raise ValueError(f'fallback {self.fallback!r} is not one of {", ".join(FALLBACKS)}')
        check_placement(self.placement)
        if self.placement != 'server' and self.fallback != 'local':
            raise ValueError(
                f'placement {self.placement} wants a copy on this machine: give --fallback local'
            )
        if not 0.0 <= self.wait_s < math.inf:
            raise ValueError(f'wait_s is {self.wait_s:g}: 0 or more seconds are wanted')
        if not 0.0 < self.max_message_mb < math.inf:
            raise ValueError(f'max_message_mb is {self.max_message_mb:g}: more than 0 is wanted')


def check_placement(placement: str) -> None:
    """``ValueError`` for one that there is not."""
    if placement in PLACEMENTS:
        return
    if not placement.startswith('auto:'):
        raise ValueError(
            f'placement {placement!r} is not one of {", ".join(PLACEMENTS)}, auto:METHOD'
        )
    # Only here: whoever starts a program need not wait for torch.
    from offload_ros.graph.methods import find_method

    find_method(placement.removeprefix('auto:'))


def cut_method(placement: str) -> str:
    """How units are cut with a placement; empty: they are not."""
    return CUT_METHOD if placement == 'auto' else placement.partition('auto:')[2]


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
