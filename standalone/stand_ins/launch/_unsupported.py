# SPDX-License-Identifier: Apache-2.0
"""What the stand-in lacks is named in one sentence, instead of failing somewhere later."""

def explain(module):
    """Return a module's `__getattr__` that says that a name of upstream's is not here."""
    def __getattr__(name):
        if name.startswith('_'):
            raise AttributeError(name)
        raise ImportError(f'{module}.{name} is not supported without a ROS 2 installation')
    return __getattr__
