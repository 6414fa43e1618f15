"""KAPAO as a model of ``models.yaml``: an image to the persons in it, with 17 keypoints each.

source:
  python: offload_ros.models.kapao:kapao
  arguments: {size: s, weights: ./kapao_s.safetensors}
preprocess: {resize: [960, 1280], letterbox: true}
outputs: [poses, boxes]
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
import math

import torch
from torch import Tensor, nn

from offload_ros.graph import custom  # noqa: F401  # its import defines the operator detect_poses
from offload_ros.models.errors import InputError, ModelError
from offload_ros.models.kapao_network import SIZES, STRIDES, KapaoNetwork
from offload_ros.models.kapao_weights import imported_path, load_network
from offload_ros.models.preprocess import Placement

IMPORTED, NONE = 'imported', 'none'
PUBLISHED = ('s', 'm', 'l')
_UNMOVED = Placement()


@dataclass(frozen=True)
class PoseSettings:
    """What decides which candidates are persons and keypoints, see ``detect_poses``.

    Scores and IoUs 0 to 1. ``gate``: persons above this score take keypoint objects that lie within
    ``tolerance_px`` (of the camera's image). The values are those of the published robot.
    """

    person_score: float = 0.7
    person_iou: float = 0.45
    keypoint_score: float = 0.5
    keypoint_iou: float = 0.45
    gate: float = 0.2
    tolerance_px: float = 25.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or value < 0:
                raise ModelError(f'{name} must be a number from 0, not {value!r}')
            if name != 'tolerance_px' and value > 1:
                raise ModelError(f'{name} must be from 0 to 1, not {value}')


class Kapao(nn.Module):
    """(1, 3, H, W) float32 RGB in [0, 1] to ``poses`` (N, 17, 3: x, y, confidence) and ``boxes``
    (N, 5: x1, y1, x2, y2, confidence), in pixels of the camera's image, strongest first.

    H and W are multiples of 64. A keypoint has confidence 0 where only the person's own estimate
    tells it, and that of the keypoint object which took its place.
    """

    takes_placement = True

    def __init__(
        self, network: KapaoNetwork, settings: PoseSettings, trained: bool, remark: str = ''
    ) -> None:
        super().__init__()
        self.network = network.fuse()
        self.pose_settings = settings
        self.weights_trained, self.remark = trained, remark
        self.model_identity = {'size': network.size.name, **asdict(settings)}
        self.eval()

    def forward(self, image: Tensor, placement: Placement = _UNMOVED) -> dict[str, Tensor]:
        coarsest = STRIDES[-1]
        if image.ndim != 4 or image.shape[:2] != (1, 3):
            raise InputError(
                f'kapao takes one image (1, 3, H, W), not {tuple(image.shape)}: give the model '
                'preprocess: {resize: [H, W], letterbox: true} in models.yaml'
            )
        if image.shape[2] % coarsest or image.shape[3] % coarsest:
            raise InputError(
                f'kapao takes images whose sides are multiples of {coarsest}, not '
                f'{tuple(image.shape[2:])}: mend preprocess.resize in models.yaml'
            )
        its = self.pose_settings
        floor = min(its.person_score, its.keypoint_score)
        candidates = self.network.candidates(self.network(image), floor)[0]
        poses, boxes = torch.ops.offload_ros.detect_poses(
            candidates,
            its.person_score,
            its.person_iou,
            its.keypoint_score,
            its.keypoint_iou,
            its.gate,
            its.tolerance_px,
            placement.scale_x,
            placement.scale_y,
            placement.left,
            placement.top,
        )
        return {'poses': poses, 'boxes': boxes}


def kapao(size: str = 's', weights: str = IMPORTED, **thresholds: float) -> Kapao:
    """The factory for ``source.python`` in ``models.yaml``.

    ``size``: t, s, m or l. ``weights``: a safetensors file; 'imported': what ``ros2 run offload_ros
    import-kapao`` left on this machine, if there is some; 'none'. Without weights they are random,
    and results say that they are not trained. ``thresholds``: fields of ``PoseSettings``.
    ``ModelError`` for another size, weights of another network, and values out of range.
    """
    if size not in SIZES:
        raise ModelError(f'kapao has no size {size!r}, there are {", ".join(SIZES)}')
    unknown = sorted(set(thresholds) - set(PoseSettings.__dataclass_fields__))
    if unknown:
        known = ', '.join(PoseSettings.__dataclass_fields__)
        raise ModelError(f'kapao has no argument {unknown[0]!r} (size, weights, {known})')
    settings = PoseSettings(**thresholds)
    path = str(imported_path(size)) if weights == IMPORTED else weights
    if weights == NONE or (weights == IMPORTED and not imported_path(size).is_file()):
        remark = f'KAPAO-{size.upper()} has no weights here: random ones, results mean nothing'
        if size in PUBLISHED:
            remark += f' (ros2 run offload_ros import-kapao kapao_{size}_coco.pt brings weights)'
        return Kapao(KapaoNetwork(SIZES[size]).eval(), settings, False, remark)
    network, said = load_network(path)
    if network.size.name != size:
        raise ModelError(
            f'{path}: weights of KAPAO-{network.size.name.upper()}, models.yaml says size {size}'
        )
    return Kapao(network, settings, said.get('trained') != 'false')
