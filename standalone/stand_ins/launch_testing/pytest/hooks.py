# SPDX-License-Identifier: Apache-2.0
"""Collects files whose `generate_test_description` has the mark `launch_test` or `rostest`."""

import contextlib
import os
import socket
from unittest import mock

import pytest

MARKS = ('launch_test', 'rostest')

def pytest_addoption(parser):
    parser.addoption('--launch-args', nargs='*', default=[], help='Launch test arguments')

def pytest_configure(config):
    for mark in MARKS:
        config.addinivalue_line('markers', f'{mark}: generate_test_description of a launch test')

def pytest_pycollect_makemodule(module_path, parent):
    """Return a launch test, or None for files that are none."""
    if b'def generate_test_description' in module_path.read_bytes():
        return LaunchTestModule.from_parent(parent, path=module_path)

class LaunchTestModule(pytest.Module):
    def collect(self):
        marks = getattr(getattr(self.obj, 'generate_test_description', None), 'pytestmark', [])
        if not any(mark.name in MARKS for mark in marks):
            return super().collect()
        self.own_markers += marks
        return [LaunchTestItem.from_parent(self, name=self.path.stem)]

class LaunchTestFailure(Exception):
    """(test, what went wrong) of each failure."""

class LaunchTestItem(pytest.Item):
    """All tests of the file: they share one launch."""

    def runtest(self):
        """Run them in a ROS_DOMAIN_ID of their own, unless the shell has set one."""
        from .._runner import run
        arguments = dict(word.split(':=', 1) for word in self.config.getoption('--launch-args'))
        with mock.patch.dict(os.environ), _own_domain():
            if failures := run(self.parent.obj, arguments):
                raise LaunchTestFailure(failures)

    def repr_failure(self, excinfo, style=None):
        if not isinstance(excinfo.value, LaunchTestFailure):
            return super().repr_failure(excinfo)
        return '\n'.join(f'FAIL: {test}\n{text}' for test, text in excinfo.value.args[0])

    def reportinfo(self):
        return self.path, 0, f'launch tests: {self.name}'

@contextlib.contextmanager
def _own_domain():
    """Take a free one of 1 to 100: a bound socket says which ones are taken."""
    with socket.socket() as lock:
        for domain in range(1, 101) if 'ROS_DOMAIN_ID' not in os.environ else ():
            with contextlib.suppress(OSError):
                lock.bind(('127.0.0.1', 22119 + domain))
                os.environ['ROS_DOMAIN_ID'] = str(domain)
                break
        yield
