"""What a strategy costs: the robot's power, and joules from the states of a schedule."""
