"""A network of one's own: a colour image in, probabilities of its classes out."""

from pathlib import Path

from safetensors.torch import load_file, save_file
import torch
from torch import nn


class Classifier(nn.Module):
    """Called with the preprocessed image, (1, 3, h, w) float32."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(),
            nn.Conv2d(64, 64, 3, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(64, classes),
        )  # fmt: skip

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.layers(image).softmax(-1)[0]


def classifier(classes: int, weights: str) -> nn.Module:
    """What ``models.yaml`` names; its ``arguments`` come here."""
    network = Classifier(classes)
    network.load_state_dict(load_file(weights))
    network.weights_trained = True  # otherwise results say that nothing may move on them
    return network


if __name__ == '__main__':  # stands for your training
    torch.manual_seed(1)
    save_file(Classifier(10).state_dict(), Path('my_weights.safetensors'))
