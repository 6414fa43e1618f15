"""A folder for PYTHONPATH: its ``sitecustomize`` offloads the programs that are started with it."""
