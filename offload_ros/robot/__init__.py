"""The robot: newest frame, chosen strategy, deadline, fallback; without ROS."""
