"""JPEG and WebP: of the whole image, of regions after a first look, of A-MOT's patches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
import os
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from offload_ros.amot.baselines.common import Answers, Networks, classify, first_of
from offload_ros.amot.coded_patches import (
    Ladder,
    code_patches,
    decode_patches,
    restored,
)
from offload_ros.amot.evaluate import (
    HEADER_BYTES,
    FirstRound,
    Images,
    Labels,
    batches,
    run_first,
    samples,
)
from offload_ros.amot.inference import missing_by_attention, second_pass
from offload_ros.amot.patches import count_of, images_of, patches_of

GREY = 124
T = TypeVar('T')
Pictures = npt.NDArray[np.uint8]


def in_threads(work: Callable[[int], T], count: int) -> list[T]:
    """``work`` of 0 to count - 1: OpenCV's codecs run beside one another."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(work, range(count)))


class Ladders:
    """Whole images in all qualities that were needed so far; kept for the images seen last."""

    def __init__(self, codec: str) -> None:
        self._codec = codec
        self._of: Images | None = None
        self._ladders: list[Ladder] = []

    def seen(self, images: Images, limit: int) -> tuple[Pictures, npt.NDArray[np.int64]]:
        """(pictures as they arrive within ``limit`` bytes, bytes; 0: none fitted, all grey)."""
        if self._of is not images:
            self._of = images
            self._ladders = [Ladder(picture, self._codec) for picture in images.split.images]
        height, width = images.split.images.shape[1:3]

        def one(index: int) -> tuple[Pictures, int]:
            coded = self._ladders[index].within(limit)
            if coded is None:
                return np.full((height, width, 3), GREY, np.uint8), 0
            return restored(coded, height, width), len(coded.data)

        found = in_threads(one, len(images))
        sizes = np.array([size for _, size in found], np.int64)
        return np.stack([picture for picture, _ in found]), sizes


class CodedImage:
    """JPEG or WebP at as many bytes: the greatest quality that fits, of the resolution that is then
    nearest to the image. An image that does not fit at all is answered from grey."""

    drawn = False

    def __init__(self, networks: Networks, codec: str) -> None:
        self.name = codec
        self._networks, self.ladders = networks, Ladders(codec)
        self._last: tuple[Images, npt.NDArray[np.int64], Labels] | None = None

    def choices(self, limit: int) -> Sequence[str]:
        return ('best fit',)

    def __call__(self, images: Images, limit: int, choice: Any, run: int) -> Answers:
        pictures, sizes = self.ladders.seen(images, limit - HEADER_BYTES)
        last = self._last
        if last is None or last[0] is not images or not np.array_equal(last[1], sizes):
            # Where more bytes change no image, the answers are known.
            self._last = last = images, sizes, classify(self._networks.bundle, pictures)
        return Answers(last[2], sizes + HEADER_BYTES)


class CodedRegions:
    """SDT with WebP for both: the image first, then what the classifier attends to, once more, in
    the bytes that are left (``LowThenRegions`` is the same without a codec)."""

    name, drawn = 'sdt_webp', False

    def __init__(self, networks: Networks, ladders: Ladders | None = None) -> None:
        """``ladders``: of WebP, from a ``CodedImage``, so that nothing is coded twice."""
        self._networks, self._ladders = networks, ladders or Ladders('webp')

    def choices(self, limit: int) -> Sequence[tuple[float, float]]:
        """Shares of the bytes for the first image, of the patches in the second."""
        return ((0.4, 0.25), (0.6, 0.25))

    def __call__(self, images: Images, limit: int, choice: Any, run: int) -> Answers:
        bundle, wire = self._networks.bundle, images.wire
        share, region = choice
        count = count_of(region, wire.patches)
        pictures, sizes = self._ladders.seen(images, int(share * limit) - HEADER_BYTES)
        sent = sizes + HEADER_BYTES
        labels = []
        for part in batches(len(images)):
            first = first_of(bundle, pictures[part])
            wanted = first.attention.topk(count, dim=1).indices.sort(1).values
            mended = patches_of(torch.from_numpy(pictures[part]), bundle.patch_px)
            rows = torch.arange(len(wanted))[:, None]
            true = images.patches[part][rows, wanted].numpy()
            rooms = limit - sent[part] - wire.asking_bytes(count)
            coded = coded_within(true, rooms, bundle.patch_px, 'webp')
            for index, (patches, size) in enumerate(coded):
                if patches is not None:
                    mended[index, wanted[index]] = torch.from_numpy(patches)
                    sent[part.start + index] += size + wire.asking_bytes(count)
            labels.append(classify(bundle, images_of(mended, bundle.patch_px).numpy()))
        return Answers(np.concatenate(labels), sent)


def coded_within(
    patches: Pictures, rooms: npt.NDArray[np.int64], patch_px: int, codec: str
) -> list[tuple[Pictures | None, int]]:
    """Patches (B, K, P) as they arrive, each image's in its ``rooms`` (B,) bytes, and what they
    take; None where nothing fits."""

    def one(index: int) -> tuple[Pictures | None, int]:
        data = code_patches(patches[index], patch_px, int(rooms[index]), codec)
        if data is None:
            return None, 0
        return decode_patches(data, patches.shape[1], patch_px), len(data)

    return in_threads(one, len(patches))


class CodedAmot:
    """A-MOT with the patches of a round coded as one WebP or JPEG mosaic: more of them for the same
    bytes. What the first rounds leave is shared evenly by the images that ask for a second."""

    drawn = True

    def __init__(self, networks: Networks, codec: str) -> None:
        self.name = f'amot_{codec}'
        self._networks, self._codec = networks, codec

    def choices(self, limit: int) -> Sequence[tuple[float, float, float]]:
        """Shares: of the patches in the first round, of the bytes for it, of the missing patches in
        the second (0: no second round)."""
        if self._networks.bundle.second is None:
            return ((0.5, 1.0, 0.0), (0.75, 1.0, 0.0))
        return ((0.5, 1.0, 0.0), (0.75, 1.0, 0.0), (0.4, 0.7, 0.5), (0.7, 0.8, 1.0))

    def __call__(self, images: Images, limit: int, choice: Any, run: int) -> Answers:
        bundle, wire = self._networks.bundle, images.wire
        first_share, byte_share, missing_share = choice
        count = count_of(first_share, wire.patches)
        head = HEADER_BYTES
        rooms = np.full(len(images), int(byte_share * limit) - head, np.int64)
        positions = samples(run, count, wire.patches, len(images))
        true = images.patches[torch.arange(len(images))[:, None], positions].numpy()
        coded = coded_within(true, rooms, bundle.patch_px, self._codec)
        grey = np.full(true.shape[1:], GREY, np.uint8)
        seen = np.stack([grey if patches is None else patches for patches, _ in coded])
        sent = np.array([head + size for _, size in coded], np.int64)
        rounds = run_first(bundle, images, count, run, torch.from_numpy(seen))
        labels = rounds.labels
        asked = np.flatnonzero(rounds.confidence < bundle.confidence)
        if not missing_share or not len(asked) or count == wire.patches:
            return Answers(labels, sent)
        more = max(1, int(missing_share * (wire.patches - count)))
        room = (limit * len(images) - int(sent.sum())) // len(asked) - wire.asking_bytes(more)
        for part in batches(len(asked)):
            self._second(images, rounds, asked[part], (more, room), (labels, sent))
        return Answers(labels, sent)

    def _second(
        self,
        images: Images,
        rounds: FirstRound,
        asked: npt.NDArray[np.int64],
        size: tuple[int, int],
        answers: tuple[Labels, npt.NDArray[np.int64]],
    ) -> None:
        """The second round of the images ``asked`` with (patches, bytes), put into ``answers``."""
        bundle, wire = self._networks.bundle, images.wire
        count, room = size
        at = torch.from_numpy(asked)
        wanted = missing_by_attention(rounds.first.attention[at], rounds.positions[at], count)
        true = images.patches[at[:, None], wanted].numpy()
        rooms = np.full(len(asked), room, np.int64)
        coded = coded_within(true, rooms, bundle.patch_px, self._codec)
        came = {index: patches for index, (patches, _) in enumerate(coded) if patches is not None}
        if not came:
            return
        fits = list(came)
        new = torch.from_numpy(np.stack(list(came.values())))
        found = second_pass(bundle, rounds.first.embeddings[at[fits]], new, wanted[fits])
        labels, sent = answers
        labels[asked[fits]] = found.argmax(-1).numpy()
        sent[asked[fits]] += [wire.asking_bytes(count) + coded[index][1] for index in fits]
