"""Heartbeats count if a holder of the key made them, just now."""

from hypothesis import given
from hypothesis import strategies as st
import pytest

from offload_ros.wire.heartbeat_proof import (
    MAX_SESSIONS,
    Freshness,
    HeartbeatGuard,
    HeartbeatProof,
)
from offload_ros.wire.key_file import PresharedKey

KEY = PresharedKey(bytes(range(32)))
FRESH, UNKNOWN, STALE = Freshness.FRESH, Freshness.UNKNOWN, Freshness.STALE


@given(st.binary(max_size=80), st.integers(0, 2**64 - 1), st.data())
def test_only_the_heartbeat_that_was_proven_passes(fields, counter, data):
    heartbeats = HeartbeatProof(KEY)
    proof = heartbeats.proof(fields, counter)
    assert HeartbeatProof(KEY).check(fields, counter, proof)
    changed = bytearray(proof)
    changed[data.draw(st.integers(0, 31))] ^= 1 << data.draw(st.integers(0, 7))
    assert not heartbeats.check(fields, counter, bytes(changed))
    assert not heartbeats.check(fields, counter ^ 1 << data.draw(st.integers(0, 63)), proof)
    assert not heartbeats.check(fields + b'\0', counter, proof)
    assert not heartbeats.check(fields, counter, proof[: data.draw(st.integers(0, 31))])
    assert not HeartbeatProof(PresharedKey(bytes(range(1, 33)))).check(fields, counter, proof)


@given(st.binary(max_size=40), st.integers(), st.binary(max_size=40))
def test_strange_proofs_do_not_pass(fields, counter, proof):
    assert not HeartbeatProof(KEY).check(fields, counter, proof)


def test_a_heartbeat_counts_once_and_never_backwards():
    guard = HeartbeatGuard()
    guard.open('/server', 'a', 10)
    taken = [guard.take('/server', 'a', counter) for counter in (11, 11, 13, 12, 10, 14)]
    assert taken == [FRESH, STALE, FRESH, STALE, STALE, FRESH]


def test_heartbeats_of_before_the_handshake_are_stale_though_never_seen():
    guard = HeartbeatGuard()
    assert guard.take('/server', 'a', 3) == UNKNOWN
    guard.open('/server', 'a', 500)
    assert guard.take('/server', 'a', 4) == guard.take('/server', 'a', 500) == STALE
    assert guard.take('/server', 'a', 501) == FRESH


def test_a_session_without_a_handshake_is_never_fresh():
    guard = HeartbeatGuard()
    guard.open('/server', 'b', 0)
    assert {guard.take('/server', 'a', counter) for counter in range(50)} == {UNKNOWN}
    assert guard.take('/other', 'b', 1) == UNKNOWN
    assert guard.take('/server', 'b', 1) == FRESH


def test_a_restart_ends_the_session_before_it():
    guard = HeartbeatGuard()
    guard.open('/server', 'a', 0)
    guard.open('/server', 'b', 0)
    assert guard.take('/server', 'a', 1) == UNKNOWN
    assert guard.take('/server', 'b', 1) == FRESH


def test_an_ended_session_needs_a_new_handshake():
    guard = HeartbeatGuard()
    guard.open('/server', 'a', 0)
    guard.take('/server', 'a', 7)
    guard.close('/server', 'a')
    guard.close('/server', 'never opened')
    assert guard.take('/server', 'a', 7) == STALE
    assert guard.take('/server', 'a', 8) == UNKNOWN
    guard.open('/server', 'a', 3)  # a Welcome that was on its way
    assert guard.take('/server', 'a', 8) == STALE
    assert guard.take('/server', 'a', 9) == FRESH


def test_many_sessions_push_out_none_that_is_open():
    guard = HeartbeatGuard()
    guard.open('/server', 'a', 100)
    for number in range(2 * MAX_SESSIONS):
        guard.take('/server', f'old {number}', 1)
    assert guard.take('/server', 'a', 100) == STALE
    assert guard.take('/server', 'a', 101) == FRESH
    assert len(guard._sessions) == MAX_SESSIONS


@pytest.mark.parametrize('counter', [-1, 2**64])
def test_a_counter_has_64_bits(counter):
    assert not HeartbeatProof(KEY).check(b'', counter, bytes(32))
