"""Programs as a user has them, which know nothing of offloading, and how tests run them."""

from __future__ import annotations

import os
from pathlib import Path
import signal
import subprocess
from typing import Any

from ament_index_python.packages import get_package_prefix
from system import Process

# Computes on cuda where there is one and prints what must not depend on where.
CLASSIFY = """
import sys
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
    for number in range(8):
        scores = network(torch.randn(1, 3, 16, 16).to(device)).cpu()
        print(number, scores.argmax().item(), scores.numpy().tobytes().hex())
"""
# Goes on until it is told to end.
FOR_EVER = (
    CLASSIFY
    + """
print('endless', flush=True)
x = torch.ones(1, 3, 16, 16, device=device)
with torch.no_grad():
    while True:
        network(x).cpu()
"""
)


def server_in(domain: int, models: Path, wait: bool = True, **parameters: Any) -> Process:
    """A server with ``models``, and signals and /proc of its own; ``wait``: until it serves."""
    command = [f'{get_package_prefix("offload_ros")}/lib/offload_ros/offload_server', '--ros-args']
    for key, value in {'models_file': models, 'threads': 1, **parameters}.items():
        command += ['-p', f'{key}:={value}']
    process = Process(domain, *command)
    if wait:
        process.wait_for('serving')
    return process


def transparent(*arguments: str) -> list[str]:
    """``ros2 run offload_ros transparent`` without ``ros2 run`` between the test and the
    program."""
    return [f'{get_package_prefix("offload_ros")}/lib/offload_ros/transparent', *arguments]


class Program:
    """A program with its input, output, errors and exit status."""

    def __init__(self, domain: int, *command: str, stdin: bool = False, **environment: str) -> None:
        self.process = subprocess.Popen(
            command,
            env={
                **os.environ,
                'ROS_DOMAIN_ID': str(domain),
                'OMP_NUM_THREADS': '1',
                'PYTHONUNBUFFERED': '1',
                **environment,
            },
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.out = self.errors = ''

    @property
    def status(self) -> int:
        """Of its exit."""
        return int(self.process.returncode)

    def wait_for(self, text: str) -> None:
        """Until it has printed a line with ``text``."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.out += line
            if text in line:
                return
        self.end()
        raise AssertionError(f'{text!r} was not printed: {self.out}\n{self.errors}')

    def end(self, given: str | None = None, limit_s: float = 90.0) -> Program:
        """Wait for its end."""
        try:
            out, errors = self.process.communicate(given, limit_s)
        except subprocess.TimeoutExpired:
            self.kill()
            out, errors = self.process.communicate()
            raise AssertionError(f'it did not end: {self.out}{out}\n{errors}') from None
        self.out += out
        self.errors += errors
        return self

    def kill(self) -> None:
        """End it and its children in any case."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)


def run(domain: int, *command: str, **environment: str) -> Program:
    """Run a command to its end."""
    return Program(domain, *command, **environment).end()
