"""Layer cuts for real: robot and server compute one graph together, over the channel."""
