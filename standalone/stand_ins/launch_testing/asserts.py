# SPDX-License-Identifier: Apache-2.0
"""What tests demand of processes; PYTEST_DONT_REWRITE."""

from collections.abc import Callable, Iterable
import re
from typing import Any

from launch._unsupported import explain

from .util import NO_CMD_ARGS, resolveProcesses

__all__ = ['NO_CMD_ARGS', 'assertExitCodes', 'assertInStderr', 'assertInStdout', 'assertInStream']
__getattr__ = explain(__name__)
EXIT_OK, EXIT_SIGINT, EXIT_SIGQUIT, EXIT_SIGKILL, EXIT_SIGSEGV = 0, 130, 131, 137, 139
_ESCAPE = re.compile(r'\x1b\[[0-?]*[ -/]*[@-~]')


def assertExitCodes(
    proc_info: Any, allowable_exit_codes: Iterable[int] = (EXIT_OK,), process: Any = None,
    cmd_args: Any = None, *, strict_proc_matching: bool = True,
) -> None:
    """Demand that a process, or every one, ended with one of the codes."""
    for action in resolveProcesses(
        proc_info, process=process, cmd_args=cmd_args, strict_proc_matching=strict_proc_matching
    ):
        name, code = proc_info[action].process_name, proc_info[action].returncode
        assert code in allowable_exit_codes, f'Proc {name} exited with code {code}'


def assertInStream(
    proc_output: Any, expected_output: Any, process: Any, cmd_args: Any = None, *,
    output_filter: Callable[[str], str] | None = None, strict_proc_matching: bool = True,
    strip_ansi_escape_sequences: bool = True, stream: str = 'stderr',
) -> None:
    """Demand a text, a compiled pattern, or several in this order, in what a process wrote."""
    if stream not in ('stdout', 'stderr'):
        raise ValueError(f"stream is 'stdout' or 'stderr', not '{stream}'")
    actions = resolveProcesses(
        proc_output, process=process, cmd_args=cmd_args, strict_proc_matching=strict_proc_matching
    )
    for action in actions:
        pieces = [e.text for e in proc_output[action] if e.from_stdout == (stream == 'stdout')]
        text = b''.join(pieces).decode(errors='replace').replace('\r\n', '\n')
        text = _ESCAPE.sub('', text) if strip_ansi_escape_sequences else text
        if _contains(output_filter(text) if output_filter else text, expected_output):
            return
    names = ', '.join(sorted(action.process_details['name'] for action in actions))
    raise AssertionError(f"Did not find '{expected_output}' in the {stream} of {names}")


def _contains(text: str, expected: Any) -> bool:
    start = 0
    for part in [expected] if isinstance(expected, (str, re.Pattern)) else expected:
        found = re.compile(re.escape(part) if isinstance(part, str) else part).search(text, start)
        if found is None:
            return False
        start = found.end()
    return True


def assertInStdout(*args: Any, **kwargs: Any) -> None:
    """See assertInStream."""
    assertInStream(*args, stream='stdout', **kwargs)


def assertInStderr(*args: Any, **kwargs: Any) -> None:
    """See assertInStream."""
    assertInStream(*args, stream='stderr', **kwargs)
