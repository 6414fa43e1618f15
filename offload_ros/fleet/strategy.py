"""Fleet: each frame goes where a fleet planner's plan has its turn."""

from __future__ import annotations

from dataclasses import replace
import threading
import time

from offload_ros.baselines.server import ServedVariant, ServerStrategy
from offload_ros.fleet.plan import FleetPlan, PlannedRoute, PlannedTask
from offload_ros.fleet.turns import LEFT, Turns
from offload_ros.models.model import Model
from offload_ros.strategy import (
    Frame,
    LeftToRobot,
    Link,
    LinkState,
    Prediction,
    Result,
    Unanswered,
    register,
)


@register('fleet')
class FleetStrategy:
    """Shares of frames to named servers and variants, or to the robot; without a fresh plan as
    strategy ``server``.

    A frame whose server gives no answer goes to the next route at once.
    """

    def __init__(self) -> None:
        self._server = ServerStrategy()
        self._turns = Turns(())
        self._task: PlannedTask | None = None
        self._lock = threading.Lock()
        self._cancelled_seq = 0
        self._closed = False

    def prepare(self, model: Model, link: Link) -> None:
        self._model = model
        self._link = link
        self._server.prepare(model, link)

    def predict(self, state: LinkState) -> Prediction:
        """Of frames that servers answered."""
        return self._server.predict(state)

    def run(self, frame: Frame, deadline_s: float) -> Result:
        planned = self._link.fleet.task(self._model.name)
        if isinstance(planned, str):
            return self._unplanned(frame, deadline_s, planned)
        plan, task = planned
        if self._task is None or self._task.routes != task.routes:  # new beats change nothing
            self._turns = Turns([each.share for each in task.routes])
        self._task = task
        order = self._turns.next()
        if order[0] == LEFT:
            share = 1.0 - sum(each.share for each in task.routes)
            raise Unanswered(
                f'fleet plan {plan.version} has no place for {100.0 * share:.1f} % of the frames'
            )
        whys: list[str] = []
        for place in order:
            if place != LEFT and not (whys and self._over(frame.seq, deadline_s)):
                try:
                    return self._by(plan, task.routes[place], frame, deadline_s, whys)
                except LeftToRobot:
                    raise
                except Unanswered as error:
                    whys.append(str(error))
        raise Unanswered('; '.join(whys))

    def cancel(self, seq: int) -> None:
        with self._lock:
            self._cancelled_seq = max(self._cancelled_seq, seq)
        self._server.cancel(seq)

    def close(self) -> None:
        with self._lock:
            self._closed = True
        self._server.close()

    def _unplanned(self, frame: Frame, deadline_s: float, why: str) -> Result:
        try:
            result = self._server.run(frame, deadline_s)
        except Unanswered as error:
            raise Unanswered(f'{why}; {error}') from None
        return replace(result, used='server', reason=why)

    def _by(
        self,
        plan: FleetPlan,
        route: PlannedRoute,
        frame: Frame,
        deadline_s: float,
        whys: list[str],
    ) -> Result:
        """The result of one route; ``whys``: why others gave none."""
        text = f'fleet plan {plan.version}: {{}}' + (f' ({"; ".join(whys)})' if whys else '')
        if not route.server:
            raise LeftToRobot(text.format(f'robot {self._model.device}, {self._own(route)}'))
        only = self._link.client.preferred_server
        if only and only.strip('/') != route.server.strip('/'):
            raise Unanswered(f'server.name allows no other server than {only}')
        server, why = self._link.client.directory.named(route.server)
        if server is None:
            raise Unanswered(why)
        config = self._link.fleet.config(self._model.config, route.variant)
        if isinstance(config, str):
            raise Unanswered(config)
        held = server.variants.get((self._model.name, route.variant))
        if held is None:
            raise Unanswered(
                f"server {server.name} does not hold '{self._model.name}' as '{route.variant}'"
            )
        if route.variant == self._model.variant and held.hash != self._model.hash:
            raise Unanswered(
                f"server {server.name} has another '{self._model.name}' as '{route.variant}' "
                f"({held.hash[:8]}, the robot's is {self._model.hash[:8]}): use the same weights, "
                'source and preprocessing on both'
            )
        served = ServedVariant(held, config.outputs)
        result = self._server.ask(server, frame, deadline_s, served)
        return replace(result, plan=text.format(route), held=held)

    def _own(self, route: PlannedRoute) -> str:
        """What the robot runs: it holds one variant, and while it changes it not yet the planned
        one."""
        own = f'variant {self._model.variant}'
        return own if route.variant == self._model.variant else f'{own}, not yet {route.variant}'

    def _over(self, seq: int, deadline_s: float) -> bool:
        """Whether no other route is of use any more."""
        with self._lock:
            ended = self._closed or seq <= self._cancelled_seq
        return ended or time.monotonic() >= deadline_s
