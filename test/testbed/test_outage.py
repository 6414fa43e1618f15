"""A link that is cut for 4 s in the middle of a tensor, with real DDS on a real network."""

import json
from pathlib import Path
import subprocess
import sys
import time

from ament_index_python.packages import get_package_share_directory
import pytest

from benchmarks.testbed import Testbed

END = [sys.executable, str(Path(__file__).with_name('outage_end.py'))]
CUT_S = 4.0


@pytest.mark.usefixtures('needs_root')
def test_an_outage_blocks_no_thread_and_the_tensor_arrives_or_is_given_up_in_time():
    profiles = Path(get_package_share_directory('offload_ros')) / 'config' / 'dds'
    environment = {
        'FASTDDS_DEFAULT_PROFILES_FILE': str(profiles / 'lan.xml'),
        'ROS_DOMAIN_ID': '99',
    }
    pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE, 'text': True}
    with Testbed(mbit=93, rtt_s=0.0026) as bed:
        server = bed.server.popen([*END, 'server'], environment=environment, **pipes)
        assert server.stdout.readline() == 'ready\n'
        robot = bed.robot.popen([*END, 'robot'], environment=environment, **pipes)
        assert robot.stdout.readline() == 'sending\n'
        time.sleep(0.1)
        bed.cut()
        time.sleep(CUT_S)
        bed.restore()
        output, _ = robot.communicate(timeout=60.0)
        assert robot.returncode == 0
    seen = json.loads(output)
    assert seen['patient'] == 'done'
    assert (
        CUT_S < seen['patient_s'] < CUT_S + 12.0
    )  # TCP itself tries again after up to some seconds
    assert seen['hasty'] == 'expired'
    assert 1.9 < seen['hasty_s'] < CUT_S - 0.5  # in the middle of the outage, not after it
    # The machine's own hiccups are far shorter than the outage, and rare.
    assert seen['longest_s'] < 1.0, seen
    assert seen['late_share'] < 0.25, seen
