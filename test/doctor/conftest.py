"""What the system tests share with those of the nodes: real processes, tiny networks."""

from pathlib import Path
import sys

sys.path.insert(0, str(Path(__file__).parent.parent / 'nodes'))
