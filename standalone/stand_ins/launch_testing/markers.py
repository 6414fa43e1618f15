# SPDX-License-Identifier: Apache-2.0
"""Marks of `generate_test_description`."""


def keep_alive(test_description):
    """Let the launch go on when its processes have ended, until the tests have too."""
    test_description.__markers__ = {'keep_alive': True}
    return test_description
