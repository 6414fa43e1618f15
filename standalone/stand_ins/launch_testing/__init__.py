# SPDX-License-Identifier: Apache-2.0
"""The part of `launch_testing` that this project uses, for machines without a ROS installation."""

from typing import Any

from launch._unsupported import explain

__getattr__ = explain(__name__)


def post_shutdown_test() -> Any:
    """Mark a TestCase to run after the processes have ended."""
    def mark(test_case: type) -> type:
        if not isinstance(test_case, type):
            raise TypeError('post_shutdown_test decorates classes')
        test_case.__post_shutdown_test__ = True  # type: ignore[attr-defined]
        return test_case

    return mark
