"""Which tensors from before a run of a unit changes, and which its results share memory with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from offload_ros.rrto.client_unit import Signature
from offload_ros.rrto.compiled import draws, written_by
from offload_ros.rrto.operators import Operator
from offload_ros.rrto.server_unit import EXTERNAL, IN_FRAME

# They make a tensor share the memory of another one, and their schema does not say so.
SHARE = ('aten::set_', 'aten::set.')


@dataclass(eq=False)
class NotedUnit:
    """``changed``: references (kind, where) to tensors that a run changes; ``shared``: that a kept
    result shares memory with."""

    install: list[Any]
    kept: set[tuple[int, int]]
    random: bool
    changed: list[tuple[int, int]]
    shares: dict[int, list[tuple[int, int]]]  # by step
    externals: set[int]
    calls: tuple[int, ...]
    last_read: int
    forgotten: bool = False

    @property
    def leaves_nothing(self) -> bool:
        """A run changes no tensor from before it, and takes none over from the run before."""
        return not (self.changed or self.random or self.install[4])


def noted(command: list[Any], signatures: Mapping[int, Signature]) -> NotedUnit:
    """What an INSTALL says; ``signatures`` by the numbers of calls."""
    _, _, steps, kept, _ = command
    sharing = _Sharing()
    random = False
    written: list[tuple[int, int]] = []
    for index, (call, _, references) in enumerate(steps):
        if call < 0:
            continue
        nodes = [_node(each) for each in references]
        signature = signatures[call]
        if shares_memory(signature.operator):
            for each in nodes:
                sharing.join((IN_FRAME, index), each)
        written += [nodes[at] for at in written_by(signature.operator, signature.template)]
        random = random or draws(signature.operator, signature.template)
    outer = {
        _node(each) for _, _, references in steps for each in references if each[0] != IN_FRAME
    }
    roots = {sharing.root(each) for each in written}
    by_root: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for each in outer:
        by_root.setdefault(sharing.root(each), []).append(each)
    shares = {
        index: found
        for index in range(len(steps))
        if (found := by_root.get(sharing.root((IN_FRAME, index)), []))
    }
    return NotedUnit(
        command,
        {(step, output) for step, output in kept},
        random,
        [each for each in outer if sharing.root(each) in roots],
        shares,
        {where for kind, where in outer if kind == EXTERNAL},
        tuple({step[0] for step in steps if step[0] >= 0}),
        max((index for index, step in enumerate(steps) if step[1]), default=-1),
    )


class _Sharing:
    """Which references of a unit may share memory."""

    def __init__(self) -> None:
        self._parents: dict[tuple[int, int], tuple[int, int]] = {}

    def root(self, node: tuple[int, int]) -> tuple[int, int]:
        while (parent := self._parents.get(node, node)) != node:
            node = parent
        return node

    def join(self, node: tuple[int, int], other: tuple[int, int]) -> None:
        one, two = self.root(node), self.root(other)
        if one != two:
            self._parents[two] = one


def _node(reference: Sequence[int]) -> tuple[int, int]:
    """What matters of a packed reference: results of one step are not told apart."""
    return reference[0], reference[1]


def shares_memory(operator: Operator) -> bool:
    """Whether a result may share memory with an argument."""
    if operator.name.startswith(SHARE):
        return True
    returns = operator.func._schema.returns
    return any(
        each.alias_info is not None and not each.alias_info.is_write for each in returns
    ) or not operator.name.startswith('aten::')
