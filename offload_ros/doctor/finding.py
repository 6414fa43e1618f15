"""What a check says: one line, with the remedy in it when something is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    """How bad it is; only FAIL keeps results from coming as they should."""

    OK = 'OK'
    WARN = 'WARN'
    FAIL = 'FAIL'
    SKIP = 'SKIP'


@dataclass(frozen=True)
class Finding:
    """``remedy``: a command or a key of models.yaml; never empty for WARN and FAIL."""

    name: str
    level: Level
    text: str
    remedy: str = ''

    def __post_init__(self) -> None:
        if self.level in (Level.WARN, Level.FAIL) and not self.remedy:
            raise ValueError(f"finding '{self.name}': a {self.level.value} needs a remedy")


def ok(name: str, text: str) -> Finding:
    """As it should be."""
    return Finding(name, Level.OK, text)


def warn(name: str, text: str, remedy: str) -> Finding:
    """Results come, but slower, later or worse than they could."""
    return Finding(name, Level.WARN, text, remedy)


def fail(name: str, text: str, remedy: str) -> Finding:
    """Results do not come, or not as asked for."""
    return Finding(name, Level.FAIL, text, remedy)


def skip(name: str, text: str) -> Finding:
    """Could not be looked at; ``text`` says why."""
    return Finding(name, Level.SKIP, text)


def exit_status(findings: list[Finding]) -> int:
    """0 when nothing failed, else 1."""
    return int(any(finding.level is Level.FAIL for finding in findings))
