"""Python runs this at its start: when the program imports torch, it gets the offloaded device.

Any other ``sitecustomize`` of this Python runs as it would without this one.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
OPTIONS = 'OFFLOAD_TRANSPARENT'


class AfterTorch(importlib.abc.MetaPathFinder):
    """Calls ``offload_ros`` once torch has been imported."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """See ``MetaPathFinder``."""
        if name != 'torch':
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec('torch')
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            execute(module)
            try:
                from offload_ros.nodes.program import offload_this_process
            except ImportError as error:
                print(
                    f'error: {sys.executable} cannot offload: {error}. Run the program with the '
                    'Python that has offload_ros and ROS',
                    file=sys.stderr,
                )
                raise SystemExit(1) from None
            offload_this_process()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _run_the_other_one() -> None:
    paths = [path for path in sys.path if os.path.abspath(path or os.curdir) != HERE]
    spec = importlib.machinery.PathFinder.find_spec('sitecustomize', paths)
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules['sitecustomize'] = module  # programs that look for it find that one
        spec.loader.exec_module(module)


if OPTIONS in os.environ:
    sys.meta_path.insert(0, AfterTorch())
_run_the_other_one()
