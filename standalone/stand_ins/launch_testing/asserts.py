# SPDX-License-Identifier: Apache-2.0
"""What tests demand of processes (PYTEST_DONT_REWRITE)."""

import re

from .util import resolveProcesses

EXIT_OK, EXIT_SIGINT, EXIT_SIGQUIT, EXIT_SIGKILL, EXIT_SIGSEGV = 0, 130, 131, 137, 139
_ESCAPE = re.compile(r'\x1b\[[0-?]*[ -/]*[@-~]')

def assertExitCodes(proc_info, allowable_exit_codes=(EXIT_OK,), process=None, **kwargs):
    for action in resolveProcesses(proc_info, process=process, **kwargs):
        name, code = proc_info[action].process_name, proc_info[action].returncode
        assert code in allowable_exit_codes, f'Proc {name} exited with code {code}'

def assertInStream(proc_output, expected_output, process, *, stream='stderr', **kwargs):
    """Demand a text, a compiled pattern, or several in this order, in what a process wrote."""
    parts = expected_output
    parts = [parts] if isinstance(parts, (str, re.Pattern)) else parts
    pattern = '(?s:.*)'.join(re.escape(p) if isinstance(p, str) else p.pattern for p in parts)
    flags = next((part.flags for part in parts if not isinstance(part, str)), 0)
    for action in resolveProcesses(proc_output, process=process, **kwargs):
        pieces = [e.text for e in proc_output[action] if getattr(e, f'from_{stream}')]
        text = _ESCAPE.sub('', b''.join(pieces).decode(errors='replace'))
        if re.search(pattern, text, flags):
            return
    raise AssertionError(f"Did not find '{expected_output}' in {stream} of '{process or 'any'}'")

def assertInStdout(*args, **kwargs):
    assertInStream(*args, stream='stdout', **kwargs)

def assertInStderr(*args, **kwargs):
    assertInStream(*args, stream='stderr', **kwargs)
