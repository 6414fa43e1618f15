"""Models: their description in models.yaml, where they come from, what is around the network."""
