"""Tensors to messages and back, request bookkeeping and who is alive on the network."""
