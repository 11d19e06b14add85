"""What it costs to give rows to the ids of a step: CPU time per different id, by the size of the table.

    python -m benchmarks.id_map [--rounds 5] [--out FILE.json]

A step has up to 20,000 different ids. 2% of them are new, so as many rows change hands. The table is full before the
measurement begins. `admit_ns` is the time of giving rows to the ids of a step, and `lookup_ns` that of reading the rows
of these ids afterwards.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.report import hardware, publish
from easq_rec.config.schema import WAYS, Table
from easq_rec.data.encoding import id_sets
from easq_rec.data.id_map import IdMap, IdMapState

IDS = 20_000
NEW = 0.02
"""Share of the ids that have no row."""
ROWS = (65_536, 1_048_576, 8_388_608)
STEPS = 10


def measure(held: np.ndarray, admit_after: int, rng: np.random.Generator) -> dict[str, float]:
    """Nanoseconds of CPU time per different id.

    Args:
        held: the ids of all rows.
    """
    table = table_of(len(held), admit_after)
    state = IdMapState.empty(table)
    state.id_SW.flat[:] = held
    state.used_SW.flat[:] = rng.integers(0, 1_000, state.used_SW.size)
    map_ = IdMap(table, state)
    count = np.ones(IDS, np.int64)
    admit = lookup = 0.0
    for _ in range(STEPS):
        known = np.unique(map_.state.id_SW.flat[rng.integers(0, len(held), int(IDS * (1 - NEW)))])
        ids = np.concatenate([known, rng.integers(2**40, 2**62, IDS - len(known))])
        begin = time.process_time()
        map_.admit(ids, count)
        middle = time.process_time()
        map_.rows(ids)
        lookup += time.process_time() - middle
        admit += middle - begin
    return {"admit_ns": admit / STEPS / IDS * 1e9, "lookup_ns": lookup / STEPS / IDS * 1e9}


def table_of(rows: int, admit_after: int) -> Table:
    return Table(name="video", rows=rows + 1, dim=4, id_space="admitted", admit_after=admit_after)


def ids_of(rows: int, rng: np.random.Generator) -> np.ndarray:
    """An id for every row, each in its set."""
    table = table_of(rows, 1)
    found = np.full((table.sets, WAYS), -1, np.int64)
    filled = np.zeros(table.sets, np.int64)
    while (filled < WAYS).any():
        ids = np.unique(rng.integers(0, 2**39, 2 * table.sets * WAYS))
        sets = id_sets(ids, table.sets)
        order = np.argsort(sets, kind="stable")
        first = np.searchsorted(sets[order], np.arange(table.sets))
        place = filled[sets[order]] + np.arange(len(ids)) - first[sets[order]]
        fits = place < WAYS
        found[sets[order][fits], place[fits]] = ids[order][fits]
        filled = np.minimum(filled + np.bincount(sets, minlength=table.sets), WAYS)
    return found.flatten()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    rng = np.random.default_rng(0)
    held = {rows: ids_of(rows, rng) for rows in ROWS}
    found: dict[tuple[int, int], list[dict[str, float]]] = {(rows, after): [] for rows in ROWS for after in (1, 3)}
    for _ in range(args.rounds):
        for (rows, after), results in found.items():
            results.append(measure(held[rows], after, rng))
    lines = [
        {"rows": rows, "admit_after": after}
        | {name: round(statistics.median(one[name] for one in results)) for name in results[0]}
        for (rows, after), results in found.items()
    ]
    for line in lines:
        print(line)
    publish({"benchmark": "id_map", "ids": IDS, "new": NEW, "cases": lines, **hardware()}, args.out)


if __name__ == "__main__":
    main()
