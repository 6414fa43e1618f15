"""Strategies that every other one is measured against: all on the robot, all on the server."""
