"""Measurements that the machine's other work can spoil."""

from __future__ import annotations

from collections.abc import Callable
import functools
from typing import Any


def tries(count: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A test of times and rates that holds if it holds once in ``count`` tries.

    For what is measured only: a busy machine may spoil one measurement and does not make a wrong
    one right.
    """

    def decorated(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def run(*arguments: Any, **named: Any) -> None:
            for _ in range(count - 1):
                try:
                    return test(*arguments, **named)
                except AssertionError as error:
                    print(f'tried again: {error}')
            return test(*arguments, **named)

        return run

    return decorated
