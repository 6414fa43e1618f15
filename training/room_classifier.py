"""Train the demo's network: which kind of object fills most of the robot's view in the simulated
world.

A small ResNet (transformers) on frames from random poses in worlds of many seeds; the worlds of
the test set have other seeds. Seeded; resumable after each world and each epoch; about 15 minutes
on two cores.

    python training/room_classifier.py            writes config/networks/room_classifier/
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
import time

import numpy as np
import torch
from torch.nn import functional
from transformers import ResNetConfig, ResNetForImageClassification

from offload_ros.models.config import Preprocess
from offload_ros.models.preprocess import ImagePreprocess
from offload_ros.sim.config import CameraConfig, WorldConfig
from offload_ros.sim.objects.registry import KINDS
from offload_ros.sim.robot import Pose
from offload_ros.sim.scene import ROOM_KINDS
from offload_ros.sim.world import World

LABELS = (*sorted(KINDS), 'person', 'nothing')
LEAST_SHARE = 0.015  # of the picture; what is smaller is 'nothing'
TRAIN_SEEDS = range(1000, 1100)
TEST_SEEDS = range(2000, 2020)
SIZE = (120, 160)
TARGET = Path(__file__).parent.parent / 'config' / 'networks' / 'room_classifier'


def label_of(segmentation: np.ndarray, kinds: tuple[str, ...]) -> int:
    """The label of the entity with most pixels in a segmentation image (H, W)."""
    counts = np.bincount(segmentation.reshape(-1), minlength=len(kinds))
    counts[: len(ROOM_KINDS)] = 0
    best = int(counts.argmax())
    if counts[best] < LEAST_SHARE * segmentation.size:
        return LABELS.index('nothing')
    return LABELS.index(kinds[best])


def views(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames (count, 240, 320, 3) uint8 and labels (count,) from random poses in the world of
    ``seed``."""
    config = WorldConfig(camera=CameraConfig())
    rng = np.random.default_rng(seed)
    frames, labels = [], []
    with World(seed, config) as world:
        while len(frames) < count:
            world.step(0.3)
            targets = [(o.x, o.y) for o in world.truth().objects]
            targets += [(p.pose.x, p.pose.y) for p in world.truth().people] * 2
            x, y = targets[rng.integers(len(targets))]
            for _ in range(30):
                place = world.layout.free.sample(0.4, rng)
                distance = math.hypot(x - place[0], y - place[1])
                if 0.6 < distance < rng.uniform(0.8, 5.0):
                    break
            yaw = math.atan2(y - place[1], x - place[0]) + rng.normal(0.0, 0.25)
            world.robot.pose = Pose(float(place[0]), float(place[1]), yaw)
            world.step(0.01)
            frames.append(world.render_rgb().copy())
            labels.append(label_of(world.segmentation(), world.kinds))
    return np.stack(frames), np.array(labels)


def dataset(seeds: range, count: int, cache: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """All worlds' frames as the network sees them (N, 3, *SIZE) uint8, and labels (N,)."""
    resize = ImagePreprocess(Preprocess(resize=SIZE, scale=1.0))
    pictures, labels = [], []
    for index, seed in enumerate(seeds):
        file = cache / f'{seed}_{count}.npz'
        if not file.exists():
            frames, answers = views(seed, count)
            small = torch.cat([resize(torch.from_numpy(frame)) for frame in frames])
            np.savez(file, pictures=small.round().to(torch.uint8).numpy(), labels=answers)
            print(f'world {index + 1}/{len(seeds)}', flush=True)
        with np.load(file) as data:
            pictures.append(torch.from_numpy(data['pictures']))
            labels.append(torch.from_numpy(data['labels']))
    return torch.cat(pictures), torch.cat(labels)


def network() -> ResNetForImageClassification:
    """The untrained network; its configuration names the labels."""
    config = ResNetConfig(
        embedding_size=32,
        hidden_sizes=[32, 64, 96, 160],
        depths=[1, 1, 2, 2],
        layer_type='basic',
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
    )
    return ResNetForImageClassification(config)


def augmented(pictures: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mirrored, shifted, brighter or darker (N, 3, h, w) float32 in [0, 1]."""
    if torch.rand((), generator=generator) < 0.5:
        pictures = pictures.flip(-1)
    shift = [int(v) for v in torch.randint(-8, 9, (2,), generator=generator)]
    gain = 0.85 + 0.3 * torch.rand((len(pictures), 1, 1, 1), generator=generator)
    return (torch.roll(pictures, shift, (-2, -1)).float() / 255.0 * gain).clamp(0, 1)


@torch.inference_mode()
def accuracy(model: torch.nn.Module, pictures: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of right answers."""
    model.eval()
    right = 0
    for start in range(0, len(labels), 128):
        logits = model(pictures[start : start + 128].float() / 255.0).logits
        right += int((logits.argmax(-1) == labels[start : start + 128]).sum())
    return right / len(labels)


def main() -> None:
    """Render, train, evaluate, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cache = Path('training/.cache')
    parser.add_argument('--work', type=Path, default=cache, help='resumable state')
    parser.add_argument('--epochs', type=int, default=14)
    parser.add_argument('--views', type=int, default=120, help='frames per world')
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    train_x, train_y = dataset(TRAIN_SEEDS, arguments.views, arguments.work)
    test_x, test_y = dataset(TEST_SEEDS, 50, arguments.work)
    model = network()
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.02)
    batches = math.ceil(len(train_y) / 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, arguments.epochs * batches)
    checkpoint = arguments.work / 'checkpoint.pt'
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state['model'])
        optimiser.load_state_dict(state['optimiser'])
        schedule.load_state_dict(state['schedule'])
        first = state['epoch']
    for epoch in range(first, arguments.epochs):
        generator = torch.Generator().manual_seed(epoch)
        began_s, total = time.monotonic(), 0.0
        model.train()
        for batch in torch.randperm(len(train_y), generator=generator).split(64):
            loss = functional.cross_entropy(
                model(augmented(train_x[batch], generator)).logits,
                train_y[batch],
                label_smoothing=0.05,
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item() * len(batch)
        score = accuracy(model, test_x, test_y)
        print(
            f'epoch {epoch + 1}/{arguments.epochs}: loss {total / len(train_y):.3f}, '
            f'held-out accuracy {score:.3f}, {time.monotonic() - began_s:.0f} s',
            flush=True,
        )
        torch.save(
            {
                'model': model.state_dict(),
                'optimiser': optimiser.state_dict(),
                'schedule': schedule.state_dict(),
                'epoch': epoch + 1,
            },
            checkpoint,
        )
    model.eval().save_pretrained(TARGET)
    (TARGET / 'evaluation.json').write_text(
        json.dumps(
            {
                'held_out_accuracy': accuracy(model, test_x, test_y),
                'held_out_worlds': [TEST_SEEDS.start, TEST_SEEDS.stop],
                'frames': len(test_y),
                'labels': len(LABELS),
                'largest_class_share': float(torch.bincount(test_y).max() / len(test_y)),
            },
            indent=1,
        )
        + '\n'
    )


if __name__ == '__main__':
    main()
