"""A-MOT against other ways to classify images with few bytes: accuracy over traffic.

    python benchmarks/amot.py --bundle config/networks/scene --data DATA --seeds 3

Traffic is what an image takes on the wire both ways, apart from the answer, with headers, seed and
positions, as a share of its raw bytes. No method takes more than its traffic: single messages for
each image, methods with two rounds on average over all images. What a method leaves open is chosen
on the calibration split (``offload_ros.amot.baselines``); the first ratio follows the paper: up to
40 % of traffic 10 % are kept for the second round, beyond that 20 %.

Intervals (95 %) are bootstrap draws of the images and of the seeds of the samples. A run that was
stopped goes on where it was (``amot.work.json``). Writes ``benchmarks/results/amot.json`` and a
picture; ``benchmarks/amot_cost.py`` adds the costs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
import hashlib
import json
from pathlib import Path
import sys
from typing import Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
import torch

# Behind an installed offload_ros.
sys.path.append(str(Path(__file__).resolve().parents[1]))
from benchmarks import amot_report
from offload_ros.amot import baselines
from offload_ros.amot.allocation import Distributions, read_all
from offload_ros.amot.baselines import Answers
from offload_ros.amot.bundle import load_second_pass
from offload_ros.amot.calibrate import FILE as DISTRIBUTIONS
from offload_ros.amot.dataset import load_split
from offload_ros.amot.evaluate import (
    FirstRound,
    Images,
    Second,
    adaptive,
    even,
    fixed,
    run_first,
    run_second,
    run_whole,
)
from offload_ros.amot.patches import count_of

RESULTS = Path(__file__).parent / 'results'
TRAFFICS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
LOW = (0.01, 0.02, 0.05, 0.1)  # where raw patches are no use and codecs still are
TUNING_IMAGES = 256
ABLATIONS = {
    'only_new': 'second_pass_only_new',
    'no_linear': 'second_pass_no_linear',
    'one_layer': 'second_pass_one_layer',
}
ABLATED_AT = (0.2, 0.4, 0.6)
GRID = (0.1, 0.2, 0.3, 0.4, 0.5)  # of both rounds (the paper's Fig. 15)
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)  # the paper's Fig. 16


def second_share(traffic: float) -> float:
    """What is kept for the second round."""
    return 0.1 if traffic <= 0.4 + 1e-9 else 0.2


def key_of(method: str, traffic: float, seed: int) -> str:
    return f'{method} {100 * traffic:g} {seed}'


class Work:
    """What was measured so far, kept in a file: for networks and images of one content."""

    def __init__(self, path: Path, content: str, fresh: bool) -> None:
        self._path = path
        self.runs: dict[str, Any] = {}
        self._content = content
        if path.exists() and not fresh:
            kept = json.loads(path.read_text())
            if kept.get('content') == content:
                self.runs = kept['runs']

    def lacks(self, *keys: str) -> bool:
        return any(key not in self.runs for key in keys)

    def add(self, key: str, answers: Answers, images: Images, choice: Any = None) -> None:
        """Keep which answers are right, and the mean of bytes."""
        right = answers.labels == images.labels
        self.put(
            key,
            {
                'right': np.packbits(right).tobytes().hex(),
                'sent': float(answers.sent.mean()),
                'most': int(answers.sent.max()),
                'choice': choice,
            },
        )

    def put(self, key: str, value: Any) -> None:
        self.runs[key] = value
        part = self._path.with_suffix('.part')
        part.write_text(json.dumps({'content': self._content, 'runs': self.runs}))
        part.replace(self._path)


def content_of(folder: Path, images: Images, calibration: Images) -> str:
    """Hash of all that results depend on, but the code."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob('*')):
        if path.is_file():
            found.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    for each in (images, calibration):
        found.update(each.labels.tobytes())
        found.update(each.patches[:: max(1, len(each) // 50)].numpy().tobytes())
    return found.hexdigest()


class Benchmark:
    """All methods on the test split."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        folder, data = arguments.bundle, arguments.data
        self.networks = baselines.load_networks(folder)
        self.bundle = self.networks.bundle
        splits = {}
        for name in ('test', 'calibration'):
            split, labels = load_split(data, name, self.bundle.image_px)
            if labels != self.bundle.labels:
                raise ValueError(f'{data} has other classes than the networks in {folder}')
            images = Images.of(split, self.bundle.patch_px)
            splits[name] = images.some(arguments.images) if arguments.images else images
        self.images, self.calibration = splits['test'], splits['calibration']
        self.tuning = self.calibration.some(TUNING_IMAGES)
        self.wire = self.images.wire
        self.seeds = range(arguments.seeds)
        self.notes: list[str] = []
        self.distributions: tuple[Distributions, ...] = ()
        if self.bundle.second is None:
            self.notes.append('no second_pass: one round only')
        elif not (folder / DISTRIBUTIONS).exists():
            self.notes.append(f'no {DISTRIBUTIONS}: run python -m offload_ros.amot.calibrate')
        else:
            self.distributions = read_all(folder / DISTRIBUTIONS)
        self.ablations = {}
        for name, place in ABLATIONS.items():
            if (folder / place).exists():
                self.ablations[name] = load_second_pass(folder / place, self.bundle.classifier)
            else:
                self.notes.append(f'no {place}: ablation {name} is left out')
        if self.networks.dropped is None:
            self.notes.append('no classifier_dropped: non_r_dropped is left out')
        content = content_of(folder, self.images, self.calibration)
        self.work = Work(arguments.json.with_suffix('.work.json'), content, arguments.fresh)

    def limit(self, traffic: float) -> int:
        """Bytes of an image."""
        return int(traffic * self.wire.raw_bytes)

    # ---- A-MOT and what is left of it without its parts

    def second_rounds(
        self, traffic: float, rounds: FirstRound, seed: int
    ) -> Iterator[tuple[str, Callable[[], Second], Any]]:
        """(method, patches of the second rounds, its network or None: A-MOT's own)."""
        limit, confidence = self.limit(traffic), self.bundle.confidence
        share = second_share(traffic)
        yield (
            'mot',
            lambda: fixed(rounds, self.wire, count_of(share, self.wire.patches), confidence),
            None,
        )
        yield 'mot_even', lambda: even(rounds, self.wire, limit, confidence), None
        known = self.distributions_for(traffic - share)
        if known is None:
            return

        def given(weighted: bool = True, net: bool = False) -> Second:
            return adaptive(rounds, known, self.wire, limit, confidence, weighted, net)

        yield 'amot', given, None
        if any(abs(traffic - each) < 1e-9 for each in ABLATED_AT):
            yield 'amot_printed', lambda: given(weighted=False), None
            yield 'amot_net', lambda: given(net=True), None
            for name, network in self.ablations.items():
                yield f'amot_{name}', given, network

    def distributions_for(self, ratio: float) -> Distributions | None:
        """For a ratio of the first round."""
        for each in self.distributions:
            if abs(each.first_ratio - ratio) < 1e-6:
                return each
        note = f'not calibrated for a first round of {ratio:.0%}: no adaptive module there'
        if self.distributions and note not in self.notes:
            self.notes.append(note)
        return None

    def first_counts(self) -> dict[int, list[tuple[str, float]]]:
        """Patches of first rounds that are needed, and by (which rounds, traffic)."""
        found: dict[int, list[tuple[str, float]]] = {}
        for traffic in (0.05, 0.1, *TRAFFICS):
            count = self.wire.most(self.limit(traffic), self.wire.first_bytes)
            if count:
                found.setdefault(count, []).append(('one', traffic))
        for traffic in TRAFFICS if self.bundle.second is not None else ():
            count = count_of(traffic - second_share(traffic), self.wire.patches)
            found.setdefault(count, []).append(('two', traffic))
        for ratio in GRID:
            found.setdefault(count_of(ratio, self.wire.patches), []).append(('grid', ratio))
        return found

    def rounds(self, tell: Callable[[str], None]) -> None:
        """All of A-MOT: each first round is computed once for all that build on it."""
        for seed in self.seeds:
            for count, users in sorted(self.first_counts().items()):
                tell(f'A-MOT, seed {seed}, {count} patches first')
                done = f'rounds of {count} {seed} {self.asked_for()}'
                if not self.work.lacks(done):
                    continue
                rounds = run_first(self.bundle, self.images, count, seed)
                for use, traffic in users:
                    if use == 'one':
                        sent = np.full(len(self.images), self.wire.first_bytes(count), np.int64)
                        key = key_of('amot_o', traffic, seed)
                        self.work.add(key, Answers(rounds.labels, sent), self.images)
                    elif use == 'two':
                        self.two_rounds(traffic, rounds, seed)
                    elif seed == 0:
                        self.work.put(f'grid {traffic:g}', self.grid(rounds))
                self.work.put(done, True)

    def asked_for(self) -> str:
        """What second rounds there are, so that a later run adds what was not there."""
        return ' '.join([str(self.bundle.second is not None), *sorted(self.ablations)])

    def two_rounds(self, traffic: float, rounds: FirstRound, seed: int) -> None:
        """All methods with second rounds."""
        for method, given, network in self.second_rounds(traffic, rounds, seed):
            key = key_of(method, traffic, seed)
            if self.work.lacks(key):
                second = given()
                labels = run_second(self.bundle, self.images, rounds, second.counts, network)
                sent = second.sent(self.wire, rounds.count)
                if sent.sum() > self.limit(traffic) * len(sent) and method != 'mot':
                    raise AssertionError(f'{method} takes more than {traffic:.0%}')
                self.work.add(key, Answers(labels, sent), self.images)

    def grid(self, rounds: FirstRound) -> dict[str, Any]:
        """Accuracy and traffic over the choice of both ratios, shares answered in one round."""
        confidence = rounds.confidence
        found: dict[str, Any] = {
            'one_round': {f'{each:g}': float((confidence >= each).mean()) for each in THRESHOLDS},
            'second': {},
        }
        for ratio in (0.0, *GRID) if self.bundle.second is not None else (0.0,):
            count = count_of(ratio, self.wire.patches) if ratio else 0
            second = fixed(rounds, self.wire, count, self.bundle.confidence)
            labels = run_second(self.bundle, self.images, rounds, second.counts)
            found['second'][f'{ratio:g}'] = {
                'accuracy': float((labels == self.images.labels).mean()),
                'traffic': float(second.sent(self.wire, rounds.count).mean()) / self.wire.raw_bytes,
            }
        return found

    # ---- the others

    def others(self) -> list[tuple[baselines.Baseline, Sequence[float]]]:
        """(method, traffics)."""
        networks, everywhere = self.networks, (*LOW, *TRAFFICS)
        webp = baselines.CodedImage(networks, 'webp')
        found: list[tuple[baselines.Baseline, Sequence[float]]] = [
            (baselines.NoReconstruction(networks, dropped=False), TRAFFICS),
            (baselines.DetectorFilter(networks, oracle=False), TRAFFICS),
            (baselines.LowThenRegions(networks), (*LOW[2:], *TRAFFICS)),
            (baselines.Upsampled(networks), (*LOW[2:], *TRAFFICS)),
            (baselines.SplitNetwork('po', networks, self.calibration, 0, False), everywhere),
            (baselines.SplitNetwork('mbc', networks, self.calibration, 1, True), everywhere),
            (baselines.CodedImage(networks, 'jpeg'), everywhere),
            (webp, everywhere),
            (baselines.CodedRegions(networks, webp.ladders), (*LOW, 0.2)),
            (baselines.CodedAmot(networks, 'webp'), (0.02, 0.05, 0.1, 0.2)),
        ]
        if networks.dropped is not None:
            found.insert(1, (baselines.NoReconstruction(networks, dropped=True), TRAFFICS))
        if self.images.split.parts.shape[1] == self.wire.patches:
            found.append((baselines.DetectorFilter(networks, oracle=True), TRAFFICS))
        else:
            self.notes.append('images without segmentation: df_oracle is left out')
        return found

    def other(
        self, method: baselines.Baseline, traffics: Sequence[float], tell: Callable[[str], None]
    ) -> None:
        """One method at all traffics, tuned once for each."""
        seeds = self.seeds if method.drawn else range(1)
        choices: dict[float, Any] = {}
        for traffic in traffics:
            wanted = [seed for seed in seeds if self.work.lacks(key_of(method.name, traffic, seed))]
            if wanted:
                tell(f'{method.name} at {traffic:.0%}: choices')
                choices[traffic] = baselines.tuned(method, self.tuning, self.limit(traffic))
        # First all that was chosen, then all images: codecs keep what they coded of either.
        for traffic, choice in choices.items():
            for seed in seeds:
                key = key_of(method.name, traffic, seed)
                if choice is not None and self.work.lacks(key):
                    tell(f'{method.name} at {traffic:.0%}, seed {seed}')
                    answers = method(self.images, self.limit(traffic), choice, seed)
                    if answers.sent.mean() > self.limit(traffic):
                        raise AssertionError(f'{method.name} takes more than {traffic:.0%}')
                    self.work.add(key, answers, self.images, choice)

    def whole(self) -> None:
        """The classifier on whole images, raw."""
        key = key_of('raw', 1.0, 0)
        if self.work.lacks(key):
            raw = baselines.Raw(self.networks)
            self.work.add(key, raw(self.images, 0, 'whole', 0), self.images)
            found = run_whole(self.bundle, replace(self.calibration)).probabilities.argmax(-1)
            right = found.numpy() == self.calibration.labels
            self.work.put('full on calibration', float(right.mean()))

    def run(self) -> None:
        """All that is not there yet."""
        others = self.others()
        firsts = len(self.first_counts()) * len(self.seeds)
        with Progress(
            TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        ) as progress:
            task = progress.add_task('whole images', total=firsts + len(others) + 1)

            def tell(text: str, advance: int = 0) -> None:
                progress.update(task, description=text, advance=advance)

            self.whole()
            tell('A-MOT', 1)
            self.rounds(lambda text: tell(text, 1))
            for method, traffics in others:
                self.other(method, traffics, tell)
                tell(method.name, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--bundle', type=Path, default=Path('config/networks/scene'))
    parser.add_argument('--data', type=Path, required=True, help='images: calibration and test')
    parser.add_argument('--seeds', type=int, default=3, help='draws of the samples of all images')
    parser.add_argument('--images', type=int, default=0, help='of each split (default: all)')
    parser.add_argument('--json', type=Path, default=RESULTS / 'amot.json')
    parser.add_argument('--fresh', action='store_true', help='forget what an earlier run measured')
    arguments = parser.parse_args()
    if arguments.seeds < 1:
        parser.error('at least one seed')
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    try:
        benchmark = Benchmark(arguments)
    except ValueError as error:
        parser.error(str(error))
    benchmark.run()
    content = amot_report.content(
        benchmark.work.runs,
        benchmark.images.split.hard,
        benchmark.wire.raw_bytes,
        benchmark.notes,
        {
            'bundle': str(arguments.bundle),
            'images': len(benchmark.images),
            'seeds': arguments.seeds,
            'confidence': benchmark.bundle.confidence,
        },
    )
    amot_report.write(content, arguments.json)
    amot_report.show(content)


if __name__ == '__main__':
    main()
