"""Which operators are local along an axis, what their slices need, and how they are computed."""

from offload_ros.graph.graph import Graph, Node, references_in
from offload_ros.graph.local import resampling, rows, shapes, windows
from offload_ros.graph.local.elementwise import elementwise
from offload_ros.graph.local.operator import Call, Kind, LocalOperator, overload_of, rule_of

__all__ = ['Call', 'Kind', 'LocalOperator', 'call_of', 'local_call', 'local_operator']
_RULES = resampling, rows, shapes, windows  # importing them registers their rules


def call_of(graph: Graph, node: Node) -> Call | None:
    """The call with its arguments by name; None for operators that are not PyTorch's, and where
    an extent is known only at run time."""
    func = overload_of(node.operator)
    if func is None or not node.outputs:
        return None
    call = Call(node, graph, func)
    # A size or factor that is itself computed has no place in the arithmetic of indices.
    fixed = all(
        'Tensor' in str(argument.type) or not any(True for _ in references_in(call[argument.name]))
        for argument in func._schema.arguments
    )
    return call if call.is_static and fixed else None


def local_operator(graph: Graph, node: Node, axis: int) -> LocalOperator | None:
    """``node`` along ``axis`` of its first output (not negative); None where it is a barrier."""
    call = call_of(graph, node)
    return None if call is None else local_call(call, axis)


def local_call(call: Call, axis: int) -> LocalOperator | None:
    """Like ``local_operator`` for a call that was taken apart before."""
    if not 0 <= axis < len(call.shape):
        return None
    found = rule_of(call.node.operator)
    return (found or elementwise)(call, axis)
