# SPDX-License-Identifier: Apache-2.0
"""The plugin by which pytest runs launch tests."""
