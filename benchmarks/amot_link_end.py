"""A process of ``benchmarks/amot_link.py``: images over DDS as strategy ``amot`` sends them, and
whole, as JPEG, WebP and raw, all answered by the same classifier."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
import itertools
from pathlib import Path
import struct
import threading
import time
from typing import Any

import numpy as np

from benchmarks.ends import LIMIT_S, End

PICTURES = 60_001  # a stream that the package does not use
WAYS = ('amot', 'jpeg', 'webp', 'raw')
QUALITY = 80  # what image_transport's compressed images have by default
_HEAD = struct.Struct('<BxHH')  # way, height, width
_ANSWER = struct.Struct('<dI')  # seconds on the server, label


class LinkEnd(End):
    """An ``End`` with the model ``scene`` of a folder of networks and a split of images."""

    def __init__(self, name: str, networks: Path, data: Path, options: dict[str, Any]) -> None:
        super().__init__(name, dict)
        from offload_ros.amot.dataset import load_split
        from offload_ros.models.model import load_model

        config = scene_config(networks, options)
        self.model = load_model(config)
        if name == 'server':
            self._serve_both()
        else:
            split, _ = load_split(data, 'test', config.preprocess.resize[0])
            self.images, self.labels = split.images, split.labels
            self._pictures = Pictures(self.channel)
            self._strategy = self._amot()
            self._numbers = itertools.count(1)

    # ---- server

    def _serve_both(self) -> None:
        from offload_ros.amot.host import AmotHost

        self.patches = AmotHost(lambda name, content: self.model, self.lend)
        why = self.patches.add(self.model)
        if why:
            raise ValueError(why)
        self.patches.serve(self.channel, '/robot')
        self.channel.listen(PICTURES, lambda incoming: incoming.when_ended(self._on_picture))

    def _on_picture(self, incoming: Any) -> None:
        """Not in the channel's thread, which has packets to receive."""
        threading.Thread(target=self._answer, args=[incoming], daemon=True).start()

    def _answer(self, incoming: Any) -> None:
        began_s = time.monotonic()
        image = picture_in(incoming.buffer)
        label = self.lend(partial(classified, self.model, image))
        answer = _ANSWER.pack(time.monotonic() - began_s, label)
        self.channel.send(incoming.key, answer)

    # ---- robot

    def _amot(self) -> Any:
        from offload_ros.strategy import Link, make_strategy

        strategy = make_strategy('amot')
        strategy.prepare(self.model, Link(self.lane, OneServer(self)))  # type: ignore[arg-type]
        return strategy

    def infer(self, way: str, image: int) -> dict[str, Any]:
        """One image of the split by a way; s, bytes both ways, whether the answer is right."""
        from offload_ros.strategy import Unanswered

        picture = np.array(self.images[image % len(self.images)])
        began_s = time.monotonic()
        try:
            if way == 'amot':
                found = self._by_amot(picture, began_s)
            else:
                found = self._pictures.ask(way, picture, began_s + LIMIT_S)
        except (Unanswered, TimeoutError) as error:
            return {'failed': str(error)}
        total_s = time.monotonic() - began_s
        right = found.pop('label') == int(self.labels[image % len(self.labels)])
        return {**found, 'total_s': total_s, 'right': bool(right)}

    def _by_amot(self, picture: Any, began_s: float) -> dict[str, Any]:
        import torch

        from offload_ros.strategy import Frame

        frame = Frame(next(self._numbers), {'image': torch.from_numpy(picture)}, began_s)
        result = self._strategy.run(frame, began_s + LIMIT_S)
        return {
            'label': int(result.outputs['probabilities'].argmax()),
            'up': result.bytes_up,
            'down': result.bytes_down,
            'server_s': result.server_s,
            'rounds': int(result.outputs['rounds'][0]),
        }

    def calls(self) -> dict[str, Callable[..., Any]]:
        """What may be asked, by name."""
        return {**super().calls(), 'infer': self.infer}


def scene_config(networks: Path, options: dict[str, Any]) -> Any:
    """The model ``scene``, as in models.yaml."""
    import json

    from offload_ros.amot.bundle import settings_of
    from offload_ros.amot.networks import IMAGENET
    from offload_ros.amot.options import AmotOptions
    from offload_ros.models.config import InputSpec, ModelConfig, Preprocess, Source

    edge = json.loads((networks / 'classifier' / 'config.json').read_text())['image_size']
    settings = settings_of(networks)
    mean, std = (
        tuple(settings.get(name, default))
        for name, default in zip(('mean', 'std'), IMAGENET, strict=True)
    )
    return ModelConfig(
        'scene',
        source=Source(transformers=str(networks / 'classifier')),
        inputs=(InputSpec('image', 'camera/image_raw'),),
        preprocess=Preprocess(resize=(edge, edge), mean=mean, std=std),
        outputs=('probabilities',),
        amot=AmotOptions(str(networks), **options),
    )


class OneServer:
    """What a strategy asks its client, with the channel of an ``End`` as the only server."""

    name = '/server'

    def __init__(self, end: End) -> None:
        self._end = end

    def server_for(self, model: Any) -> tuple[Any, str]:
        return self, ''

    def channel_to(self, name: str) -> Any:
        return self._end.channel

    def link_state(self, name: str) -> Any:
        return self._end.exchange.state()


def picture_in(data: Any) -> Any:
    """The image (H, W, 3) of a message."""
    from offload_ros.amot.coded_patches import decode

    way, height, width = _HEAD.unpack_from(data)
    rest = data[_HEAD.size :]
    if WAYS[way] == 'raw':
        return np.array(rest).reshape(height, width, 3)
    return decode(rest.tobytes(), height, width)


def classified(model: Any, image: Any) -> int:
    """The model on a whole image."""
    import torch

    return int(model.run({'image': torch.from_numpy(image)})['probabilities'].argmax())


class Pictures:
    """The robot's side of whole images: one message, one answer."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._numbers = itertools.count(1)
        self._answered = threading.Event()
        self._answer = b''
        channel.listen(PICTURES, lambda incoming: incoming.when_ended(self._on_answer))

    def _on_answer(self, incoming: Any) -> None:
        self._answer = bytes(incoming.buffer)
        self._answered.set()

    def ask(self, way: str, picture: Any, deadline_s: float) -> dict[str, Any]:
        """Code, send, wait."""
        from offload_ros.amot.coded_patches import encode
        from offload_ros.wire.channel import key_of

        head = _HEAD.pack(WAYS.index(way), *picture.shape[:2])
        body = picture.tobytes() if way == 'raw' else encode(picture, way, QUALITY)
        self._answered.clear()
        key = key_of(PICTURES, next(self._numbers))
        self._channel.send(key, [head, body], deadline_s=deadline_s)
        if not self._answered.wait(deadline_s - time.monotonic()):
            raise TimeoutError(f'{way}: no answer in {LIMIT_S:.0f} s')
        server_s, label = _ANSWER.unpack(self._answer)
        up, down = len(head) + len(body), len(self._answer)
        return {'label': label, 'up': up, 'down': down, 'server_s': server_s, 'rounds': 1}
