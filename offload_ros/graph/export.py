"""Capture by ``torch.export``, of the model in this process: no exported file is ever read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
import logging
import operator
from typing import TYPE_CHECKING, Any
import warnings

import torch
from torch import Tensor, fx

from offload_ros.graph.builder import Builder, leaves_of
from offload_ros.graph.graph import Graph, GraphError, Reference

if TYPE_CHECKING:
    from offload_ros.graph.capture import Flattened


def exported(
    model: Flattened, inputs: Mapping[str, Tensor], name: str, axes: Mapping[str, Sequence[int]]
) -> tuple[Graph, dict[str, Tensor]]:
    """Graph and parameters; ``GraphError`` when torch.export refuses the model."""
    shapes = tuple(
        {axis: torch.export.Dim(f'extent{place}_{axis}') for axis in axes.get(key, ())} or None
        for place, key in enumerate(inputs)
    )
    try:
        with _quiet(), torch.no_grad():
            program = torch.export.export(
                model,
                tuple(each.clone() for each in inputs.values()),
                dynamic_shapes={'tensors': shapes} if any(shapes) else None,
                strict=False,
            ).run_decompositions({})
    except Exception as error:  # whatever a model or the exporter may raise
        reason = str(error).strip().split('\n', 1)[0]
        raise GraphError(f'torch.export refuses it ({type(error).__name__}: {reason})') from error
    return _Reading(program, model, list(inputs), name).graph()


class _Reading:
    def __init__(self, program: Any, model: Flattened, inputs: list[str], name: str) -> None:
        self.program, self.model, self.inputs = program, model, inputs
        self.builder = Builder(name)
        self.found: dict[fx.Node, list[Reference | None]] = {}

    def graph(self) -> tuple[Graph, dict[str, Tensor]]:
        inputs = iter(self.inputs)
        given = {each.arg.name: each for each in self.program.graph_signature.input_specs}
        outputs: list[Any] = []
        for node in self.program.graph.nodes:
            if node.op == 'placeholder':
                spec = given[node.name]
                if spec.target is None:
                    name = next(inputs)
                    self.found[node] = [self.builder.input(name, node.meta['val'])]
                else:
                    self.found[node] = [self._parameter(spec.target)]
            elif node.op == 'call_function':
                self.found[node] = self._call(node)
            elif node.op == 'output':
                outputs = self._outputs(node.args[0])
            else:
                raise GraphError(f'the exported program has a {node.op} ({node.target})')
        results: dict[str, Reference] = {}
        for key, each in zip(self.model.names, outputs, strict=True):
            results[key] = self._result(each)
        return self.builder.graph(results), self.builder.tensors

    def _outputs(self, returned: Sequence[Any]) -> list[Any]:
        kinds = [each.kind.name for each in self.program.graph_signature.output_specs]
        if any(kind not in ('USER_OUTPUT', 'USER_INPUT_MUTATION') for kind in kinds):
            raise GraphError('the model changes its own buffers in each run')
        return [each for each, kind in zip(returned, kinds, strict=True) if kind == 'USER_OUTPUT']

    def _parameter(self, target: str) -> Reference:
        program = self.program
        tensor = program.state_dict.get(target, program.constants.get(target))
        if not isinstance(tensor, Tensor):
            raise GraphError(f'the model holds {target}, which is not a tensor')
        return self.builder.parameter(target.removeprefix('model.'), tensor)

    def _call(self, node: fx.Node) -> list[Reference | None]:
        if node.target is operator.getitem:
            source, place = node.args
            return [self.found[source][place]]  # type: ignore[index]
        value = node.meta.get('val')
        args = tuple(self._argument(each) for each in node.args)
        kwargs = {key: self._argument(each) for key, each in node.kwargs.items()}
        return self.builder.call(node.target, args, kwargs, value)  # type: ignore[arg-type]

    def _argument(self, argument: Any) -> Any:
        if isinstance(argument, fx.Node):
            found = self.found[argument]
            if len(found) != 1 or found[0] is None:
                known = leaves_of(argument.meta.get('val'))
                raise GraphError(f'{argument} is used where one of {len(known)} results was meant')
            return found[0]
        if isinstance(argument, (list, tuple)):
            return tuple(self._argument(each) for each in argument)
        return argument

    def _result(self, returned: Any) -> Reference:
        if isinstance(returned, fx.Node):
            return self._argument(returned)  # type: ignore[no-any-return]
        return self.builder.parameter('output', torch.as_tensor(returned))


@contextmanager
def _quiet() -> Iterator[None]:
    """A refusal is ours to report; torch prints the whole program."""
    loggers = [logging.getLogger(each) for each in ('torch.export', 'torch.fx', 'torch._export')]
    levels = [each.level for each in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for each in loggers:
            each.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for each, level in zip(loggers, levels, strict=True):
                each.setLevel(level)
