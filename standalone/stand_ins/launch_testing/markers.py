# SPDX-License-Identifier: Apache-2.0
"""Marks of `generate_test_description`."""

from typing import Any

from launch._unsupported import explain

__getattr__ = explain(__name__)


def keep_alive(test_description: Any) -> Any:
    """Let the launch go on when its processes have ended, until the tests have too."""
    test_description.__markers__ = {'keep_alive': True}
    return test_description
