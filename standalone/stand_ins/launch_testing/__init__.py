# SPDX-License-Identifier: Apache-2.0
"""The part of `launch_testing` that this project uses, for machines without a ROS installation."""


def post_shutdown_test():
    """Mark a TestCase to run after the processes have ended."""
    def mark(test_case):
        test_case.__post_shutdown_test__ = True
        return test_case

    return mark
