"""How fast are requests read, and how much memory does it take?

Writes requests of the reference workload (12 candidates, 50 history entries, three tags) as Parquet with zstd, and
reads them on one core, in short turns within one process:

- dictionary:  row groups to columns, of files as pyarrow writes them by default
- decode:      row groups to columns, of files as this project writes them
- collate:     decoded columns in time order to KJT-ready batches
- in_order:    all stages in time order: decode, slice, collate
- loader:      all stages with shuffle and replayed answers
- flat_rows:   the same impressions as flat rows, by pandas, a DataLoader over shuffled rows, and a collate of dicts

Also measures loading as a share of the training step's CPU time, and the resident memory of a reader on a small dataset
and on one of many gigabytes (copies of the same files).
Prints one JSON line.

    python -m benchmarks.data [--requests 65536] [--gigabytes 10] [--scratch DIR] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.reference_files import to_table, write
from benchmarks.report import hardware, publish
from benchmarks.train_step import CANDIDATES, REQUESTS, Step, measure, random_requests, reference_config
from easq_rec.config import Config, Replay
from easq_rec.data.batch import collate
from easq_rec.data.columns import RequestColumns
from easq_rec.data.dataset import RequestDataset
from easq_rec.data.encode import encode
from easq_rec.data.layout import Layout
from easq_rec.data.loader import TrainLoader
from easq_rec.data.order import RequestReader
from easq_rec.data.replay import AnswerReplay
from easq_rec.training.memory import HostMemory
from easq_rec.training.process import running

WINDOW = 8
"""Row groups that are shuffled together (the default)."""
FLAT_REQUESTS = 2_048
"""Flat rows are so slow that only a small part of them is read."""


def write_plain(requests: Path, file: Path) -> None:
    """The row groups of a dataset as pyarrow writes them by default, with zstd."""
    plain: pq.ParquetWriter | None = None
    for part in sorted(requests.rglob("*.parquet")):
        source = pq.ParquetFile(part)
        for group in range(source.num_row_groups):
            table = source.read_row_group(group)
            plain = plain or pq.ParquetWriter(file, table.schema, compression="zstd")
            plain.write_table(table)
    assert plain is not None
    plain.close()


def open_requests(config: Config, folder: Path, *, answers: bool = False) -> RequestDataset:
    return RequestDataset(folder, Layout.of(config.schema, answers=answers), max_history=config.data.max_history)


class Readers:
    """The readers, each a function that returns the number of impressions read."""

    def __init__(self, config: Config, folder: Path) -> None:
        self._config = config
        self._requests = open_requests(config, folder / "requests")
        self._plain = open_requests(config, folder / "dictionary")
        answers = open_requests(config, folder / "answers", answers=True).read_all()
        assert answers is not None
        self._answers = encode(Layout.of(config.schema, answers=True), answers)
        self._decoded = [self._requests.read(group) for group in self._requests.row_groups[:WINDOW]]
        self._encoded = [encode(self._requests.layout, columns) for columns in self._decoded]

    def dictionary(self) -> int:
        return self._decode(self._plain)

    def decode(self) -> int:
        return self._decode(self._requests)

    def _decode(self, dataset: RequestDataset) -> int:
        return sum(_impressions(dataset.read(group)) for group in dataset.row_groups)

    def encode(self) -> int:
        return sum(_impressions(encode(self._requests.layout, columns)) for columns in self._decoded)

    def collate(self) -> int:
        count = 0
        for columns in self._encoded:
            for begin in range(0, len(columns), REQUESTS):
                part = columns.slice(begin, min(begin + REQUESTS, len(columns)))
                count += collate(self._config.schema, part).stream.candidates
        return count

    def in_order(self) -> int:
        return self._load(RequestReader(self._requests, batch_size=REQUESTS), None)

    def loader(self) -> int:
        replay = AnswerReplay(
            self._answers,
            Replay(),
            until_ms=2**62,
            ranked=self._config.ranked_answers,
            slates=self._config.losses.slates,
            seed=0,
        )
        reader = RequestReader(self._requests, batch_size=REQUESTS, shuffle_row_groups=WINDOW, spread=True)
        return self._load(reader, replay)

    def _load(self, reader: RequestReader, replay: AnswerReplay | None) -> int:
        loader = TrainLoader(self._config.schema, reader, replay)
        return sum(b.stream.candidates for b, _ in loader.batches(loader.start(), steps=reader.steps_per_epoch))


def _impressions(columns: RequestColumns) -> int:
    return int(columns.candidates.offsets[-1])


class FlatRows(Dataset[dict[str, object]]):
    """One impression per row, with its user's features and history repeated, as in flat logs."""

    def __init__(self, file: Path) -> None:
        self._rows = pd.read_parquet(file)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, object]:
        return dict(self._rows.iloc[index])


def write_flat(file: Path, requests: int) -> None:
    """The reference workload as flat rows."""
    table = to_table(random_requests(requests, np.random.default_rng(0)))
    rows = []
    for request in table.to_pylist():
        history = {f"history_{name}": [entry[name] for entry in request["history"]] for name in request["history"][0]}
        shared = {"user_id": request["user_id"], **request["user"], **history}
        rows += [{**shared, **candidate} for candidate in request["candidates"]]
    pq.write_table(pa.Table.from_pylist(rows), file, compression="zstd")


def collate_flat(rows: list[dict[str, object]]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """(values, lengths) of each column of a batch."""
    batch = {}
    for name in rows[0]:
        values = [np.atleast_1d(np.asarray(row[name])) for row in rows]
        lengths = torch.tensor([len(value) for value in values])
        batch[name] = torch.from_numpy(np.concatenate(values)), lengths
    return batch


def read_flat(file: Path) -> int:
    """Number of impressions in one shuffled epoch, starting from the file."""
    loader = DataLoader(FlatRows(file), batch_size=REQUESTS * CANDIDATES, shuffle=True, collate_fn=collate_flat)
    return sum(len(batch["user_id"][1]) for batch in loader)


def seconds_per_million(read: Callable[[], int]) -> float:
    """CPU seconds per million impressions."""
    begin = time.process_time()
    count = read()
    return 1e6 * (time.process_time() - begin) / count


def memory(folder: Path) -> dict[str, float]:
    """Resident MiB of a process that reads one epoch of a folder, one thread decoding and two batches ahead."""
    code = "from benchmarks.data import walk; import sys; walk(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], check=True, capture_output=True, text=True
    ).stdout.splitlines()[-1]
    found: dict[str, float] = json.loads(done)
    return found


def walk(folder: str) -> None:
    """Reads one epoch in this process, in the background; prints resident MiB before and at the peak."""
    from benchmarks.train_step import resident_mib

    config = reference_config()
    data = config.data
    before = resident_mib("VmRSS")
    dataset = open_requests(config, Path(folder))
    reader = RequestReader(
        dataset, batch_size=REQUESTS, shuffle_row_groups=data.shuffle_row_groups, spread=True, workers=1
    )
    loader = TrainLoader(config.schema, reader, None, prefetch=2)
    begin, count = time.perf_counter(), 0
    for batch, _ in loader.batches(loader.start(), steps=reader.steps_per_epoch):
        count += batch.stream.candidates
    result = {
        "gigabytes": round(sum(file.stat().st_size for file in Path(folder).rglob("*.parquet")) / 1e9, 2),
        "impressions": count,
        "wall_seconds": round(time.perf_counter() - begin, 1),
        "resident_before": round(before),
        "peak_above": round(resident_mib("VmHWM") - before),
    }
    print(json.dumps(result))


def grow(folder: Path, out: Path, gigabytes: float) -> None:
    """Copies a dataset's files until they have `gigabytes` GB."""
    files, size, number = sorted(folder.rglob("*.parquet")), 0, 0
    out.mkdir()
    while size < gigabytes * 1e9:
        copy = out / f"{number:06d}.parquet"
        shutil.copyfile(files[number % len(files)], copy)
        size, number = size + copy.stat().st_size, number + 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=65_536)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--gigabytes", type=float, default=10.0, help="size of the large dataset; 0: none")
    parser.add_argument("--scratch", type=Path, help="directory of the datasets; None: the temporary directory")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    config = reference_config()
    with tempfile.TemporaryDirectory(dir=args.scratch) as name:
        folder = Path(name)
        write(folder, args.requests)
        (folder / "dictionary").mkdir()
        write_plain(folder / "requests", folder / "dictionary" / "part.parquet")
        write_flat(folder / "flat.parquet", FLAT_REQUESTS)
        readers = Readers(config, folder)
        ways = {
            name: getattr(readers, name) for name in ("dictionary", "decode", "encode", "collate", "in_order", "loader")
        }
        measured: dict[str, list[float]] = {name: [] for name in (*ways, "step")}
        with running(config.trainer) as runtime:
            step = Step(config, runtime)
            with HostMemory() as host:
                measure(step, 10)
                host.step(1)
                for _ in range(args.rounds):
                    for name, read in ways.items():
                        measured[name].append(seconds_per_million(read))
                    impressions, seconds = measure(step, 20)
                    measured["step"].append(1e6 * seconds / impressions)
        middle = {name: statistics.median(values) for name, values in measured.items()}
        flat = seconds_per_million(lambda: read_flat(folder / "flat.parquet"))
        sizes = {
            name: round(sum(file.stat().st_size for file in (folder / name).rglob("*.parquet")) / 2**20, 1)
            for name in ("requests", "dictionary")
        }
        resident = {"small": memory(folder / "requests")}
        if args.gigabytes:
            grow(folder / "requests", folder / "large", args.gigabytes)
            resident["large"] = memory(folder / "large")
    result = {
        "benchmark": "data",
        "requests": args.requests,
        "million_impressions_per_cpu_second": {name: round(1 / middle[name], 3) for name in ways},
        "million_flat_rows_per_cpu_second": round(1 / flat, 4),
        "loader_over_flat_rows": round(flat / middle["loader"], 1),
        "loading_share_of_step": round(middle["loader"] / middle["step"], 4),
        "mib_on_disk": sizes,
        "resident_mib": resident,
        "pyarrow": pa.__version__,
        "pandas": pd.__version__,
        **hardware(),
    }
    publish(result, args.out)


if __name__ == "__main__":
    main()
