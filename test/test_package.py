"""Rules that hold for the whole package."""

from __future__ import annotations

from pathlib import Path
import re
import subprocess
import xml.etree.ElementTree as ElementTree

import pytest
import yaml

ROOT = Path(__file__).parent.parent
CODE = sorted((ROOT / 'offload_ros').rglob('*.py'))


@pytest.mark.parametrize('file', CODE, ids=lambda file: str(file.relative_to(ROOT)))
def test_nothing_is_unpickled_or_evaluated(file: Path) -> None:
    text = file.read_text()
    # A robot's own calls become the text of a function in matching.py: positions, no values.
    allowed = 1 if file.name == 'matching.py' else 0
    forbidden = r'\bpickle\b|\bmarshal\b|(?<![.\w])eval\(|(?<!\.)\bexec\('
    assert len(re.findall(forbidden, text)) == allowed
    # The one place that opens a torch.export archive, from a path in a local file, is sources.py.
    assert 'torch.load(' not in text
    assert ('torch.export.load(' in text) == (file.name == 'sources.py')


@pytest.mark.parametrize('file', CODE, ids=lambda file: str(file.relative_to(ROOT)))
def test_logic_is_without_ros(file: Path) -> None:
    if 'nodes' in file.relative_to(ROOT).parts:
        return
    assert not re.search(
        r'^\s*(import|from) (rclpy|cv_bridge|\w+_msgs|offload_ros\.(msg|srv|nodes))\b',
        file.read_text(),
        re.MULTILINE,
    )


def test_files_are_short() -> None:
    long = {
        str(file.relative_to(ROOT)): lines
        for file in CODE
        if (lines := len(file.read_text().splitlines())) > 400
    }
    assert not long


def test_stand_ins_stay_small() -> None:
    """What replaces a missing ROS installation must not grow into one."""
    files = [
        file
        for pattern in ('*.py', '*.sh')
        for file in (ROOT / 'standalone').rglob(pattern)
        if not {'.venv', '.ws'} & set(file.parts)
    ]
    files.append(ROOT / 'standalone' / 'bin' / 'ros2')
    assert sum(len(file.read_text().splitlines()) for file in files) <= 2250


def test_every_ros_import_is_declared() -> None:
    declared = {
        element.text
        for element in ElementTree.parse(ROOT / 'package.xml').getroot()
        if element.tag.endswith('depend')
    }
    used = set()
    for file in [*CODE, *(ROOT / 'launch').glob('*.py')]:
        found = re.findall(r'^\s*(?:from|import) (\w+)', file.read_text(), re.MULTILINE)
        used |= {
            name
            for name in found
            if name.endswith('_msgs')
            or name in ('rclpy', 'cv_bridge', 'launch', 'launch_ros', 'ament_index_python')
        }
    assert used <= declared
    assert len(used) > 8


def test_interfaces_are_complete_in_the_build() -> None:
    import offload_ros.msg
    import offload_ros.srv

    for kind, module in (('msg', offload_ros.msg), ('srv', offload_ros.srv)):
        for file in (ROOT / kind).glob(f'*.{kind}'):
            assert hasattr(module, file.stem)


def test_executables_of_the_readme_exist() -> None:
    names = set(re.findall(r'ros2 run offload_ros (\w+)', (ROOT / 'README.md').read_text()))
    names |= {'offload_manager', 'offload_server', 'world', 'demo'}
    for name in names:
        assert (ROOT / 'scripts' / name).stat().st_mode & 0o111


def test_links_of_the_readme_exist() -> None:
    for target in re.findall(r'\]\((?!http)([^)#]+)\)', (ROOT / 'README.md').read_text()):
        assert (ROOT / target).exists(), target


SYSTEMS = 'rrto intra_dp amot fleet auto server network graphs multitask kapao tracking navigation'


@pytest.mark.parametrize('system', SYSTEMS.split())
def test_page_of_a_system_is_complete(system: str) -> None:
    """A picture, when to use it, knobs as the page of parameters has them, limits."""
    page = (ROOT / 'doc' / f'{system}.md').read_text()
    assert re.search(r'^```mermaid$|!\[.*\.png\)', page, re.MULTILINE)
    for heading in ('When to use', 'Knobs', 'Limits'):
        assert re.search(rf'^##+ {heading}', page, re.MULTILINE), heading
    parameters = (ROOT / 'doc' / 'parameters.md').read_text().splitlines()
    tables = re.findall(r'^\| knob \| what \|.*\n\|[-|]+\n((?:\|.*\n)+)', page, re.MULTILINE)
    assert tables
    for row in ''.join(tables).splitlines():
        assert row in parameters, f'{row}: another row stands in doc/parameters.md'


def test_links_of_the_pages_exist() -> None:
    for page in (ROOT / 'doc').glob('*.md'):
        for target in re.findall(r'\]\((?!http)([^)#]+)[^)]*\)', page.read_text()):
            assert (page.parent / target).exists(), f'{page.name}: {target}'


def test_readme_leads_to_every_page() -> None:
    readme = (ROOT / 'README.md').read_text()
    for page in (ROOT / 'doc').glob('*.md'):
        assert f'(doc/{page.name})' in readme, page.name


def test_continuous_integration_runs_the_readme_command() -> None:
    assert 'make test' in (ROOT / '.ci' / 'run').read_text()
    assert 'make test' in (ROOT / 'README.md').read_text()


def test_pins_satisfy_the_dependencies() -> None:
    output = subprocess.run(['pip', 'check'], capture_output=True, text=True, check=False)
    if 'command not found' in output.stderr:
        pytest.skip('no pip here')
    names = subprocess.run(
        ['python3', str(ROOT / 'standalone' / 'dependencies.py')],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert 'PyYAML>=5.4' in names
    pins = (ROOT / 'standalone' / 'constraints.txt').read_text().lower()
    for name in names:
        assert f'\n{re.split("[<>=]", name)[0].lower()}==' in pins


def test_shipped_configuration_is_valid() -> None:
    from offload_ros.models.config_file import load_models_file

    configs = load_models_file(ROOT / 'config' / 'models.yaml')
    assert [config.name for config in configs] == ['classifier', 'scene', 'kapao', 'agrnav']
    (kapao,) = load_models_file(ROOT / 'config' / 'models_kapao.yaml')
    assert [each.variant for each in (kapao, *kapao.alternatives)] == ['t', 's', 'm', 'l']
    (agrnav,) = load_models_file(ROOT / 'config' / 'models_agrnav.yaml')
    assert [each.variant for each in (agrnav, *agrnav.alternatives)] == [
        'small',
        'published',
        'plain',
    ]
    fleet = load_models_file(ROOT / 'config' / 'models_fleet.yaml')
    assert [each.name for each in fleet] == ['detection', 'segmentation', 'depth']
    for file in (
        'robot.yaml',
        'server.yaml',
        'tracker.yaml',
        'world.yaml',
        'navigator.yaml',
        'fleet_planner.yaml',
    ):
        assert '/**' in yaml.safe_load((ROOT / 'config' / file).read_text())
