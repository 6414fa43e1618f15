"""A graph on the robot: run here, cut, split, or sent to a server."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import cached_property
import threading

import torch

from offload_ros.cuts.messages import Port
from offload_ros.graph.classify import classify
from offload_ros.graph.execute import Executor
from offload_ros.graph.graph import Graph
from offload_ros.graph.split_plan import Plan
from offload_ros.graph.wire_form import content_hash, graph_to_json, parameters_to_bytes
from offload_ros.intra_dp.lower import Work, lower
from offload_ros.intra_dp.lower_steps import steps_bytes, steps_of
from offload_ros.intra_dp.pieces import RowGraph

WORKS_KEPT = 16


class LocalGraph:
    """A graph on the robot, ready to run here and to be sent. ``model``, ``model_hash``,
    ``inputs``: of which model it was made, for servers that have that too."""

    def __init__(
        self,
        graph: Graph,
        parameters: Mapping[str, torch.Tensor],
        device: torch.device | str = 'cpu',
        model: str = '',
        model_hash: str = '',
        inputs: tuple[Port, ...] = (),
    ) -> None:
        self.graph = graph
        self.executor = Executor(graph, parameters, device)
        self.key = content_hash(graph, parameters)
        self.model, self.model_hash, self.inputs = model, model_hash, inputs
        self._parameters = dict(parameters)
        self._lock = threading.Lock()
        self._works: OrderedDict[tuple[int, bytes], Work] = OrderedDict()

    @cached_property
    def rows(self) -> RowGraph:
        """The graph in rows, for plans that split operators."""
        return RowGraph(classify(self.graph))

    def lower(self, plan: Plan) -> Work:
        """``plan``, ready to run; takes tens of milliseconds, the last ones are kept.
        ``PlanError`` when it cannot be."""
        steps = steps_of(plan)
        key = len(steps.robot), steps_bytes(steps)
        with self._lock:
            found = self._works.get(key)
        if found is None:
            found = lower(self.rows, steps)
        with self._lock:
            self._works[key] = found
            self._works.move_to_end(key)
            if len(self._works) > WORKS_KEPT:
                self._works.popitem(last=False)
        return found

    def files(self) -> tuple[bytes, bytes]:
        """JSON and safetensors."""
        return graph_to_json(self.graph), parameters_to_bytes(self.graph, self._parameters)
