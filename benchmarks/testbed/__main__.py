"""`python benchmarks/testbed` from anywhere, and `python -m benchmarks.testbed`: see command.py."""

from pathlib import Path
import sys

if not __package__:
    # Started as a folder: Python has put this folder on the path, where the checkout should be. At
    # the end, so that an installed offload_ros is found before its source folder.
    sys.path[0:1] = []
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks.testbed.command import main

if __name__ == '__main__':
    sys.exit(main())
