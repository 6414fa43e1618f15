"""Several hosts on one switch reach each other, and nothing else."""

import subprocess
import sys

import pytest

from benchmarks.testbed import Switched

LISTEN = """
import socket
listening = socket.create_server(('', 5000))
print('ready', flush=True)
connection, peer = listening.accept()
total = 0
while part := connection.recv(65536):
    total += len(part)
print(peer[0], total)
"""
SEND = """
import socket, sys
connection = socket.create_connection((sys.argv[1], 5000))
connection.sendall(bytes(1_000_000))
connection.close()
"""


@pytest.mark.usefixtures('needs_root')
def test_every_host_reaches_every_other_one():
    with Switched({'robot1': 50.0, 'edge1': 200.0, 'cloud': 20.0}) as bed:
        for one, other in (('robot1', 'cloud'), ('cloud', 'edge1'), ('edge1', 'robot1')):
            listener = bed.hosts[other].popen(
                [sys.executable, '-c', LISTEN], stdout=subprocess.PIPE, text=True
            )
            assert listener.stdout.readline() == 'ready\n'
            sent = bed.hosts[one].run(
                [sys.executable, '-c', SEND, bed.hosts[other].ip], timeout_s=30
            )
            assert sent.returncode == 0, sent.stderr
            output, _ = listener.communicate(timeout=30)
            assert output.split() == [bed.hosts[one].ip, '1000000']
        holders = [host.pid for host in bed.hosts.values()]
    assert len(set(holders)) == 3


def test_rates_and_hosts_are_checked():
    with pytest.raises(ValueError, match='a rate must be'):
        Switched({'robot1': -1.0})
    with pytest.raises(ValueError, match='1 to 199 hosts'):
        Switched({})
