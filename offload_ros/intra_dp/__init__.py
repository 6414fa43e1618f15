"""Intra-DP: one inference split by rows, so that robot, link and server work at the same time."""
