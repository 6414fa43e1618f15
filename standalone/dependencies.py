"""Print the Python dependencies that setup.py lists, one a line, without torch (TORCH_SPEC chooses
that one)."""

import pathlib

import setuptools

LEFT_OUT = {'ray'}  # large, and nothing needs it: who wants it installs it


def dependencies(setup_py: pathlib.Path) -> list[str]:
    """Return install_requires and the extras of ``setup_py``, but for ``LEFT_OUT``, by running it
    with a recording ``setup``."""
    recorded: dict = {}
    original, setuptools.setup = setuptools.setup, lambda **kwargs: recorded.update(kwargs)
    try:
        exec(compile(setup_py.read_text(), str(setup_py), 'exec'), {'__name__': '__main__'})
    finally:
        setuptools.setup = original
    listed = list(recorded['install_requires'])
    for name, extra in recorded['extras_require'].items():
        listed += extra if name not in LEFT_OUT else []
    return [spec for spec in listed if not spec.startswith('torch>')]


if __name__ == '__main__':
    print('\n'.join(dependencies(pathlib.Path(__file__).parent.parent / 'setup.py')))
