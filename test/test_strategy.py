"""Strategies of one's own become known by one file and one registration, and by nothing else."""

from pathlib import Path
import subprocess
import sys

import pytest

from offload_ros import strategy as strategies
from offload_ros.models.errors import ConfigError
from offload_ros.strategy import (
    automatic_strategies,
    import_strategies,
    make_strategy,
    register,
    strategy_names,
)

DOC = Path(__file__).parent.parent / 'doc'
OWN = """
from offload_ros.strategy import register

@register({name!r}{more})
class Own:
    def prepare(self, model, link): ...
    def predict(self, state): ...
    def run(self, frame, deadline_s): ...
    def cancel(self, seq): ...
    def close(self): ...
"""


@pytest.fixture(autouse=True)
def as_before(monkeypatch, tmp_path):
    """What a test registers and imports is gone after it."""
    strategy_names()
    for name in ('_REGISTRY', '_AUTOMATIC', '_IMPORTED'):
        monkeypatch.setattr(strategies, name, getattr(strategies, name).copy())
    yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, '__file__', None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Return a function that writes a file of an importable folder."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(file, text=OWN, **fields):
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True)
        path.write_text(text.format(**{'name': 'own', 'more': '', **fields}))

    return write


def load(*modules):
    import_strategies(modules, 'm.yaml')


def test_one_file_and_one_registration_make_a_strategy(write):
    write('mine.py')
    load('mine')
    assert 'own' in strategy_names()
    assert 'own' not in automatic_strategies()
    assert type(make_strategy('own')).__name__ == 'Own'


def test_auto_looks_at_those_of_the_package_first_and_at_others_that_ask_for_it(write):
    built_in = ['server', 'intra_dp', 'rrto', 'amot']
    assert automatic_strategies() == built_in
    write('mine.py', name='b', more=', automatic=True')
    write('yours.py', name='a', more=', automatic=True')
    load('mine', 'yours')
    assert automatic_strategies() == [*built_in, 'a', 'b']


def test_a_node_that_is_configured_again_finds_what_it_has(write):
    write('package/__init__.py', 'from package import mine')
    write('package/mine.py')
    write('around.py', 'import package')
    for _ in range(2):
        load('package', 'package.mine')
    load('package')
    with pytest.raises(ConfigError, match='registers no strategy'):
        load('around')  # what it imports was there before


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        (None, "does not import: ModuleNotFoundError: No module named 'mine': put its folder on"),
        ('import nowhere', "does not import: ModuleNotFoundError: No module named 'nowhere'"),
        ('def f(:', 'does not import: SyntaxError'),
        ('import sys; sys.exit(3)', 'does not import: SystemExit: 3'),
        ('x = 1', "registers no strategy: put @register('name') before the class"),
        (OWN.replace('{name!r}', "'server'"), "strategy 'server' is registered twice: choose"),
        (OWN.replace('{name!r}', "'a b'"), "strategy name 'a b' must be letters, digits and _"),
        (OWN.replace('def run', 'def walk'), "strategy 'own' lacks the methods run"),
    ],
)
def test_a_module_without_a_strategy_gives_one_line_that_says_what_to_do(write, text, expected):
    if text is not None:
        write('mine.py', text)
    known = strategy_names()
    with pytest.raises(ConfigError) as refusal:
        load('mine')
    assert str(refusal.value).startswith("m.yaml: strategies: module 'mine' ")
    assert expected in str(refusal.value)
    assert '\n' not in str(refusal.value)
    assert strategy_names() == known


def test_a_module_that_fails_half_way_can_be_mended(write):
    write('mine.py', OWN + '\nimport nowhere\n', more=', automatic=True')
    with pytest.raises(ConfigError, match='nowhere'):
        load('mine')
    assert 'own' not in strategy_names() + automatic_strategies()
    write('mine.py')
    load('mine')
    assert 'own' in strategy_names()


def test_installed_packages_name_theirs_as_entry_points(write):
    write('mine.py')
    write('mine-1.dist-info/METADATA', 'Metadata-Version: 2.1\nName: mine\nVersion: 1\n')
    write('mine-1.dist-info/entry_points.txt', '[offload_ros.strategies]\nown = mine\n')
    load()
    assert 'own' in strategy_names()
    write('mine-1.dist-info/entry_points.txt', '[offload_ros.strategies]\nown = nothing\n')
    with pytest.raises(ConfigError) as refusal:
        load()
    assert str(refusal.value) == (
        "entry point 'own' of package 'mine': module 'nothing' does not import: "
        "ModuleNotFoundError: No module named 'nothing': mend the package, or uninstall it"
    )


@pytest.mark.parametrize('file', ['race.py', 'test_race.py'])
def test_the_page_shows_the_files_that_run(file):
    text = (DOC / 'examples' / file).read_text()
    assert f'```python\n{text}```' in (DOC / 'own_strategy.md').read_text()
    assert len(text.splitlines()) < 60


def test_the_test_of_the_page_passes(monkeypatch):
    monkeypatch.setenv('PYTHONPATH', str(DOC / 'examples'), prepend=':')
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', 'test_race.py']
    ran = subprocess.run(command, cwd=DOC / 'examples', capture_output=True, text=True, check=False)
    assert ran.returncode == 0 and '2 passed' in ran.stdout, ran.stdout + ran.stderr


def test_what_chooses_among_strategies_is_not_chosen_by_auto():
    with pytest.raises(ValueError, match='chooses by itself'):

        @register('mine', automatic=True)
        class _(type(make_strategy('auto'))):
            pass
