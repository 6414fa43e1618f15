"""Descriptions of fleets: what is refused, with which words, and the YAML form."""

from dataclasses import replace
from pathlib import Path

from hypothesis import given, settings
import pytest
import yaml

from offload_ros.fleet.problem import Demand, Link, Model, Node, Problem, Task
from offload_ros.fleet.problem_file import load_problem, parse_problem, problem_text

from ..draws import examples
from .fleets import HAND, small_problems

CONFIG = Path(__file__).parents[2] / 'config' / 'fleet.yaml'
TEXT = """
nodes:
  robot: {kind: robot, memory_bytes: 1.0e+8, speed: 1}
  edge: {kind: server, memory_bytes: 2e9, speed: 4.0, load_limit: 0.5, max_batch: 8}
links:
  - {from: robot, to: edge, capacity_bytes_per_s: 1.0e+6, latency_s: 0.01}
tasks:
  detection:
models:
  small: {size_bytes: 100, accuracy: {detection: 0.5}, alpha_s: 0.1, beta_s: 0}
demand:
  - {robot: robot, task: detection, queries_per_s: 2, query_bytes: 1000, latency_limit_s: 0.3}
"""


def test_yaml_reads_as_what_it_says():
    found = parse_problem(TEXT)
    assert found.node['robot'] == Node('robot', 'robot', 1e8, 1.0, 1.0, 1)
    assert found.node['edge'] == Node('edge', 'server', 2e9, 4.0, 0.5, 8)
    assert found.link['robot', 'edge'] == Link('robot', 'edge', 1e6, 0.01)
    assert found.task['detection'] == Task('detection', 1.0)
    assert found.model['small'] == Model('small', 100.0, {'detection': 0.5}, 0.1, 0.0)
    assert found.demand == (Demand('robot', 'detection', 2.0, 1000.0, 0.3),)
    assert found.limit_s(found.demand[0]) == 0.3
    assert found.limit_s(replace(found.demand[0], latency_limit_s=None)) == 1.0


def test_nodes_have_the_addresses_that_launch_files_give_them_or_their_own():
    found = parse_problem(TEXT.replace('max_batch: 8', 'address: /hall/edge, models: [small]'))
    assert found.node['robot'].address == '/robot/offload_manager'
    assert found.node['edge'].address == '/hall/edge'
    assert parse_problem(TEXT).node['edge'].address == '/edge'
    assert found.node['edge'].models == ('small',)
    assert found.node['robot'].models is None
    assert parse_problem(problem_text(found)) == found


@settings(max_examples=examples(15, 400))
@given(small_problems())
def test_problem_written_and_read_is_the_same(problem):
    assert parse_problem(problem_text(problem)) == problem


def test_shipped_file_is_read_and_survives_writing():
    problem = load_problem(CONFIG)
    assert len(problem.nodes) == 6
    assert parse_problem(problem_text(problem)) == problem


def test_links_and_demand_may_be_left_out_or_empty():
    document = yaml.safe_load(TEXT)
    for part in ('links', 'demand'):
        for empty in (None, []):
            assert getattr(parse_problem(yaml.safe_dump(document | {part: empty})), part) == ()
        shorter = {key: value for key, value in document.items() if key != part}
        assert getattr(parse_problem(yaml.safe_dump(shorter)), part) == ()


def test_merged_mappings_may_be_overridden_but_keys_not_repeated():
    merged = TEXT.replace(
        'robot: {kind: robot, memory_bytes: 1.0e+8, speed: 1}',
        'robot: &a {kind: robot, memory_bytes: 1.0e+8, speed: 1}\n  other: {<<: *a, speed: 3}\n'
        '  third: {<<: *a}',
    )
    found = parse_problem(merged)
    assert [each.speed for each in found.nodes[:3]] == [1.0, 3.0, 1.0]
    with pytest.raises(ValueError, match=r"^line 4: 'robot' is there twice$"):
        parse_problem(TEXT.replace('edge:', 'robot:', 1))


@pytest.mark.parametrize(
    'old, new, message',
    [
        ('nodes:', 'knots:', "the file: unknown key 'knots' (known: nodes, links, tasks, models"),
        ('speed: 1}', 'pace: 1}', "nodes.robot: unknown key 'pace' (known: kind, memory_bytes"),
        (', speed: 1}', '}', 'nodes.robot.speed is missing'),
        ('speed: 1}', 'speed: fast}', "nodes.robot.speed is a number, not 'fast'"),
        ('speed: 1}', 'speed: true}', 'nodes.robot.speed is a number, not True'),
        ('speed: 1}', 'speed: .nan}', 'nodes.robot.speed is a finite number above 0, not nan'),
        ('speed: 1}', 'speed: 0}', 'nodes.robot.speed is a finite number above 0, not 0.0'),
        ('kind: robot', 'kind: drone', "nodes.robot.kind is one of robot, server, cloud, not 'dro"),
        ('kind: robot', 'kind: 3', 'nodes.robot.kind is text, not 3'),
        ('2e9', '-1', 'nodes.edge.memory_bytes is a finite number at least 0, not -1.0'),
        ('load_limit: 0.5', 'load_limit: 1.5', 'load_limit is a finite number from 0 to 1, not 1.'),
        ('max_batch: 8', 'max_batch: 6', 'max_batch is a power of two from 1 to 1024, not 6'),
        ('max_batch: 8', 'max_batch: 2048', 'max_batch is a power of two from 1 to 1024, not 2048'),
        ('max_batch: 8', 'max_batch: 8.0', 'nodes.edge.max_batch is a whole number, not 8.0'),
        ('max_batch: 8', 'address: edge', "nodes.edge.address is a node's full name, as /rob"),
        ('max_batch: 8', 'address: /a-b', "nodes.edge.address is a node's full name, as /rob"),
        ('max_batch: 8', 'address: /a/', "nodes.edge.address is a node's full name, as /rob"),
        ('max_batch: 8', 'address: 3', 'nodes.edge.address is text, not 3'),
        ('max_batch: 8', f'address: /{"a" * 200}', "nodes.edge.address is a node's full name"),
        ('max_batch: 8', 'address: /robot/offload_manager', 'address /robot/offload_manager is'),
        ('max_batch: 8', 'models: small', "nodes.edge.models is a list of names, not 'small'"),
        ('max_batch: 8', 'models: [huge]', "nodes.edge.models: there is no model 'huge' (known: "),
        ('from: robot', 'from: rob', "links[rob to edge].from: there is no node 'rob' (known: rob"),
        ('to: edge', 'to: robot', 'links[robot to robot] is one of robot to server, robot to clou'),
        ('capacity_bytes_per_s: 1.0e+6', 'capacity_bytes_per_s: 0', 'capacity_bytes_per_s is a fi'),
        ('latency_s: 0.01', 'latency_s: -1', 'latency_s is a finite number at least 0, not -1.0'),
        ('detection:\n', 'detection: 3\n', 'tasks.detection is a mapping of keys to values, not 3'),
        ('detection:\n', 'detection: 0\n', 'tasks.detection is a mapping of keys to values, not 0'),
        ('detection:\n', 'detection: {latency_limit_s: 0}\n', 'tasks.detection.latency_limit_s is'),
        ('detection:\n', '2:\n', 'tasks: a name is text, not 2'),
        ('detection:\n', 'a-b:\n', "tasks: a name has letters, digits and _, beginning with a le"),
        ('{detection: 0.5}', '{depth: 0.5}', "models.small.accuracy: there is no task 'depth' (kn"),
        ('{detection: 0.5}', '{detection: 1.1}', 'models.small.accuracy.detection is a finite num'),
        ('{detection: 0.5}', '{}', 'models.small.accuracy names at least one task'),
        ('{detection: 0.5}', '0.5', 'models.small.accuracy is a mapping of tasks to numbers from'),
        ('size_bytes: 100', 'size_bytes: 0', 'models.small.size_bytes is a finite number above 0'),
        ('alpha_s: 0.1', 'alpha_s: 0', 'models.small: alpha_s and beta_s are above 0 together'),
        ('beta_s: 0}', 'beta_s: -1}', 'models.small.beta_s is a finite number at least 0, not -1.'),
        ('- {robot: robot', '- {robot: edge', 'demand[edge, detection].robot is a robot, edge is'),
        ('task: detection', 'task: depth', "demand[robot, depth].task: there is no task 'depth'"),
        ('queries_per_s: 2', 'queries_per_s: -2', 'demand[robot, detection].queries_per_s is a fi'),
        (', query_bytes: 1000', '', 'demand[0].query_bytes is missing'),
        ('limit_s: 0.3', 'limit_s: 0', 'demand[robot, detection].latency_limit_s is a finite numb'),
        ('models:', 'models: {}\nignored:', "the file: unknown key 'ignored'"),
    ],
)  # fmt: skip
def test_mistakes_are_told_with_place_and_rule(old, new, message):
    assert TEXT.count(old) >= 1
    with pytest.raises(ValueError) as error:
        parse_problem(TEXT.replace(old, new, 1))
    assert message in str(error.value)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    'text, message',
    [
        ('', 'the file is a mapping of keys to values, not None'),
        ('- 1', 'the file is a mapping'),
        ('nodes: {}', 'tasks is missing'),
        ('nodes: {}\ntasks: {t: }\nmodels: {}', 'nodes is empty: give at least one'),
        ('nodes: [', 'not valid YAML: while parsing a flow node'),
        ('nodes: 2020-13-45', 'not valid YAML: month must be in 1..12'),
        ('!!python/object:os.system {}', 'not valid YAML: could not determine a constructor'),
        ('[' * 5000, 'not valid YAML: it is nested too deeply'),
        (TEXT.replace('links:', 'links: 3\nlinks_:'), 'unknown key'),
        (TEXT + TEXT.split('demand:')[1], 'demand[robot, detection] is there twice'),
        (TEXT.replace('tasks:', TEXT.split('links:')[1].split('tasks:')[0] + 'tasks:'),
         'links[robot to edge] is there twice'),
    ],
)  # fmt: skip
def test_files_of_another_form_are_refused_in_one_line(text, message):
    with pytest.raises(ValueError) as error:
        parse_problem(text)
    assert message in str(error.value)
    assert '\n' not in str(error.value)


def test_unreadable_files_are_named(tmp_path):
    binary = tmp_path / 'binary.yaml'
    binary.write_bytes(b'\xff\xfe\x00\x80')
    for path, message in (
        (tmp_path / 'none.yaml', 'No such file or directory'),
        (tmp_path, 'Is a directory'),
        (binary, 'not a text file'),
    ):
        with pytest.raises(ValueError) as error:
            load_problem(path)
        assert str(error.value) == f'{path}: {message}'
    wrong = tmp_path / 'wrong.yaml'
    wrong.write_text('nodes: 3')
    with pytest.raises(ValueError, match=r'wrong\.yaml: tasks is missing'):
        load_problem(wrong)


@pytest.mark.parametrize(
    'make',
    [
        lambda: Node('robot', 'robot', '5', 1.0),
        lambda: Node('robot', 'robot', True, 1.0),
        lambda: Node(3, 'robot', 5.0, 1.0),
        lambda: Node('robot', 'robot', 5.0, 1.0, max_batch=2.0),
        lambda: Link('a', 'b', None),
        lambda: Task('t', 'soon'),
        lambda: replace(HAND, nodes=()),
        lambda: replace(HAND, models=HAND.models * 2),
        lambda: Problem(HAND.nodes, HAND.links, HAND.tasks, HAND.models, HAND.demand * 2),
    ],
)
def test_wrong_values_are_refused_on_construction(make):
    with pytest.raises(ValueError):
        make()


def test_robots_compute_one_by_one_and_servers_in_batches_unless_told():
    assert [each.max_batch for each in HAND.nodes] == [1, 32, 32]
    assert Node('robot', 'robot', 1.0, 1.0, max_batch=4).max_batch == 4
