"""Reads ``models.yaml``; every mistake in it becomes one line that names file, model, key, rule
and remedy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
import re
from typing import Any, TypeVar

import yaml

from offload_ros.amot.options import AmotOptions
from offload_ros.models.config import InputSpec, ModelConfig, Preprocess, Source
from offload_ros.models.errors import ConfigError

Built = TypeVar('Built')
_MODULE = re.compile(r'[^\W\d]\w*(\.[^\W\d]\w*)*\Z')


def load_models_file(path: str | Path, only: str = '') -> list[ModelConfig]:
    """Read ``models.yaml``; of its models those named in ``only``, by commas, or all.
    ``ConfigError`` names file, model, key and remedy."""
    path = Path(path)
    text = _text_of(path)
    try:
        return _chosen(parse_models(text, base=path.parent), only)
    except ConfigError as error:
        raise ConfigError(f'{path}: {error}') from None


def load_strategy_modules(path: str | Path) -> tuple[str, ...]:
    """The modules that ``models.yaml`` lists under ``strategies``, not imported; ``ConfigError``
    as of ``load_models_file``."""
    path = Path(path)
    text = _text_of(path)
    try:
        return _strategies(_document(text))
    except ConfigError as error:
        raise ConfigError(f'{path}: {error}') from None


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding='utf-8')
    except OSError as error:
        raise ConfigError(
            f'{path}: {error.strerror or error}: give models_file an existing file'
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f'{path}: not a text file') from None


def _chosen(configs: list[ModelConfig], only: str) -> list[ModelConfig]:
    names = [name.strip() for name in only.split(',') if name.strip()]
    known = [config.name for config in configs]
    for name in names:
        if name not in known:
            raise ConfigError(f"there is no model '{name}' (there are: {', '.join(known)})")
    return [config for config in configs if not names or config.name in names]


def parse_models(text: str, base: Path | None = None) -> list[ModelConfig]:
    """Read the text of a ``models.yaml``; relative paths in it count from ``base``."""
    document = _document(text)
    _strategies(document)
    if not document['models']:
        raise ConfigError("'models' is empty: add at least one model")
    return [_model(name, entry, base or Path()) for name, entry in document['models'].items()]


def _document(text: str) -> dict[str, Any]:
    try:
        document = yaml.load(text, Loader=_UniqueKeys)
    except yaml.YAMLError as error:
        raise ConfigError(f'not valid YAML: {" ".join(str(error).split())}') from None
    except RecursionError:
        raise ConfigError('not valid YAML: it is nested too deeply') from None
    except ConfigError:
        raise
    except ValueError as error:  # e.g. a date of month 99, which YAML takes for one
        raise ConfigError(f'not valid YAML: {error}') from None
    if not isinstance(document, dict) or not isinstance(document.get('models'), dict):
        raise ConfigError("must be a mapping with the key 'models' holding one mapping per model")
    _known_keys('the file', document, {'models', 'strategies'})
    return document


def _strategies(document: Mapping[str, Any]) -> tuple[str, ...]:
    modules = document.get('strategies', [])
    if not isinstance(modules, list) or not all(
        isinstance(each, str) and _MODULE.match(each) for each in modules
    ):
        raise ConfigError(
            'strategies must be a list of modules, as [my_package.my_strategy], not '
            f'{modules!r}: each registers its strategies by name'
        )
    return tuple(modules)


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a mapping with one key twice, which YAML would silently let win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
            if isinstance(key, str) and key in seen:
                raise ConfigError(f"line {key_node.start_mark.line + 1}: '{key}' is there twice")
            if isinstance(key, str):
                seen.add(key)
        return super().construct_mapping(node, deep)


def _model(name: Any, entry: Any, base: Path) -> ModelConfig:
    if not isinstance(name, str):
        raise ConfigError(f'model name {name!r} must be text')
    where = f"model '{name}'"
    entry = _mapping(where, entry)
    _known_keys(where, entry, {*_MODEL_FIELDS, *_PARTS})
    others = _mapping(f'{where}, variants', entry.get('variants', {}))
    base_entry = {key: value for key, value in entry.items() if key != 'variants'}
    alternatives = []
    for variant, changes in others.items():
        at = f"{where}, variant '{variant}'"
        changes = _mapping(at, changes)
        _known_keys(at, changes, _VARIANT_KEYS)
        if 'source' in changes:  # networks for A-MOT belong to one classifier
            changes = {'amot': None, **changes}
        alternatives.append(_variant(name, at, {**base_entry, **changes, 'variant': variant}, base))
    return replace(_variant(name, where, base_entry, base), alternatives=tuple(alternatives))


def _variant(name: str, where: str, entry: dict[str, Any], base: Path) -> ModelConfig:
    if 'source' not in entry:
        raise ConfigError(f'{where}: source is missing: python, transformers or export')
    values = _convert(where, entry, _MODEL_FIELDS)
    inputs = entry.get('inputs', [])
    if not isinstance(inputs, list):
        raise ConfigError(f'{where}: inputs must be a list')
    return _build(
        where,
        ModelConfig,
        name=name,
        source=_source(where, entry['source'], base),
        inputs=tuple(
            _input(f'{where}, input {index + 1}', spec) for index, spec in enumerate(inputs)
        ),
        preprocess=_preprocess(where, entry['preprocess']) if 'preprocess' in entry else None,
        amot=_amot(where, entry['amot'], base) if entry.get('amot') is not None else None,
        **values,
    )


def _input(where: str, entry: Any) -> InputSpec:
    entry = _mapping(where, entry)
    _known_keys(where, entry, set(_INPUT_FIELDS))
    for key in ('name', 'topic'):
        if key not in entry:
            raise ConfigError(f'{where}: {key} is missing')
    return _build(where, InputSpec, **_convert(where, entry, _INPUT_FIELDS))


def _preprocess(where: str, entry: Any) -> Preprocess:
    where = f'{where}, preprocess'
    entry = _mapping(where, entry)
    _known_keys(where, entry, set(_PREPROCESS_FIELDS))
    return _build(where, Preprocess, **_convert(where, entry, _PREPROCESS_FIELDS))


def _amot(where: str, entry: Any, base: Path) -> AmotOptions:
    where = f'{where}, amot'
    entry = _mapping(where, entry)
    _known_keys(where, entry, set(_AMOT_FIELDS))
    values = _convert(where, entry, _AMOT_FIELDS)
    if 'networks' not in values:
        raise ConfigError(f'{where}: networks is missing: a folder (classifier/, mae/, ...)')
    try:
        folder = (base / Path(values['networks']).expanduser()).resolve()
        there = folder.is_dir()
    except (OSError, RuntimeError, ValueError) as error:
        text = f'{values["networks"]!r} is not a path: {error}'
        raise ConfigError(f'{where}: networks: {text}') from None
    if not there:
        raise ConfigError(f'{where}: networks: {folder} is not a folder')
    try:
        return AmotOptions(**{**values, 'networks': str(folder)})
    except ValueError as error:
        raise ConfigError(f'{where}: {str(error).removeprefix("amot.")}') from None


def _source(where: str, entry: Any, base: Path) -> Source:
    where = f'{where}, source'
    entry = _mapping(where, entry)
    _known_keys(where, entry, set(_SOURCE_FIELDS))
    values = _convert(where, entry, _SOURCE_FIELDS)
    for kind in ('export', 'transformers'):
        text = values.get(kind, '')
        # A hub id looks like a relative path: only what is there, or is written as a path, counts
        # as a file.
        try:
            local = (base / Path(text).expanduser()).resolve() if text else None
            there = local is not None and local.exists()
        except (OSError, RuntimeError, ValueError) as error:  # too long, no such home, a zero byte
            raise ConfigError(f'{where}: {kind}: {text!r} is not a path: {error}') from None
        if local is not None and (kind == 'export' or text[0] in './~' or there):
            if not there:
                raise ConfigError(f'{where}: {kind}: {local} does not exist')
            values[kind] = str(local)
    weights = values.get('arguments', {}).get('weights') if values.get('python') else None
    if isinstance(weights, str) and weights.endswith('.safetensors'):
        values['arguments'] = {**values['arguments'], 'weights': _weights(where, weights, base)}
    return _build(where, Source, **values)


def _weights(where: str, text: str, base: Path) -> str:
    try:
        path = (base / Path(text).expanduser()).resolve()
        there = path.is_file()
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(f'{where}: weights: {text!r} is not a path: {error}') from None
    if not there:
        raise ConfigError(f'{where}: weights: {path} does not exist')
    return str(path)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError('a number')
    try:
        return float(value)
    except OverflowError:
        raise TypeError('a number that fits a float') from None


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError('a whole number')
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError('text')
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError('true or false')
    return value


def _arguments(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise TypeError('a mapping of names to values')
    return value


def _list_of(convert: Callable[[Any], Any], what: str) -> Callable[[Any], tuple[Any, ...]]:
    def read(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise TypeError(f'a list of {what}')
        return tuple(convert(item) for item in value)

    return read


def _extent(value: Any) -> int | None:
    return None if value is None else _integer(value)


# What a variant may change: everything else belongs to the model, whichever variant runs.
_VARIANT_KEYS = {'source', 'preprocess', 'outputs', 'amot'}
# Mappings and lists in an entry, beside its plain values.
_PARTS = {'source', 'inputs', 'preprocess', 'variants', 'amot'}
_MODEL_FIELDS: dict[str, Callable[[Any], Any]] = {
    'variant': _text,
    'outputs': _list_of(_text, 'names'),
    'deadline_ms': _number,
    'strategy': _text,
    'objective': _text,
    'objective_deadline_ms': _number,
    'objective_weight': _number,
    'sync_slop_ms': _number,
}
_INPUT_FIELDS: dict[str, Callable[[Any], Any]] = {
    'name': _text,
    'topic': _text,
    'type': _text,
    'encoding': _text,
    'shape': _list_of(_extent, 'whole numbers or null'),
}
_PREPROCESS_FIELDS: dict[str, Callable[[Any], Any]] = {
    'resize': _list_of(_integer, 'whole numbers'),
    'letterbox': _flag,
    'fill': _number,
    'scale': _number,
    'mean': _list_of(_number, 'numbers'),
    'std': _list_of(_number, 'numbers'),
}
_AMOT_FIELDS: dict[str, Callable[[Any], Any]] = {
    'networks': _text,
    'first_ratio': _number,
    'confidence': _number,
    'traffic_budget': _number,
    'adaptive': _flag,
    'objective': _text,
}
_SOURCE_FIELDS: dict[str, Callable[[Any], Any]] = {
    'python': _text,
    'transformers': _text,
    'export': _text,
    'arguments': _arguments,
    'task': _text,
    'seed': _integer,
}


def _convert(
    where: str, entry: Mapping[str, Any], fields: Mapping[str, Callable[[Any], Any]]
) -> dict[str, Any]:
    values = {}
    for key, convert in fields.items():
        if key in entry:
            try:
                values[key] = convert(entry[key])
            except TypeError as error:
                raise ConfigError(f'{where}: {key} must be {error}, not {entry[key]!r}') from None
    return values


def _build(where: str, kind: Callable[..., Built], **values: Any) -> Built:
    try:
        return kind(**values)
    except ConfigError as error:
        text = str(error)
        raise ConfigError(text if text.startswith('model ') else f'{where}: {text}') from None


def _mapping(where: str, entry: Any) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise ConfigError(f'{where}: must be a mapping of keys to values, not {entry!r}')
    return entry


def _known_keys(where: str, entry: Mapping[str, Any], known: set[str]) -> None:
    for key in entry:
        if key not in known:
            raise ConfigError(f"{where}: unknown key '{key}' (known: {', '.join(sorted(known))})")
