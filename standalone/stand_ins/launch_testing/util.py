# SPDX-License-Identifier: Apache-2.0
"""Which processes a test means, and one that only stays."""

import sys
from typing import Any

from launch._unsupported import explain
from launch.actions import ExecuteProcess

__getattr__ = explain(__name__)
NO_CMD_ARGS = object()
_STAY = 'import signal; signal.signal(signal.SIGINT, lambda *_: exit()); signal.pause()'


class NoMatchingProcessException(Exception):
    """No process is meant, or it has no data yet."""


def KeepAliveProc() -> ExecuteProcess:
    """Return a process that lasts until the launch ends."""
    return ExecuteProcess(cmd=[sys.executable, '-c', _STAY])


def resolveProcesses(
    info_obj: Any, *, process: Any = None, cmd_args: Any = None, strict_proc_matching: bool = True
) -> list[Any]:
    """Return the actions that an action, a part of a process name, or None (all) stands for."""
    known = list(info_obj.processes())
    if process is None:
        found = known
    elif not isinstance(process, str):
        found = [action for action in known if action is process]
    else:
        wanted = [cmd_args] if isinstance(cmd_args, str) else cmd_args
        found = [
            action for action in known
            if process in action.process_details['name']
            and _has(action.process_details['cmd'][1:], wanted)
        ]
        if strict_proc_matching and len(found) > 1:
            raise Exception(f"'{process}' stands for several processes: {_names(found)}")
    if not found:
        raise NoMatchingProcessException(
            f"no process matches '{process or 'all'}' and arguments '{cmd_args}'; "
            f'with data: {_names(known)}'
        )
    return found


def _has(arguments: list[str], wanted: Any) -> bool:
    return not arguments if wanted is NO_CMD_ARGS else set(wanted or ()) <= set(arguments)


def _names(actions: list[Any]) -> str:
    return ', '.join(action.process_details['name'] for action in actions) or 'none'
