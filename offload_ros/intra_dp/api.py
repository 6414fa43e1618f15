"""Three lines for programs that use PyTorch::

idp = IntraDP()            # finds an offload server in this ROS domain
idp.attach(model)          # model: a torch.nn.Module in eval mode
y = model(x)               # computed together with the server, when that is faster
"""

from __future__ import annotations

import atexit
import math
from pathlib import Path
from types import TracebackType

from torch import nn

from offload_ros.intra_dp.attached import Attached, Contact
from offload_ros.policy.goal import Goal, Objective


class IntraDP:
    """Inferences of attached models are computed by this machine and a server together.

    ``contact``: the way to servers; ``offload_ros.IntraDP`` makes one of ROS 2 by itself.

    The first call of an attached model, and every one until a plan is ready, is answered by the
    model itself. Meanwhile its graph is captured, measured here and on the server (once: profiles
    are kept) and planned. Whatever happens to the server, a call gives the model's result: equal
    bits, or within rtol 1e-4 where operators were split. Results carry no gradients; calls in
    training mode, and those whose inputs need gradients, stay on this machine.
    """

    def __init__(self, contact: Contact) -> None:
        self._contact = contact
        self._attached: dict[int, tuple[nn.Module, Attached]] = {}
        self._closed = False
        atexit.register(self.close)  # threads of ROS must not outlive the interpreter

    def attach(
        self,
        model: nn.Module,
        name: str = '',
        *,
        objective: str = 'latency',
        deadline_s: float = math.inf,
        weight: float = 0.5,
    ) -> nn.Module:
        """From now on calls of ``model`` may use the server; returns ``model``. ``name``: for
        profiles and messages, by default the class's.

        ``objective``: what plans are for: ``latency``, this machine's ``energy``, or both
        ``weighted`` (``weight``: of the latency, 0 to 1), among plans that are expected to take at
        most ``deadline_s``. A model that is attached already gets it with the next call.

        ``TypeError`` for what is no module, ``ValueError`` for one in training mode and for an
        objective that there is not.
        """
        goal = Goal.named(objective, deadline_s, weight)
        if goal.objective is Objective.ACCURACY:
            raise ValueError("plans lose no accuracy: objective 'accuracy' is for strategy auto")
        if not isinstance(model, nn.Module):
            raise TypeError(f'attach takes a torch.nn.Module, not a {type(model).__name__}')
        if self._closed:
            raise ValueError('this IntraDP was closed: make another one')
        if model.training:
            raise ValueError('the model is in training mode: call model.eval() first')
        if id(model) not in self._attached:
            self._attached[id(model)] = model, Attached(model, name, self._contact)
        self._attached[id(model)][1].goal = goal
        return model

    def detach(self, model: nn.Module) -> nn.Module:
        """``model`` is as it was; nothing where it is not attached."""
        found = self._attached.pop(id(model), None)
        if found is not None:
            found[1].close()
        return model

    def status(self) -> str:
        """What happens to each attached model, a line each."""
        return '\n'.join(each.status() for _, each in self._attached.values())

    def record(self, path: str | Path) -> None:
        """Write what happens when in the next call that uses the server to ``path``, for
        ``ros2 run offload_ros plan --measured``."""
        for _, each in self._attached.values():
            each.record_to = Path(path)

    def close(self) -> None:
        """Detach all models and leave the servers."""
        for model, _ in list(self._attached.values()):
            self.detach(model)
        if not self._closed:
            self._closed = True
            atexit.unregister(self.close)
            self._contact.close()

    def __enter__(self) -> IntraDP:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
