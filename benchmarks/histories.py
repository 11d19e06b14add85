"""What do histories by reference save, and what do they cost?

Generates a raw log, builds requests with their histories in them (inline), converts them to histories by reference, and
compares the two layouts:

- bytes of all files,
- CPU seconds of the conversion, in a separate process,
- CPU seconds of reading: row groups to columns (decode), and a shuffled epoch to batches (loader), in turns within
  one process, after the histories have been decoded once for the machine,
- every column of every row group: they must be equal.

Prints one JSON line.

    python -m benchmarks.histories [--impressions 20000000] [--rounds 5] [--folder DIR] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from benchmarks.build import size_mib
from benchmarks.rawlog import write_log
from benchmarks.report import hardware, publish
from easq_rec.config.schema import FeatureSchema
from easq_rec.config.schema_file import load_schema
from easq_rec.data.columns import Array, Ragged
from easq_rec.data.dataset import RequestDataset
from easq_rec.data.histories import FOLDER
from easq_rec.data.layout import Layout
from easq_rec.data.loader import TrainLoader
from easq_rec.data.order import RequestReader

REQUESTS = 128
"""Per batch."""
WINDOW = 8
"""Row groups that are shuffled together (the default)."""
LAYOUTS = ("inline", "reference")


def command(*arguments: object) -> float:
    """Runs `easq-rec`; returns its CPU seconds."""
    begin = resource.getrusage(resource.RUSAGE_CHILDREN)
    line = [sys.executable, "-m", "easq_rec.cli", *map(str, arguments)]
    subprocess.run(line, check=True, stdout=sys.stderr)
    end = resource.getrusage(resource.RUSAGE_CHILDREN)
    return end.ru_utime + end.ru_stime - begin.ru_utime - begin.ru_stime


def decode(dataset: RequestDataset) -> int:
    return sum(len(dataset.read(group)) for group in dataset.row_groups)


def load(dataset: RequestDataset, schema: FeatureSchema) -> int:
    reader = RequestReader(dataset, batch_size=REQUESTS, shuffle_row_groups=WINDOW, spread=True)
    loader = TrainLoader(schema, reader, None)
    return sum(batch.stream.requests for batch, _ in loader.batches(loader.start(), steps=reader.steps_per_epoch))


def measured(read: Callable[[], int], requests: int) -> float:
    """CPU seconds per million requests."""
    begin = time.process_time()
    assert read() == requests
    return 1e6 * (time.process_time() - begin) / requests


def compared(one: RequestDataset, other: RequestDataset) -> int:
    """Number of equal requests. Fails at the first row group that differs."""
    for mine, theirs in zip(one.row_groups, other.row_groups, strict=True):
        a, b = one.read(mine), other.read(theirs)
        assert a.scalars.keys() == b.scalars.keys() and a.lists.keys() == b.lists.keys()
        for name in (*a.scalars, *a.lists):
            assert same(a.column(name), b.column(name)), (mine, name)
        assert same(a.history, b.history) and same(a.candidates, b.candidates), mine
    return sum(group.rows for group in one.row_groups)


def same(one: Array | Ragged, other: Array | Ragged) -> bool:
    if isinstance(one, Ragged):
        assert isinstance(other, Ragged)
        return np.array_equal(one.offsets, other.offsets) and all(
            same(child, other.children[name]) for name, child in one.children.items()
        )
    assert not isinstance(other, Ragged)
    return one.dtype == other.dtype and np.array_equal(one, other)


def measure(folder: Path, impressions: int, rounds: int) -> dict[str, object]:
    logs = write_log(folder / "raw", impressions)
    build_s = command("data", "build", "--config", logs, "--out", folder / "inline")
    convert_s = command("data", "convert", folder / "inline", "--out", folder / "reference", "--histories", "reference")
    command("data", "inspect", folder / "inline", "--out", folder / "inspected")
    schema = load_schema(folder / "inspected" / "schema.toml")
    datasets = {name: RequestDataset(folder / name / "requests", Layout.of(schema)) for name in LAYOUTS}
    requests = compared(datasets["inline"], datasets["reference"])
    found: dict[str, dict[str, list[float]]] = {stage: {name: [] for name in LAYOUTS} for stage in ("decode", "loader")}
    for _ in range(rounds):
        for name, dataset in datasets.items():
            found["decode"][name].append(measured(lambda dataset=dataset: decode(dataset), requests))
            found["loader"][name].append(measured(lambda dataset=dataset: load(dataset, schema), requests))
    medians = {stage: {name: statistics.median(cpu) for name, cpu in one.items()} for stage, one in found.items()}
    mib = {name: size_mib(folder / name) for name in LAYOUTS}
    return {
        "impressions": impressions,
        "equal_requests": requests,
        "mib": mib,
        "histories_mib": size_mib(folder / "reference" / FOLDER),
        "bytes_ratio": round(mib["reference"] / mib["inline"], 3),
        "build_cpu_s": round(build_s, 1),
        "convert_cpu_s": round(convert_s, 1),
        "cpu_s_per_million_requests": {
            stage: {name: round(cpu, 2) for name, cpu in one.items()} for stage, one in medians.items()
        },
        "speed_ratio": {stage: round(one["inline"] / one["reference"], 3) for stage, one in medians.items()},
        "rounds": rounds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impressions", type=int, default=20_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="directory of the log and the data, which are removed")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    folder = Path(tempfile.mkdtemp(prefix="easq-histories-", dir=args.folder))
    try:
        result = measure(folder, args.impressions, args.rounds)
    finally:
        shutil.rmtree(folder)
    versions = {name: importlib.metadata.version(name) for name in ("duckdb", "pyarrow", "numpy")}
    publish({"benchmark": "histories", **result, **versions, **hardware()}, args.out)


if __name__ == "__main__":
    main()
