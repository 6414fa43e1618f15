"""Which models A-MOT can run, and of which patches their images are: the same on both sides."""

from __future__ import annotations

from dataclasses import dataclass
import math
from typing import TYPE_CHECKING

from offload_ros.models.model import Model

if TYPE_CHECKING:
    from transformers import ViTForImageClassification

OUTPUT = 'probabilities'


class NotFit(ValueError):
    """A-MOT cannot run this model; the text says why and what to change."""


@dataclass(frozen=True)
class Geometry:
    """Edges of image and patch in pixels, number of classes."""

    image_px: int
    patch_px: int
    labels: int

    @property
    def patches(self) -> int:
        """Of one image."""
        return (self.image_px // self.patch_px) ** 2

    @property
    def patch_bytes(self) -> int:
        """Of one patch, raw."""
        return self.patch_px * self.patch_px * 3

    @property
    def image_bytes(self) -> int:
        """Of one image, raw."""
        return self.patches * self.patch_bytes


def geometry_of(model: Model) -> Geometry:
    """How the classifier of a model sees images; ``NotFit``.

    Patches are cut from the camera's bytes after nothing but a resize, so preprocessing must be
    that and the normalisation which the networks have inside.
    """
    classifier = classifier_of(model)
    config = classifier.config
    geometry = Geometry(int(config.image_size), int(config.patch_size), int(config.num_labels))
    if geometry.image_px % geometry.patch_px or geometry.patches > 1 << 16:
        raise NotFit(
            f'images of {geometry.image_px} pixels in patches of {geometry.patch_px}: a whole '
            'number of patches, at most 65536, is needed'
        )
    inputs, preprocess = model.config.inputs, model.config.preprocess
    if len(inputs) != 1 or inputs[0].type != 'sensor_msgs/msg/Image':
        raise NotFit('one input of type sensor_msgs/msg/Image is needed')
    if inputs[0].encoding != 'rgb8':
        raise NotFit(f'the input needs encoding rgb8, not {inputs[0].encoding}')
    size = (geometry.image_px, geometry.image_px)
    if preprocess is None or preprocess.resize is None or tuple(preprocess.resize) != size:
        raise NotFit(f'preprocess.resize must be {list(size)}, as the classifier sees images')
    if preprocess.letterbox or not math.isclose(preprocess.scale, 1 / 255, rel_tol=1e-6):
        raise NotFit('preprocess may have no letterbox, and its scale is 1/255')
    if model.config.outputs != (OUTPUT,):
        raise NotFit(f'outputs must be [{OUTPUT}]: that is all A-MOT answers')
    return geometry


def classifier_of(model: Model) -> ViTForImageClassification:
    """The network inside a model's; ``NotFit`` where that is no ViT or DeiT of transformers."""
    # Takes seconds, and only a model that is one has imported it already.
    from transformers import ViTForImageClassification

    network = getattr(model.network, 'network', None)
    if not isinstance(network, ViTForImageClassification):
        raise NotFit('its source must be a ViT or DeiT classifier of transformers')
    return network
