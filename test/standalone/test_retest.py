"""A test that fails is tried again; one that always fails fails the run."""

from pathlib import Path
import subprocess
import sys

import pytest

RETEST = Path(__file__).resolve().parents[2] / 'scripts/retest'
ONCE = """
from pathlib import Path

SEEN = Path(__file__).with_name('seen')

def test_fine():
    pass

def test_fails_at_first():
    assert SEEN.exists() or SEEN.touch()
"""
ALWAYS = 'def test_always():\n    assert False\n'
MANY = (
    'import pytest\n@pytest.mark.parametrize("n", range(9))\ndef test_many(n):\n    assert False\n'
)


@pytest.mark.parametrize(
    ('text', 'status', 'says'),
    [
        (ONCE, 0, 'passed when tried again, alone:'),
        (ONCE + ALWAYS, 1, '1 failed, tried again alone'),
        (MANY, 1, '9 tests failed: not tried again'),
        ('import no_such_module', 2, 'no_such_module'),
        ('def test_fine():\n    pass\n', 0, '1 passed'),
    ],
    ids=['chance', 'always', 'many', 'broken', 'fine'],
)
def test_status(tmp_path, text, status, says):
    file = tmp_path / 'test_some.py'
    file.write_text(text)
    tmp_path.joinpath('pytest.ini').touch()  # names of tests are relative to its folder
    run = subprocess.run(
        [sys.executable, RETEST, 'test_some.py'],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert run.returncode == status, run.stdout
    assert says in run.stdout
