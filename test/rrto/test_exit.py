"""A program may end at any moment: nothing of ours aborts it then."""

import subprocess
import sys

PROGRAM = """
import time, torch
from offload_ros.rrto.journal import Journal
from offload_ros.rrto.messages import Code
from offload_ros.rrto.mirror import Mirror
from offload_ros.rrto.placement import PlacementPolicy
from offload_ros.strategy import LinkState

torch.set_num_threads(1)
matrix = torch.rand(400, 400)
mirror = Mirror(
    Journal(set(), set(), lambda _: False), PlacementPolicy(LinkState), print, lambda: None
)
mirror._open()
mirror._session.execute = lambda message: [matrix @ matrix for _ in range(200)]
for _ in range(1000):
    mirror._tell([Code.RUN], [])
time.sleep(0.05)
print('over')
"""


def test_a_program_ends_while_its_mirror_computes():
    """PyTorch ends a process with ``terminate called`` whose interpreter goes while a kernel runs
    in another thread."""
    done = subprocess.run(
        [sys.executable, '-c', PROGRAM], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, 'over\n', '')
