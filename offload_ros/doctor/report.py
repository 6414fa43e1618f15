"""Findings as lines: colours on a terminal, plain text elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from offload_ros.doctor.finding import Finding, Level

COLOURS = {
    Level.OK: 'green',
    Level.WARN: 'yellow',
    Level.FAIL: 'bold red',
    Level.SKIP: 'bright_black',
}


def line_of(finding: Finding, width: int = 0) -> Text:
    """Level, name (``width`` columns), what was found, and after an arrow what to do."""
    line = Text()
    line.append(f'{finding.level.value:4}', COLOURS[finding.level])
    line.append(f'  {finding.name:{width}}  ')
    line.append(_printable(finding.text), 'bright_black' if finding.level is Level.SKIP else '')
    if finding.remedy:
        line.append('  ->  ')
        line.append(_printable(finding.remedy), 'bold')
    return line


def print_findings(console: Console, findings: Sequence[Finding]) -> None:
    """One line each; a terminal wraps what is longer, nothing is cut."""
    width = max((len(finding.name) for finding in findings), default=0)
    for finding in findings:
        console.print(line_of(finding, width), soft_wrap=True)


def verdict(findings: Sequence[Finding]) -> Text:
    """The last line: what to mend first; others may follow from it."""
    counts = {level: sum(each.level is level for each in findings) for level in Level}
    first = next((each for each in findings if each.level is Level.FAIL), None)
    if first is not None:
        text = Text(f'{counts[Level.FAIL]} FAIL, {counts[Level.WARN]} WARN; begin with ')
        text.append(first.name, 'bold red')
        text.append(': ')
        text.append(_printable(first.remedy), 'bold')
        return text
    if counts[Level.WARN]:
        return Text(f'nothing fails, {counts[Level.WARN]} WARN', 'yellow')
    return Text('everything is as it should be', 'green')


def _printable(text: str) -> str:
    """Names come from the network: no control characters reach the terminal."""
    return ''.join(each if each.isprintable() else '?' for each in text)
