"""The command: its output, and one line where the input is wrong."""

from dataclasses import replace
import json
from pathlib import Path

import pytest

from offload_ros.fleet.assignment import Assignment, Route
from offload_ros.fleet.cli import METHODS, main
from offload_ros.fleet.problem import Model
from offload_ros.fleet.problem_file import load_problem, problem_text
from offload_ros.fleet.verify import violations

from .fleets import HAND

CONFIG = Path(__file__).parents[2] / 'config' / 'fleet.yaml'


@pytest.fixture
def told(capsys):
    """Runs the command; its exit status, output and errors."""

    def run(*words):
        try:
            status = main([str(each) for each in words])
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def file_of(tmp_path):
    def write(problem):
        path = tmp_path / 'fleet.yaml'
        path.write_text(problem_text(problem))
        return path

    return write


def as_assignment(document):
    routes = tuple(Route(**{**each, 'path': tuple(each['path'])}) for each in document['routes'])
    return Assignment(document['loaded'], routes)


@pytest.mark.parametrize('method', METHODS)
def test_every_method_answers_the_shipped_file(told, method):
    status, out, err = told('--problem', CONFIG, '--method', method, '--json')
    assert (status, err) == (0, '')
    found, problem = json.loads(out), load_problem(CONFIG)
    assignment = as_assignment(found)
    assert violations(problem, assignment) == []
    assert found['accuracy'] == pytest.approx(assignment.accuracy(problem))
    assert found['accuracy'] > 0.3


def test_tables_tell_what_is_loaded_where_queries_go_and_the_accuracy(told, file_of):
    status, out, err = told('--problem', file_of(HAND))
    assert (status, err) == (0, '')
    assert 'accuracy 90.00 % of 4 queries/s; 100.00 % answered' in out
    loaded, routes = out.split('routes')
    assert any('edge' in line and 'large' in line for line in loaded.splitlines())
    assert any('detection' in line and '100.0 %' in line for line in routes.splitlines())
    assert 'robot to edge' in routes
    assert 'j3o: ' in out


def test_exact_program_says_when_it_is_not_done(told, tmp_path):
    from offload_ros.fleet.instances import Size, random_problem

    path = tmp_path / 'large.yaml'
    path.write_text(problem_text(random_problem(3, Size(30, 4, 6, 12, limits='tight'))))
    status, out, _ = told('--problem', path, '--method', 'exact', '--time-limit', '0.02')
    assert status == 0
    assert 'not proven: the optimum is at most ' in out


def test_model_that_fits_nowhere_and_impossible_demand_are_told(told, file_of):
    huge = Model('huge', 301.0, {'detection': 1.0}, 0.1, 0.1)
    status, out, _ = told('--problem', file_of(replace(HAND, models=(huge,))))
    assert status == 0
    assert 'models.huge: its 301 bytes are more than the memory of every node (300 at most)' in out
    assert 'demand[robot, detection]: cannot be answered: no model with this task fits' in out
    assert 'accuracy 0.00 % of 4 queries/s; 0.00 % answered' in out


def test_without_demand_there_is_an_answer_and_no_accuracy(told, file_of):
    path = file_of(replace(HAND, demand=()))
    status, out, err = told('--problem', path)
    assert (status, err) == (0, '')
    assert 'demand: nothing is asked, so nothing is loaded' in out
    assert '% of 0 queries' not in out
    _, out, _ = told('--problem', path, '--json')
    assert json.loads(out) == {
        'accuracy': None,
        'loaded': {},
        'routes': [],
        'remarks': ['demand: nothing is asked, so nothing is loaded'],
    }


def test_picture_is_drawn(told, file_of, tmp_path):
    for problem in (HAND, replace(HAND, demand=())):
        path = tmp_path / 'fleet.png'
        path.unlink(missing_ok=True)
        status, _, err = told('--problem', file_of(problem), '--plot', path)
        assert (status, err) == (0, '')
        assert path.read_bytes()[:4] == b'\x89PNG'


@pytest.mark.parametrize(
    'words, message',
    [
        ((), 'the following arguments are required: --problem'),
        (('--problem', 'none.yaml'), 'none.yaml: No such file or directory'),
        (('--problem', CONFIG, '--method', 'best'), "invalid choice: 'best'"),
        (('--problem', CONFIG, '--time-limit', '0'), 'a finite number above 0, not 0'),
        (('--problem', CONFIG, '--time-limit', 'nan'), 'a finite number above 0, not nan'),
        (('--problem', CONFIG, '--time-limit', 'x'), '--time-limit'),
        (('--problem', CONFIG, '--seed', '-1'), 'at least 0, not -1'),
        (('--problem', CONFIG, '--json', '--plot', '/nowhere/a.png'), '--plot /nowhere/a.png'),
        (('--problem', CONFIG, '--json', '--plot', 'a.xyz'), "Format 'xyz' is not supported"),
    ],
)
def test_wrong_words_end_in_one_line_and_status_2(told, words, message):
    status, _, err = told(*words)
    assert status == 2
    assert err.startswith('fleet: ')
    assert err.count('\n') == 1
    assert message in err


@pytest.mark.parametrize(
    'old, new, message',
    [
        ('speed: 2.0', 'pace: 2.0', "nodes.robot3: unknown key 'pace'"),
        ('speed: 2.0', 'speed: quick', "nodes.robot3.speed is a number, not 'quick'"),
        ('kind: cloud', 'kind: sky', 'nodes.cloud.kind is one of robot, server, cloud'),
        ('\ntasks:', '\ntasks: [', 'not valid YAML'),
    ],
)
def test_wrong_files_end_in_one_line_and_status_2(told, tmp_path, old, new, message):
    path = tmp_path / 'wrong.yaml'
    text = CONFIG.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    status, out, err = told('--problem', path)
    assert (status, out) == (2, '')
    assert err.startswith(f'fleet: {path}: ')
    assert err.count('\n') == 1
    assert message in err


def test_words_for_ros_are_ignored(told, file_of):
    status, _, err = told('--problem', file_of(HAND), '--json', '--ros-args', '-r', '__ns:=/x')
    assert (status, err) == (0, '')


def test_solver_that_gives_up_ends_in_one_line_and_status_1(told, file_of, monkeypatch):
    def fails(*_):
        raise RuntimeError('the linear program was not solved: numbers')

    monkeypatch.setattr('offload_ros.fleet.cli.j3o', fails)
    status, _, err = told('--problem', file_of(HAND))
    assert (status, err) == (1, 'fleet: the linear program was not solved: numbers\n')
