"""Checks of models, manager, servers and what connects them."""

import json

import pytest

from offload_ros.doctor import models, sides
from offload_ros.doctor.finding import Level
from offload_ros.doctor.seen import ManagerSeen, ModelSeen, NetworkSeen, ServerModel, ServerSeen
from offload_ros.doctor.shell import HostProcess
from offload_ros.models.config_file import parse_models

CONFIG = parse_models(
    "models: {vit: {source: {python: 'torch.nn:Identity'}, inputs: [{name: a, topic: cam}]}}"
)[0]
SEEN = ModelSeen('vit', 'default', 'a' * 64, server='/s')
MANAGER = ManagerSeen(
    present=True,
    state='active',
    parameters={'vit.loaded': True, 'use_sim_time': False},
    models=(SEEN,),
    status_heard=True,
    servers=('/s',),
)
SERVER = ServerSeen('/s', models=(ServerModel('vit', 'default', 'a' * 64),))


def changed(seen, **values):
    return type(seen)(**{**seen.__dict__, **values})


# ---- models.yaml and weights -------------------------------------------------------------------


def test_a_valid_models_file_is_read(tmp_path):
    file = tmp_path / 'models.yaml'
    file.write_text("models: {a: {source: {python: 'm:f'}, inputs: [{name: image, topic: cam}]}}")
    configs, finding = models.read_models(str(file))
    assert [config.name for config in configs] == ['a'] and finding.level is Level.OK
    assert models.read_models(str(file), asked='other.yaml')[1].level is Level.WARN


def test_a_mistake_in_models_yaml_is_told_with_its_place(tmp_path):
    file = tmp_path / 'models.yaml'
    file.write_text("models: {a: {source: {python: 'm:f'}, inputs: []}}")
    configs, finding = models.read_models(str(file))
    assert not configs and finding.level is Level.FAIL and "model 'a'" in finding.text


def test_a_models_file_that_is_not_there(tmp_path):
    _, finding = models.read_models(str(tmp_path / 'none.yaml'))
    assert finding.level is Level.FAIL and 'No such file' in finding.text
    assert models.far_models_file('/robot/m.yaml').level is Level.WARN


def source(text, folder):
    inputs = 'inputs: [{name: a, topic: cam}]'
    return parse_models(f'models: {{vit: {{source: {{{text}}}, {inputs}}}}}', folder)[0]


def weights(file, length=None):
    header = json.dumps({'w': {'dtype': 'F32', 'shape': [2], 'data_offsets': [0, 8]}}).encode()
    data = len(header).to_bytes(8, 'little') + header + bytes(8)
    file.write_bytes(data[:length])


def test_weights_of_a_folder(tmp_path):
    (tmp_path / 'net').mkdir()
    config = source('transformers: ./net', tmp_path)
    nobody = ManagerSeen()
    assert models.check_weights(config, nobody).level is Level.WARN
    weights(tmp_path / 'net' / 'model.safetensors')
    assert models.check_weights(config, nobody).level is Level.OK
    for length in (-3, 20, 3):
        weights(tmp_path / 'net' / 'model.safetensors', length)
        assert models.check_weights(config, nobody).level is Level.FAIL, length
    (tmp_path / 'net' / 'model.safetensors').write_text(
        'version https://git-lfs.github.com/spec/v1'
    )
    assert models.check_weights(config, nobody).level is Level.FAIL


def test_weights_of_other_sources(tmp_path, monkeypatch):
    monkeypatch.setenv('HF_HUB_CACHE', str(tmp_path))
    nobody = ManagerSeen()
    assert models.check_weights(CONFIG, nobody).level is Level.OK
    gone = source("python: 'no_such_package.networks:net'", tmp_path)
    assert 'PYTHONPATH' in models.check_weights(gone, nobody).remedy
    assert 'download' in models.check_weights(source('transformers: o/n', tmp_path), nobody).remedy
    (tmp_path / 'net.pt2').write_text('no archive')
    assert models.check_weights(source('export: net.pt2', tmp_path), nobody).level is Level.FAIL


def test_the_managers_word_on_weights_counts():
    assert models.check_weights(CONFIG, MANAGER).level is Level.OK
    random = changed(MANAGER, models=(changed(SEEN, weights_trained=False),))
    assert models.check_weights(CONFIG, random).level is Level.WARN


# ---- manager -----------------------------------------------------------------------------------


def test_an_active_manager():
    assert sides.check_manager(MANAGER, {}).level is Level.OK


def test_no_manager_gets_the_command_that_starts_it():
    finding = sides.check_manager(ManagerSeen(), {}, [], 'ros2 launch x')
    assert finding.level is Level.FAIL and finding.remedy == 'ros2 launch x'


def test_a_manager_of_another_namespace_is_named():
    finding = sides.check_manager(ManagerSeen(others=('/robot1/offload_manager',)), {})
    assert finding.remedy.endswith('--namespace /robot1 --manager offload_manager')


@pytest.mark.parametrize(
    ('theirs', 'remedy'),
    [
        ({'ROS_DOMAIN_ID': '5'}, 'export ROS_DOMAIN_ID=5'),
        ({'RMW_IMPLEMENTATION': 'rmw_x'}, 'export RMW_IMPLEMENTATION=rmw_x here'),
        ({}, 'wait ten seconds'),
    ],
)
def test_a_manager_that_runs_here_but_is_not_seen(theirs, remedy):
    process = HostProcess(7, 'offload_manager', '/offload_manager', theirs)
    finding = sides.check_manager(ManagerSeen(), {}, [process])
    assert finding.level is Level.FAIL and remedy in finding.remedy and '7' in finding.text


@pytest.mark.parametrize(
    ('state', 'text'),
    [
        ('', 'does not answer'),
        ('inactive', 'ros2 lifecycle set /offload_manager activate'),
        ('unconfigured', 'configure && ros2 lifecycle'),
    ],
)
def test_a_manager_that_is_not_active(state, text):
    finding = sides.check_manager(changed(MANAGER, state=state), {})
    assert finding.level is Level.FAIL and text in f'{finding.text} {finding.remedy}'


def test_two_nodes_of_one_name():
    assert 'several nodes' in sides.check_manager(changed(MANAGER, twins=True), {}).text
    finding = one([changed(SERVER, twins=True)], NetworkSeen(), {})
    assert finding.level is Level.FAIL and finding.remedy.endswith('name:=s_2')


def test_a_manager_without_status():
    assert sides.check_manager(changed(MANAGER, status_heard=False), {}).level is Level.WARN


# ---- servers -----------------------------------------------------------------------------------


def one(*arguments, **keywords):
    (finding,) = sides.check_servers(*arguments, **keywords)
    return finding


@pytest.mark.parametrize(
    ('values', 'level', 'text'),
    [
        ({}, Level.OK, '10.0 Hz'),
        ({'age_s': 1.2}, Level.FAIL, 'silent'),
        ({'rate_hz': 2.0}, Level.WARN, '2.0 of 10'),
        ({'busy': 0.97}, Level.WARN, 'overloaded'),
        ({'queue_length': 32}, Level.WARN, 'overloaded'),
    ],
)
def test_a_server_that_is_heard(values, level, text):
    finding = one([changed(SERVER, **values)], NetworkSeen(), {})
    assert finding.level is level and text in finding.text


def test_several_servers_have_a_line_each():
    two = [SERVER, changed(SERVER, name='/t')]
    assert len(sides.check_servers(two, NetworkSeen(), {})) == 2


def test_no_server_gets_the_command_that_starts_it_and_the_range():
    env = {'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}
    finding = one([], NetworkSeen(), env, launch='ros2 launch y')
    assert finding.level is Level.FAIL and 'ros2 launch y' in finding.remedy
    assert 'ROS_AUTOMATIC_DISCOVERY_RANGE=SUBNET' in finding.remedy
    assert 'RANGE' not in one([], NetworkSeen(), {}).remedy


def test_no_server_is_needed_by_a_robot_that_computes_by_itself():
    assert one([], NetworkSeen(), {}, needed=False).level is Level.SKIP


def test_a_server_that_ends_and_one_that_does_not_beat():
    assert 'ended' in one([changed(SERVER, closing=True)], NetworkSeen(), {}).text
    silent = NetworkSeen(heartbeat_nodes=('/offload_server',))
    assert 'no heartbeat comes' in one([], silent, {}).text


def test_a_server_of_this_machine_in_another_domain():
    process = HostProcess(8, 'offload_server', '/offload_server', {'ROS_DOMAIN_ID': '3'})
    finding = one([], NetworkSeen(), {}, processes=[process])
    assert finding.remedy.startswith('export ROS_DOMAIN_ID=3 if')


# ---- connection and equality -------------------------------------------------------------------


def test_a_connection():
    assert sides.check_connection(MANAGER, [SERVER]).level is Level.OK


@pytest.mark.parametrize(
    ('values', 'level', 'text'),
    [
        ({'state': 'inactive'}, Level.SKIP, 'active manager'),
        ({'parameters': {'server.name': '/other'}}, Level.FAIL, '/other'),
        ({'servers': ()}, Level.FAIL, 'does not hear'),
        ({'models': (changed(SEEN, server=''),)}, Level.FAIL, 'one direction only'),
        ({'models': (changed(SEEN, server='', hash='b'),)}, Level.SKIP, 'no model is the same'),
        ({'status_heard': False}, Level.SKIP, 'status'),
    ],
)
def test_what_keeps_a_connection_from_being(values, level, text):
    finding = sides.check_connection(changed(MANAGER, **values), [SERVER])
    assert finding.level is level and text in finding.text


def test_the_same_model_on_both_sides():
    assert models.check_model(CONFIG, MANAGER, [SERVER]).level is Level.OK
    assert models.check_model(CONFIG, MANAGER, []).level is Level.SKIP
    assert models.check_model(CONFIG, ManagerSeen(), [SERVER]).level is Level.SKIP


@pytest.mark.parametrize(
    ('held', 'text'),
    [
        ((), 'no server has it (/s has none)'),
        ((ServerModel('yolo', 'x', 'c'),), 'no server has it (/s has yolo)'),
        (
            (ServerModel('vit', 'default', 'b' * 64),),
            "is not the server's 'default' (bbbbbbbb on /s)",
        ),
        ((ServerModel('vit', 'large', 'b' * 64),), 'the server has only large'),
    ],
)
def test_models_that_differ(held, text):
    finding = models.check_model(CONFIG, MANAGER, [changed(SERVER, models=held)])
    assert finding.level is Level.FAIL and text in finding.text and 'vit' in finding.remedy


def test_a_model_that_is_unloaded_or_stays_on_the_robot():
    unloaded = changed(MANAGER, parameters={'vit.loaded': False}, models=())
    finding = models.check_model(CONFIG, unloaded, [SERVER])
    assert finding.remedy == 'ros2 param set /offload_manager vit.loaded true'
    own = changed(MANAGER, models=(changed(SEEN, requested='device'),))
    assert models.check_model(CONFIG, own, [changed(SERVER, models=())]).level is Level.OK
