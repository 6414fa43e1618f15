# SPDX-License-Identifier: Apache-2.0
"""Which processes a test means, and one that only stays."""

import sys

from launch.actions import ExecuteProcess

_STAY = 'import signal; signal.signal(signal.SIGINT, lambda *_: exit()); signal.pause()'

class NoMatchingProcessException(Exception):
    """No process is meant, or it has no data yet."""

def KeepAliveProc():
    """Return a process that lasts until the launch ends."""
    return ExecuteProcess(cmd=[sys.executable, '-c', _STAY])

def resolveProcesses(info_obj, *, process=None, strict_proc_matching=True):
    """Return the actions that an action, a part of a process name, or None (all) stands for."""
    known = {action.process_details['name']: action for action in info_obj.processes()}
    found = [action for name, action in known.items() if process is None or process is action
             or (isinstance(process, str) and process in name)]
    if isinstance(process, str) and strict_proc_matching and len(found) > 1:
        raise Exception(f"'{process}' stands for several processes among: {', '.join(known)}")
    if not found:
        raise NoMatchingProcessException(f"no process is '{process}' among: {', '.join(known)}")
    return found
