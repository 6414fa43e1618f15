"""A managed (lifecycle) node whose transitions release all they took, in whatever order."""

from __future__ import annotations

from collections.abc import Callable
import traceback
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter

from offload_ros.models.errors import ConfigError, ModelError
from offload_ros.nodes.parameters import declare

SUCCESS = TransitionCallbackReturn.SUCCESS
FAILURE = TransitionCallbackReturn.FAILURE


class BringUpError(Exception):
    """The node could not be configured or activated; the text says why and what to do."""


class ManagedNode(LifecycleNode):
    """Declare in ``__init__``, wire in ``configure``, load and subscribe in ``activate``.

    Subclasses write ``configure``, ``activate``, ``deactivate`` and ``cleanup``. The two former may
    raise ``ConfigError`` or ``ModelError``: the transition then fails with one line in the log. The
    two latter undo whatever is there, also half of it, and never fail.
    """

    # Parameters that ``configure`` reads once, and those that ``activate`` does.
    FIXED_WHEN_CONFIGURED: tuple[str, ...] = ('models_file', 'models')
    FIXED_WHEN_ACTIVE: tuple[str, ...] = ('key_file',)

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._mistake = ''
        self._configured = self._active = False
        # The only callback: rclpy asks several one by one, and one would take up what the next
        # one refuses.
        self.add_on_set_parameters_callback(self._on_set_parameters)
        declare(
            self,
            'autostart',
            True,
            'configure and activate at start; false: on request',
            read_only=True,
        )

    def configure(self) -> None:
        """Read files, create publishers."""

    def activate(self) -> None:
        """Load models, subscribe, start threads."""

    def deactivate(self) -> None:
        """Undo ``activate``."""

    def cleanup(self) -> None:
        """Undo ``configure``."""

    def refusal(self, parameters: list[Parameter[Any]]) -> str:
        """Why these may not be set together now; empty when they may."""
        return ''

    def take_up(self, parameters: list[Parameter[Any]]) -> None:
        """Parameters that are about to be set."""

    def bring_up(self) -> None:
        """Configure and activate; ``BringUpError`` with the cause when one fails."""
        for trigger in (self.trigger_configure, self.trigger_activate):
            if trigger() != SUCCESS:
                raise BringUpError(self._mistake or f'{self.get_name()} could not be brought up')

    def close(self) -> None:
        """End threads before the node is destroyed, in whatever state it is."""
        self.deactivate()
        self.cleanup()
        self._configured = self._active = False

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Transition callback."""
        result = self._attempt(self.configure, self.cleanup)
        self._configured = result == SUCCESS
        return result

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Transition callback."""
        result = self._attempt(self.activate, self.deactivate)
        self._active = result == SUCCESS
        return super().on_activate(state) if result == SUCCESS else result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Transition callback."""
        self.deactivate()
        self._active = False
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Transition callback."""
        self.cleanup()
        self._configured = False
        return SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Transition callback."""
        self.close()
        return SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """After a transition raised something unexpected: release all, be unconfigured again."""
        self.close()
        return SUCCESS

    def _on_set_parameters(self, parameters: list[Parameter[Any]]) -> SetParametersResult:
        if not self._configured:  # nobody has read them yet
            return SetParametersResult(successful=True)
        for parameter in parameters:
            reason = ''
            if parameter.name in self.FIXED_WHEN_CONFIGURED:
                reason = f'{parameter.name} is read when configured: deactivate and clean up first'
            elif self._active and parameter.name in self.FIXED_WHEN_ACTIVE:
                reason = f'{parameter.name} is read when activated: deactivate first'
            if reason:
                return SetParametersResult(successful=False, reason=reason)
        reason = self.refusal(parameters)
        if reason:
            return SetParametersResult(successful=False, reason=reason)
        self.take_up(parameters)
        return SetParametersResult(successful=True)

    def _attempt(
        self, forward: Callable[[], Any], undo: Callable[[], Any]
    ) -> TransitionCallbackReturn:
        try:
            forward()
        except (ConfigError, ModelError) as error:
            self._mistake = str(error)
            self.get_logger().error(self._mistake)
            undo()
            return FAILURE
        except Exception as error:
            # rclpy swallows it, and calls on_error, which releases all.
            self._mistake = f'{type(error).__name__}: {error}'
            self.get_logger().error(traceback.format_exc())
            raise
        return SUCCESS
