"""Network profiles: what the middleware is told for each kind of network, and what will hurt."""
