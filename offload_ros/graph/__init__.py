"""A model as a graph of operators: capture, wire form, exact slices, execution of any part."""
