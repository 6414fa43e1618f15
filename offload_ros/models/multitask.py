"""A multi-task network as a model of ``models.yaml``: an image to boxes, classes and depths.

source:
  python: offload_ros.models.multitask:multitask
  arguments: {size: small, tasks: [detection], weights: ./multi_small.safetensors}
preprocess: {resize: [96, 128]}
outputs: [boxes]

``tasks`` says which heads are computed. The weights may have more: of one file each entry of
``models.yaml`` takes what it answers, and several entries may take different outputs of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from safetensors import SafetensorError, safe_open
import torch
from torch import Tensor, nn

from offload_ros.models.errors import InputError, ModelError
from offload_ros.models.multitask_network import COARSEST, SIZES, TASKS, MultitaskNetwork
from offload_ros.models.preprocess import Placement

NONE = 'none'
_HEAD = 'heads.'
_UNMOVED = Placement()


class Multitask(nn.Module):
    """(1, 3, H, W) float32 RGB in [0, 1], H and W multiples of 16, to the outputs of its tasks.

    ``boxes`` (24, 6: x1, y1, x2, y2 in pixels of the camera's image, score, class), strongest
    first, rows of zeros where there are fewer; ``classes`` (H / 4, W / 4) uint8 and ``depth``
    (H / 4, W / 4) float32, metres along the optical axis, of cells of the network's input, which
    is the whole image where it is not letterboxed. Classes: places in
    ``multitask_network.CLASSES``.
    """

    takes_placement = True

    def __init__(self, network: MultitaskNetwork, trained: bool, remark: str = '') -> None:
        super().__init__()
        self.network = network.fuse()
        self.weights_trained, self.remark = trained, remark
        self.model_identity = {'size': network.size.name, 'tasks': list(network.tasks)}
        self.eval()

    def forward(self, image: Tensor, placement: Placement = _UNMOVED) -> dict[str, Tensor]:
        if image.ndim != 4 or image.shape[:2] != (1, 3):
            raise InputError(
                f'multitask takes one image (1, 3, H, W), not {tuple(image.shape)}: give the model '
                'preprocess: {resize: [H, W]} in models.yaml'
            )
        if image.shape[2] % COARSEST or image.shape[3] % COARSEST:
            raise InputError(
                f'multitask takes images whose sides are multiples of {COARSEST}, not '
                f'{tuple(image.shape[2:])}: mend preprocess.resize in models.yaml'
            )
        found = {name: each[0] for name, each in self.network.answers(image).items()}
        if 'boxes' in found:
            found['boxes'] = _in_camera(found['boxes'], placement)
        return found


def _in_camera(boxes: Tensor, placement: Placement) -> Tensor:
    """Boxes (K, 6) in pixels of the camera's image; rows of zeros stay."""
    left, top = placement.left, placement.top
    x1, y1, x2, y2, score, kind = boxes.unbind(1)
    there = score > 0
    corners = (
        (x1 - left) / placement.scale_x,
        (y1 - top) / placement.scale_y,
        (x2 - left) / placement.scale_x,
        (y2 - top) / placement.scale_y,
    )
    return torch.stack((*(each * there for each in corners), score, kind), 1)


def multitask(size: str = 'small', tasks: Sequence[str] = TASKS, weights: str = NONE) -> Multitask:
    """The factory for ``source.python`` in ``models.yaml``.

    ``size``: small or large. ``tasks``: of detection, segmentation and depth, those that are
    computed. ``weights``: a safetensors file that has them, others beside them or not; 'none':
    random, and results say that they are not trained. ``ModelError`` for what does not fit.
    """
    if size not in SIZES:
        raise ModelError(f'multitask has no size {size!r}, there are {", ".join(SIZES)}')
    if not isinstance(tasks, (list, tuple)) or not all(isinstance(each, str) for each in tasks):
        raise ModelError(f'multitask: tasks is a list of names, not {tasks!r}')
    try:
        network = MultitaskNetwork(SIZES[size], tasks, fused=True)
    except ValueError as error:
        raise ModelError(f'multitask: {error}') from None
    if weights == NONE:
        return Multitask(
            network, False, 'multitask has no weights here: random ones, results mean nothing'
        )
    load_weights(network, weights)
    return Multitask(network, True)


def load_weights(network: MultitaskNetwork, path: str) -> None:
    """Fill a network whose batch norms are folded in from a safetensors file; heads that it does
    not have are left out. ``ModelError`` where the weights are another's; shapes are checked before
    memory is taken."""
    wanted = network.state_dict()
    try:
        with safe_open(path, framework='pt') as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            _check(network, path, shapes)
            found = {name: file.get_tensor(name) for name in wanted}
    except (SafetensorError, OSError) as error:
        first = (str(error).splitlines() or [''])[0]
        raise ModelError(f'{path}: cannot be read as safetensors: {first}') from None
    for name, each in found.items():
        if not bool(torch.isfinite(each.float()).all()):
            raise ModelError(f'{path}: {name} has values that are not finite')
    network.load_state_dict(found)


def _check(network: MultitaskNetwork, path: str, shapes: dict[str, tuple[int, ...]]) -> None:
    has = [task for task in TASKS if any(name.startswith(f'{_HEAD}{task}.') for name in shapes)]
    missing = [task for task in network.tasks if task not in has]
    if has and missing:
        raise ModelError(
            f'{path}: weights for {", ".join(has)}, not for {", ".join(missing)}: mend tasks in '
            'models.yaml'
        )
    wanted = network.state_dict()
    for name, each in wanted.items():
        if name not in shapes:
            raise ModelError(f'{path}: not the weights of such a network: {name} is missing')
        if shapes[name] != tuple(each.shape):
            raise ModelError(
                f'{path}: {name} is {shapes[name]}, of size {network.size.name} '
                f'{tuple(each.shape)}: mend size in models.yaml'
            )
    known = tuple(f'{_HEAD}{task}.' for task in TASKS)
    more = sorted(name for name in shapes if name not in wanted and not name.startswith(known))
    if more:
        raise ModelError(f'{path}: not the weights of such a network: {more[0]} is not in it')
