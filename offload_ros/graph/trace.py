"""Capture of what torch.export refuses: the model runs once and every operator is recorded.

Writes into tensors and views are resolved by PyTorch's functionalisation. What Python decides by
values (an ``if``, an ``item()``, a loop over detections) is as it was in this run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from offload_ros.graph.builder import Builder, leaves_of
from offload_ros.graph.graph import Graph, GraphError, Reference
from offload_ros.graph.linears import join_linears
from offload_ros.graph.unknown_extents import with_unknown_extents

if TYPE_CHECKING:
    from offload_ros.graph.capture import Flattened

NOTE = 'captured by running it once: Python control flow that depends on data is frozen'


def traced(
    model: Flattened, inputs: Mapping[str, Tensor], name: str, axes: Mapping[str, Sequence[int]]
) -> tuple[Graph, dict[str, Tensor]]:
    """Graph and parameters; ``GraphError`` for operators that a graph may not hold."""
    builder = Builder(name)
    recorder = Recorder(builder)
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    returned: list[Reference] = []

    def run(state: dict[str, Tensor], *tensors: Tensor) -> tuple[Any, ...]:
        results = torch.func.functional_call(model, state, tensors)
        return tuple(torch.as_tensor(each) for each in results)

    def recorded(state: dict[str, Tensor], *tensors: Tensor) -> tuple[Tensor, ...]:
        for key, tensor in state.items():
            recorder.note(tensor, builder.parameter(key.removeprefix('model.'), tensor))
        for key, tensor in zip(inputs, tensors, strict=True):
            recorder.note(tensor, builder.input(key, tensor))
        with recorder:
            results: tuple[Tensor, ...] = torch.func.functionalize(run)(state, *tensors)
            returned.extend(recorder.reference(each) for each in results)
        return results

    detached = {key: tensor.detach() for key, tensor in state.items()}
    try:
        with torch.no_grad():
            recorded(detached, *(each.clone() for each in inputs.values()))
    except GraphError:
        raise
    except Exception as error:  # whatever a model may raise
        reason = str(error).strip().split('\n', 1)[0]
        raise GraphError(f'running it failed ({type(error).__name__}: {reason})') from error
    join_linears(builder)
    graph = builder.graph(dict(zip(model.names, returned, strict=True)), (NOTE,))
    return with_unknown_extents(graph, axes), builder.tensors


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Gives the builder every call while it is active. ``freezes``: a number that Python is given
    stays as it is in this run; otherwise it is a ``GraphError``."""

    def __init__(self, builder: Builder, freezes: bool = True) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.builder = builder
        self._freezes = freezes
        self._known: Any = WeakTensorKeyDictionary()

    def note(self, tensor: Tensor, reference: Reference) -> None:
        """``tensor`` is this from now on."""
        self._known[tensor] = reference

    def reference(self, tensor: Tensor) -> Reference:
        """A tensor that nobody announced is a constant of the model's code."""
        found: Reference | None = self._known.get(tensor)
        if found is None:
            found = self.builder.parameter('constant', tensor)
            self._known[tensor] = found
        return found

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = _called(func, args, kwargs)
        leaves = leaves_of(result)
        if not any(isinstance(each, Tensor) for each in leaves):
            if not self._freezes:
                raise GraphError(f'{func} gives Python a number that depends on values')
            return result
        references = self.builder.call(
            func,
            tuple(self._argument(each) for each in args),
            {key: self._argument(each) for key, each in kwargs.items()},
            result,
        )
        for each, reference in zip(leaves, references, strict=True):
            if reference is not None:
                self.note(each, reference)
        return result

    def _argument(self, argument: Any) -> Any:
        if isinstance(argument, Tensor):
            return self.reference(argument)
        if isinstance(argument, (list, tuple)):
            return tuple(self._argument(each) for each in argument)
        return argument


def _called(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Functionalisation can leave a value with other strides than the program gave it: then a view
    that the program may take has to be a copy, as it is when the graph runs."""
    if func is torch.ops.aten.view.default:
        return args[0].reshape(args[1])
    return func(*args, **kwargs)
