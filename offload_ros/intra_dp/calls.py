"""Calls of a module as a function of tensors: what goes in and comes out, by names."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from offload_ros.graph.capture import capture
from offload_ros.graph.graph import Graph, GraphError

MOST_TIES = 0.01  # of whole numbers that differ: what was found by comparing sums
_PLAIN = (type(None), bool, int, float, str)


@dataclass(frozen=True)
class Call:
    """Arguments taken apart. ``tensors``: by name; ``key``: equal for calls that one graph can
    answer, which is one for these shapes, dtypes, and all that is no tensor."""

    tensors: Mapping[str, Tensor]
    leaves: Sequence[Any]  # names in the place of tensors
    spec: Any
    key: Hashable


class _Name(str):
    """In the place of a tensor."""


def taken_apart(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call | None:
    """None for calls that only the module itself can answer: of other things than tensors and plain
    values, or where gradients of an input are wanted."""
    values, spec = pytree.tree_flatten((args, dict(kwargs)))
    tensors: dict[str, Tensor] = {}
    leaves: list[Any] = []
    kinds: list[Hashable] = []
    for value in values:
        if type(value) in (Tensor, nn.Parameter):
            if value.layout is not torch.strided or value.is_quantized:
                return None
            if value.requires_grad and torch.is_grad_enabled():
                return None
            name = _Name(f'input_{len(tensors)}')
            tensors[name] = value.detach()
            leaves.append(name)
            kinds.append((tuple(value.shape), value.dtype, value.device))
        elif type(value) in _PLAIN:
            leaves.append(value)
            kinds.append((type(value), value))
        else:
            return None
    if not tensors:
        return None
    # The plain case, positional tensors alone, needs no text of the structure.
    simple = not kwargs and all(isinstance(each, Tensor) for each in args)
    return Call(tensors, leaves, spec, (None if simple else str(spec), *kinds))


class Form(nn.Module):
    """A module with the structure of its arguments fixed: named tensors in, a dictionary of tensors
    out. ``put_together`` makes what the module returns of them, once it has run."""

    def __init__(self, module: nn.Module, call: Call) -> None:
        super().__init__()
        self.module = module
        self._leaves, self._spec = list(call.leaves), call.spec
        self._found: list[str | None] = []
        self._found_spec: Any = None

    def forward(self, **tensors: Tensor) -> dict[str, Tensor]:
        leaves = [tensors[each] if isinstance(each, _Name) else each for each in self._leaves]
        args, kwargs = pytree.tree_unflatten(leaves, self._spec)
        values, self._found_spec = pytree.tree_flatten(self.module(*args, **kwargs))
        outputs: dict[str, Tensor] = {}
        self._found = []
        for place, value in enumerate(values):
            if isinstance(value, Tensor):
                outputs[f'output_{place}'] = value
                self._found.append(f'output_{place}')
            elif value is None:
                self._found.append(None)
            else:
                raise GraphError(
                    f'the model returns a {type(value).__name__}: only tensors, and lists, tuples '
                    'and dictionaries of them, can come from a server'
                )
        return outputs

    def put_together(self, outputs: Mapping[str, Tensor]) -> Any:
        """As the module returns it."""
        values = [None if name is None else outputs[name] for name in self._found]
        return pytree.tree_unflatten(values, self._found_spec)


def captured(module: nn.Module, call: Call, name: str) -> tuple[Form, Graph, dict[str, Tensor]]:
    """The graph of ``module`` for such calls, its parameters in the module's memory.

    ``module``: a twin (``of_model.twin_of``), as the one that it was made of may answer calls in
    other threads meanwhile. Recorded (``graph.capture``), and checked on other numbers than those
    of the call. ``GraphError`` with the reason.
    """
    form = Form(module, call).eval()
    example = {name: tensor.clone() for name, tensor in call.tensors.items()}
    other = {key: each.flip(-1) if each.ndim else each for key, each in example.items()}
    graph, parameters = capture(form, example, name, checks=[other], method='trace')
    return form, graph, {key: each.detach() for key, each in parameters.items()}


def is_close(found: Any, own: Any) -> bool:
    """Whether two results are the same but for the order of sums."""
    pairs = zip(*(pytree.tree_flatten(each)[0] for each in (found, own)), strict=True)
    return all(
        one is other or bool(_are_close(one.detach(), other.detach())) for one, other in pairs
    )


def _are_close(one: Tensor, other: Tensor) -> Tensor | bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not (one.is_floating_point() or one.is_complex()):
        return torch.tensor((one != other).double().mean() < MOST_TIES)
    top = float(other.abs().nan_to_num(0.0, 0.0, 0.0).max()) if other.numel() else 0.0
    return torch.isclose(one, other, rtol=1e-3, atol=1e-4 * top, equal_nan=True).all()


class Weights:
    """Whether a module's tensors are still those of which a graph was made."""

    def __init__(self, module: nn.Module) -> None:
        self._tensors = list(itertools.chain(module.parameters(), module.buffers()))
        self._seen = self._now()

    def changed(self) -> bool:
        """Since this object was made: written to, or moved to another device."""
        return self._now() != self._seen

    def _now(self) -> list[tuple[int, int]]:
        return [(each.data_ptr(), _version(each)) for each in self._tensors]


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else int(tensor._version)
