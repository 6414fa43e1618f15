"""Which codec pays on a link, and that plans count what it takes."""

from __future__ import annotations

from dataclasses import replace
import json
import math

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from offload_ros.baselines.problem import Problem, Subject
from offload_ros.graph.codings import CodedProfiles, choose, codecs_of, coded_for, uncoded
from offload_ros.graph.methods import find_method
from offload_ros.graph.profile import Coding, Profile, ProfiledOperator, ProfileError
from offload_ros.graph.profile_file import parse_profile, profile_document
from offload_ros.graph.schedule import Link

BITS = Coding('bits', 125_000, 0.001, 0.0005, 0.002, 0.001)
ZSTD = Coding('zstd', 20_000, 0.02, 0.005, 0.01, 0.003)
RAW_BYTES = 1_000_000

codings = st.builds(
    Coding,
    st.sampled_from(['bits', 'zstd', 'lz4']),
    st.integers(0, 2_000_000),
    *[st.floats(0.0, 0.1)] * 4,
)
rates = st.sampled_from([0.0, 1e4, 1e6, 2e7, 1e9])


def small(*extra):
    """An input with two codings, one operator that makes it small, one output."""
    return Profile(
        'small',
        (
            ProfiledOperator(
                -1, 'input', (), 8, RAW_BYTES, 0.0, 0.0, is_input=True, codings=(BITS, ZSTD)
            ),
            ProfiledOperator(0, 'first', (-1,), 8, 4_000_000, 0.3, 0.01, codings=extra),
            ProfiledOperator(1, 'last', (0,), 1, 40, 0.3, 0.01, is_output=True),
        ),
    )


@settings(max_examples=300, deadline=None)
@given(st.lists(codings, max_size=4), st.integers(1, 2_000_000), rates, rates)
def test_what_is_chosen_is_the_fastest_and_saves_the_margin(found, size, up, down):
    def taken_s(coding, amount):
        ways = [
            (up, coding.robot_encode_s + coding.server_decode_s),
            (down, coding.server_encode_s + coding.robot_decode_s),
        ]
        return sum(amount / rate + codec_s for rate, codec_s in ways if rate)

    chosen = choose(found, size, up, down, margin=0.1)
    raw_s = taken_s(Coding('', 0), size)
    least_s = min((taken_s(each, each.wire_bytes) for each in found), default=math.inf)
    if chosen is None:
        assert least_s >= 0.9 * raw_s
    else:
        assert taken_s(chosen, chosen.wire_bytes) == least_s < 0.9 * raw_s


def test_slow_links_get_the_smallest_fast_ones_the_quickest_and_the_fastest_none():
    names = [
        codecs_of(coded_for(small(), rate, rate)).get(-1, 'raw') for rate in (1e5, 2e7, 1e9, 0.0)
    ]
    assert names == ['zstd', 'bits', 'raw', 'raw']


def test_the_input_is_judged_by_the_way_up_alone_and_an_output_by_the_way_down():
    profile = small()
    assert codecs_of(coded_for(profile, 1e5, 1e12)) == {-1: 'zstd'}
    assert codecs_of(coded_for(profile, 1e12, 1e5)) == {}
    last = replace(profile.operators[2], output_bytes=RAW_BYTES, codings=(ZSTD,))
    profile = replace(profile, operators=(*profile.operators[:2], last))
    assert codecs_of(coded_for(profile, 1e12, 1e5)) == {1: 'zstd'}


def test_a_coded_profile_carries_sizes_and_times_and_can_be_chosen_again():
    coded = coded_for(small(), 1e5, 1e5)
    assert coded.column('message_bytes').tolist() == [20_000, 4_000_000, 40]
    assert coded.encode_s('robot').tolist() == [0.02, 0.0, 0.0]
    assert coded.decode_s('server').tolist() == [0.003, 0.0, 0.0]
    assert coded.encode_s('server')[0] == 0.005 and coded.decode_s('robot')[0] == 0.01
    assert coded_for(coded, 1e9, 1e9) == small()
    assert coded_for(coded, 1e5, 1e5) is coded
    assert codecs_of(coded_for(uncoded(coded), 1e5, 1e5)) == {}
    assert uncoded(coded).operators[0].message_bytes == RAW_BYTES


def test_bandwidths_that_choose_alike_share_one_profile():
    profiles = CodedProfiles(small())
    assert profiles.at(1e5, 1e5) is profiles.at(1.3e5, 0.9e5)
    assert profiles.at(1e5, 1e5) is not profiles.at(2e7, 2e7)
    plain = uncoded(small())
    assert CodedProfiles(plain).at(1e5, 1e5) is plain


def test_plans_count_what_crosses_coded_and_the_time_that_this_takes():
    subject, link = Subject(small()), Link(1e5, 1e5, 0.001, 1.0)
    problem = Problem(subject, link)
    assert problem.subject is Problem(subject, link).subject
    plan = find_method('server')[1](problem)
    schedule = problem.subject.evaluator.schedule(plan, link)
    assert schedule.uplink_bytes == 20_000
    assert schedule.latency_s == pytest.approx(0.02 + 0.2 + 0.001 + 0.003 + 0.02 + 40 / 1e5 + 0.001)
    raw = Problem(Subject(uncoded(small())), link)
    assert raw.subject.evaluator.schedule(plan, link).uplink_bytes == RAW_BYTES


@pytest.mark.parametrize('method', ['layer_cut', 'dsccs', 'mcop'])
def test_a_codec_makes_the_server_pay_where_raw_tensors_would_not(method):
    link = Link(1e6, 1e6, 0.001, 1.0)
    planned = {
        name: find_method(method)[1](Problem(Subject(profile), link)).on_server[1:].all()
        for name, profile in (('coded', small()), ('raw', uncoded(small())))
    }
    assert planned == {'coded': True, 'raw': False}


@given(st.lists(codings, max_size=3))
@settings(max_examples=50, deadline=None)
def test_codings_survive_the_file(extra):
    for profile in (small(*extra), coded_for(small(*extra), 1e5, 2e5)):
        document = json.loads(json.dumps(profile_document(profile)))
        assert parse_profile(document) == profile


def test_a_file_without_codings_reads_and_writes_as_before():
    plain = uncoded(small())
    document = profile_document(plain)
    assert not any(
        'cod' in key for operator in document['operators'] for key in operator if key != 'encode'
    )
    assert parse_profile(json.loads(json.dumps(document))) == plain


@pytest.mark.parametrize(
    ('change', 'says'),
    [
        ({'codings': 3}, 'codings must be a list'),
        ({'codings': [3]}, r'codings\[0\] must be an object'),
        ({'codings': [{'codec': 'bits'}]}, 'wire_bytes missing'),
        ({'codings': [{'codec': 'bits', 'wire_bytes': 1.5}]}, 'whole number'),
        ({'codings': [{'codec': 'bits', 'wire_bytes': -1}]}, '0 or more'),
        ({'codings': [{'codec': 'bits', 'wire_bytes': 1, 'speed': 3}]}, 'speed is not known'),
        ({'codec': 3}, 'codec must be text'),
        ({'robot_encode_s': -0.1}, '0 or more'),
        ({'server_decode_s': 'fast'}, 'finite number'),
    ],
)
def test_a_file_with_wrong_codings_is_refused_with_the_place(change, says):
    document = json.loads(json.dumps(profile_document(small())))
    document['operators'][1].update(change)
    with pytest.raises(ProfileError, match=says):
        parse_profile(document)
