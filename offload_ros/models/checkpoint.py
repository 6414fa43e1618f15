"""Checkpoints of PyTorch (``torch.save``) read as data: nothing in them is executed or imported.

A checkpoint is a zip archive with an object stream and one file for each storage of tensors. The
stream is read by ``inert``; tensors are first only described, and their values are read one by one,
by whoever has seen that their shapes are what it wants: no memory is taken for what a file claims.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
from dataclasses import dataclass
import math
from pathlib import Path
import re
from typing import Any, TypeGuard
import zipfile

import torch
from torch import Tensor

from offload_ros.models.errors import ModelError
from offload_ros.models.inert import Constructor, Inert, Name, StreamError, read_values

MAX_STREAM_BYTES = 32 << 20  # a network of a thousand layers takes one
MAX_FILES = 100_000
MAX_SET = 16
MAX_AXES = 8
MAX_VALUES = 1 << 31  # of one tensor or storage
_PARTS = ('_parameters', '_buffers', '_modules')
_LEGACY = b'\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.'  # of torch before 1.6
_KEY = re.compile(r'[0-9]{1,9}', re.ASCII)
_NAME = re.compile(r'[\w.]{1,200}', re.ASCII)
_STORAGES = {
    'DoubleStorage': torch.float64,
    'FloatStorage': torch.float32,
    'HalfStorage': torch.float16,
    'BFloat16Storage': torch.bfloat16,
    'LongStorage': torch.int64,
    'IntStorage': torch.int32,
    'ShortStorage': torch.int16,
    'CharStorage': torch.int8,
    'ByteStorage': torch.uint8,
    'BoolStorage': torch.bool,
}
# Small values beside the weights in published files (metrics, paths, dates): kept as they are.
_INERT_CALLS = frozenset(
    {
        'numpy.core.multiarray.scalar',
        'numpy._core.multiarray.scalar',
        'numpy.core.multiarray._reconstruct',
        'numpy._core.multiarray._reconstruct',
        'numpy.dtype',
        '_codecs.encode',
        'pathlib.PosixPath',
        'pathlib.WindowsPath',
        'pathlib.PurePosixPath',
        'datetime.datetime',
        'datetime.date',
        'datetime.timedelta',
        'torch.device',
    }
)


class CheckpointError(ModelError):
    """A file that is no checkpoint, is damaged, or asks for something to be run."""


@dataclass(frozen=True)
class Storage:
    """A file of values in the archive."""

    key: str
    dtype: torch.dtype
    values: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that lies in a storage, not read yet; ``strides`` and ``offset`` in values."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        return self.storage.dtype


class Checkpoint:
    """``root``: the value that was saved, with ``StoredTensor`` for each tensor and ``Inert`` for
    each object of a class that is not there."""

    def __init__(self, archive: zipfile.ZipFile, folder: str, root: Any) -> None:
        self._archive, self._folder = archive, folder
        self.root = root

    def tensor(self, stored: StoredTensor) -> Tensor:
        """Its values, contiguous, in memory of their own. ``CheckpointError`` when the archive does
        not have them."""
        storage = stored.storage
        data = bytearray(_bytes(self._archive, f'{self._folder}/data/{storage.key}', storage))
        if not data:
            return torch.empty(stored.shape, dtype=storage.dtype)
        flat = torch.frombuffer(data, dtype=storage.dtype)
        return flat.as_strided(stored.shape, stored.strides, stored.offset).clone(
            memory_format=torch.contiguous_format
        )


@contextlib.contextmanager
def open_checkpoint(path: str | Path) -> Iterator[Checkpoint]:
    """The checkpoint in a file, while it is open. ``CheckpointError`` says what is wrong with it,
    with the file's name."""
    try:
        opened = open(path, 'rb')  # noqa: SIM115  # closed below
    except OSError as error:
        raise CheckpointError(f'{path}: {error.strerror or error}') from None
    try:
        with opened as file:
            if file.read(len(_LEGACY)) == _LEGACY:
                raise CheckpointError(
                    'in the format of PyTorch before 1.6, which is not read: load it once with the '
                    'program that it is from and save it with a newer PyTorch'
                )
            with zipfile.ZipFile(file) as archive:
                folder = _folder(archive)
                stream = _bytes(archive, f'{folder}/data.pkl')
                root = read_values(stream, _CONSTRUCTORS, _storage, _INERT_CALLS)
                yield Checkpoint(archive, folder, root)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError) as error:
        raise CheckpointError(f'{path}: not a checkpoint of PyTorch, or damaged: {error}') from None
    except (CheckpointError, StreamError) as error:
        text = str(error)
        raise CheckpointError(text if text.startswith(str(path)) else f'{path}: {text}') from None


def _folder(archive: zipfile.ZipFile) -> str:
    """The one that everything lies in."""
    names = archive.namelist()
    if len(names) > MAX_FILES or len(set(names)) < len(names):
        raise CheckpointError(
            'not a checkpoint of PyTorch: its archive has too many or equal names'
        )
    found = [name for name in names if name.count('/') == 1 and name.endswith('/data.pkl')]
    if len(found) != 1:
        raise CheckpointError('not a checkpoint of PyTorch: its archive has no data.pkl')
    folder = found[0].partition('/')[0]
    if f'{folder}/constants.pkl' in names:
        raise CheckpointError('a TorchScript program, not a checkpoint')
    if f'{folder}/byteorder' in names and _bytes(archive, f'{folder}/byteorder') != b'little':
        raise CheckpointError('from a machine with another order of bytes')
    return folder


def _bytes(archive: zipfile.ZipFile, name: str, storage: Storage | None = None) -> bytes:
    """A file of the archive, which lies there as it is: what it takes is no more than the archive
    itself."""
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise CheckpointError(f'{name} is missing in its archive') from None
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise CheckpointError(f'{name} is compressed, which PyTorch never does')
    if info.flag_bits & 1:
        raise CheckpointError(f'{name} is encrypted, which PyTorch never does')
    if storage is None:
        wanted = info.file_size
        if wanted > MAX_STREAM_BYTES:
            raise CheckpointError(f'{name} has {wanted:,} bytes, at most {MAX_STREAM_BYTES:,}')
    else:
        wanted = storage.values * storage.dtype.itemsize
        if info.file_size != wanted:
            raise CheckpointError(f'{name} has {info.file_size:,} bytes instead of {wanted:,}')
    with archive.open(info) as file:
        data = file.read()
    if len(data) != wanted:
        raise CheckpointError(f'{name} is cut off')
    return data


def _storage(reference: Any) -> Storage:
    """What an external reference of the stream names: ('storage', class, key, device, values)."""
    fits = isinstance(reference, tuple) and len(reference) in (5, 6) and reference[0] == 'storage'
    if not fits or not isinstance(reference[1], Name):
        raise StreamError('damaged: a reference that is no storage')
    kind, key, values = reference[1], reference[2], reference[4]
    dtype = _STORAGES.get(kind.name)
    if kind.module not in ('torch', 'torch.cuda') or dtype is None:
        raise StreamError(f'storages of type {kind} are not read')
    if not isinstance(key, str) or not _KEY.fullmatch(key) or not _counts((values,)):
        raise StreamError('damaged: a storage without a number or a size')
    return Storage(key, dtype, values)


def _counts(numbers: tuple[Any, ...]) -> bool:
    return all(type(each) is int and 0 <= each <= MAX_VALUES for each in numbers)


def _tensor(arguments: tuple[Any, ...]) -> StoredTensor:
    """(storage, offset, shape, strides, ...) of ``torch._utils._rebuild_tensor_v2``."""
    if len(arguments) < 4:
        raise StreamError('damaged: a tensor without a shape')
    storage, offset, shape, strides = arguments[:4]
    if not isinstance(storage, Storage) or not isinstance(shape, tuple):
        raise StreamError('damaged: a tensor without a storage')
    if not isinstance(strides, tuple) or len(shape) != len(strides) or len(shape) > MAX_AXES:
        raise StreamError('damaged: a tensor whose shape and strides do not fit')
    if not _counts((offset, *shape, *strides)) or math.prod(shape) > MAX_VALUES:
        raise StreamError('damaged: a tensor of a size that no network has')
    last = offset + sum((extent - 1) * step for extent, step in zip(shape, strides, strict=True))
    if 0 not in shape and last >= storage.values:
        raise StreamError('damaged: a tensor that reaches beyond its storage')
    return StoredTensor(storage, offset, shape, strides)


def _parameter(arguments: tuple[Any, ...]) -> StoredTensor:
    if not arguments or not isinstance(arguments[0], StoredTensor):
        raise StreamError('damaged: a parameter that is no tensor')
    return arguments[0]


def _mapping(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    """An ``OrderedDict``, whose entries follow."""
    if arguments:
        raise StreamError('a mapping with its entries, as Python 2 wrote it, is not read')
    return {}


def _set(arguments: tuple[Any, ...]) -> set[Any]:
    values = arguments[0] if arguments else []
    if not isinstance(values, list) or not all(type(each) is str for each in values):
        raise StreamError('a set of other than texts has no place in a checkpoint')
    # One list may be made into sets again and again: each is small.
    if len(values) > MAX_SET:
        raise StreamError(f'a set of more than {MAX_SET} texts has no place in a checkpoint')
    return set(values)


def _size(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(arguments) != 1 or type(arguments[0]) is not tuple:
        raise StreamError('damaged: a size without numbers')
    return arguments[0]


_CONSTRUCTORS: dict[str, Constructor] = {
    'torch._utils._rebuild_tensor_v2': _tensor,
    'torch._utils._rebuild_tensor': _tensor,
    'torch._utils._rebuild_parameter': _parameter,
    'torch._utils._rebuild_parameter_with_state': _parameter,
    'collections.OrderedDict': _mapping,
    '__builtin__.set': _set,
    'builtins.set': _set,
    'torch.Size': _size,
}


def is_module(value: Any) -> TypeGuard[Inert]:
    """Whether it was a ``torch.nn.Module``."""
    return (
        isinstance(value, Inert)
        and isinstance(value.state, dict)
        and isinstance(value.state.get('_modules'), dict)
    )


def state_of(value: Any) -> dict[str, StoredTensor]:
    """All parameters and buffers of what was a module, by the names of its ``state_dict``, or of
    what was a state dict. ``CheckpointError`` for others and for trees that hold themselves."""
    found: dict[str, StoredTensor] = {}
    if isinstance(value, dict):
        stored = {key: each for key, each in value.items() if isinstance(each, StoredTensor)}
        return {_name(key): each for key, each in stored.items()}
    waiting: list[tuple[str, Any]] = [('', value)]
    seen = 0
    while waiting:
        prefix, module = waiting.pop()
        if not is_module(module):
            raise CheckpointError(f'{prefix[:-1] or "the model"} is no module of PyTorch')
        state = module.state
        parts = [state[part] for part in _PARTS if isinstance(state.get(part), dict)]
        seen += 1 + sum(map(len, parts))
        if seen > MAX_FILES or len(prefix) > 400:  # it may hold itself
            raise CheckpointError('it has more modules than any network')
        hidden = state.get('_non_persistent_buffers_set')
        for part in ('_parameters', '_buffers'):
            entries = state.get(part)
            for key, each in entries.items() if isinstance(entries, dict) else ():
                kept = part == '_parameters' or not isinstance(hidden, set) or key not in hidden
                if isinstance(each, StoredTensor) and kept:
                    found[prefix + _name(key)] = each
        for key, each in state['_modules'].items():
            if each is not None:
                waiting.append((f'{prefix}{_name(key)}.', each))
    return found


def _name(key: Any) -> str:
    if not isinstance(key, str) or not _NAME.fullmatch(key):
        raise CheckpointError('a module or tensor in it has a name that is none')
    return key
