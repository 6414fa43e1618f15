"""Reads a problem of a YAML file, and writes one; every mistake becomes one line that names file,
place, rule and remedy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

from offload_ros.fleet.problem import Demand, Link, Model, Node, Problem, Task

Built = TypeVar('Built')
PARTS = ('nodes', 'links', 'tasks', 'models', 'demand')


def load_problem(path: str | Path) -> Problem:
    """``ValueError`` names the file and what is wrong in it."""
    path = Path(path)
    try:
        text = path.read_text(encoding='utf-8')
    except OSError as error:
        raise ValueError(f'{path}: {error.strerror or error}') from None
    except UnicodeDecodeError:
        raise ValueError(f'{path}: not a text file') from None
    try:
        return parse_problem(text)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from None


def parse_problem(text: str) -> Problem:
    """Of the text of a YAML file; see ``config/fleet.yaml`` for its form."""
    try:
        document = yaml.load(text, Loader=_UniqueKeys)
    except yaml.YAMLError as error:
        raise ValueError(f'not valid YAML: {" ".join(str(error).split())}') from None
    except RecursionError:
        raise ValueError('not valid YAML: it is nested too deeply') from None
    except _DoubleKeyError:
        raise
    except ValueError as error:  # e.g. a date of month 99, which YAML takes for one
        raise ValueError(f'not valid YAML: {error}') from None
    document = _mapping('the file', document)
    _known_keys('the file', document, PARTS)
    for part in ('nodes', 'tasks', 'models'):
        if part not in document:
            raise ValueError(f'{part} is missing: a mapping of names to what they are')
    return Problem(
        nodes=_named('nodes', document['nodes'], Node, _NODE),
        links=_listed('links', document.get('links', []), Link, _LINK),
        tasks=_named('tasks', document['tasks'], Task, _TASK),
        models=_named('models', document['models'], Model, _MODEL),
        demand=_listed('demand', document.get('demand', []), Demand, _DEMAND),
    )


def problem_text(problem: Problem) -> str:
    """YAML that reads as the same problem."""
    ends = {'source': 'from', 'target': 'to'}
    document: dict[str, Any] = {
        part: {each.name: _values(each, skip='name') for each in getattr(problem, part)}
        for part in ('nodes', 'tasks', 'models')
    }
    document['links'] = [
        {ends.get(key, key): value for key, value in _values(each).items()}
        for each in problem.links
    ]
    document['demand'] = [_values(each) for each in problem.demand]
    ordered = {part: document[part] for part in PARTS}
    return yaml.safe_dump(ordered, sort_keys=False, default_flow_style=None, width=120)


def _values(entry: Any, skip: str = '') -> dict[str, Any]:
    found = {}
    for each in fields(entry):
        value = getattr(entry, each.name)
        if each.name != skip and value is not None:
            found[each.name] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


class _DoubleKeyError(ValueError):
    """A mapping with one key twice."""


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a mapping with one key twice, which YAML would silently let win."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._checked: set[yaml.MappingNode] = set()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Before what ``<<`` merges into it: such keys may be there again."""
        if node not in self._checked:
            self._checked.add(node)
            seen = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in seen:
                    line = key.start_mark.line + 1
                    raise _DoubleKeyError(f"line {line}: '{key.value}' is there twice")
                seen.add((key.tag, str(key.value)))
        super().flatten_mapping(node)


def _number(value: Any) -> float:
    # YAML takes 2e9 for text (a number there is 2.0e+9): nobody who writes it means text.
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError('a number')
    try:
        return float(value)
    except (ValueError, OverflowError):
        raise TypeError('a number') from None


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError('a whole number')
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError('text')
    return value


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise TypeError('a list of names')
    return tuple(value)


def _accuracies(value: Any) -> dict[str, float]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise TypeError('a mapping of tasks to numbers from 0 to 1')
    return {task: _number(accuracy) for task, accuracy in value.items()}


Fields = Mapping[str, tuple[str, Callable[[Any], Any], bool]]  # attribute, conversion, required
_NODE: Fields = {
    'kind': ('kind', _text, True),
    'memory_bytes': ('memory_bytes', _number, True),
    'speed': ('speed', _number, True),
    'load_limit': ('load_limit', _number, False),
    'max_batch': ('max_batch', _whole, False),
    'models': ('models', _names, False),
    'address': ('address', _text, False),
}
_LINK: Fields = {
    'from': ('source', _text, True),
    'to': ('target', _text, True),
    'capacity_bytes_per_s': ('capacity_bytes_per_s', _number, True),
    'latency_s': ('latency_s', _number, False),
}
_TASK: Fields = {'latency_limit_s': ('latency_limit_s', _number, False)}
_MODEL: Fields = {
    'size_bytes': ('size_bytes', _number, True),
    'accuracy': ('accuracy', _accuracies, True),
    'alpha_s': ('alpha_s', _number, True),
    'beta_s': ('beta_s', _number, True),
}
_DEMAND: Fields = {
    'robot': ('robot', _text, True),
    'task': ('task', _text, True),
    'queries_per_s': ('queries_per_s', _number, True),
    'query_bytes': ('query_bytes', _number, True),
    'latency_limit_s': ('latency_limit_s', _number, False),
}


def _named(part: str, entries: Any, kind: Callable[..., Built], known: Fields) -> tuple[Built, ...]:
    found = []
    for name, entry in _mapping(part, entries).items():
        if not isinstance(name, str):
            raise ValueError(f'{part}: a name is text, not {name!r}')
        found.append(
            kind(name=name, **_converted(f'{part}.{name}', {} if entry is None else entry, known))
        )
    return tuple(found)


def _listed(
    part: str, entries: Any, kind: Callable[..., Built], known: Fields
) -> tuple[Built, ...]:
    if entries is None:  # the key with nothing behind it
        return ()
    if not isinstance(entries, list):
        raise ValueError(f'{part} is a list, not {entries!r:.60}')
    return tuple(
        kind(**_converted(f'{part}[{at}]', entry, known)) for at, entry in enumerate(entries)
    )


def _converted(at: str, entry: Any, known: Fields) -> dict[str, Any]:
    entry = _mapping(at, entry)
    _known_keys(at, entry, known)
    found = {}
    for key, (attribute, convert, required) in known.items():
        if key in entry:
            try:
                found[attribute] = convert(entry[key])
            except TypeError as error:
                raise ValueError(f'{at}.{key} is {error}, not {entry[key]!r:.60}') from None
        elif required:
            raise ValueError(f'{at}.{key} is missing')
    return found


def _mapping(at: str, entry: Any) -> dict[Any, Any]:
    if not isinstance(entry, dict):
        raise ValueError(f'{at} is a mapping of keys to values, not {entry!r:.60}')
    return entry


def _known_keys(at: str, entry: Mapping[Any, Any], known: Any) -> None:
    for key in entry:
        if key not in known:
            raise ValueError(f"{at}: unknown key '{key}' (known: {', '.join(known)})")
