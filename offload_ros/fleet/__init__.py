"""J3O: which multi-task models are loaded where in a fleet, and where its queries go."""
