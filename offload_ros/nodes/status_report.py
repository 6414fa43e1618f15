"""What ``status`` shows of an ``OffloadStatus`` message: models, links, servers."""

from __future__ import annotations

from collections.abc import Sequence
import math
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

_PARTS = ('robot_ms', 'uplink_ms', 'server_ms', 'downlink_ms')


def number(value: float, digits: int = 0) -> str:
    """A figure, or a dash where nothing is known."""
    return f'{value:.{digits}f}' if math.isfinite(value) else '-'


def report(status: Any) -> RenderableType:
    """All of one robot."""
    parts: list[RenderableType] = [_models(status.models)]
    for model in status.models:
        if model.reason:
            parts.append(Text(f'{model.model}: {model.reason}', style='dim'))
        elif model.plan:
            parts.append(Text(f'{model.model}: {model.plan}', style='dim'))
    parts.append(_servers(status.servers, status.links))
    return Group(*parts)


def _models(models: Sequence[Any]) -> Table:
    table = _table('model', 'strategy', 'Hz', 'robot+up+server+down = all (p95) ms', 'J', 'drops',
                   'fallbacks', 'late', 'errors')  # fmt: skip
    for each in models:
        asked, used = each.strategy_requested, each.strategy_used or '-'
        times = '+'.join(number(getattr(each, part)) for part in _PARTS)
        table.add_row(
            f'{each.model} ({each.variant})' if each.variant else each.model,
            used if used in (asked, '-') else f'{asked}: {used}',
            number(each.rate_hz, 1),
            f'{times} = {number(each.total_ms)} ({number(each.total_p95_ms)})',
            number(each.energy_j, 2),
            *(str(n) for n in (each.dropped, each.fallbacks, each.late, each.errors)),
        )
    return table


def _servers(servers: Sequence[Any], links: Sequence[Any]) -> RenderableType:
    if not servers:
        return Text('no server is there: the robot computes by itself', style='yellow')
    by_server = {link.server: link for link in links}
    table = _table('server', 'device', 'busy', 'queue', 'up Mbit/s (10 to 90 %)', 'down Mbit/s',
                   'round trip ms')  # fmt: skip
    for each in servers:
        link = by_server.get(each.server)
        row = ['not connected', '-', '-']
        if link is not None:
            row = [
                _bandwidth(link, 'up'),
                _bandwidth(link, 'down'),
                number(1e3 * link.round_trip_s, 1),
            ]
        table.add_row(
            each.server,
            each.device,
            f'{100 * each.busy:.0f} %',
            f'{each.queue_length}/{each.queue_limit}',
            *row,
        )
    return table


def _bandwidth(link: Any, way: str) -> str:
    low, usual, high = (
        8e-6 * getattr(link, f'{way}{name}_bytes_per_s') for name in ('_low', '', '_high')
    )
    return f'{number(usual, 1)} ({number(low, 1)} to {number(high, 1)})'


def _table(*headings: str) -> Table:
    table = Table()
    for heading in headings:
        words = heading in ('model', 'strategy', 'server', 'device')
        table.add_column(heading, justify='left' if words else 'right')
    return table
