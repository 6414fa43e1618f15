"""The link of the testbed is what was asked for: measured with real transfers."""

import itertools
import json
from pathlib import Path
import sys
import time

import pytest

from benchmarks.testbed import Testbed, Trace

from ..tries import tries


@pytest.mark.parametrize(
    ('mbit', 'rtt_s'), [(20, 0.0), (93, 0.0), (450, 0.0), (93, 0.0026), (450, 0.0026)]
)
def test_tcp_gets_the_rate_each_way(probes, mbit, rtt_s):
    with Testbed(mbit=mbit, rtt_s=rtt_s) as bed:
        for source, sink in ((bed.robot, bed.server), (bed.server, bed.robot)):
            probes.assert_goodput(source, sink, mbit)


def test_the_directions_have_rates_of_their_own(probes):
    with Testbed(up_mbit=20, down_mbit=93) as bed:
        probes.assert_goodput(bed.robot, bed.server, 20)
        probes.assert_goodput(bed.server, bed.robot, 93)
        bed.set_rate(up=60)
        probes.assert_goodput(bed.robot, bed.server, 60)
        probes.assert_goodput(bed.server, bed.robot, 93)


@pytest.mark.parametrize('rtt_s', [0.0, 0.0026, 0.02])
@tries(3)
def test_round_trips_take_what_was_asked(probes, rtt_s):
    with Testbed(rtt_s=rtt_s) as bed:
        times = sorted(probes.ping(bed.robot, bed.server))
    median_s = times[len(times) // 2]
    assert rtt_s - 0.0003 <= median_s <= rtt_s + 0.0007


@tries(3)
def test_the_asked_share_of_frames_is_lost_each_way(probes):
    with Testbed(mbit=450, loss=0.03, seed=7) as bed:
        for source, sink in ((bed.robot, bed.server), (bed.server, bed.robot)):
            _, counted = probes.udp(source, sink, 10_000, 200, 4e6)
            lost = 1 - counted['received'] / counted['sent']
            assert lost == pytest.approx(0.03, abs=0.007)  # four standard deviations


@tries(3)
def test_nothing_is_lost_without_loss(probes):
    with Testbed(mbit=450, rtt_s=0.0026) as bed:
        _, counted = probes.udp(bed.robot, bed.server, 10_000, 200, 4e6)
    assert counted['received'] == counted['sent']


@pytest.mark.parametrize('rtt_s', [0.0, 0.0026])
@tries(3)
def test_a_sender_is_not_held_back_and_the_queue_drops(probes, rtt_s):
    with Testbed(mbit=20, rtt_s=rtt_s, queue_bytes=312_000) as bed:
        sent, counted = probes.udp(bed.robot, bed.server, 3000, 1400, 1e9)
    assert sent['duration_s'] < 0.5  # the link would need 1.7 s
    meanwhile = sent['duration_s'] * 20e6 / 8
    assert counted['received'] * 1442 == pytest.approx(312_000 + meanwhile, rel=0.1)


@pytest.mark.parametrize(('before', 'after'), [(20, 93), (93, 20)])
@tries(3)
def test_a_new_rate_holds_within_a_fifth_of_a_second(probes, rate_between, before, after):
    changed_s = []

    def change():
        time.sleep(0.8)
        bed.set_rate(after)
        changed_s.append(time.monotonic())

    with Testbed(mbit=before, rtt_s=0.0026) as bed:
        arrivals = probes.tcp(bed.robot, bed.server, 1.8, change)
    at_s = changed_s[0]
    assert rate_between(arrivals, at_s - 0.5, at_s) == pytest.approx(before, rel=0.1)
    # TCP needs its time to grow, and to send again what the queue lost when the rate fell.
    assert 0.5 * after < rate_between(arrivals, at_s + 0.2, at_s + 0.7) < 1.1 * after


@tries(3)
def test_nothing_gets_stuck_when_the_rate_falls(probes):
    def fall_and_rise():
        for mbit in (20, 450, 20, 450):
            time.sleep(0.35)
            bed.set_rate(mbit)

    with Testbed(mbit=450) as bed:
        arrivals = probes.tcp(bed.robot, bed.server, 1.7, fall_and_rise)
    pauses = [after[0] - before[0] for before, after in itertools.pairwise(arrivals)]
    assert max(pauses) < 0.25  # the full queue lasts 0.125 s at 20 Mbit/s


@tries(3)
def test_a_trace_sets_the_rate_and_begins_again_at_its_end(probes, rate_between):
    began_s = []

    def replay():
        time.sleep(0.3)
        began_s.append(time.monotonic())
        bed.replay(Trace((5.0, 5.5), (20.0, 60.0)))

    with Testbed(mbit=93) as bed:
        arrivals = probes.tcp(bed.robot, bed.server, 2.4, replay)
    for phase, mbit in enumerate((20, 60, 20, 60)):
        begin_s = began_s[0] + 0.5 * phase
        measured = rate_between(arrivals, begin_s + 0.15, begin_s + 0.48)
        assert measured == pytest.approx(mbit, rel=0.15)


@pytest.mark.parametrize('rtt_s', [0.0, 0.0026])
@tries(3)
def test_a_cut_loses_everything_and_leaves_the_interfaces_up(probes, rtt_s):
    with Testbed(rtt_s=rtt_s) as bed:
        assert None not in probes.ping(bed.robot, bed.server, 5)
        bed.cut()
        assert probes.ping(bed.robot, bed.server, 3) == [None] * 3
        assert probes.ping(bed.server, bed.robot, 3) == [None] * 3
        for host in (bed.robot, bed.server):
            state = host.run(['ip', '-brief', 'link', 'show', 'eth0']).stdout
            assert 'LOWER_UP' in state and state.split()[1] == 'UP'
        bed.restore()
        assert None not in probes.ping(bed.robot, bed.server, 5)


@pytest.mark.parametrize('routed', [False, True])
@tries(3)
def test_multicast_crosses_a_bridge_and_not_a_router(probes, routed):
    with Testbed(routed=routed, mbit=20) as bed:
        speaker = bed.robot.popen([*probes.command, 'multicast-source', '2'])
        heard = probes.run(bed.server, 'multicast-sink', bed.server.ip, 1.0)['heard']
        speaker.kill()
        speaker.wait()
        assert heard == (None if routed else 'here')
        probes.assert_goodput(bed.robot, bed.server, 20)


def test_two_testbeds_are_up_at_once(probes):
    with Testbed(mbit=20) as slow, Testbed(mbit=93) as fast:
        probes.assert_goodput(fast.robot, fast.server, 93)
        probes.assert_goodput(slow.robot, slow.server, 20)


def test_ros_processes_find_each_other(needs_root):
    talk = [sys.executable, str(Path(__file__).with_name('talk.py'))]
    transports = 'LARGE_DATA?max_msg_size=64KB&sockets_size=1MB'
    settings = {'FASTDDS_BUILTIN_TRANSPORTS': transports, 'FASTDDS_DEFAULT_PROFILES_FILE': ''}
    with Testbed(rtt_s=0.0026) as bed:
        bed.server.popen([*talk, 'say'], environment=settings)
        done = bed.robot.run([*talk, 'hear'], environment=settings, timeout_s=20.0)
        assert done.stdout.strip() == "['hello']", done.stderr
        traffic = bed.access_point.run(['tc', '-s', '-j', 'qdisc', 'show', 'dev', 'air_server'])
        assert json.loads(traffic.stdout)[0]['packets'] > 0


def test_the_death_of_a_helper_is_noticed(needs_root):
    with Testbed(rtt_s=0.0026) as bed:
        bed._link._bridge.kill()
        bed._link._bridge.wait(5.0)
        with pytest.raises(RuntimeError, match='bridge of the link has ended'):
            bed.set_rate(20)


def test_rates_that_are_none_are_refused(needs_root):
    with Testbed() as bed:
        for wrong in (-1.0, float('nan'), float('inf')):
            with pytest.raises(ValueError, match='0 or more'):
                bed.set_rate(wrong)
        with pytest.raises(ValueError, match='needs a rate'):
            bed.set_rate()
