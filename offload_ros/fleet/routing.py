"""Offloading: the best shares of queries for what is loaded, a linear program, and its prices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.optimize import linprog

from offload_ros.fleet.options import Flags, Floats, Ints, Options

INTERIOR_POINT_FROM = 4_000  # columns; below it the dual simplex method is faster


@dataclass(frozen=True, eq=False)
class Routing:
    """value: right answers per s; share (O,) of the queries of each option; price (R + 1,): what
    more of a resource would be worth, right answers per s."""

    value: float
    share: Floats
    price: Floats


@dataclass(frozen=True, eq=False)
class LeastUse:
    """Rows beside those of every routing: of each candidate at least so many queries per s.

    candidates (K,), queries_per_s (K,), above 0.
    """

    candidates: Ints
    queries_per_s: Floats


class Columns(NamedTuple):
    """Of a routing program: value (N,), query (N,), resources and use of them (N, k); any
    numbering of queries and resources, these below ``len(limit)``."""

    value: Floats
    query: Ints
    resources: Ints
    use: Floats
    limit: Floats


def undominated(options: Options, usable: Flags, use: Floats) -> Ints:
    """Places of usable options, without those for which another on the same path is as accurate
    and computes no longer."""
    at: Ints = np.flatnonzero(usable)
    if not len(at):
        return at
    group = options.query[at] * np.int64(len(options.paths)) + options.path[at]
    computing = use[at, 0]
    order = np.lexsort((computing, -options.value[at], group))
    group, computing = group[order], computing[order]
    number = np.cumsum(np.concatenate([[0], np.diff(group) != 0]))
    # The running minimum begins anew with each group, as later ones lie lower.
    key = computing / (computing.max() or 1.0) - 2.0 * number
    before = np.concatenate([[np.inf], np.minimum.accumulate(key)[:-1]])
    return np.sort(at[order[key < before]])


def route(
    options: Options,
    usable: Flags,
    use: Floats | None = None,
    least: LeastUse | None = None,
) -> Routing | None:
    """The optimum over ``usable`` options (O,), which need ``use`` (O, 3; default: unbatched).

    ``None`` where ``least`` cannot be had. ``RuntimeError`` where the solver fails.
    """
    use = options.use if use is None else use
    # What a least use asks for may be any of the options.
    at = undominated(options, usable, use) if least is None else np.flatnonzero(usable)
    share = np.zeros(len(options))
    if not len(at):
        return Routing(0.0, share, np.zeros(len(options.limit)))
    columns = Columns(
        options.value[at], options.query[at], options.resources[at], use[at], options.limit
    )
    more: list[tuple[sparse.csr_array, Floats]] = []
    if least is not None and len(least.candidates):
        row = np.full(len(options.node), -1)
        row[least.candidates] = np.arange(len(least.candidates))
        rows = row[options.candidate[at]]
        of_row = np.flatnonzero(rows >= 0)
        # In shares of what is asked for, so that the solver's tolerance is relative to that.
        entries = -options.rate[options.query[at[of_row]]] / least.queries_per_s[rows[of_row]]
        shape = (len(least.candidates), len(at))
        matrix = sparse.csr_array((entries, (rows[of_row], of_row)), shape=shape)
        more.append((matrix, np.full(len(least.candidates), -1.0)))
    solved = solve(columns, more)
    if solved is None:
        return None
    share[at], price = solved
    return Routing(float(options.value @ share), share, price)


def solve(
    columns: Columns, more: list[tuple[sparse.csr_array, Floats]] | None = None
) -> tuple[Floats, Floats] | None:
    """(N,) shares of the greatest value, at most 1 of each query, within limits; and the prices
    (len(limit),) of these.

    more: rows and what they are at most. ``None`` where nothing is within those.
    """
    number = np.arange(len(columns.value))
    queries, query_row = np.unique(columns.query, return_inverse=True)
    scarce = _may_bind(columns)
    resource_row = np.full(len(columns.limit), -1)
    resource_row[scarce] = len(queries) + np.arange(len(scarce))
    entry_row = resource_row[columns.resources]
    there = (entry_row >= 0) & (columns.use > 0.0)
    matrix = sparse.csr_array(
        (
            np.concatenate([np.ones(len(number)), columns.use[there]]),
            (
                np.concatenate([query_row, entry_row[there]]),
                np.concatenate([number, np.broadcast_to(number[:, None], there.shape)[there]]),
            ),
        ),
        shape=(len(queries) + len(scarce), len(number)),
    )
    upper = np.concatenate([np.ones(len(queries)), columns.limit[scarce]])
    for rows, most in more or ():
        matrix, upper = sparse.vstack([matrix, rows]), np.concatenate([upper, most])
    interior = len(number) >= INTERIOR_POINT_FROM
    solved = linprog(
        -columns.value,
        A_ub=matrix.tocsc(),
        b_ub=upper,
        method='highs-ipm' if interior else 'highs-ds',
        options={'presolve': interior},  # takes longer than it saves where programs are small
    )
    if solved.status == 2 and more:
        return None
    if solved.x is None or solved.status != 0:
        raise RuntimeError(f'the linear program was not solved: {solved.message}')
    price = np.zeros(len(columns.limit))
    marginals = solved.ineqlin.marginals[len(queries) : len(queries) + len(scarce)]
    price[scarce] = np.maximum(-marginals, 0.0)
    return np.clip(solved.x, 0.0, 1.0), price


def _may_bind(columns: Columns) -> Ints:
    """Resources that all queries together could exhaust."""
    queries = np.int64(columns.query.max() + 1)
    most = np.zeros(len(columns.limit))
    for each in range(columns.resources.shape[1]):
        finite = np.isfinite(columns.limit[columns.resources[:, each]])
        key = columns.resources[finite, each] * queries + columns.query[finite]
        order = np.argsort(key, kind='stable')
        key, used = key[order], columns.use[finite, each][order]
        if not len(key):
            continue
        begin = np.flatnonzero(np.concatenate([[True], np.diff(key) != 0]))
        most += np.bincount(
            key[begin] // queries, np.maximum.reduceat(used, begin), minlength=len(most)
        )
    found: Ints = np.flatnonzero(most > columns.limit)
    return found
