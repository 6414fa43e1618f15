"""RRTO: an unmodified program's operators run on a server; a repeated sequence is one command."""
