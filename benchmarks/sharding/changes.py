"""Changes that make tables fit: each is tried by a new plan, free changes first, more hosts last."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.sharding.planning import SMALL_SHARE, TYPES, Cluster, NoPlan, Offer, Plan, tables_of
from easq_rec.config.schema import FeatureSchema, Table

Planner = Callable[[Cluster, Offer], Plan | NoPlan]

COLUMNS = 32
"""Narrowest column split to try: rows of 128 bytes in FP32."""
LOAD_FACTORS = (0.2, 0.1, 0.05)
HOST_TRIES = 4
"""Number of host counts to try, each a quarter larger than the previous one."""
MOST_RANKS = 1_024
"""Maximum number of ranks to try: the search for a larger plan would take minutes."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change of the planning problem."""

    name: str
    cluster: Cluster
    offer: Offer


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A change and the planner's result."""

    change: Change
    outcome: Plan | NoPlan


def try_changes(
    schema: FeatureSchema, cluster: Cluster, offer: Offer, failure: NoPlan, plan: Planner
) -> Iterator[Tried]:
    """Every kind of change, smallest cost first; of each kind the smallest that fits, or else the largest.

    More hosts are tried last, and only once with and once without the other changes.
    """
    kinds = (
        _columns(offer, cluster),
        _caching(schema, cluster, offer, failure, half=False),
        _halving(schema, cluster, offer, failure),
        _caching(schema, cluster, offer, failure, half=True),
        _more_hosts(cluster, offer, failure, 1.0),
    )
    fitted = False
    for kind in kinds:
        tried = _first_that_fits(kind, plan)
        if tried is not None:
            fitted |= isinstance(tried.outcome, Plan)
            yield tried
    if not fitted:
        # FP16 halves the weights; tables in host memory count for host memory.
        everything = dataclasses.replace(_everything(schema, cluster, offer), load_factor=LOAD_FACTORS[-1])
        found = _first_that_fits(_more_hosts(cluster, everything, failure, 0.5 * cluster.hbm / cluster.ddr), plan)
        if found is not None:
            yield found


def _first_that_fits(kind: Iterator[Change], plan: Planner) -> Tried | None:
    tried = None
    for change in kind:
        tried = Tried(change=change, outcome=plan(change.cluster, change.offer))
        if isinstance(tried.outcome, Plan):
            break
    return tried


def _columns(offer: Offer, cluster: Cluster) -> Iterator[Change]:
    """All types of splits, down to narrow columns."""
    if set(offer.types) != set(TYPES):
        name = f"split by rows and columns too: offer {', '.join(t for t in TYPES if t not in offer.types)}"
        yield Change(name=name, cluster=cluster, offer=dataclasses.replace(offer, types=TYPES))
    if offer.min_partition is None or offer.min_partition > COLUMNS:
        name = f"column-wise splits down to {COLUMNS} columns"
        wider = dataclasses.replace(offer, types=TYPES, min_partition=COLUMNS)
        yield Change(name=name, cluster=cluster, offer=wider)


def _caching(schema: FeatureSchema, cluster: Cluster, offer: Offer, failure: NoPlan, *, half: bool) -> Iterator[Change]:
    """Tables in host memory: first the tables that do not fit, then twice as many, then all; then smaller caches."""
    large = [table.name for table in _large(schema, cluster)]
    counts = list(_doubling(max(len(failure.left_over), 1), len(large)))
    stored = frozenset(large) if half else offer.half
    steps = [(count, LOAD_FACTORS[0]) for count in counts] + [(len(large), load) for load in LOAD_FACTORS[1:]]
    for count, load in steps:
        name = f"UVM caching of the {count} largest tables with load factor {load}"
        if half:
            name = f"FP16 for the {len(large)} largest tables and {name}"
        more = dataclasses.replace(offer, cached=frozenset(large[:count]), load_factor=load, half=stored)
        yield Change(name=name, cluster=cluster, offer=more)


def _halving(schema: FeatureSchema, cluster: Cluster, offer: Offer, failure: NoPlan) -> Iterator[Change]:
    """FP16 weights: first the tables that do not fit, then twice as many, then all."""
    large = [table.name for table in _large(schema, cluster)]
    for count in _doubling(max(len(failure.left_over), 1), len(large)):
        more = dataclasses.replace(offer, half=offer.half | frozenset(large[:count]))
        yield Change(name=f"FP16 for the {count} largest tables", cluster=cluster, offer=more)


def _more_hosts(cluster: Cluster, offer: Offer, failure: NoPlan, share: float) -> Iterator[Change]:
    """More hosts, starting at the minimum for the bytes.

    Args:
        share: fraction of the missing bytes that `offer` saves.
    """
    bytes_needed = (failure.needed.hbm + failure.needed.ddr) * share
    least = max(cluster.hosts + 1, math.ceil(bytes_needed / (cluster.hbm * cluster.gpus)))
    for step in range(HOST_TRIES):
        hosts = math.ceil(least * 1.25**step)
        if hosts * cluster.gpus > MOST_RANKS:
            return
        name = f"{hosts} hosts instead of {cluster.hosts}"
        if offer.half:
            name += f", with FP16 and UVM caching (load factor {offer.load_factor}) of the {len(offer.half)} largest"
        yield Change(name=name, cluster=dataclasses.replace(cluster, hosts=hosts), offer=offer)


def _everything(schema: FeatureSchema, cluster: Cluster, offer: Offer) -> Offer:
    large = frozenset(table.name for table in _large(schema, cluster))
    return dataclasses.replace(offer, cached=large, half=large)


def _large(schema: FeatureSchema, cluster: Cluster) -> list[Table]:
    """Tables worth a change, largest first."""
    sizes = {table: table.rows * (4 * table.dim + 4) for table in tables_of(schema)}
    worth = [table for table, size in sizes.items() if size > SMALL_SHARE * cluster.hbm]
    return sorted(worth, key=lambda table: -sizes[table])


def _doubling(first: int, last: int) -> Iterator[int]:
    """first, 2 first, ..., and finally `last`."""
    yield from itertools.takewhile(lambda count: count < last, (first << step for step in itertools.count()))
    yield last
