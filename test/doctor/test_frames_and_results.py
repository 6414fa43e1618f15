"""Checks of inputs, clock, results and the operating system."""

import pytest

from offload_ros.doctor import host
from offload_ros.doctor.clock import check_clock
from offload_ros.doctor.examine import Surroundings, network
from offload_ros.doctor.finding import Level, fail, ok
from offload_ros.doctor.inputs import check_input, check_matching
from offload_ros.doctor.results import check_results
from offload_ros.doctor.seen import (
    ClockSeen,
    Frame,
    InputSeen,
    ManagerSeen,
    ModelSeen,
    Publisher,
    ResultsSeen,
    Seen,
)
from offload_ros.models.config import InputSpec
from offload_ros.models.config_file import parse_models

IMAGE = 'sensor_msgs/msg/Image'
SPEC = InputSpec('image', 'cam')
MANAGER = ManagerSeen(
    present=True,
    state='active',
    parameters={'use_sim_time': False, 'vit.deadline_ms': 100.0},
    models=(ModelSeen('vit'),),
    status_heard=True,
    subscriptions=('/cam',),
)
INPUT = InputSeen(
    'vit', SPEC, '/cam', (Publisher('/camera', IMAGE),), (), (Frame(99.9, 100.0),), 10.0, 'rgb8'
)


def changed(seen, **values):
    return type(seen)(**{**seen.__dict__, **values})


def test_frames_that_come_as_they_should():
    finding = check_input(INPUT, MANAGER)
    assert finding.level is Level.OK
    assert finding.text == '/cam: Image rgb8 at 10.0 Hz from /camera'


@pytest.mark.parametrize(
    ('values', 'level', 'text', 'remedy'),
    [
        ({'publishers': ()}, Level.FAIL, 'nobody publishes /cam', 'driver'),
        ({'publishers': (), 'alike': ('/front',)}, Level.FAIL, 'is on /front', 'topic: /front'),
        (
            {'publishers': (Publisher('/camera', 'sensor_msgs/msg/CompressedImage'),)},
            Level.FAIL,
            'models.yaml says',
            'type: sensor_msgs/msg/CompressedImage',
        ),
        (
            {'publishers': (Publisher('/camera', IMAGE, 'deadline'),)},
            Level.FAIL,
            'quality of service',
            'sensor data',
        ),
        ({'frames': ()}, Level.FAIL, 'no frame came in 1.5 s', 'ros2 topic hz /cam'),
        (
            {'mistake': 'cannot become', 'encoding': 'bgr8'},
            Level.FAIL,
            'cannot become',
            'encoding: bgr8',
        ),
        ({'mistake': 'cannot', 'encoding': 'bayer_rggb8'}, Level.FAIL, 'cannot', 'image_proc'),
        ({'mistake': 'cannot', 'encoding': 'yuv422'}, Level.FAIL, 'cannot', 'driver publish rgb8'),
        ({'mistake': 'shape', 'encoding': 'rgb8'}, Level.FAIL, 'shape', 'mend inputs'),
        (
            {'publishers': (Publisher('/camera', IMAGE), Publisher('/bag', IMAGE))},
            Level.WARN,
            '2 publishers',
            'stop one',
        ),
        ({'topic': '/other'}, Level.WARN, 'does not listen', 'topic:'),
        ({'frames': (Frame(0.0, 100.0),)}, Level.WARN, 'stamps are 0', 'header.stamp'),
        ({'frames': (Frame(90.0, 100.0),)}, Level.WARN, '10.0 s behind', 'chronyc'),
        ({'frames': (Frame(105.0, 100.0),)}, Level.WARN, '5.0 s ahead of', 'chronyc'),
        (
            {'frames': (Frame(12.0, 1.7e9, 12.1),)},
            Level.WARN,
            'of a simulation',
            'use_sim_time true',
        ),
    ],
)
def test_what_is_wrong_with_an_input(values, level, text, remedy):
    finding = check_input(changed(INPUT, **values), MANAGER)
    assert finding.level is level and text in finding.text and remedy in finding.remedy


def test_stamps_are_compared_with_the_clock_that_the_manager_goes_by():
    simulated = changed(MANAGER, parameters={'use_sim_time': True})
    of_simulation = changed(INPUT, frames=(Frame(12.0, 1.7e9, 12.1),))
    assert check_input(of_simulation, simulated).level is Level.OK
    of_system = changed(INPUT, frames=(Frame(1.7e9, 1.7e9, 12.1),))
    assert check_input(of_system, simulated).remedy.endswith('use_sim_time false')
    assert check_input(of_simulation, ManagerSeen()).level is Level.OK


def test_inputs_of_one_model_must_match_in_time():
    config = parse_models(
        "models: {vit: {source: {python: 'm:f'}, sync_slop_ms: 20,"
        ' inputs: [{name: a, topic: x}, {name: b, topic: y}]}}'
    )[0]
    near = changed(INPUT, frames=(Frame(99.91, 100.0),))
    far = changed(INPUT, frames=(Frame(99.5, 100.0),))
    assert check_matching(config, [INPUT, near]).level is Level.OK
    finding = check_matching(config, [INPUT, far])
    assert finding.level is Level.FAIL and 'sync_slop_ms: 600' in finding.remedy
    assert check_matching(config, [INPUT]) is None


@pytest.mark.parametrize(
    ('publishers', 'time_s', 'simulated', 'level'),
    [
        ((), None, False, Level.OK),
        (('/world',), 5.0, True, Level.OK),
        ((), None, True, Level.FAIL),
        (('/world',), 5.0, False, Level.WARN),
        (('/world',), None, True, Level.WARN),
        (('/world', '/bag'), 5.0, True, Level.FAIL),
    ],
)
def test_clock(publishers, time_s, simulated, level):
    manager = changed(MANAGER, parameters={'use_sim_time': simulated})
    assert check_clock(ClockSeen(publishers, 60.0, time_s), manager).level is level


RESULTS = ResultsSeen('vit', 15, 10.0, total_ms=12.0, used=('server',))


def test_results_that_come():
    finding = check_results(RESULTS, MANAGER, [], topic='/inference/result/vit')
    assert finding.level is Level.OK
    assert finding.text == '10.0 Hz on /inference/result/vit, by server, median 12 ms'


@pytest.mark.parametrize(
    ('values', 'level', 'text', 'remedy'),
    [
        ({'errors': 3, 'detail': 'no such operator'}, Level.FAIL, 'no such operator', "'vit'"),
        (
            {'fallbacks': 15, 'reasons': ('no server is there',)},
            Level.WARN,
            '100 % computed by the robot instead: no server',
            "see 'server'",
        ),
        (
            {'fallbacks': 3, 'reasons': ('server /s did not answer in time',)},
            Level.WARN,
            '20 %',
            'vit.deadline_ms 150.0',
        ),
        ({'fallbacks': 3, 'reasons': ("/s has another 'vit'",)}, Level.WARN, '20', "'model vit'"),
        ({'late': 15, 'total_ms': 300.0}, Level.WARN, '100 % late', 'vit.deadline_ms 600.0'),
        ({'count': 0}, Level.FAIL, 'although frames come', 'log'),
    ],
)
def test_what_is_wrong_with_results(values, level, text, remedy):
    finding = check_results(changed(RESULTS, **values), MANAGER, [])
    assert finding.level is level and text in finding.text and remedy in finding.remedy


def test_missing_results_name_their_cause():
    none = changed(RESULTS, count=0)
    broken = [ok('input vit.a', ''), fail('input vit.b', 'x', 'y')]
    assert 'because of input vit.b' in check_results(none, MANAGER, broken).text
    slow = changed(MANAGER, models=(ModelSeen('vit', rate_hz=0.3),))
    assert 'that slow' in check_results(none, slow, []).text
    assert check_results(none, changed(MANAGER, state='inactive'), []).level is Level.SKIP
    unloaded = changed(MANAGER, parameters={'vit.loaded': False})
    assert check_results(none, unloaded, []).level is Level.SKIP


def test_nothing_on_the_network_still_gives_every_finding():
    configs = parse_models(
        "models: {vit: {source: {python: 'm:f'}, inputs: [{name: image, topic: cam}]}}"
    )
    seen = Seen(inputs=(InputSeen('vit', SPEC, '/cam'),), results=(ResultsSeen('vit'),))
    findings = network(Surroundings({}, '/p.xml'), seen, configs, ok('models.yaml', ''), '/m.yaml')
    levels = {finding.name: finding.level for finding in findings}
    assert levels['manager'] is levels['server'] is levels['input vit.image'] is Level.FAIL
    assert levels['results vit'] is levels['model vit'] is levels['connection'] is Level.SKIP
    assert any('models_file:=/m.yaml' in finding.remedy for finding in findings)


def test_a_manager_that_does_not_name_its_models_file():
    seen = Seen(manager=ManagerSeen(present=True))
    findings = network(Surroundings({}, '/p.xml'), seen, [], ok('models.yaml', '/m.yaml: vit'))
    (finding,) = [each for each in findings if each.name == 'models.yaml']
    assert finding.level is Level.WARN and '--models-file' in finding.remedy


# ---- operating system --------------------------------------------------------------------------


def test_socket_buffers():
    assert host.check_buffers(4_194_304, 4_194_304).level is Level.OK
    finding = host.check_buffers(212_992, 4_194_304)
    assert finding.level is Level.WARN
    assert finding.remedy == 'sudo sysctl -w net.core.rmem_max=4194304'
    assert host.check_buffers(None, 1).level is Level.SKIP


def test_fragments_matter_with_a_server_on_another_machine():
    assert host.check_fragments(30, 4_194_304, False).level is Level.OK
    assert host.check_fragments(30, 4_194_304, True).level is Level.WARN
    assert host.check_fragments(3, 4_194_304, True).level is Level.OK
    assert host.check_fragments(None, None, True).level is Level.SKIP


def test_shared_memory():
    seen = host.SharedMemory
    assert host.check_shared_memory(seen(8000, 7000)).level is Level.OK
    assert '--shm-size' in host.check_shared_memory(seen(64, 60)).remedy
    stale = seen(8000, 4000, 3500, 50)
    assert host.check_shared_memory(stale).remedy == 'fastdds shm clean'
    assert 'rm -f /dev/shm' in host.check_shared_memory(stale, standalone=True).remedy
    assert host.check_shared_memory(None).level is Level.SKIP


def test_segments_of_processes_that_are_gone_are_told_by_their_locks(tmp_path):
    for name in ('fastdds_1', 'fastdds_2', 'fastdds_port7'):
        (tmp_path / name).write_bytes(bytes(1_000_000))
        (tmp_path / f'{name}_el').touch()
    inode = (tmp_path / 'fastdds_1_el').stat().st_ino
    locks = tmp_path / 'locks'
    locks.write_text(f'1: FLOCK  ADVISORY  WRITE 12 00:1b:{inode} 0 EOF\n')
    seen = host.shared_memory(tmp_path, locks)
    assert (seen.stale_mb, seen.stale_files) == (1.0, 1)
    assert host.shared_memory(tmp_path / 'none', locks) is None


def test_memory(tmp_path):
    file = tmp_path / 'meminfo'
    file.write_text('MemTotal: 9 kB\nMemAvailable: 1000000 kB\n')
    assert host.available_memory_mb(file) == pytest.approx(1024.0)
    assert host.available_memory_mb(tmp_path / 'none') is None
    levels = [host.check_memory(value).level for value in (5000.0, 500.0, 100.0, None)]
    assert levels == [Level.OK, Level.WARN, Level.FAIL, Level.SKIP]


def test_processor(tmp_path):
    folder = tmp_path / 'cpu0' / 'cpufreq'
    folder.mkdir(parents=True)
    (folder / 'scaling_governor').write_text('powersave\n')
    assert host.governors(tmp_path) == ['powersave']
    assert 'cpupower' in host.check_processor(['powersave'], 0.1, 2).remedy
    assert host.check_processor(['performance'], 0.1, 2).level is Level.OK
    assert 'too busy' in host.check_processor([], 9.0, 2).text


def test_every_check_of_this_machine_says_something():
    assert len(host.check_host()) == 5
