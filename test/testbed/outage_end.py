"""Run on the hosts of a testbed: a channel over DDS that lives through an outage.

`outage_end.py server` answers; `outage_end.py robot` prints `sending`, then what it saw as JSON.
"""

import contextlib
import json
from pathlib import Path
import queue
import sys
import threading
import time

sys.path.append(str(Path(__file__).resolve().parents[2]))
from benchmarks.transport import ANSWERS, TENSORS, DdsEnd, serve
from offload_ros.wire.channel import key_of, number_of
from offload_ros.wire.incoming import TransferError

SIZE = 4_000_000


class Ticker:
    """How long other threads are held up: gaps between ticks of 1 ms, in seconds."""

    def __init__(self):
        self.gaps_s = []
        threading.Thread(target=self._tick, daemon=True).start()

    def _tick(self):
        last_s = time.monotonic()
        while True:
            time.sleep(0.001)
            now_s = time.monotonic()
            self.gaps_s.append(now_s - last_s)
            last_s = now_s

    def take(self):
        late_s = sum(gap for gap in self.gaps_s if gap > 0.02)
        return {'longest_s': max(self.gaps_s), 'late_share': late_s / sum(self.gaps_s)}


def robot():
    """See the module."""
    end = DdsEnd('robot', False)
    answers = queue.SimpleQueue()
    end.channel.listen(
        ANSWERS, lambda each: each.when_ended(lambda done: answers.put(number_of(done.key)))
    )
    for number in range(1, 100):
        end.channel.send(key_of(TENSORS, number), bytes(100))
        try:
            answers.get(timeout=0.5)
            break
        except queue.Empty:
            continue
    ticker = Ticker()
    patient = end.channel.send(key_of(TENSORS, 1000), bytes(SIZE))
    hasty = end.channel.send(key_of(TENSORS, 1001), bytes(SIZE), deadline_s=time.monotonic() + 2.0)
    print('sending', flush=True)
    began_s = time.monotonic()
    with contextlib.suppress(TransferError):
        hasty.wait(10.0)
    hasty_s = time.monotonic() - began_s
    patient.wait(30.0)
    answered = 0
    while answered != 1000:
        answered = answers.get(timeout=5.0)
    print(
        json.dumps(
            {
                **ticker.take(),
                'hasty': hasty.state.value,
                'hasty_s': hasty_s,
                'patient': patient.state.value,
                'patient_s': time.monotonic() - began_s,
            }
        )
    )
    end.close()


if sys.argv[1] == 'server':
    serve(False)
else:
    robot()
