"""Scenes of simulated rooms, and the training and evaluation of a small SCONet on them."""
