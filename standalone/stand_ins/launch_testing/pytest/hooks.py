# SPDX-License-Identifier: Apache-2.0
"""Collects files whose `generate_test_description` has the mark `launch_test` or `rostest`."""

from collections.abc import Iterator
import contextlib
import os
from pathlib import Path
import socket
from typing import Any

from _pytest.pathlib import import_path
import pytest

MARKS = ('launch_test', 'rostest')


def pytest_addoption(parser: Any) -> None:
    """Add the arguments of launch tests."""
    parser.addoption(
        '--launch-args', action='append', nargs='*', default=[], help='Launch test arguments')


def pytest_configure(config: Any) -> None:
    """Make the marks known."""
    for mark in MARKS:
        config.addinivalue_line('markers', f'{mark}: generate_test_description of a launch test')


def pytest_pycollect_makemodule(module_path: Path, parent: Any) -> Any:
    """Return a launch test, or None for files that are none."""
    if b'def generate_test_description' not in module_path.read_bytes():
        return None
    try:
        module = import_path(
            module_path, mode=parent.config.getoption('importmode'),
            root=parent.config.rootpath, consider_namespace_packages=False)
    except Exception:  # pytest's own import will say what is wrong
        return None
    marks = getattr(getattr(module, 'generate_test_description', None), 'pytestmark', [])
    if not any(mark.name in MARKS for mark in marks):
        return None
    file = LaunchTestModule.from_parent(parent, path=module_path)
    file.module = module
    for mark in marks:
        file.add_marker(getattr(pytest.mark, mark.name)(*mark.args, **mark.kwargs))
    return file


class LaunchTestModule(pytest.File):
    """A file with one launch test."""

    module: Any

    def collect(self) -> Iterator[pytest.Item]:
        yield LaunchTestItem.from_parent(self, name=self.path.stem)


class LaunchTestFailure(Exception):
    """(test, what went wrong) of each failure."""


class LaunchTestItem(pytest.Item):
    """All tests of the file: they share one launch."""

    parent: LaunchTestModule

    def runtest(self) -> None:
        """Run them in a ROS_DOMAIN_ID of their own, unless the shell has set one."""
        from .._runner import run

        words = [word for words in self.config.getoption('--launch-args') for word in words]
        arguments = dict(word.split(':=', 1) for word in words)
        before = dict(os.environ)
        with _domain() if 'ROS_DOMAIN_ID' not in os.environ else contextlib.nullcontext():
            try:
                failures = run(self.parent.module, arguments)
            finally:
                os.environ.clear()
                os.environ.update(before)
        if failures:
            raise LaunchTestFailure(failures)

    def repr_failure(self, excinfo: Any, style: Any = None) -> Any:
        """Return the failures as text."""
        if not isinstance(excinfo.value, LaunchTestFailure):
            return super().repr_failure(excinfo)
        return '\n'.join(f'FAIL: {test}\n{text}' for test, text in excinfo.value.args[0])

    def reportinfo(self) -> tuple[Path, int, str]:
        """Return where the test is."""
        return self.path, 0, f'launch tests: {self.name}'


@contextlib.contextmanager
def _domain() -> Iterator[None]:
    """Take a free ROS_DOMAIN_ID of 1 to 100: a bound socket says which ones are taken."""
    for domain in range(1, 101):
        with socket.socket() as lock:
            try:
                lock.bind(('127.0.0.1', 22119 + domain))
            except OSError:
                continue
            os.environ['ROS_DOMAIN_ID'] = str(domain)
            yield
            return
    raise RuntimeError('100 launch tests run already')
