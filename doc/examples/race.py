"""Strategy ``race``: robot and server compute each frame at the same time, the first answer counts.

Never slower than the robot alone, and quick while the server is; it costs the robot's energy.
"""

from dataclasses import replace

from offload_ros.strategy import Prediction, Result, Unanswered, make_strategy, register


@register('race', automatic=True)  # the name to set; automatic: strategy auto may choose it too
class Race:
    """One object for each model; see ``offload_ros.strategy.Strategy``."""

    def __init__(self):
        self._server = make_strategy('server')
        self._cancelled_seq = 0

    def prepare(self, model, link):
        """Raise StrategyRefused here if the model cannot be run this way."""
        self._model, self._link = model, link
        self._server.prepare(model, link)

    def predict(self, state):
        """What the next frame takes on such a link, for auto; NaN: not known yet."""
        server = self._server.predict(state)
        alone_s = self._link.local[self._model.name].percentile(50)
        if not (server.latency_s >= 0.0 and alone_s >= 0.0):
            return Prediction()
        first_s = min(server.latency_s, alone_s)
        return replace(server, latency_s=first_s, robot_busy_s=alone_s)

    def usable(self, goal):
        """Whether auto may choose it for the next frame."""
        return self._server.usable(goal)

    def run(self, frame, deadline_s):
        """One frame; called in one thread. Unanswered: the robot computes, as a fallback."""
        job = self._link.lane.submit(
            lambda: self._model.run(frame.inputs), done=lambda _: self._server.cancel(frame.seq)
        )
        try:
            result = self._server.run(frame, deadline_s)
        except Unanswered:
            if frame.seq <= self._cancelled_seq:
                raise
            return Result(job.result(), plan='race: the robot was first')
        self._link.lane.cancel(job)  # what has begun runs to its end, unheard
        return replace(result, plan=f'race: {result.plan} was first')

    def cancel(self, seq):
        """End ``run`` of this frame; called from any thread."""
        self._cancelled_seq = max(self._cancelled_seq, seq)
        self._server.cancel(seq)

    def close(self):
        """Release what ``prepare`` took."""
        self._server.close()
