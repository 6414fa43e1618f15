"""What the tests of the testbed share: the probes on its hosts, and when they can run."""

from __future__ import annotations

import json
from pathlib import Path
import subprocess
import sys

import pytest

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))  # benchmarks is not installed; at the end: see benchmarks/testbed

from benchmarks.testbed import unavailable  # noqa: E402

PROBE = [sys.executable, '-I', str(Path(__file__).with_name('probe.py'))]


@pytest.fixture(scope='session')
def needs_root():
    """Skips the test where no testbed can be made, with the reason."""
    reason = unavailable()
    if reason:
        pytest.skip(reason)


class Probes:
    """Measures between two hosts, from the first to the second."""

    command = PROBE

    def start(self, host, *words):
        """A probe that runs beside the test, once it listens."""
        process = host.popen([*PROBE, *words], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == 'ready\n'
        return process

    def run(self, host, *words):
        """A probe to its end: what it reported, or None."""
        done = host.run([*PROBE, *map(str, words)], timeout_s=20.0, stderr=None)
        assert done.returncode == 0
        return json.loads(done.stdout) if done.stdout else None

    @staticmethod
    def end(process):
        """The report of a started probe that ends by itself."""
        return json.loads(process.communicate(timeout=10.0)[0])

    def tcp(self, source, sink, seconds, meanwhile=lambda: None):
        """[(monotonic time in s, bytes received so far)] of a transfer of `seconds`."""
        listener = self.start(sink, 'tcp-sink')
        sender = source.popen([*PROBE, 'tcp-source', sink.ip, str(seconds)])
        meanwhile()
        assert sender.wait(20.0) == 0
        return self.end(listener)['arrivals']

    def assert_goodput(self, source, sink, mbit):
        """That TCP gets the rate within 5 %; a busy machine can make it slower, never faster, and a
        slow one cannot fill a fast link."""
        least = 0.95 if mbit < 200 else 0.8
        for _ in range(3):
            measured = self.goodput_mbit(source, sink)
            assert measured < 1.05 * mbit
            if measured > least * mbit:
                return
        assert measured > least * mbit

    def goodput_mbit(self, source, sink, seconds=0.7):
        """Rate of a TCP transfer, without its first third (slow start)."""
        arrivals = self.tcp(source, sink, seconds)
        first_s, last_s = arrivals[0][0], arrivals[-1][0]
        return rate_mbit(arrivals, first_s + (last_s - first_s) / 3, last_s)

    def ping(self, source, sink, count=30, pause_s=0.005):
        """Round-trip times in s, None for those without an answer."""
        echo = self.start(sink, 'udp-echo')
        try:
            return self.run(source, 'udp-ping', sink.ip, count, pause_s)['rtt_s']
        finally:
            echo.kill()
            echo.communicate()

    def udp(self, source, sink, count, size, bytes_per_s):
        """(report of the source, report of the sink) of that many datagrams."""
        counter = self.start(sink, 'udp-sink')
        sent = self.run(source, 'udp-source', sink.ip, count, size, bytes_per_s)
        return sent, self.end(counter)


def rate_mbit(arrivals, begin_s, end_s):
    """Mean rate between two times."""
    inside = [arrival for arrival in arrivals if begin_s <= arrival[0] <= end_s]
    (first_s, before), (last_s, after) = inside[0], inside[-1]
    return 8e-6 * (after - before) / (last_s - first_s)


@pytest.fixture
def probes(needs_root):
    """See Probes."""
    return Probes()


@pytest.fixture
def rate_between():
    """See rate_mbit."""
    return rate_mbit
