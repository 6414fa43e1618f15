"""Profiles: their rules, our own file form, and the published logs' form."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest

from offload_ros.graph.profile import (
    Profile,
    ProfiledOperator,
    ProfileError,
    Side,
    TransferCost,
    ids_as_ranges,
    ranges_as_ids,
)
from offload_ros.graph.profile_file import (
    parse_profile,
    profile_document,
    read_profile,
    write_profile,
)

from .random_profiles import DATA, NAMES

START = {'id': 0, 'name': '_start', 'inputs': [], 'width': 8, 'bytes': 800, 'robot_ms': 0}
START |= {'server_ms': 0, 'split': True, 'kernel': 1, 'stride': 1.0, 'padding': 0.0}
CONV = {'id': 1, 'name': 'conv2d', 'inputs': [0], 'width': 8, 'bytes': 1600, 'robot_ms': 3.0}
CONV |= {'server_ms': 0.5, 'split': True, 'kernel': 3, 'stride': 1.0, 'padding': 1.0}
END = {'id': 2, 'name': '_end', 'inputs': [1], 'width': 1, 'bytes': 40, 'robot_ms': 1.0}
END |= {'server_ms': 0.5, 'split': False}


def published(*nodes, **fields):
    return {'model': 'small', 'graph': copy.deepcopy([*nodes] or [START, CONV, END]), **fields}


def test_published_form_is_read_field_by_field():
    profile = parse_profile(published())
    start, conv, end = profile.operators
    assert profile.model == 'small'
    assert start.is_input and not start.is_output and not conv.is_input and end.is_output
    assert (conv.inputs, conv.width, conv.output_bytes) == ((0,), 8, 1600)
    assert (conv.kernel, conv.stride, conv.padding, conv.split) == (3, 1, 1, True)
    assert (conv.robot_s, conv.server_s) == (0.003, 0.0005)
    assert (end.kernel, end.stride, end.padding, end.split) == (1, 1, 0, False)
    assert (profile.input_bytes, profile.output_bytes) == (800, 40)


@pytest.mark.parametrize('name', NAMES)
def test_times_of_measured_profiles_add_up_to_the_whole_forward(name):
    document = json.loads((DATA / f'{name}.json').read_text())
    profile = read_profile(DATA / f'{name}.json')
    assert len(profile) == len(document['graph'])
    for side in ('robot', 'server'):
        whole_s = document[side]['whole_forward_ms'] / 1e3
        assert profile.column(f'{side}_s').sum() == pytest.approx(whole_s, rel=1e-12)
    assert profile.input_bytes == document['input_bytes']
    assert profile.output_bytes == document['output_bytes']


def test_operator_times_are_scaled_to_the_measured_whole_forward():
    sides = {'robot': {'whole_forward_ms': 8.0}, 'server': {'whole_forward_ms': 4.0}}
    profile = parse_profile(published(**sides))
    np.testing.assert_allclose(profile.column('robot_s'), [0.0, 0.006, 0.002])
    np.testing.assert_allclose(profile.column('server_s'), [0.0, 0.002, 0.002])
    only = parse_profile(published(robot={'whole_forward_ms': 8.0}, server={}))
    np.testing.assert_allclose(only.column('server_s'), [0.0, 0.0005, 0.0005])


def test_optional_fields_of_the_published_form_may_be_missing():
    bare = [
        {key: node[key] for key in ('id', 'inputs', 'bytes', 'robot_ms', 'server_ms')}
        for node in (START, CONV, END)
    ]
    profile = parse_profile({'graph': bare}, 'named after the file')
    assert profile.model == 'named after the file'
    assert [operator.split for operator in profile.operators] == [False] * 3
    assert [operator.width for operator in profile.operators] == [1] * 3
    assert [operator.is_input for operator in profile.operators] == [True, False, False]
    assert [operator.is_output for operator in profile.operators] == [False, False, True]


def test_unknown_fields_and_null_ones_of_the_published_form_are_left_alone():
    conv = {**CONV, 'kernel': None, 'stride': None, 'flops': 12}
    end = {**END, 'width': None, 'split': True}
    profile = parse_profile(published(START, conv, end, note='x', robot=None))
    assert (profile.operators[1].kernel, profile.operators[1].stride) == (1, 1)
    assert (profile.operators[2].width, profile.operators[2].split) == (1, False)


def test_a_graph_without_its_input_gets_one_of_the_input_bytes():
    first = {**CONV, 'id': 5, 'inputs': [], 'robot_ms': 0.0, 'server_ms': 0.0}
    second = {**CONV, 'id': 6, 'inputs': [5]}
    profile = parse_profile(published(first, second, input_bytes=321))
    assert [operator.is_input for operator in profile.operators] == [True, False, False]
    assert profile.input_bytes == 321
    assert profile.operators[1].inputs == (profile.operators[0].id,)
    with pytest.raises(ProfileError, match='input_bytes is missing'):
        parse_profile(published({**first, 'robot_ms': 1.0}, second))


def test_operators_out_of_order_are_sorted_and_circles_refused():
    profile = parse_profile(published(END, CONV, START))
    assert [operator.id for operator in profile.operators] == [0, 1, 2]
    with pytest.raises(ProfileError, match='circle'):
        parse_profile(published(START, {**CONV, 'inputs': [0, 2]}, END))


def test_a_tensor_listed_twice_is_one_input():
    profile = parse_profile(published(START, {**CONV, 'inputs': [0, 0]}, END))
    assert profile.operators[1].inputs == (0,)


@pytest.mark.parametrize(
    ('change', 'text'),
    [
        ({'robot_ms': -1.0}, r'graph\[1\]: robot_ms must be 0 or more, not -1.0'),
        ({'robot_ms': float('nan')}, 'robot_ms must be a finite number'),
        ({'server_ms': 'fast'}, "server_ms must be a finite number, not 'fast'"),
        ({'server_ms': True}, 'server_ms must be a finite number'),
        ({'server_ms': 10**400}, 'server_ms must be a finite number'),
        ({'bytes': None}, 'bytes is missing'),
        ({'bytes': 1.5}, 'bytes must be a whole number'),
        ({'bytes': -4}, 'bytes must be 0 or more'),
        ({'width': -1}, 'width must be 0 or more'),
        ({'inputs': 0}, 'inputs must be a list of ids'),
        ({'inputs': ['a']}, 'id must be a finite number'),
        ({'inputs': [9]}, r'operator 1 reads \[9\], which is not there'),
        ({'inputs': [1]}, 'circle'),
        ({'id': 0}, 'an id is there twice'),
        ({'split': 1}, 'split must be true or false'),
        ({'stride': 0}, 'stride must be a finite number above 0, not 0'),
        ({'kernel': -3}, 'kernel must be a finite number above 0'),
        ({'padding': float('inf')}, 'padding must be a finite number'),
    ],
)
def test_a_wrong_field_of_the_published_form_is_named(change, text):
    with pytest.raises(ProfileError, match=text):
        parse_profile(published(START, {**CONV, **change}, END))


@pytest.mark.parametrize(
    ('document', 'text'),
    [
        ([], 'must be a JSON object'),
        ({}, 'this is no profile'),
        ({'graph': []}, "'graph' must be a list"),
        ({'graph': 'x'}, "'graph' must be a list"),
        ({'graph': [3]}, r'graph\[0\] must be an object'),
        (published(robot={'whole_forward_ms': 0}), 'whole_forward_ms must be above 0'),
        (published(robot={'whole_forward_ms': 'x'}), 'whole_forward_ms must be a finite number'),
        (
            published(START, {**CONV, 'robot_ms': 0}, {**END, 'robot_ms': 0})
            | {'robot': {'whole_forward_ms': 5}},
            'robot times add up to 0.0 s',
        ),
    ],
)
def test_what_is_no_profile_is_refused(document, text):
    with pytest.raises(ProfileError, match=text):
        parse_profile(document)


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(ProfileError, match=r'none\.json: No such file'):
        read_profile(tmp_path / 'none.json')
    with pytest.raises(ProfileError, match='Is a directory'):
        read_profile(tmp_path)
    broken = tmp_path / 'broken.json'
    for content, text in ((b'{"graph": [', 'not valid JSON'), (b'\xff\xfe\x00', 'not a text file')):
        broken.write_bytes(content)
        with pytest.raises(ProfileError, match=rf'broken\.json: .*{text}'):
            read_profile(broken)
    broken.write_text('[' * 100_000)
    with pytest.raises(ProfileError, match='not valid JSON'):
        read_profile(broken)


def full_profile():
    operators = (
        ProfiledOperator(4, 'image', (), 9, 90, 0.0, 0.0, True, is_input=True, wire_bytes=45),
        ProfiledOperator(7, 'conv', (4,), 5, 500, 0.25, 0.125, True, 3.0, 2.0, 1.5),
        ProfiledOperator(
            9,
            'head',
            (4, 7),
            1,
            16,
            0.5,
            0.0625,
            is_output=True,
            robot_floor_s=0.1,
            server_floor_s=0.01,
        ),
    )
    robot = Side('nx', 0.001, ((0.0, 0.25), (0.5, 0.75), (1.0, 1.0)), TransferCost(0.1, 0.2))
    return Profile('full', operators, robot, Side('gpu', 0.002, decode=TransferCost(s_per_byte=3)))


@pytest.mark.parametrize('name', NAMES)
def test_own_form_keeps_measured_profiles(name, tmp_path):
    profile = read_profile(DATA / f'{name}.json')
    write_profile(profile, tmp_path / 'own.json')
    assert read_profile(tmp_path / 'own.json') == profile


def test_own_form_keeps_every_field(tmp_path):
    write_profile(full_profile(), tmp_path / 'own.json')
    assert read_profile(tmp_path / 'own.json') == full_profile()


@pytest.mark.parametrize(
    ('path', 'value', 'text'),
    [
        (['schema'], 2, 'schema 2 is not known here'),
        (['model'], 5, 'model must be text'),
        (['operators'], {}, "'operators' must be a list"),
        (['operators', 1, 'speed'], 5, r'operators\[1\]: speed is not known'),
        (['operators', 1, 'width'], 0, 'width must be 1 or more'),
        (['operators', 1, 'robot_s'], -0.1, 'robot_s must be a finite number, 0 or more'),
        (['operators', 1, 'inputs'], [9], 'reads 9, which is not an operator before it'),
        (['operators', 1, 'inputs'], [4, 4], 'an input is listed twice'),
        (['operators', 1, 'id'], 4, 'the id is there twice'),
        (['operators', 0, 'robot_s'], 1.0, 'its times must be 0'),
        (['operators', 0, 'is_input'], False, 'no operator is an input'),
        (['operators', 2, 'is_output'], False, 'no operator is an output'),
        (['operators', 1, 'split'], 'yes', 'split must be true or false'),
        (['robot'], [], 'robot must be an object'),
        (['robot', 'watts'], 3, 'watts is not known'),
        (['robot', 'floor_s'], -1, 'floor must be a finite time'),
        (['robot', 'share_curve'], [[0.5, 1.0], [0.4, 1.0]], 'share_curve must be points'),
        (['robot', 'share_curve'], [1, 2], 'share_curve must be a list'),
        (['robot', 'encode', 'fixed_s'], -1, 'must be 0 or more'),
        (['robot', 'encode', 'fixed_s'], None, 'fixed_s must be a finite number'),
    ],
)
def test_a_wrong_field_of_the_own_form_is_named(path, value, text):
    document = json.loads(json.dumps(profile_document(full_profile())))
    target = document
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    with pytest.raises(ProfileError, match=text):
        parse_profile(document)


def test_a_missing_field_of_the_own_form_is_named():
    document = profile_document(full_profile())
    del document['operators'][1]['server_s']
    with pytest.raises(ProfileError, match=r'operators\[1\]: server_s missing'):
        parse_profile(document)


def test_floors_hold_for_operators_that_launch_kernels_only():
    profile = full_profile()
    whole, floors = profile.times('robot')
    assert whole.tolist() == [0.0, 0.25, 0.5]
    assert floors.tolist() == [0.0, 0.001, 0.1]
    floors = profile.with_floors(0.3, 0.2).times('server')[1]
    assert floors.tolist() == [0.0, 0.2, 0.2]


@pytest.mark.parametrize('ids', [[], [3], [0, 1, 2, 7, 9, 10]])
def test_ranges_of_ids_are_exact(ids):
    assert ranges_as_ids(ids_as_ranges(ids)) == ids


@pytest.mark.parametrize('runs', [None, [1], [[2, 1]], [[0, 1, 2]], [[0, 10**12]], [[0, 1.5]]])
def test_wrong_ranges_are_refused(runs):
    with pytest.raises(ProfileError):
        ranges_as_ids(runs)
