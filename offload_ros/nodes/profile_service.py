"""The service ``<node>/profile_model`` of manager and server, around ``ProfilingHost``."""

from __future__ import annotations

from array import array
from collections.abc import Callable
import threading
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]  # where Humble has it
from rclpy.node import Node
from rclpy.task import Future

from offload_ros.graph.profiling import ProfilingError, ProfilingHost, Reply, Request, Subject
from offload_ros.graph.profiling import to_json as report_to_json
from offload_ros.srv import ProfileModel

EXPIRE_S = 10.0  # how often is looked for what was left open


class ProfileService:
    """Answers in threads of its own: the node's executor goes on. ``find`` is called there."""

    def __init__(self, node: Node, find: Callable[[str, str], Subject]) -> None:
        self._node = node
        self._host = ProfilingHost(find)
        # A group of its own: while its callback awaits, nothing else of its group is called.
        group = MutuallyExclusiveCallbackGroup()
        node.create_service(ProfileModel, '~/profile_model', self._on_request, callback_group=group)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        node.create_timer(EXPIRE_S, self._host.expire, clock=steady)

    def release(self) -> None:
        """Let go of the model that was being measured."""
        self._host.close()

    async def _on_request(
        self, request: ProfileModel.Request, response: ProfileModel.Response
    ) -> ProfileModel.Response:
        done: Future[tuple[str, Reply]] = Future()
        call = Request(
            request.model,
            request.stage,
            request.part,
            max(1, request.repeats),
            request.graph,
            request.model_hash,
            request.example.tobytes(),
            request.server,
        )
        thread = threading.Thread(target=self._work, args=(call, done), name='profile', daemon=True)
        thread.start()
        answer = await done
        assert answer is not None
        response.message, reply = answer
        response.success = not response.message
        response.report = report_to_json(reply.report)
        response.graph = reply.graph
        response.example = array('B', reply.example)
        return response

    def _work(self, call: Request, done: Future[tuple[str, Reply]]) -> None:
        text, reply = '', Reply()
        try:
            reply = self._host.answer(call)
        except ProfilingError as error:
            text = str(error)
        except Exception as error:  # foreign code is measured: whatever it raises is told
            text = f'{type(error).__name__}: {error}'
        self._soon(lambda: done.set_result((text, reply)))

    def _soon(self, call: Callable[[], Any]) -> None:
        executor = self._node.executor
        if executor is not None:  # otherwise the node is gone, and nobody waits
            executor.create_task(call)
