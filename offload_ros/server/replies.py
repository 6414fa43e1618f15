"""What a server answers, and how an answer is given."""

from __future__ import annotations

from collections.abc import Mapping
import logging
import time

import torch

from offload_ros.server.fair_queue import Entry
from offload_ros.wire.exchange import Reply, Status


class Replies:
    """Replies of one server's life."""

    def __init__(self, server: str, session: str) -> None:
        self._server, self._session = server, session

    def refusal(self, entry: Entry, status: Status, detail: str, queue_s: float = 0.0) -> Reply:
        """Without outputs; ``detail``: the cause."""
        return Reply(
            server=self._server,
            server_session=self._session,
            session=entry.request.session,
            seq=entry.request.seq,
            status=status,
            detail=detail,
            queue_s=queue_s,
            server_s=time.monotonic() - entry.received_s,
        )

    def computed(
        self,
        entry: Entry,
        outputs: Mapping[str, torch.Tensor],
        started_s: float,
        ended_s: float,
        batch: int = 1,
    ) -> Reply:
        """With the outputs of a forward (steady clock) of ``batch`` frames."""
        return Reply(
            server=self._server,
            server_session=self._session,
            session=entry.request.session,
            seq=entry.request.seq,
            status=Status.OK,
            queue_s=started_s - entry.received_s,
            compute_s=ended_s - started_s,
            server_s=time.monotonic() - entry.received_s,
            outputs=outputs,
            batched_with=batch - 1,
        )


def give(entry: Entry, reply: Reply) -> None:
    """Hand the answer over, whatever becomes of it: one robot's fault must not end the others'
    service."""
    try:
        entry.answer(reply)
    except Exception:
        logging.getLogger(__name__).exception('reply %d could not be given', reply.seq)
