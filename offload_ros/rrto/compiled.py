"""A call's template made into a function of its tensors: what a server runs again and again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import threading
from typing import Any

import torch

from offload_ros.rrto.calls import (
    Constant,
    CudaDevice,
    CudaGenerator,
    PayloadHole,
    Template,
    TensorHole,
    unpack_template,
)
from offload_ros.rrto.metadata import meta_of
from offload_ros.rrto.operators import Operator, callable_of
from offload_ros.wire.errors import WireError

_default_generator = threading.Lock()
GeneratorOf = Callable[[int], torch.Generator | None]
Tensors = Sequence[torch.Tensor]
Fill = Callable[[Tensors, Tensors], Any]
Run = Callable[[Tensors, Tensors], Any]


class CompiledCall:
    """``run(tensors, payloads)`` runs the operator with what belongs in the template's holes.

    ``written``: indices of the tensors that it changes. ``random``: it draws from a generator.
    """

    def __init__(
        self, operator: Operator, data: bytes, device: torch.device, generator: GeneratorOf
    ) -> None:
        self.operator = operator
        self.template = unpack_template(data)
        unknown = set(self.template.kwargs) - operator.arguments
        if unknown:
            raise WireError(f'{operator.name} has no argument {sorted(unknown)[0][:80]!r}')
        self.written = written_by(operator, self.template)
        self.random = draws(operator, self.template)
        self.run = _compile(operator, self.template, device, generator)
        self._checked = False

    def check(self, tensors: Sequence[torch.Tensor], left_bytes: int) -> None:
        """Before the first run: that the tensors are those that the template was made for, and that
        the result has room. ``WireError``; ``torch.cuda.OutOfMemoryError``."""
        if self._checked:
            return
        wanted = self.template.tensors
        if len(tensors) != len(wanted):
            raise WireError(f'{self.operator.name}: {len(wanted)} tensors are wanted')
        for tensor, meta in zip(tensors, wanted, strict=True):
            if meta_of(tensor) != meta:
                raise WireError(
                    f'{self.operator.name}: a tensor is {meta_of(tensor)} on the server and '
                    f'{meta} for the program'
                )
        size = self._result_bytes()
        if size > left_bytes:
            raise torch.cuda.OutOfMemoryError(
                f'{self.operator.name} wants {size / 1e6:.0f} MB and this session has '
                f'{left_bytes / 1e6:.0f} MB left (parameter rrto.memory_mb of the server)'
            )
        self._checked = True

    def _result_bytes(self) -> int:
        """Of what it makes, as far as the operator tells it without computing."""
        meta = torch.device('meta')
        run = _compile(self.operator, self.template, meta, lambda number: None)
        given = [_meta_tensor(each) for each in self.template.tensors]
        try:
            result = run(given, [_meta_tensor(each) for each in self.template.payloads])
        except Exception:  # many operators cannot; those that only allocate can
            return 0
        outputs = result if isinstance(result, (list, tuple)) else [result]
        tensors = [each for each in outputs if isinstance(each, torch.Tensor)]
        fresh = [each for each in tensors if not any(each is old for old in given)]
        return sum(each.numel() * each.itemsize for each in fresh if each._base is None)


def _meta_tensor(meta: Any) -> torch.Tensor:
    made = torch.empty_strided(meta.shape, meta.stride, dtype=meta.dtype, device='meta')
    return made


def written_by(operator: Operator, template: Template) -> tuple[int, ...]:
    """Indices of the tensors that a call changes."""
    found: list[int] = []
    for place in operator.writes:
        if isinstance(place, str):
            given = template.kwargs.get(place)
        else:
            given = template.args[place] if place < len(template.args) else None
        for each in given if isinstance(given, list) else [given]:
            if isinstance(each, TensorHole):
                found.append(each.index)
    return tuple(found)


def _compile(
    operator: Operator,
    template: Template,
    device: torch.device,
    generator: GeneratorOf,
) -> Run:
    """A function that puts tensors into the holes of the arguments, and calls the operator."""
    func = callable_of(operator)
    kwargs: dict[str, Any] = {}
    holes: list[tuple[int, Fill]] = []
    keywords: list[tuple[str, Fill]] = []
    args = [_value(node, device, generator) for node in template.args]
    for position, node in enumerate(template.args):
        if _has_hole(node):
            holes.append((position, _filled(node, device, generator)))
    for keyword, node in template.kwargs.items():
        if keyword == 'pin_memory':  # is the program's own business
            continue
        kwargs[keyword] = _value(node, device, generator)
        if _has_hole(node):
            keywords.append((keyword, _filled(node, device, generator)))
    if draws(operator, template):
        if 'generator' in operator.arguments:
            kwargs['generator'] = kwargs.get('generator') or generator(0)
        else:
            func = _with_default_generator(func, generator(0))

    def run(tensors: Tensors, payloads: Tensors) -> Any:
        given = args.copy()
        for position, fill in holes:
            given[position] = fill(tensors, payloads)
        if not keywords:
            return func(*given, **kwargs)
        named = kwargs.copy()
        for keyword, fill in keywords:
            named[keyword] = fill(tensors, payloads)
        return func(*given, **named)

    return run


def _filled(node: Any, device: torch.device, generator: GeneratorOf) -> Fill:
    """What gives an argument its tensors."""
    if isinstance(node, TensorHole):
        index = node.index
        return lambda tensors, payloads: tensors[index]
    if isinstance(node, PayloadHole):
        index = node.index
        return lambda tensors, payloads: payloads[index]
    if isinstance(node, list):
        parts = [_filled(each, device, generator) for each in node]
        return lambda tensors, payloads: [part(tensors, payloads) for part in parts]
    value = _value(node, device, generator)
    return lambda tensors, payloads: value


# Arguments that tell that an operator which may draw random numbers does not, where they are zero.
_DROPOUT = frozenset({'dropout_p', 'dropout', 'train', 'training'})


def draws(operator: Operator, template: Template) -> bool:
    """Whether a call draws random numbers: attention and recurrent layers only with dropout."""
    for position, argument in enumerate(operator.func._schema.arguments):
        if operator.random and argument.name in _DROPOUT:
            given = template.kwargs.get(argument.name, argument.default_value)
            if position < len(template.args):
                given = template.args[position]
            if isinstance(given, (bool, int, float)) and not given:
                return False
    return operator.random


def _with_default_generator(
    func: Callable[..., Any], generator: torch.Generator | None
) -> Callable[..., Any]:
    """For operators that draw from the process's generator, which all sessions would share."""
    if generator is None:
        return func
    if generator.device.type == 'cuda':
        index = generator.device.index or 0
        process = torch.cuda.default_generators[index]
    else:
        process = torch.default_generator

    def run(*args: Any, **kwargs: Any) -> Any:
        with _default_generator:
            before = process.get_state()
            process.set_state(generator.get_state())
            try:
                return func(*args, **kwargs)
            finally:
                generator.set_state(process.get_state())
                process.set_state(before)

    return run


def _has_hole(node: Any) -> bool:
    if isinstance(node, list):
        return any(_has_hole(each) for each in node)
    return isinstance(node, (TensorHole, PayloadHole))


def _value(node: Any, device: torch.device, generator: GeneratorOf) -> Any:
    if isinstance(node, CudaDevice):
        return device
    if isinstance(node, CudaGenerator):
        return generator(node.number)
    if isinstance(node, Constant):
        return node.tensor
    if isinstance(node, list):
        return [_value(each, device, generator) for each in node]
    if isinstance(node, dict):
        raise WireError('an argument of an operator is no mapping')
    return node
