"""Small networks with random weights that the tests of A-MOT share."""

import torch

from offload_ros.amot.bundle import Bundle, random_bundle
from offload_ros.amot.networks import VitSize, vit_classifier, vit_mae

IMAGE_PX, PATCH_PX, PATCHES = 48, 16, 9
LABELS = ('ball', 'box', 'chair', 'mug', 'person')


def small_bundle(seed: int = 0, image_px: int = IMAGE_PX) -> Bundle:
    """A bundle whose answers differ from image to image."""
    torch.manual_seed(seed)
    classifier = vit_classifier(VitSize(32, 2, 2), image_px, PATCH_PX, LABELS)
    mae = vit_mae(VitSize(48, 2, 3), VitSize(32, 1, 2), image_px, PATCH_PX)
    bundle = random_bundle(classifier, mae)
    with torch.no_grad():  # so that it tells images apart: weights as small as at birth do not
        for module in (classifier, mae, bundle.second):
            for parameter in module.parameters():
                if parameter.ndim > 1 and parameter.requires_grad is False:
                    parameter.mul_(3.0)
    return bundle


def images(count: int, seed: int = 0, image_px: int = IMAGE_PX) -> torch.Tensor:
    """Random images (count, image_px, image_px, 3) uint8."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, image_px, image_px, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
