"""Chunks and window by where the peer is."""

import pytest

from offload_ros.models.errors import ConfigError
from offload_ros.wire.host import LOCAL_CHUNK_BYTES, MAX_WINDOW, credit_for, host_token


def test_one_host_has_one_token_which_tells_nothing_of_it():
    assert host_token() == host_token()
    assert len(host_token()) == 16


def test_shared_memory_takes_large_chunks_and_a_network_small_ones():
    assert credit_for('a', 'a').max_chunk_bytes == LOCAL_CHUNK_BYTES
    for own, peer in (('a', 'b'), ('', ''), ('a', '')):
        assert credit_for(own, peer).max_chunk_bytes < 100_000


def test_the_network_profile_limits_the_window(monkeypatch):
    monkeypatch.setenv(MAX_WINDOW, '180000')
    assert credit_for('a', 'b').window_bytes() == 180_000
    monkeypatch.setenv(MAX_WINDOW, 'much')
    with pytest.raises(ConfigError, match="OFFLOAD_MAX_WINDOW_BYTES is 'much', a number of bytes"):
        credit_for('a', 'b')
