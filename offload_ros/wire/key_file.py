"""The pre-shared key that proves robots and servers to each other: 32 random bytes in a file."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
import os
from pathlib import Path
import re
import secrets
import shlex
import stat
import sys

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from offload_ros.models.errors import ConfigError

KEY_BYTES = 32
MAX_FILE_BYTES = 1024
# 32 random bytes hold about 30 different values; fewer than so many come up once in 10^20 keys.
MIN_DIFFERENT = 14
_HEX = re.compile(rb'[0-9a-fA-F]{64}')
_BASE64 = re.compile(rb'[0-9a-zA-Z+/_-]{43}=?')


@dataclass(frozen=True, eq=False)
class PresharedKey:
    """A secret that robots and servers of one owner share; never shown."""

    secret: bytes = field(repr=False)  # (32,)

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_BYTES:
            raise ValueError(f'a key has {KEY_BYTES} bytes, this one {len(self.secret)}')

    def __repr__(self) -> str:
        return f'PresharedKey({self.fingerprint})'

    @property
    def fingerprint(self) -> str:
        """Eight hex digits that are equal where the keys are, and tell nothing about them."""
        return self.derive('fingerprint')[:4].hex()

    def derive(self, purpose: str) -> bytes:
        """A key (32 bytes) for one purpose alone (HKDF, RFC 5869)."""
        info = b'offload_ros key ' + purpose.encode()
        return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(self.secret)


def load_key(path: str | os.PathLike[str]) -> PresharedKey:
    """The key in the file at ``path``: one line, 64 hex digits or 44 characters of base64.

    ``ConfigError`` for a file that is not there, not private to its owner or not a key.
    """
    path = Path(path).expanduser()
    make = f'make one with: ros2 run offload_ros make_key {_quoted(path)}'
    try:
        # A named pipe would make a plain open wait for ever.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f'key file {path} is not there: {make}') from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise ConfigError(f'key file {path} cannot be opened: {_reason(error)}') from None
    try:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            raise ConfigError(f'key file {path} is not a file: name the file with the key in it')
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigError(f'key file {path} is open to others: run chmod 600 {_quoted(path)}')
        text = os.read(handle, MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f'key file {path} cannot be read: {_reason(error)}') from None
    finally:
        os.close(handle)
    secret = _decoded(text.strip()) if len(text) <= MAX_FILE_BYTES else None
    if not text.strip():
        raise ConfigError(f'key file {path} is empty: delete it and {make}')
    if secret is None:
        raise ConfigError(
            f'key file {path} does not hold a key, which is one line of 64 hex digits or 44 '
            f'characters of base64 (32 random bytes): move it away and {make}'
        )
    if len(set(secret)) < MIN_DIFFERENT:
        raise ConfigError(f'key file {path}: the key is not random: delete it and {make}')
    return PresharedKey(secret)


def make_key(path: str | os.PathLike[str]) -> PresharedKey:
    """Write a new random key to ``path``, readable by its owner alone; ``ConfigError`` if it
    exists."""
    path = Path(path).expanduser()
    key = PresharedKey(secrets.token_bytes(KEY_BYTES))
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise ConfigError(
            f'key file {path} exists and is kept: use it, or name another file'
        ) from None
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f'key file {path}: make the folder {path.parent} first') from None
    except (OSError, ValueError) as error:
        raise ConfigError(f'key file {path} cannot be written: {_reason(error)}') from None
    try:
        with os.fdopen(handle, 'wb') as file:
            file.write(base64.b64encode(key.secret) + b'\n')
            file.flush()
            os.fsync(handle)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise ConfigError(f'key file {path} cannot be written: {_reason(error)}') from None
    return key


def main() -> None:
    """The command ``make_key``."""
    if len(sys.argv) != 2 or sys.argv[1].startswith('-'):
        sys.exit('usage: make_key FILE\nWrites a new key for robots and servers (--key-file FILE).')
    try:
        key = make_key(sys.argv[1])
    except ConfigError as error:
        sys.exit(f'make_key: {error}')
    print(
        f'{sys.argv[1]} holds a new key ({key.fingerprint}): copy it to each robot and server by a '
        'safe way (scp -p) and name it there with --key-file'
    )


def _decoded(text: bytes) -> bytes | None:
    if _HEX.fullmatch(text):
        return bytes.fromhex(text.decode())
    if not _BASE64.fullmatch(text):
        return None
    standard = text.rstrip(b'=').translate(bytes.maketrans(b'-_', b'+/')) + b'='
    try:
        return base64.b64decode(standard, validate=True)
    except binascii.Error:
        return None


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
