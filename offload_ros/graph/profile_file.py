"""Profiles in JSON: our own versioned form, and the published logs' form.

The second is what was extracted from the logs published with the Intra-DP paper: a list ``graph``
of operators with times in milliseconds, and each side's ``whole_forward_ms``, to which operator
times are scaled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, fields
import json
import math
from pathlib import Path
from typing import Any

import networkx

from offload_ros.graph.profile import (
    CODING_TIMES,
    FORMAT,
    SCHEMA,
    Coding,
    Profile,
    ProfiledOperator,
    ProfileError,
    Side,
    TransferCost,
    require,
)

INPUT_NAMES, OUTPUT_NAMES = ('_start',), ('_end',)


def read_profile(path: str | Path) -> Profile:
    """Read a file of either form; ``ProfileError`` names the file, the place and the rule."""
    path = Path(path)
    try:
        document = json.loads(path.read_text(encoding='utf-8'))
    except OSError as error:
        raise ProfileError(f'{path}: {error.strerror or error}: give a profile file') from None
    except UnicodeDecodeError:
        raise ProfileError(f'{path}: not a text file: a profile is JSON') from None
    except (ValueError, RecursionError) as error:
        raise ProfileError(f'{path}: not valid JSON: {error}') from None
    try:
        return parse_profile(document, path.stem)
    except ProfileError as error:
        raise ProfileError(f'{path}: {error}') from None


def parse_profile(document: Any, name: str = 'model') -> Profile:
    """A profile of parsed JSON of either form; ``name``: of the model, where it says none."""
    require(isinstance(document, dict), 'a profile must be a JSON object')
    if document.get('format') == FORMAT:
        return _own(document)
    require(
        'graph' in document,
        f'this is no profile: it has neither "format": "{FORMAT}" nor a \'graph\'',
    )
    return _published(document, name)


def write_profile(profile: Profile, path: str | Path) -> None:
    """Write our own form."""
    Path(path).write_text(json.dumps(profile_document(profile), indent=1) + '\n', encoding='utf-8')


def profile_document(profile: Profile) -> dict[str, Any]:
    """Our own form, ready for ``json.dumps``: fields of the dataclasses, defaults left out."""
    return {
        'format': FORMAT,
        'schema': SCHEMA,
        'model': profile.model,
        'input_bytes': profile.input_bytes,
        'output_bytes': profile.output_bytes,
        'robot': asdict(profile.robot),
        'server': asdict(profile.server),
        'operators': [_without_defaults(operator) for operator in profile.operators],
    }


def _without_defaults(entry: ProfiledOperator | Coding) -> dict[str, Any]:
    found = {
        each.name: getattr(entry, each.name)
        for each in fields(entry)
        if each.default is MISSING or getattr(entry, each.name) != each.default
    }
    if 'codings' in found:
        found['codings'] = [_without_defaults(each) for each in found['codings']]
    return found


def _own(document: Mapping[str, Any]) -> Profile:
    schema = document.get('schema')
    require(
        schema == SCHEMA,
        f'schema {schema!r} is not known here (this version reads {SCHEMA}): measure again',
    )
    operators = document.get('operators')
    require(isinstance(operators, list), "'operators' must be a list")
    assert isinstance(operators, list)
    known = {each.name for each in fields(ProfiledOperator)}
    needed = {each.name for each in fields(ProfiledOperator) if each.default is MISSING}
    parsed = []
    for index, entry in enumerate(operators):
        where = f'operators[{index}]'
        require(isinstance(entry, dict), f'{where} must be an object')
        _known_keys(where, entry, known)
        missing = sorted(needed - set(entry))
        require(not missing, f'{where}: {", ".join(missing)} missing')
        parsed.append(ProfiledOperator(**{key: _OWN[key](where, key, entry) for key in entry}))
    return Profile(
        model=_text('the profile', 'model', document),
        operators=tuple(parsed),
        robot=_side('robot', document.get('robot', {})),
        server=_side('server', document.get('server', {})),
    )


def _side(where: str, entry: Any) -> Side:
    require(isinstance(entry, dict), f'{where} must be an object')
    _known_keys(where, entry, {each.name for each in fields(Side)})
    curve = entry.get('share_curve', [])
    require(
        isinstance(curve, (list, tuple))
        and all(isinstance(point, (list, tuple)) and len(point) == 2 for point in curve),
        f'{where}: share_curve must be a list of [share, factor]',
    )
    points = tuple(
        (_number(where, 'share_curve', share), _number(where, 'share_curve', factor))
        for share, factor in curve
    )
    return Side(
        name=_text(where, 'name', {'name': '', **entry}),
        floor_s=_number(where, 'floor_s', entry.get('floor_s', 0.0)),
        share_curve=points,
        encode=_transfer_cost(f'{where}, encode', entry.get('encode', {})),
        decode=_transfer_cost(f'{where}, decode', entry.get('decode', {})),
        handling=_transfer_cost(f'{where}, handling', entry.get('handling', {})),
        resume_s=_number(where, 'resume_s', entry.get('resume_s', 0.0)),
    )


def _transfer_cost(where: str, entry: Any) -> TransferCost:
    require(isinstance(entry, dict), f'{where} must be an object')
    _known_keys(where, entry, {'fixed_s', 's_per_byte'})
    return TransferCost(**{key: _number(where, key, value) for key, value in entry.items()})


def _codings(where: str, key: str, entry: Mapping[str, Any]) -> tuple[Coding, ...]:
    found = entry[key]
    require(isinstance(found, (list, tuple)), f'{where}: {key} must be a list')
    codings = []
    for index, each in enumerate(found):
        place = f'{where}: {key}[{index}]'
        require(isinstance(each, dict), f'{place} must be an object')
        _known_keys(place, each, {one.name for one in fields(Coding)})
        missing = sorted({'codec', 'wire_bytes'} - set(each))
        require(not missing, f'{place}: {", ".join(missing)} missing')
        times = {name: _number(place, name, each[name]) for name in CODING_TIMES if name in each}
        codings.append(
            Coding(_text(place, 'codec', each), _whole(place, 'wire_bytes', each), **times)
        )
    return tuple(codings)


def _published(document: Mapping[str, Any], name: str) -> Profile:
    graph = document['graph']
    if isinstance(graph, dict):
        graph = graph.get('nodes')
    require(isinstance(graph, list) and graph, "'graph' must be a list of operators")
    nodes = [_published_node(f'graph[{index}]', entry) for index, entry in enumerate(graph)]
    nodes = _in_execution_order(nodes)
    inputs = {node['id'] for node in nodes if _is_input(node, document.get('input_bytes'))}
    if not inputs:
        nodes = _with_input(nodes, document)
        inputs = {nodes[0]['id']}
    read = {producer for node in nodes for producer in node['inputs']}
    named = any(node['name'] in OUTPUT_NAMES for node in nodes)
    for node in nodes:
        node['is_input'] = node['id'] in inputs
        unread = node['id'] not in read
        node['is_output'] = node['name'] in OUTPUT_NAMES if named else unread
    model = document.get('model', name)
    sides = {side: document.get(side) for side in ('robot', 'server')}
    profile = Profile(
        model=model if isinstance(model, str) else name,
        operators=tuple(ProfiledOperator(**node) for node in nodes),
        **{side: Side(name=side) for side in sides},
    )
    return profile.scaled_to(*(_whole_s(side, entry) for side, entry in sides.items()))


def _whole_s(side: str, entry: Any) -> float | None:
    """Of the measured whole forward, where the file has it."""
    if not isinstance(entry, dict) or entry.get('whole_forward_ms') is None:
        return None
    whole_ms = _amount(side, 'whole_forward_ms', entry)
    require(whole_ms > 0.0, f'{side}: whole_forward_ms must be above 0')
    return whole_ms / 1e3


def _published_node(where: str, entry: Any) -> dict[str, Any]:
    require(isinstance(entry, dict), f'{where} must be an object')
    for key in ('id', 'inputs', 'bytes', 'robot_ms', 'server_ms'):
        require(entry.get(key) is not None, f'{where}: {key} is missing')
    width = 0 if entry.get('width') is None else _whole(where, 'width', entry)
    split = entry.get('split', False)
    require(isinstance(split, bool), f'{where}: split must be true or false, not {split!r}')
    name = entry.get('name')
    node: dict[str, Any] = {
        'id': _whole(where, 'id', entry),
        'name': name if isinstance(name, str) else '',
        'inputs': tuple(dict.fromkeys(_ids(where, 'inputs', entry))),
        'width': max(1, width),
        'output_bytes': _whole(where, 'bytes', entry),
        'robot_s': _amount(where, 'robot_ms', entry) / 1e3,
        'server_s': _amount(where, 'server_ms', entry) / 1e3,
        'split': split and width > 0,
    }
    for key in ('kernel', 'stride', 'padding'):
        if entry.get(key) is not None:
            node[key] = _number(where, key, entry[key])
    return node


def _is_input(node: Mapping[str, Any], input_bytes: Any) -> bool:
    """Reads nothing and takes no time: data that is there, unless its size says otherwise (the
    published logs have no time for a model's first operator)."""
    if node['inputs'] or node['robot_s'] or node['server_s']:
        return False
    return node['name'] in INPUT_NAMES or input_bytes in (None, node['output_bytes'])


def _with_input(nodes: list[dict[str, Any]], document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The model's input put before the operators that read nothing."""
    require(
        document.get('input_bytes') is not None,
        f"no operator is the model's input (called {INPUT_NAMES[0]}, without inputs and times) and "
        'input_bytes is missing: one of them is needed',
    )
    start = min(node['id'] for node in nodes) - 1
    entry = {
        'id': start,
        'name': INPUT_NAMES[0],
        'inputs': (),
        'width': 1,
        'output_bytes': _whole('the profile', 'input_bytes', document),
        'robot_s': 0.0,
        'server_s': 0.0,
    }
    for node in nodes:
        node['inputs'] = node['inputs'] or (start,)
    return [entry, *nodes]


def _in_execution_order(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As they come where each reads earlier ones only; sorted so that they do otherwise."""
    ids = [node['id'] for node in nodes]
    by_id = {node['id']: node for node in nodes}
    require(len(by_id) == len(ids), 'graph: an id is there twice')
    for node in nodes:
        unknown = [producer for producer in node['inputs'] if producer not in by_id]
        require(not unknown, f'graph: operator {node["id"]} reads {unknown}, which is not there')
    place = {each: index for index, each in enumerate(ids)}
    if all(place[producer] < place[node['id']] for node in nodes for producer in node['inputs']):
        return nodes
    links = networkx.DiGraph()
    links.add_nodes_from(ids)
    links.add_edges_from((producer, node['id']) for node in nodes for producer in node['inputs'])
    try:
        order = list(networkx.lexicographical_topological_sort(links, key=place.__getitem__))
    except networkx.NetworkXUnfeasible:
        raise ProfileError('graph: operators read each other in a circle') from None
    return [by_id[each] for each in order]


def _known_keys(where: str, entry: Iterable[str], known: set[str]) -> None:
    unknown = sorted(set(entry) - known)
    require(not unknown, f'{where}: {", ".join(unknown)} is not known; known: {sorted(known)}')


def _number(where: str, key: str, value: Any) -> float:
    valid = isinstance(value, (int, float)) and not isinstance(value, bool)
    require(
        valid and abs(value) < 1e300 and math.isfinite(value),
        f'{where}: {key} must be a finite number, not {value!r:.40}',
    )
    return float(value)


def _amount(where: str, key: str, entry: Mapping[str, Any]) -> float:
    number = _number(where, key, entry[key])
    require(number >= 0.0, f'{where}: {key} must be 0 or more, not {number}')
    return number


def _whole(where: str, key: str, entry: Mapping[str, Any]) -> int:
    number = _number(where, key, entry[key])
    require(number.is_integer(), f'{where}: {key} must be a whole number, not {number}')
    require(key == 'id' or number >= 0, f'{where}: {key} must be 0 or more, not {number:.0f}')
    return int(number)


def _ids(where: str, key: str, entry: Mapping[str, Any]) -> tuple[int, ...]:
    value = entry[key]
    require(isinstance(value, (list, tuple)), f'{where}: {key} must be a list of ids')
    return tuple(_whole(where, 'id', {'id': each}) for each in value)


def _text(where: str, key: str, entry: Mapping[str, Any]) -> str:
    value = entry.get(key)
    require(isinstance(value, str), f'{where}: {key} must be text, not {value!r:.40}')
    return str(value)


def _flag(where: str, key: str, entry: Mapping[str, Any]) -> bool:
    require(isinstance(entry[key], bool), f'{where}: {key} must be true or false')
    return bool(entry[key])


def _or_none(parse: Any) -> Any:
    return lambda where, key, entry: None if entry[key] is None else parse(where, key, entry)


def _plain_number(where: str, key: str, entry: Mapping[str, Any]) -> float:
    return _number(where, key, entry[key])


def _line(where: str, key: str, entry: Mapping[str, Any]) -> tuple[float, ...]:
    value = entry[key]
    require(isinstance(value, (list, tuple)), f'{where}: {key} must be a list of two numbers')
    return tuple(_number(where, key, each) for each in value)


_OWN: dict[str, Any] = {
    'id': _whole,
    'name': _text,
    'inputs': _ids,
    'width': _whole,
    'output_bytes': _whole,
    'robot_s': _plain_number,
    'server_s': _plain_number,
    'split': _flag,
    'kernel': _plain_number,
    'stride': _plain_number,
    'padding': _plain_number,
    'is_input': _flag,
    'is_output': _flag,
    'wire_bytes': _or_none(_whole),
    'robot_floor_s': _or_none(_plain_number),
    'server_floor_s': _or_none(_plain_number),
    'robot_part': _or_none(_line),
    'server_part': _or_none(_line),
    'codec': _text,
    **dict.fromkeys(CODING_TIMES, _plain_number),
    'codings': _codings,
}
