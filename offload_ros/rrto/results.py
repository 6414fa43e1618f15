"""What an operator gives, described without its tensors: what a program can be told at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import enum
from typing import Any

import torch

from offload_ros.rrto.calls import pack_meta, unpack_meta
from offload_ros.rrto.metadata import TensorMeta, meta_of
from offload_ros.wire.errors import WireError


class Form(enum.IntEnum):
    """How the outputs are put together."""

    ONE = 0
    LIST = 1
    TUPLE = 2


@dataclass(frozen=True, slots=True)
class Fresh:
    """A tensor that did not exist before, a view among them."""

    meta: TensorMeta


@dataclass(frozen=True, slots=True)
class Same:
    """The tensor argument of this index itself: in-place operators and ``out=``."""

    index: int


@dataclass(frozen=True, slots=True)
class Value:
    """A number, text or None."""

    value: bool | int | float | str | None


Output = Fresh | Same | Value


@dataclass(frozen=True, slots=True)
class ResultForm:
    """``outputs`` in order; ``changed``: tensor arguments (index) whose metadata is now another."""

    form: Form
    outputs: tuple[Output, ...]
    changed: tuple[tuple[int, TensorMeta], ...] = ()


def flat(result: Any) -> Sequence[Any]:
    """The outputs one after the other."""
    return result if isinstance(result, (list, tuple)) else (result,)


def describe(
    result: Any, tensors: Sequence[torch.Tensor], before: Sequence[TensorMeta]
) -> ResultForm:
    """The form of what an operator gave for ``tensors``, which were ``before``.

    ``TypeError`` when it gave what cannot be described.
    """
    form = Form.ONE
    if isinstance(result, list):
        form = Form.LIST
    elif isinstance(result, tuple):
        form = Form.TUPLE
    outputs: list[Output] = []
    for each in flat(result):
        if isinstance(each, torch.Tensor):
            same = next((i for i, tensor in enumerate(tensors) if tensor is each), None)
            outputs.append(Fresh(meta_of(each)) if same is None else Same(same))
        elif each is None or isinstance(each, (bool, int, float, str)):
            outputs.append(Value(each))
        else:
            raise TypeError(f'an operator gave a {type(each).__name__}')
    after = [meta_of(tensor) for tensor in tensors]
    pairs = enumerate(zip(before, after, strict=True))
    changed = tuple((i, new) for i, (old, new) in pairs if new != old)
    return ResultForm(form, tuple(outputs), changed)


def pack_result(form: ResultForm) -> list[Any]:
    """For msgpack."""
    outputs: list[Any] = []
    for each in form.outputs:
        if isinstance(each, Fresh):
            outputs.append([0, pack_meta(each.meta)])
        elif isinstance(each, Same):
            outputs.append([1, each.index])
        else:
            outputs.append([2, each.value])
    return [int(form.form), outputs, [[i, pack_meta(meta)] for i, meta in form.changed]]


def unpack_result(fields: Any, tensors: int) -> ResultForm:
    """Of a call with so many tensor arguments; ``WireError`` when it is none."""
    try:
        form, outputs, changed = fields
        made = tuple(_unpack_output(code, value, tensors) for code, value in outputs)
        metas = tuple((_index(i, tensors), unpack_meta(meta)) for i, meta in changed)
        result = ResultForm(Form(form), made, metas)
    except (TypeError, ValueError) as error:
        raise WireError(f'{str(fields)[:80]} is no result: {error}') from None
    if result.form is Form.ONE and len(result.outputs) != 1:
        raise WireError(f'one output is announced and {len(result.outputs)} are described')
    return result


def put_together(form: Form, outputs: Sequence[Any]) -> Any:
    """What the operator gives."""
    if form is Form.ONE:
        return outputs[0]
    return list(outputs) if form is Form.LIST else tuple(outputs)


def _unpack_output(code: Any, value: Any, tensors: int) -> Output:
    if code == 0:
        return Fresh(unpack_meta(value))
    if code == 1:
        return Same(_index(value, tensors))
    if code == 2 and (value is None or isinstance(value, (bool, int, float, str))):
        return Value(value)
    raise WireError(f'an output of kind {code}')


def _index(value: Any, tensors: int) -> int:
    if type(value) is not int or not 0 <= value < tensors:
        raise WireError(f'{value} is no index of one of {tensors} tensors')
    return value
