"""How random tests draw: in a usual run the same each time, in a long one anew.

A failure of a usual run is then the fault of a change, never of a draw. Neither the time of one
example nor that of drawing it is judged: both depend on the machine.
"""

from hypothesis import HealthCheck, settings
import pytest

WHATEVER_THE_MACHINE = {'deadline': None, 'suppress_health_check': [HealthCheck.too_slow]}
settings.register_profile('usual', derandomize=True, **WHATEVER_THE_MACHINE)
settings.register_profile('long', **WHATEVER_THE_MACHINE)


def pytest_configure(config: pytest.Config) -> None:
    """Before the modules of tests are read, whose settings are made from these."""
    usual = 'not long' in config.getoption('markexpr')
    settings.load_profile('usual' if usual else 'long')
