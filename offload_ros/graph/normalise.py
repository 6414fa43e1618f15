"""One form for calls that mean the same, so that what reads a graph knows few operators.

Nothing here changes bits: a call is replaced by the one that eager PyTorch itself makes of it (a
convolution by ``convolution``, batch norm in evaluation by ``batch_norm``), or left out where its
result is its argument.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from offload_ros.graph.graph import GraphError, Reference, references_in


@dataclass(frozen=True)
class Use:
    """A call: ``alike`` are its results (or fake ones), ``of`` gives those of each reference.

    ``unused``: results that the call had in its first form and nobody may read."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    alike: Sequence[Any]
    of: Mapping[Reference, Any]
    unused: int = 0

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument that may have been given by place or by name."""
        if position < len(self.args):
            return self.args[position]
        return self.kwargs.get(name, default)


@dataclass(frozen=True)
class Alike:
    """The call's result is this, which exists."""

    reference: Reference


class Dropped:
    """The call has no result that a model's output could need (an assertion)."""


Result: TypeAlias = 'Use | Alike | Dropped'

_OF_ONE_MACHINE = ('device', 'pin_memory', 'non_blocking', 'generator')
_VIEWS = frozenset(
    """
    view _unsafe_view reshape expand slice permute transpose squeeze unsqueeze flatten narrow
    movedim contiguous
    """.split()
)
_COPIES = frozenset('clone contiguous to _to_copy type_as float half double'.split())
_NAMES_OF_SAME = frozenset(
    'detach alias lift lift_fresh lift_fresh_copy detach_copy alias_copy'.split()
)
_DROPOUTS = frozenset('dropout feature_dropout alpha_dropout feature_alpha_dropout'.split())
_ASSERTIONS = frozenset(
    """
    _assert_tensor_metadata _assert_async _assert_scalar _functional_assert_async
    _functional_assert_scalar sym_constrain_range sym_constrain_range_for_size
    _functional_sym_constrain_range _functional_sym_constrain_range_for_size
    """.split()
)
# Filled with zeros where the model leaves memory unwritten: what it reads, it has written.
_FILLED = {
    'zeros': 0, 'zeros_like': 0, 'new_zeros': 0,
    'ones': 1, 'ones_like': 1, 'new_ones': 1,
    'empty': 0, 'empty_like': 0, 'new_empty': 0,
    'empty_strided': 0, 'new_empty_strided': 0, 'empty_permuted': 0,
}  # fmt: skip
_CONVOLUTIONS = {
    'aten.conv1d.default': (1, False),
    'aten.conv2d.default': (2, False),
    'aten.conv3d.default': (3, False),
    'aten.conv_transpose1d.default': (1, True),
    'aten.conv_transpose2d.input': (2, True),
    'aten.conv_transpose3d.input': (3, True),
}
# Where (running mean, running variance, momentum, epsilon) stand; where a flag says training.
_BATCH_NORMS: dict[str, tuple[tuple[int, int, int, int], int | None]] = {
    'aten._native_batch_norm_legit_no_training.default': ((3, 4, 5, 6), None),
    'aten._native_batch_norm_legit.default': ((3, 4, 6, 7), 5),
    'aten._native_batch_norm_legit_functional.default': ((3, 4, 6, 7), 5),
    'aten.native_batch_norm.default': ((3, 4, 6, 7), 5),
    'aten.cudnn_batch_norm.default': ((3, 4, 6, 7), 5),
    'aten.miopen_batch_norm.default': ((3, 4, 6, 7), 5),
    'aten._batch_norm_impl_index.default': ((3, 4, 6, 7), 5),
    'aten._batch_norm_no_update.default': ((3, 4, 5, 6), None),
}


def normalised(use: Use) -> Result:
    """The form that the graph takes."""
    base = use.name.split('.')[1]
    if base in _ASSERTIONS:
        return Dropped()
    if base in _NAMES_OF_SAME or (base in _DROPOUTS and use.argument(2, 'train') is False):
        return Alike(use.args[0])
    if base == 'native_dropout' and use.argument(2, 'train') is False:
        raise GraphError('native_dropout in evaluation: use torch.nn.functional.dropout')
    use = _without_machine(use)
    if (base in _VIEWS or base in _COPIES) and _same(use, use.args[0]):
        return Alike(use.args[0])
    if base in ('as_strided', 'as_strided_') and _same_but_for_single(use, use.args[0]):
        return Alike(use.args[0])
    for rule in _RULES:
        found = rule(base, use)
        if found is not None:
            return found
    return use


def _without_machine(use: Use) -> Use:
    """No device, no generator; what is None is left to its default."""
    kwargs = {
        name: value
        for name, value in use.kwargs.items()
        if name not in _OF_ONE_MACHINE
        and value is not None
        and not (name == 'layout' and value == torch.strided)
    }
    return replace(use, kwargs=kwargs)


def _same(use: Use, reference: Any) -> bool:
    """Whether the only result has the elements of ``reference`` where they lie."""
    before, after = use.of.get(reference), use.alike[0]
    if not isinstance(before, Tensor) or not _static(before) or not _static(after):
        return False
    return bool(
        before.dtype == after.dtype
        and before.shape == after.shape
        and before.stride() == after.stride()
    )


def _same_but_for_single(use: Use, reference: Any) -> bool:
    """The same, but for the strides of axes with one element, which reach nothing: the pools of
    PyTorch rewrite them so."""
    before, after = use.of.get(reference), use.alike[0]
    if not isinstance(before, Tensor) or not _static(before) or not _static(after):
        return False
    offset = use.argument(3, 'storage_offset')
    if offset not in (None, 0) or before.shape != after.shape:
        return False
    return all(
        extent <= 1 or old == new
        for extent, old, new in zip(before.shape, before.stride(), after.stride(), strict=True)
    )


def _static(alike: Any) -> bool:
    return isinstance(alike, Tensor) and not any(
        isinstance(each, torch.SymInt) for each in (*alike.shape, *alike.stride())
    )


def _convolution(base: str, use: Use) -> Result | None:
    found = _CONVOLUTIONS.get(use.name)
    if found is None:
        return None
    axes, transposed = found
    image = use.of[use.args[0]]
    if image.ndim != axes + 2:
        return None
    ones, zeros = (1,) * axes, (0,) * axes
    stride = _extents(use.argument(3, 'stride', ones), axes)
    padding = _extents(use.argument(4, 'padding', zeros), axes)
    if transposed:
        extra = _extents(use.argument(5, 'output_padding', zeros), axes)
        groups = use.argument(6, 'groups', 1)
        dilation = _extents(use.argument(7, 'dilation', ones), axes)
    else:
        extra = zeros
        dilation = _extents(use.argument(5, 'dilation', ones), axes)
        groups = use.argument(6, 'groups', 1)
    weight, bias = use.argument(1, 'weight'), use.argument(2, 'bias')
    args = (use.args[0], weight, bias, stride, padding, dilation, transposed, extra, groups)
    return replace(use, name='aten.convolution.default', args=args, kwargs={})


def _extents(given: tuple[int, ...], axes: int) -> tuple[int, ...]:
    return tuple(given) * axes if len(given) == 1 else tuple(given)


def _batch_norm(base: str, use: Use) -> Result | None:
    found = _BATCH_NORMS.get(use.name)
    if found is None:
        return None
    (mean, variance, momentum, epsilon), flag = found
    if flag is not None and use.args[flag] is not False:
        raise GraphError('a batch norm is in training mode: call model.eval()')
    args = (
        *use.args[:3], use.args[mean], use.args[variance], False, use.args[momentum],
        use.args[epsilon], True,
    )  # fmt: skip
    name, unused = 'aten.batch_norm.default', len(use.alike) - 1
    return replace(use, name=name, args=args, kwargs={}, alike=use.alike[:1], unused=unused)


def _filled(base: str, use: Use) -> Result | None:
    """Tensors of one value: made from nothing, not from another tensor's shape."""
    value: Any = _FILLED.get(base)
    if base in ('full', 'new_full', 'full_like'):
        value = use.argument(1 if base != 'new_full' else 2, 'fill_value')
    elif base == 'fill' and use.name == 'aten.fill.Scalar':
        value = use.argument(1, 'value')
    if value is None or not _static(use.alike[0]):
        if base.startswith(('empty', 'new_empty')):
            raise GraphError(f'{base} of an extent that depends on data: use zeros instead')
        return None
    if any(True for _ in references_in(value)):
        return None
    shape, dtype = tuple(use.alike[0].shape), use.alike[0].dtype
    kwargs = {'dtype': dtype}
    if base not in _FILLED or value not in (0, 1):
        return replace(use, name='aten.full.default', args=(shape, value), kwargs=kwargs)
    name = 'aten.ones.default' if value else 'aten.zeros.default'
    return replace(use, name=name, args=(shape,), kwargs=kwargs)


def _copied(base: str, use: Use) -> Result | None:
    """``copy(old, new)`` is the new, brought to the old's dtype; the old does not matter."""
    if use.name != 'aten.copy.default' or not _static(use.alike[0]):
        return None
    source = use.args[1]
    before, after = use.of.get(source), use.alike[0]
    if not isinstance(before, Tensor) or not _static(before) or before.shape != after.shape:
        return None
    if before.dtype == after.dtype:
        return Alike(source)
    return replace(use, name='aten._to_copy.default', args=(source,), kwargs={'dtype': after.dtype})


def _renamed(base: str, use: Use) -> Result | None:
    if use.name == 'aten._unsafe_view.default':
        return replace(use, name='aten.view.default')
    if use.name == 'aten._reshape_alias.default':
        return replace(use, name='aten.view.default', args=use.args[:2], kwargs={})
    return None


def first_only(operator: str, args: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]] | None:
    """The call's form when only the first of its results is read, or the form of its public name;
    None where there is no other. The kernels are the same: the public operator calls this one."""
    base = operator.split('.')[1]
    if base in ('max_pool2d_with_indices', 'max_pool3d_with_indices'):
        return f'aten.{base.removesuffix("_with_indices")}.default', args
    if operator == 'aten.native_layer_norm.default':
        return 'aten.layer_norm.default', args
    if base in ('_softmax', '_log_softmax') and args[2] is False:
        return f'aten.{base[1:]}.int', args[:2]
    if base in ('_adaptive_avg_pool2d', '_adaptive_avg_pool3d'):
        return f'aten.{base[1:]}.default', args
    return None


_RULES: tuple[Callable[[str, Use], Result | None], ...] = (
    _convolution, _batch_norm, _filled, _copied, _renamed,
)  # fmt: skip
