"""Several frames of one model in one forward, and whether that gives what single ones give.

Models take one frame. A network may offer ``batched(*inputs)``, whose inputs and outputs have the
frames as first axis (its first input (B, C, h, w) where there is preprocessing); of any other the
forward is mapped over the frames by ``torch.vmap``, which raises where a network cannot be mapped:
where the shapes of its outputs, or its own branches, depend on the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import warnings

import torch

from offload_ros.models.errors import ModelError
from offload_ros.models.model import Model
from offload_ros.models.preprocess import computed

RTOL, ATOL_OF_MAX = 1e-4, 1e-5
# Of whole numbers, e.g. labels, so many may differ: where two classes tie but for the last bits.
UNEQUAL_SHARE = 1e-3

# Of operators that vmap computes frame by frame: right all the same, and nothing a user can mend.
warnings.filterwarnings('ignore', message='There is a performance drop because we have not yet')


class NotBatched(ModelError):
    """The model cannot compute these frames together; the text says why."""


class BatchTooLarge(NotBatched):
    """There is no memory for so many frames together."""


def run_batch(
    model: Model, frames: Sequence[Mapping[str, torch.Tensor]]
) -> list[dict[str, torch.Tensor]]:
    """The outputs of each frame, as ``model.run`` gives them but for the last bits.

    ``frames``: the inputs of each, names, shapes and dtypes all equal. ``NotBatched`` when the
    network does not take them together, also when it fails on one of them.
    """
    for frame in frames:
        model.check_inputs(frame)
    try:
        with torch.inference_mode():
            outputs = _forward(model, frames)
            for name, tensor in outputs.items():
                if tensor.ndim < 1 or len(tensor) != len(frames):
                    raise NotBatched(f"'{name}' is {tuple(tensor.shape)} for {len(frames)} frames")
            outputs = {name: tensor.to('cpu').contiguous() for name, tensor in outputs.items()}
        return [
            {name: tensor[index] for name, tensor in outputs.items()}
            for index in range(len(frames))
        ]
    except NotBatched:
        raise
    except (torch.cuda.OutOfMemoryError, MemoryError):
        raise BatchTooLarge(f'no memory for {len(frames)} frames together') from None
    except Exception as error:  # a network may raise anything on what it was not made for
        first = (str(error).strip().splitlines() or [''])[0]
        raise NotBatched(f'{type(error).__name__}: {first}') from error


def _forward(model: Model, frames: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    names = [spec.name for spec in model.config.inputs]
    inputs = [[frame[name].to(model.device) for frame in frames] for name in names]
    batched = getattr(model.network, 'batched', None)
    if batched is None:
        mapped = torch.vmap(
            lambda *inputs: model.named_outputs(computed(model.network, model.preprocess, inputs))
        )
        stacked = [torch.stack(each) for each in inputs]
        return mapped(*stacked)  # type: ignore[no-any-return]
    if model.preprocess is None:
        first = torch.stack(inputs[0])
    else:  # each alone: its bits are those of a single frame
        first = torch.cat([model.preprocess(image) for image in inputs[0]])
    return model.named_outputs(batched(first, *(torch.stack(each) for each in inputs[1:])))


def difference(single: Mapping[str, torch.Tensor], together: Mapping[str, torch.Tensor]) -> str:
    """How the outputs of one frame in a batch differ from those alone, beyond what the order of
    sums does; empty when they do not.

    Floating-point: rtol 1e-4 and atol 1e-5 of the largest value. Whole numbers: one in a thousand.
    """
    for name, wanted in single.items():
        found = together[name]
        if found.shape != wanted.shape or found.dtype != wanted.dtype:
            return (
                f"'{name}' is {found.dtype} {tuple(found.shape)} in a batch, alone {wanted.dtype} "
                f'{tuple(wanted.shape)}'
            )
        if wanted.numel() == 0:
            continue
        if not wanted.is_floating_point():
            share = float((found != wanted).double().mean())
            if share > UNEQUAL_SHARE:
                return f"{share:.2%} of '{name}' differ"
            continue
        wanted, found = wanted.double(), found.double()
        finite = wanted[wanted.isfinite()].abs()
        atol = ATOL_OF_MAX * float(finite.max()) if finite.numel() else 0.0
        if not torch.allclose(found, wanted, rtol=RTOL, atol=atol, equal_nan=True):
            return f"'{name}' differs by up to {float((found - wanted).abs().nan_to_num().max()):g}"
    return ''
