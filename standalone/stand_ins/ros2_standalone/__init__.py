# SPDX-License-Identifier: Apache-2.0
"""The commands of `ros2` that this project documents; one module per command, read when used."""
