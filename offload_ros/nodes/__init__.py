"""Thin rclpy nodes: parameters, topics and timers around the logic of the other folders."""
