"""Checkpoints are read as data: what they hold comes out, and nothing in them is run."""

from collections import OrderedDict
import contextlib
from functools import cache
import io
import os
from pathlib import Path
import pickle
import pickletools
import struct
import subprocess
import sys
from types import ModuleType
import zipfile

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
import torch
from torch import nn

from offload_ros.models import checkpoint as module
from offload_ros.models.checkpoint import (
    CheckpointError,
    StoredTensor,
    is_module,
    open_checkpoint,
    state_of,
)
from offload_ros.models.inert import Inert, StreamError, read_values

from ..draws import examples


def read(path):
    """Root of a checkpoint, with its tensors read."""
    with open_checkpoint(path) as checkpoint:
        return _read(checkpoint, checkpoint.root)


def _read(checkpoint, value):
    if isinstance(value, StoredTensor):
        return checkpoint.tensor(value)
    if isinstance(value, dict):
        return {key: _read(checkpoint, each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_read(checkpoint, each) for each in value)
    return value


def archive(path, stream, entries=(), compression=zipfile.ZIP_STORED, folder='archive'):
    """Write a zip as torch.save does, with any stream of objects."""
    with zipfile.ZipFile(path, 'w', compression) as file:
        file.writestr(f'{folder}/data.pkl', stream)
        for name, data in entries:
            file.writestr(f'{folder}/{name}', data)
    return path


def values_of(data):
    return read_values(data, {}, lambda reference: reference)


def said(path):
    """The text of the error that reading a file gives, in one line that names it."""
    with pytest.raises(CheckpointError) as error:
        read(path)
    text = str(error.value)
    assert text.startswith(f'{path}: ') and '\n' not in text
    return text.removeprefix(f'{path}: ')


@pytest.fixture
def traps(monkeypatch):
    """What would show that a checkpoint was run: calls, and imports of modules by its name."""
    called = []
    for name in ('system', 'popen', 'remove'):
        monkeypatch.setattr(os, name, lambda *arguments, name=name: called.append(name))
    trap = ModuleType('trap')
    trap.__getattr__ = called.append
    monkeypatch.setitem(sys.modules, 'trap', trap)
    yield called
    assert not called


def test_values_and_tensors_come_out_as_they_went_in(tmp_path):
    grid = torch.arange(24.0).reshape(4, 6)
    value = {
        'epoch': -1,
        'none': None,
        'flags': (True, False),
        'list': [1, 2.5, 'three', 2**70, -(2**70), {'a': ()}],
        'double': grid.double(),
        'half': grid.half(),
        'brain': grid.bfloat16(),
        'integers': torch.arange(-5, 5),
        'bytes': torch.arange(7, dtype=torch.uint8),
        'flag': torch.tensor([True, False, True]),
        'number': torch.tensor(3.5),
        'empty': torch.zeros(0, 4),
        'turned': grid.t(),
        'part': grid[1:3, ::2],
        'parameter': nn.Parameter(grid),
        'ordered': OrderedDict(a=1, b=grid),
        'size': grid.shape,
    }
    path = tmp_path / 'values.pt'
    torch.save(value, path)
    found = read(path)
    assert found.keys() == value.keys()
    for key, wanted in value.items():
        if isinstance(wanted, torch.Tensor):
            assert type(found[key]) is torch.Tensor
            assert found[key].dtype == wanted.dtype and found[key].is_contiguous(), key
            assert torch.equal(found[key], wanted.detach()), key
        elif key == 'ordered':
            assert found[key]['a'] == 1 and torch.equal(found[key]['b'], grid)
        else:
            assert found[key] == wanted, key


@pytest.mark.parametrize('protocol', range(2, 6))
def test_streams_of_every_protocol(tmp_path, protocol):
    value = {'a': [1, (2, 'x' * 300, b'y' * 300), {3, 'z'}], 'b': {'c': 1e300, 'd': frozenset('q')}}
    if protocol < 4:  # older ones make bytes and sets by calls: of sets those of texts are known
        value = {'a': [1, (2, 'x' * 300), {'w', 'z'}], 'b': {'c': 1e300, 'd': None}}
    path = tmp_path / 'values.pt'
    torch.save(value, path, pickle_protocol=protocol)
    assert read(path) == value


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers() | st.binary(), inner)
    ),
    max_leaves=30,
)


@settings(max_examples=examples(80, 2000))
@given(plain, st.integers(0, 5))
def test_plain_values_are_those_of_the_standard_reader(value, protocol):
    data = pickle.dumps(value, protocol)
    if any(code.name == 'REDUCE' for code, _, _ in pickletools.genops(data)):
        assert protocol < 3  # bytes were made by calls
        return
    assert values_of(data) == value
    assert values_of(pickletools.optimize(data)) == value


def test_modules_of_classes_that_are_not_there_are_their_state(tmp_path, monkeypatch):
    """Saved as a whole, by a program whose classes are gone when it is read."""
    code = ModuleType('gone')
    monkeypatch.setitem(sys.modules, 'gone', code)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 3, 1)
            self.norm = nn.BatchNorm2d(3)
            self.register_buffer('hidden', torch.ones(2), persistent=False)
            self.register_buffer('shown', torch.ones(4))
            self.nothing = None
            self.kind = 'small'

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = nn.Sequential(Block(), nn.Identity(), Block())
            self.model[2].conv.weight = self.model[0].conv.weight
            self.options = {'nc': 18, 'path': Path('/tmp')}

    for kind in (Block, Whole):
        kind.__module__, kind.__qualname__ = 'gone', kind.__name__
        setattr(code, kind.__name__, kind)
    whole = Whole().half()
    torch.save({'model': whole, 'ema': None}, tmp_path / 'model.pt')
    monkeypatch.delitem(sys.modules, 'gone')
    with open_checkpoint(tmp_path / 'model.pt') as checkpoint:
        model = checkpoint.root['model']
        assert is_module(model) and str(model.kind) == 'gone.Whole'
        assert model.state['options']['nc'] == 18
        assert isinstance(model.state['options']['path'], Inert)
        found = {key: checkpoint.tensor(each) for key, each in state_of(model).items()}
    wanted = whole.state_dict()
    assert found.keys() == wanted.keys()
    for key, each in wanted.items():
        assert found[key].dtype == each.dtype and torch.equal(found[key], each)
    assert 'gone' not in sys.modules


class Calls:
    """An object that asks for a call when it is read."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


# What each does when it is run: leaves a file at a path.
HOSTILE = {
    'a command': (lambda path: Calls(os.system, f'touch {path}'), 'posix.system'),
    'evaluation': (lambda path: Calls(eval, f'open("{path}", "w")'), '.eval'),
    'execution': (lambda path: Calls(exec, f'open("{path}", "w")'), '.exec'),
    'a file': (lambda path: Calls(open, path, 'w'), 'io.open'),
    'another library': (lambda path: Calls(torch.save, 1, path), 'torch.serialization.save'),
    'a process': (
        lambda path: Calls(subprocess.call, ['touch', path]),
        '.call',
    ),  # protocol 2 has Python 2's name
    'nested': (
        lambda path: {'model': [{'deep': (Calls(os.system, f'touch {path}'),)}]},
        'posix.system',
    ),
    'as an argument': (
        lambda path: OrderedDict(a=Calls(str, Calls(os.system, f'touch {path}'))),
        'posix.system',
    ),
    'in a parameter': (
        lambda path: Calls(
            torch._utils._rebuild_parameter, Calls(open, path, 'w'), False, OrderedDict()
        ),
        'io.open',
    ),
}


@pytest.mark.parametrize('case', HOSTILE)
@pytest.mark.parametrize('protocol', [2, 4])
def test_what_asks_for_a_call_is_refused(tmp_path, case, protocol):
    make, text = HOSTILE[case]
    path, left = tmp_path / 'hostile.pt', tmp_path / 'left'
    torch.save(make(str(left)), path, pickle_protocol=protocol)
    found = said(path)
    assert f'{text} to be called: refused, nothing was run' in found
    assert not left.exists()
    # The standard reader would have run it.
    with contextlib.suppress(Exception):
        torch.load(path, weights_only=False)
    assert left.exists()


def test_what_asks_for_attributes_and_imports_is_refused(tmp_path):
    for function, arguments in ((getattr, ('x', 'upper')), (__import__, ('os',))):
        path = tmp_path / 'hostile.pt'
        torch.save(Calls(function, *arguments), path)
        assert f'{function.__name__} to be called: refused' in said(path)


STREAMS = {
    'a call by name': b'cos\nsystem\n(S"touch x"\ntR.',
    'a call of what is no name': b'\x80\x02K\x01)R.',
    'a call with other arguments': b'ctrap\nf\nK\x01R.',
    'an instance, protocol 0': b'(S"x"\nios\nsystem\n.',
    'an object, protocol 1': b'(cos\nsystem\nS"x"\no.',
    'a registered extension': b'\x80\x02\x82\x01.',
    'a buffer of elsewhere': b'\x80\x05\x97.',
    'a key that is a tuple': b'\x80\x02}))s.',
    'keys into a number': b'\x80\x02K\x01K\x02K\x03s.',
    'a key without a value': b'\x80\x02}(K\x01u.',
    'values into a text': b'\x80\x02X\x01\x00\x00\x00a(K\x01e.',
    'values into no set': b'\x80\x04](K\x01\x90.',
    'a state for a list': b'\x80\x02]}b.',
    'a value that was not kept': b'\x80\x02h\x05.',
    'nothing on the stack': b'\x80\x02.',
    'no mark': b'\x80\x02t.',
    'too few for a tuple': b'\x80\x02K\x01\x87.',
    'no end': b'\x80\x02K\x01',
    'cut off': b'\x80\x02X\xff\xff\xff\x7fabc',
    'a length beyond all memory': b'\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc',
    'an unknown instruction': b'\x80\x02\xff.',
    'no bytes': b'',
    'a number that is none': b'Ix\n.',
    'a text that is none': b'\x80\x02X\x02\x00\x00\x00\xff\xff.',
    'a name that is no text': b'\x80\x04K\x01K\x02\x93.',
    'a reference that is no storage': b'\x80\x02K\x01Q.',
    'a reference by text': b'P0\n.',
    'an object of a number': b'\x80\x02K\x01)\x81.',
}


@pytest.mark.parametrize('case', STREAMS)
def test_streams_that_do_not_fit_are_one_clear_error(tmp_path, traps, case):
    text = said(archive(tmp_path / 'x.pt', STREAMS[case]))
    assert 'at byte' in text


def test_a_call_of_an_unknown_module_does_not_import_it(tmp_path, traps):
    text = said(archive(tmp_path / 'x.pt', b'\x80\x02ctrap\nfire\n)R.'))
    assert text == 'it asks for trap.fire to be called: refused, nothing was run (at byte 14)'
    control = b'\x80\x02ctr\x1b[2Jap\nfi\x07re\n)R.'
    assert 'tr??2Jap.fi?re to be called' in said(archive(tmp_path / 'x.pt', control))


def test_classes_by_name_are_data_whatever_they_are(tmp_path, traps):
    """Named, made and given a state, but neither imported nor called."""
    stream = b'\x80\x02cos\nsystem\n)\x81}X\x01\x00\x00\x00aK\x05sb.'
    with open_checkpoint(archive(tmp_path / 'x.pt', stream)) as checkpoint:
        found = checkpoint.root
    assert isinstance(found, Inert) and str(found.kind) == 'os.system'
    assert found.state == {'a': 5} and repr(found) == 'Inert(os.system)'
    items = b'\x80\x02ctrap\nDict\n)\x81(K\x01K\x02u(K\x03e.'
    assert values_of(items).items == [(1, 2), 3]
    named = b'\x80\x04ctrap\nNamed\nK\x01\x85}X\x01\x00\x00\x00kK\x02s\x92.'
    assert values_of(named).arguments == (1, {'k': 2})


def test_nesting_without_end(tmp_path, traps):
    """Deeper than Python's own stack, tuples that double, and a list that holds itself."""
    for make in (b']', b')'):
        deep = b'\x80\x02' + make + 50_000 * (b']q\x00h\x00a' if make == b']' else b'\x85') + b'.'
        archive(tmp_path / 'deep.pt', deep)
        with open_checkpoint(tmp_path / 'deep.pt') as checkpoint:
            assert checkpoint.root is not None
    doubling = b'\x80\x02)' + 200 * b'q\x00h\x00\x86' + b'.'
    assert len(values_of(doubling)) == 2
    as_key = b'\x80\x02})' + 200 * b'q\x00h\x00\x86' + b'K\x01s.'
    with pytest.raises(StreamError, match='a key of type tuple'):
        values_of(as_key)
    itself = values_of(b'\x80\x02]q\x00h\x00a.')
    assert itself[0] is itself


def module_stream(children):
    """A module whose ``_modules`` hold a module again: itself."""
    text = b''
    for name in children:
        text += b'X' + struct.pack('<I', len(name)) + name + b'h\x00'
    keys = b'X\x08\x00\x00\x00_modules}(' + text + b'u'
    return b'\x80\x02cgone\nModule\n)\x81q\x00}' + keys + b'sb.'


@pytest.mark.parametrize('children', [[b'a'], [b'a', b'b', b'c'], [b'a' * 150]])
def test_modules_that_hold_themselves_are_refused(tmp_path, children):
    endless = archive(tmp_path / 'x.pt', module_stream(children))
    with (
        open_checkpoint(endless) as checkpoint,
        pytest.raises(CheckpointError, match='more modules than any network'),
    ):
        state_of(checkpoint.root)
    bad = module_stream([b'a\n'])
    with open_checkpoint(archive(tmp_path / 'x.pt', bad)) as checkpoint:
        with pytest.raises(CheckpointError, match='a name that is none'):
            state_of(checkpoint.root)
        with pytest.raises(CheckpointError, match='no module'):
            state_of([checkpoint.root])


def test_too_many_instructions(tmp_path, monkeypatch):
    monkeypatch.setattr('offload_ros.models.inert.MAX_INSTRUCTIONS', 1000)
    assert 'more than 1,000 instructions' in said(
        archive(tmp_path / 'x.pt', b'\x80\x02]' + 1000 * b'K\x01a' + b'.')
    )
    assert 'more than 16 texts' in said(
        archive(tmp_path / 'x.pt', pickle.dumps({str(each) for each in range(17)}, 2))
    )


def tensor_stream(storage='FloatStorage', key=b'0', values=6, offset=0, shape=(2, 3),
                  strides=(3, 1), where=b'torch'):  # fmt: skip
    """One tensor, as torch.save describes it."""
    out = io.BytesIO()
    out.write(b'\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagec')
    out.write(where + b'\n' + storage.encode() + b'\nX' + struct.pack('<I', len(key)) + key)
    out.write(b'X\x03\x00\x00\x00cpu' + pickle.dumps(values, 2)[2:-1] + b'tQ')
    for each in (offset, shape, strides, False, None):
        out.write(pickle.dumps(each, 2)[2:-1])
    return out.getvalue() + b'tR.'


def test_the_tensor_stream_of_these_tests_is_one(tmp_path):
    data = torch.arange(6.0).numpy().tobytes()
    found = read(archive(tmp_path / 'x.pt', tensor_stream(), [('data/0', data)]))
    assert torch.equal(found, torch.arange(6.0).reshape(2, 3))


@pytest.mark.parametrize(
    ('changes', 'text'),
    [
        ({'values': 7}, 'has 24 bytes instead of 28'),
        ({'values': 5}, 'reaches beyond its storage'),
        ({'offset': 1}, 'reaches beyond its storage'),
        ({'offset': -1}, 'of a size that no network has'),
        ({'strides': (1 << 30, 1)}, 'reaches beyond its storage'),
        ({'strides': (-3, 1)}, 'of a size that no network has'),
        ({'shape': (1 << 20, 1 << 20), 'strides': (0, 0)}, 'of a size that no network has'),
        ({'shape': (2.0, 3)}, 'of a size that no network has'),
        ({'shape': (2, 3, 1)}, 'shape and strides do not fit'),
        ({'shape': (1,) * 9, 'strides': (1,) * 9}, 'shape and strides do not fit'),
        ({'shape': [2, 3]}, 'without a storage'),
        ({'values': 1 << 40}, 'without a number or a size'),
        ({'values': 1.5}, 'without a number or a size'),
        ({'key': b'../../x'}, 'without a number or a size'),
        ({'key': b'1'}, 'archive/data/1 is missing'),
        ({'storage': 'QInt8Storage'}, 'torch.QInt8Storage are not read'),
        ({'where': b'os'}, 'os.FloatStorage are not read'),
    ],
)
def test_tensors_that_do_not_fit_their_storage_are_refused(tmp_path, traps, changes, text):
    path = archive(tmp_path / 'x.pt', tensor_stream(**changes), [('data/0', bytes(24))])
    assert text in said(path)


def test_no_memory_is_taken_for_what_a_file_claims(tmp_path):
    """A tensor that repeats one value a thousand million times is only described."""
    stream = tensor_stream(values=1, shape=(1 << 15, 1 << 15), strides=(0, 0))
    path = archive(tmp_path / 'x.pt', stream, [('data/0', bytes(4))])
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.root.shape == (1 << 15, 1 << 15)


def test_archives_that_unpack_to_more_than_they_are_are_refused(tmp_path, monkeypatch):
    stream = pickle.dumps('x' * 10_000_000, 2)
    path = archive(tmp_path / 'bomb.pt', stream, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 50_000
    assert said(path) == 'archive/data.pkl is compressed, which PyTorch never does'
    monkeypatch.setattr(module, 'MAX_STREAM_BYTES', 100)
    path = archive(tmp_path / 'long.pt', b'\x80\x02' + 200 * b'K\x010' + b'N.')
    assert 'has 603 bytes' in said(path) or 'at most 100' in said(path)
    monkeypatch.setattr(module, 'MAX_FILES', 3)
    many = [(f'data/{each}', b'') for each in range(4)]
    assert 'too many or equal names' in said(archive(tmp_path / 'many.pt', b'N.', many))


def test_archives_that_are_none_or_others(tmp_path):
    good = tmp_path / 'good.pt'
    torch.save({'weights': torch.arange(2000.0)}, good)
    whole, path = good.read_bytes(), tmp_path / 'x.pt'
    for part in (whole[:-1], whole[: len(whole) // 2], whole[200:], whole[:3], b''):
        path.write_bytes(part)
        assert 'not a checkpoint of PyTorch' in said(path) or 'damaged' in said(path)
    place = whole.index(torch.tensor([3.0, 4.0, 5.0]).numpy().tobytes())
    path.write_bytes(whole[:place] + b'\xff' + whole[place + 1 :])
    assert 'Bad CRC-32' in said(path)
    torch.save({'a': 1}, path, _use_new_zipfile_serialization=False)
    assert said(path).startswith('in the format of PyTorch before 1.6, which is not read')
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), path)
    assert said(path) == 'a TorchScript program, not a checkpoint'
    with zipfile.ZipFile(path, 'w') as file:
        file.writestr('README', 'x')
    assert said(path) == 'not a checkpoint of PyTorch: its archive has no data.pkl'
    assert 'another order of bytes' in said(archive(path, b'N.', [('byteorder', b'big')]))
    assert said(tmp_path / 'none.pt') == 'No such file or directory'
    assert said(tmp_path) == 'Is a directory'


@cache
def small_stream():
    """The stream of a small checkpoint."""
    value = {'model': nn.Linear(2, 3).state_dict(), 'epoch': 5, 'names': ['a', 'b'], 'x': {'y'}}
    buffer = io.BytesIO()
    torch.save(value, buffer)
    with zipfile.ZipFile(buffer) as file:
        return file.read('archive/data.pkl')


@settings(max_examples=examples(150, 5000))
@given(st.data())
def test_a_file_with_wrong_bytes_is_read_or_refused(tmp_path_factory, data):
    """Nothing but a value or a clear error comes of a stream that was tampered with."""
    stream = bytearray(small_stream())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(stream) - 1))
        stream[place] = data.draw(st.integers(0, 255))
    path = archive(tmp_path_factory.getbasetemp() / 'tampered.pt', bytes(stream))
    try:
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.root is checkpoint.root
    except CheckpointError as error:
        assert str(error).startswith(str(path))
