"""Device-only: the robot computes the whole model."""

from __future__ import annotations

from pathlib import Path
import time

from offload_ros.cuts.whole_record import WholeRecorder
from offload_ros.models.model import Model
from offload_ros.robot.window import Window
from offload_ros.strategy import Frame, Link, LinkState, Prediction, Result, register


@register('device')
class DeviceStrategy:
    """Runs the model on the robot's accelerator; every other strategy falls back to this one."""

    def __init__(self) -> None:
        self._durations = Window()

    def prepare(self, model: Model, link: Link) -> None:
        self._model = model
        self._lane = link.lane
        self._recorder = WholeRecorder(model)

    def predict(self, state: LinkState) -> Prediction:
        median_s = self._durations.percentile(50)
        return Prediction(latency_s=median_s, robot_busy_s=median_s)

    def run(self, frame: Frame, deadline_s: float) -> Result:
        began_s = time.monotonic()
        job = self._lane.submit(lambda: self._model.run(frame.inputs))
        outputs = job.result()
        self._recorder.on_robot(frame.inputs, began_s, job)
        self._durations.add(job.duration_s)
        return Result(outputs, plan=f'robot {self._model.device}')

    def record(self, path: Path) -> None:
        """Write what happens when in the next inference to ``path``."""
        self._recorder.ask(path)

    def cancel(self, seq: int) -> None:
        """A computation cannot be taken back; it ends by itself."""

    def close(self) -> None:
        """Nothing is held."""
