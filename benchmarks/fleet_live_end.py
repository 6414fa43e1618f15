"""A robot's camera in ``benchmarks/fleet_live.py``: images out, results and plans down in a list.

    python fleet_live_end.py ROBOT HZ HEIGHT WIDTH

Says 'ready' once all tasks follow a plan; answers the lines 'plan' and 'end' with JSON.
"""

from __future__ import annotations

from array import array
import json
import sys
import threading
import time
from typing import Any

import numpy as np

TASKS = ('detection', 'segmentation', 'depth')


class Camera:
    def __init__(self, robot: str, hz: float, height: int, width: int) -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor
        from sensor_msgs.msg import Image

        from offload_ros.msg import FleetPlan, InferenceResult
        from offload_ros.nodes.topics import FLEET_PLAN_TOPIC, STATUS

        rclpy.init(args=[])
        self.results: list[dict[str, Any]] = []
        self.plans: list[dict[str, Any]] = []
        self.robot, self._hz = robot, hz
        self.node = rclpy.create_node('camera', namespace=f'/{robot}')
        self._image = self.node.create_publisher(Image, 'camera/image_raw', 2)
        self._kind = Image
        for task in TASKS:
            self.node.create_subscription(
                InferenceResult, f'inference/result/{task}', self._on_result, 100
            )
        self.node.create_subscription(FleetPlan, FLEET_PLAN_TOPIC, self._on_plan, STATUS)
        rng = np.random.default_rng(1)
        self._pixels = rng.integers(0, 255, (height, width, 3), np.uint8)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._sent = 0
        threading.Thread(target=self._executor.spin, daemon=True).start()
        threading.Thread(target=self._play, daemon=True).start()

    def _play(self) -> None:
        next_s = time.monotonic()
        while True:
            self._sent += 1
            message = self._kind(
                height=self._pixels.shape[0], width=self._pixels.shape[1], encoding='rgb8'
            )
            message.header.stamp.sec = self._sent
            message.step = 3 * message.width
            message.data = array('B', np.roll(self._pixels, self._sent, 0).tobytes())
            self._image.publish(message)
            next_s += 1.0 / self._hz
            time.sleep(max(0.0, next_s - time.monotonic()))

    def _on_result(self, message: Any) -> None:
        where = 'robot'
        for word in message.plan.replace(',', ' ').split():
            if word.startswith('/'):
                where = word
        self.results.append(
            {
                'at_s': time.monotonic(),
                'model': message.model,
                'seq': message.seq,
                'ok': message.status == message.OK,
                'fallback': message.fallback,
                'late': message.late,
                'total_s': message.total_s,
                'used': message.strategy_used,
                'where': where + (' large' if 'multi_large' in message.plan else ''),
            }
        )

    def _on_plan(self, message: Any) -> None:
        key = (message.session, message.version)
        if self.plans and self.plans[-1]['key'] == list(key):
            return
        shares: dict[str, float] = {}
        for task in message.tasks:
            for route in task.routes:
                shares[route.server] = shares.get(route.server, 0.0) + route.share
        self.plans.append(
            {
                'at_s': time.monotonic(),
                'key': list(key),
                'servers': sorted(name for name in shares if name),
                'shares': shares,
                'tasks': sorted(t.task for t in message.tasks if self.robot in t.robot),
                'accuracy': message.accuracy,
                'reason': message.reason,
                'remarks': list(message.remarks),
            }
        )

    def follows(self) -> bool:
        """Whether all tasks are answered by a plan."""
        newest = {row['model']: row['used'] for row in self.results[-12:]}
        return all(newest.get(task) == 'fleet' for task in TASKS)


def main() -> None:
    robot, hz, height, width = sys.argv[1:5]
    camera = Camera(robot, float(hz), int(height), int(width))
    while not camera.follows():
        time.sleep(0.1)
    print('ready', flush=True)
    for line in sys.stdin:
        if line.strip() == 'plan':
            print(json.dumps({'shares': camera.plans[-1]['shares']}), flush=True)
        else:
            print(json.dumps({'results': camera.results, 'plans': camera.plans}), flush=True)
            return


if __name__ == '__main__':
    main()
