"""A program whose recorded inference is cut between robot and server, over real DDS."""

from __future__ import annotations

from pathlib import Path
import re
import sys

from programs import run, server_in, transparent
from system import TINY, new_domain, running, write_models

# Robot and server are the same machine here: without force nothing would be cut.
FORCED = """
import torch  # before what is patched here
import numpy as np
from offload_ros.graph import methods
from offload_ros.rrto import placement

def behind_the_third(problem):
    movable = [k for k, each in enumerate(problem.profile.operators) if not each.is_input]
    on_server = np.zeros(len(problem.profile), dtype=bool)
    on_server[movable[3:]] = True
    return problem.plan(on_server)

methods._METHODS['layer_cut'] = lambda: behind_the_third
placement.PlacementPolicy.choose = lambda self, unit: placement.CUT
"""
CLASSIFY = """
import time
import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)
network = nn.Sequential(
    nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 5, 3, 2),
    nn.Flatten(), nn.Linear(5 * 7 * 7, 4), nn.Softmax(-1),
).eval()
device = 'cuda' if torch.cuda.is_available() else 'cpu'
network.to(device)
with torch.no_grad():
    for number in range(150):
        scores = network(torch.randn(1, 3, 16, 16).to(device)).cpu()
        print(number, scores.numpy().tobytes().hex())
        if device == 'cuda':
            time.sleep(0.03)
"""


def test_program_whose_inferences_are_cut_prints_the_same(tmp_path: Path) -> None:
    domain = new_domain()
    models = write_models(tmp_path, f'models: {{probe: {{{TINY}}}}}')
    expected = run(domain, sys.executable, '-c', CLASSIFY).out
    with running(server_in(domain, models)):
        program = run(
            domain,
            *transparent('--fallback', 'local', '--placement', 'auto'),
            *('--', sys.executable, '-c', FORCED + CLASSIFY),
        )
    assert program.status == 0, program.errors
    assert program.out == expected
    line = next(each for each in program.errors.splitlines() if ' unit 1: ' in each)
    assert re.search(r'runs: .*\b4 measured\b', line), line
    found = re.search(r'\b(\d+) cut\b.*cut by layer_cut: 3 on the robot and (\d+)', line)
    assert found and int(found[1]) >= 30 and int(found[2]) >= 4, line
