"""A seeded training that tells how it goes, can be stopped at any time, and then goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
import json
import math
from pathlib import Path
import time
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
import torch
from torch import nn
from transformers import PretrainedConfig

EVERY = 50  # steps between two lines of the log
SAVE_S = 60.0


@dataclass(frozen=True)
class Plan:
    """How long and how fast: steps, learning rate at its top (reached after ``warm_up`` of the
    steps, then a cosine down to 0), decay of weights, seed."""

    steps: int
    rate: float
    decay: float = 0.05
    warm_up: float = 0.05
    seed: int = 0
    clip: float = 1.0

    def rate_at(self, step: int) -> float:
        """Learning rate of a step."""
        first = max(1, round(self.warm_up * self.steps))
        if step < first:
            return self.rate * (step + 1) / first
        return self.rate * 0.5 * (1 + math.cos(math.pi * (step - first) / (self.steps - first)))


def fast_arithmetic() -> bool:
    """Whether this CPU multiplies bfloat16 itself: then a training in it is faster."""
    try:
        flags = Path('/proc/cpuinfo').read_text()
    except OSError:
        return False
    return 'amx_bf16' in flags or 'avx512_bf16' in flags


def autocast(device: str) -> torch.autocast:
    """Arithmetic of trainings: bfloat16 where that is faster, else float32."""
    return torch.autocast(device, torch.bfloat16, enabled=device != 'cpu' or fast_arithmetic())


def quick_attention(*networks: nn.Module) -> None:
    """On a CPU plain attention trains some times faster in bfloat16 than the fused one."""
    for network in networks:
        for part in network.modules():
            config: Any = getattr(part, 'config', None)
            if isinstance(config, PretrainedConfig):
                config._attn_implementation = 'eager'


def generator_at(seed: int, step: int) -> torch.Generator:
    """Random numbers of one step: the same whether the training was stopped before it or not."""
    return torch.Generator().manual_seed((seed << 32) + step)


def train(
    name: str,
    plan: Plan,
    modules: Mapping[str, nn.Module],
    loss_of: Callable[[int, torch.Generator], tuple[torch.Tensor, dict[str, float]]],
    folder: Path,
) -> None:
    """Train the parameters of ``modules`` that want a gradient, for ``plan.steps`` steps.

    ``loss_of(step, generator)`` gives (loss, figures to log). State is kept in ``folder``, in
    ``<name>.training.safetensors`` (which ``finished`` removes), the log in ``<name>.log.jsonl``.
    Raises ``FloatingPointError`` when the loss is no number.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
    groups = [
        {'params': [p for p in weights if p.ndim > 1], 'weight_decay': plan.decay},
        {'params': [p for p in weights if p.ndim <= 1], 'weight_decay': 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, plan.rate, betas=(0.9, 0.98))
    path = folder / f'{name}.training.safetensors'
    first, before_s = 0, 0.0
    if path.exists():
        first, before_s = restore(path, modules, optimiser)
        print(f'{name}: goes on at step {first} of {plan.steps}', flush=True)
    begun_s = saved_s = time.monotonic()
    for module in modules.values():
        module.train()
    sums: dict[str, float] = {}
    count = 0

    def save(step: int) -> None:
        keep(path, modules, optimiser, step, before_s + time.monotonic() - begun_s)

    for step in range(first, plan.steps):
        for group in optimiser.param_groups:
            group['lr'] = plan.rate_at(step)
        loss, figures = loss_of(step, generator_at(plan.seed, step))
        if not torch.isfinite(loss):
            raise FloatingPointError(f'{name}: the loss of step {step} is {loss.item()}')
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(weights, plan.clip)
        optimiser.step()
        for key, value in {'loss': loss.item(), **figures}.items():
            sums[key] = sums.get(key, 0.0) + value
        count += 1
        if (step + 1) % EVERY == 0 or step + 1 == plan.steps:
            now_s = time.monotonic()
            means = {key: round(value / count, 5) for key, value in sums.items()}
            sums, count = {}, 0
            left_s = (now_s - begun_s) / (step + 1 - first) * (plan.steps - step - 1)
            line = {'step': step + 1, **means, 'seconds': round(before_s + now_s - begun_s)}
            with (folder / f'{name}.log.jsonl').open('a') as file:
                file.write(json.dumps(line) + '\n')
            told = ', '.join(f'{key} {value:.4g}' for key, value in means.items())
            print(
                f'{name}: step {step + 1}/{plan.steps}, {told}, {left_s / 60:.1f} min left',
                flush=True,
            )
            if now_s - saved_s > SAVE_S:
                save(step + 1)
                saved_s = now_s
    save(plan.steps)
    for module in modules.values():
        module.eval()


def keep(
    path: Path,
    modules: Mapping[str, nn.Module],
    optimiser: torch.optim.Optimizer,
    step: int,
    seconds: float,
) -> None:
    """Write the state of a training: weights, what the optimiser remembers, how far it is."""
    tensors = {
        f'module/{key}/{name}': value
        for key, module in modules.items()
        for name, value in module.state_dict().items()
    }
    for index, state in optimiser.state_dict()['state'].items():
        tensors |= {f'optimiser/{index}/{name}': value for name, value in state.items()}
    part = path.with_suffix('.part')
    told = {'step': str(step), 'seconds': str(seconds)}
    save_file({name: value.contiguous() for name, value in tensors.items()}, part, told)
    part.replace(path)


def restore(
    path: Path, modules: Mapping[str, nn.Module], optimiser: torch.optim.Optimizer
) -> tuple[int, float]:
    """(step, seconds) of a state that ``keep`` wrote; ``ValueError`` when it is another's."""
    try:
        with safe_open(path, 'pt') as file:
            told = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        for key, module in modules.items():
            begin = f'module/{key}/'
            own = {n[len(begin) :]: v for n, v in tensors.items() if n.startswith(begin)}
            module.load_state_dict(own)
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith('optimiser/'):
                _, index, what = name.split('/')
                state.setdefault(int(index), {})[what] = value
        optimiser.load_state_dict({**optimiser.state_dict(), 'state': state})
        return int(told['step']), float(told['seconds'])
    except (SafetensorError, RuntimeError, KeyError) as error:
        raise ValueError(
            f'{path} is of another training: remove it to begin anew ({error})'
        ) from error


def finished(name: str, folder: Path) -> None:
    """The result is written: the state of the training is not needed any more."""
    (folder / f'{name}.training.safetensors').unlink(missing_ok=True)
