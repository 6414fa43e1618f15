"""Small multi-task networks for a fleet, trained on the simulated world's ground truth."""
