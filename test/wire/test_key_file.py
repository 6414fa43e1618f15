"""A key file is read if it is private and holds a key; else one line says what to do."""

import base64
import os
import stat
import subprocess
import sys

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
import pytest

from offload_ros.models.errors import ConfigError
from offload_ros.wire.key_file import PresharedKey, load_key, make_key

SECRET = bytes(range(100, 132))


@pytest.fixture
def key_file(tmp_path):
    """Return a function that writes a private file and gives its path."""

    def write(content, mode=0o600):
        path = tmp_path / 'robots.key'
        path.write_bytes(content)
        path.chmod(mode)
        return path

    return write


@pytest.mark.parametrize(
    'text',
    [
        SECRET.hex().encode(),
        SECRET.hex().upper().encode() + b'\n',
        base64.b64encode(SECRET),
        base64.b64encode(SECRET) + b'\r\n',
        base64.urlsafe_b64encode(SECRET).rstrip(b'='),
    ],
)
@pytest.mark.parametrize('mode', [0o600, 0o400])
def test_hex_and_base64_are_read(key_file, text, mode):
    assert load_key(key_file(text, mode)).secret == SECRET


@given(st.binary(min_size=32, max_size=32).filter(lambda secret: len(set(secret)) > 20))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_every_key_survives_each_form(key_file, secret):
    for form in (base64.b64encode, base64.urlsafe_b64encode, bytes.hex):
        text = form(secret)
        content = text.encode() if isinstance(text, str) else text
        assert load_key(key_file(content)).secret == secret


def refusal(path):
    with pytest.raises(ConfigError) as caught:
        load_key(path)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert str(path) in text
    return text


@pytest.mark.parametrize(
    'content',
    [
        SECRET.hex().encode()[:-1],
        SECRET.hex().encode()[:-2],
        SECRET.hex().encode() * 2,
        b'password',
        base64.b64encode(SECRET[:16]),
        base64.b64encode(SECRET + b'x'),
        SECRET,
        SECRET.hex().encode('utf-16'),
        b'\xef\xbb\xbf' + SECRET.hex().encode(),
        SECRET.hex().encode() + b'\n' + SECRET.hex().encode(),
        b'g' * 64,
        b'=' * 44,
        b'\0' * 64,
        SECRET.hex().encode() + b' ' * 2000,
    ],
)
def test_what_is_no_key_is_refused_with_the_way_to_make_one(key_file, content):
    text = refusal(key_file(content))
    assert '64 hex digits or 44 characters of base64' in text
    assert 'ros2 run offload_ros make_key' in text


@given(st.binary(max_size=80))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_strange_content_raises_nothing_but_a_config_error(key_file, content):
    refusal(key_file(content))


def test_an_empty_file_is_refused(key_file):
    assert 'is empty: delete it and make one with: ros2 run' in refusal(key_file(b' \n'))


@pytest.mark.parametrize('text', [b'0' * 64, b'0123456789abcdef' * 4, b'A' * 43 + b'='])
def test_a_key_that_is_not_random_is_refused(key_file, text):
    assert 'not random: delete it and make one with' in refusal(key_file(text))


def test_a_missing_file_is_refused_with_the_way_to_make_one(tmp_path):
    path = tmp_path / 'my keys' / 'none.key'
    text = refusal(path)
    assert f"is not there: make one with: ros2 run offload_ros make_key '{path}'" in text


def test_a_folder_or_a_pipe_is_refused_at_once(tmp_path):
    assert 'is not a file' in refusal(tmp_path)
    os.mkfifo(tmp_path / 'pipe', 0o600)
    assert 'is not a file' in refusal(tmp_path / 'pipe')


@pytest.mark.parametrize('mode', [0o640, 0o604, 0o620, 0o610, 0o666])
def test_a_file_that_others_may_use_is_refused(key_file, mode):
    path = key_file(SECRET.hex().encode(), mode)
    assert f'run chmod 600 {path}' in refusal(path)


def test_a_path_that_cannot_be_opened_is_refused(tmp_path):
    (tmp_path / 'circle').symlink_to(tmp_path / 'circle')
    assert 'cannot be opened' in refusal(tmp_path / 'circle')
    with pytest.raises(ConfigError, match='cannot be opened'):
        load_key('a\0b')


def test_a_made_key_is_private_and_can_be_loaded(tmp_path):
    before = os.umask(0)
    try:
        key = make_key(tmp_path / 'new.key')
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / 'new.key').stat().st_mode) == 0o600
    assert load_key(tmp_path / 'new.key').secret == key.secret
    assert make_key(tmp_path / 'other.key').secret != key.secret


def test_an_existing_file_is_never_overwritten(key_file, tmp_path):
    path = key_file(b'precious')
    with pytest.raises(ConfigError, match='exists and is kept'):
        make_key(path)
    assert path.read_bytes() == b'precious'
    (tmp_path / 'link').symlink_to(tmp_path / 'elsewhere')
    with pytest.raises(ConfigError, match='exists and is kept'):
        make_key(tmp_path / 'link')
    assert not (tmp_path / 'elsewhere').exists()


def test_a_place_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r'make the folder .*none first'):
        make_key(tmp_path / 'none' / 'new.key')


def test_the_key_is_never_shown():
    key = PresharedKey(SECRET)
    for text in (repr(key), str(key), f'{key}', repr([key])):
        assert SECRET.hex() not in text and repr(SECRET)[2:10] not in text
        assert key.fingerprint in text


def test_derived_keys_differ_by_purpose_and_by_key():
    other = PresharedKey(SECRET[::-1])
    purposes = [PresharedKey(SECRET).derive(each) for each in ('a', 'b')]
    assert len({*purposes, other.derive('a'), SECRET}) == 4
    assert PresharedKey(SECRET).derive('a') == purposes[0]
    assert other.fingerprint != PresharedKey(SECRET).fingerprint


def test_a_key_has_32_bytes():
    with pytest.raises(ValueError, match='32 bytes, this one 31'):
        PresharedKey(SECRET[:31])


def test_the_command_makes_one_file_and_says_what_to_do_with_it(tmp_path):
    def run(*arguments):
        code = 'from offload_ros.wire.key_file import main; main()'
        return subprocess.run(
            [sys.executable, '-c', code, *arguments], capture_output=True, text=True, check=False
        )

    path = tmp_path / 'new.key'
    first, again, wrong = run(str(path)), run(str(path)), run()
    assert first.returncode == 0 and '--key-file' in first.stdout
    assert load_key(path).fingerprint in first.stdout
    assert path.read_text().strip() not in first.stdout
    assert again.returncode == 1 and 'exists and is kept' in again.stderr
    assert wrong.returncode == 1 and 'usage' in wrong.stderr
