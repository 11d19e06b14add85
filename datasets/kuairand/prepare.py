"""Turns KuaiRand (Pure, 1K or 27K) into the datasets of easq-rec: `requests/`, `answers/` and `random/requests/`.

    python datasets/kuairand/prepare.py --raw KuaiRand-1K --out kuairand

The logs are larger than memory, so they pass through files twice: impressions are distributed over parts by user, each
part is grouped into requests, and these are merged in time order. `README.md` documents the mapping of columns.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
from kuairand_csv import (
    RANDOM,
    RANDOM_EXPOSURE,
    VARIANTS,
    WITHOUT,
    Files,
    Int,
    Users,
    Videos,
    find_files,
    log_blocks,
    read_users,
    read_videos,
)
from kuairand_requests import Columns, Grouping, build, in_time_order, select, to_tables

from easq_rec.data.writer import ROW_GROUP, PartWriter, check_unused, published
from easq_rec.errors import UserError

WINDOW_S = {"pure": 86_400, "1k": 600, "27k": 600}
PART_ROWS = 1_000_000
"""Approximate number of impressions in a part, which is held in memory."""
SLICE_ROWS = 200_000
"""Approximate number of impressions in a time slice, which is merged in memory."""
BYTES_PER_ROW = 70
"""Approximate bytes per row of a log file, used to choose the number of parts."""
MINUTE_MS = 60_000
MAX_WINDOW_S = 31 * 86_400
FILE_ROW_GROUPS = 256
SPILL = pa.ipc.IpcWriteOptions(compression="lz4")
KINDS = ("standard", "random")


def spread(files: Files, folder: Path, counts: Counter[str]) -> tuple[list[Path], Counter[int]]:
    """Writes the impressions of all logs to one file per part of the users, in log order.

    Returns the files and the number of impressions in each minute.
    """
    size = sum(path.stat().st_size for path in files.logs)
    parts = math.ceil(size / BYTES_PER_ROW / PART_ROWS)
    paths = [folder / f"impressions-{part:05d}.arrow" for part in range(parts)]
    minutes: Counter[int] = Counter()
    with ExitStack() as stack:
        writers: list[pa.ipc.RecordBatchStreamWriter | None] = [None] * parts
        for log in files.logs:
            before = counts["rows"]
            for columns in log_blocks(log, counts):
                minute, times = np.unique(columns["time_ms"] // MINUTE_MS, return_counts=True)
                minutes.update(dict(zip(minute.tolist(), times.tolist(), strict=True)))
                part_of = columns["user"] % parts
                order = np.argsort(part_of, kind="stable")
                batch = pa.record_batch({name: values[order] for name, values in columns.items()})
                for part, start, count in zip(*_runs(part_of[order]), strict=True):
                    writer = writers[part]
                    if writer is None:
                        sink = stack.enter_context(pa.OSFile(str(paths[part]), "wb"))
                        writer = stack.enter_context(pa.ipc.new_stream(sink, batch.schema, options=SPILL))
                        writers[part] = writer
                    writer.write_batch(batch.slice(start, count))
            print(f"{log.name}: {counts['rows'] - before:,} rows", file=sys.stderr, flush=True)
    if not counts["rows"]:
        raise UserError(f"{files.logs[0].parent}: the logs have no rows: expected at least one")
    return [path for path in paths if path.exists()], minutes


def group(
    paths: Sequence[Path], edges: Int, groupings: dict[str, Grouping], folder: Path, counts: Counter[str]
) -> dict[str, list[Path]]:
    """Groups the impressions of every part into requests: one file per part and kind, one record batch per time slice.

    Answers and histories use only standard exposures, so that outcomes of random exposures are only in `random/`.
    """
    result: dict[str, list[Path]] = {kind: [] for kind in KINDS}
    for path in paths:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_stream(source).read_all()
            rows: Columns = in_time_order({name: table[name].to_numpy() for name in table.column_names}, counts)
            del table
        path.unlink()
        exposed = (rows["flags"] & RANDOM_EXPOSURE) > 0
        standard = select(rows, ~exposed)
        for kind, impressions in zip(KINDS, (standard, select(rows, exposed)), strict=True):
            requests = build(impressions, standard, groupings[kind], ask=kind == "standard")
            cuts = np.searchsorted(requests["timestamp_ms"].to_numpy(), edges, side="left")
            bounds = [0, *cuts.tolist(), requests.num_rows]
            target = folder / f"{kind}-{path.name}"
            with pa.OSFile(str(target), "wb") as sink, pa.ipc.new_file(sink, requests.schema, options=SPILL) as writer:
                for start, end in itertools.pairwise(bounds):
                    writer.write_batch(requests.slice(start, end - start))
            result[kind].append(target)
    return result


def merge(
    paths: Sequence[Path], users: Users, videos: Videos, writers: Sequence[PartWriter], counts: Counter[str]
) -> None:
    """Writes the requests of all parts in time order, with their features; every file has the same time slices.

    Args:
        writers: writer of the requests and, if there are two, of the answers.
    """
    with ExitStack() as stack:
        sources = [stack.enter_context(pa.memory_map(str(path))) for path in paths]
        readers = [stack.enter_context(pa.ipc.open_file(source)) for source in sources]
        for index in range(readers[0].num_record_batches):
            table = pa.Table.from_batches([reader.get_batch(index) for reader in readers])
            order = np.lexsort((table["user"].to_numpy(), table["timestamp_ms"].to_numpy()))
            part = table.take(pa.array(order))
            tables = to_tables(part, writers[0].rows, users, videos, counts)
            for writer, written in zip(writers, tables[: len(writers)], strict=True):
                writer.write(written)
    for writer in writers:
        writer.close()


def prepare(
    raw: Path,
    out: Path,
    *,
    reveal: float = 0.05,
    seed: int = 0,
    candidates: int = 12,
    window: int | None = None,
    random_window: int = 86_400,
    history: int = 50,
    variant: str | None = None,
) -> str:
    """Writes `out` atomically and returns a summary; windows are in seconds.

    Logs that are missing are named on stderr, each in one line that says what the datasets lack without it.
    """
    limits: tuple[tuple[str, float, bool, str], ...] = (
        ("reveal", reveal, 0 <= reveal <= 1, "between 0 and 1"),
        ("seed", seed, 0 <= seed < 2**63, "0 or more"),
        ("candidates", candidates, candidates >= 2, "at least 2"),
        ("window", window or 1, window is None or 0 <= window <= MAX_WINDOW_S, f"between 0 and {MAX_WINDOW_S}"),
        ("random-window", random_window, 0 <= random_window <= MAX_WINDOW_S, f"between 0 and {MAX_WINDOW_S}"),
        ("history", history, history >= 1, "at least 1"),
    )
    for name, value, allowed, expected in limits:
        if not allowed:
            raise UserError(f"--{name} {value}: expected {expected}")
    check_unused(out)
    files = find_files(raw, variant)
    for name in files.missing:
        print(f"missing: {name}_{files.variant}.csv: {WITHOUT[name]}", file=sys.stderr, flush=True)
    standard = Grouping(
        window_ms=1_000 * (WINDOW_S[files.variant] if window is None else window),
        candidates=candidates,
        history=history,
        reveal=reveal,
        seed=seed,
    )
    groupings = {"standard": standard, "random": dataclasses.replace(standard, window_ms=1_000 * random_window)}
    counts: Counter[str] = Counter()
    # Feature files first: they are much smaller than the logs, so that their errors are found early.
    users, videos = read_users(files.users, counts), read_videos(files.videos)

    with published(out) as folder:
        spill = folder / "spill"
        spill.mkdir()
        parts, minutes = spread(files, spill, counts)
        grouped = group(parts, time_edges(minutes), groupings, spill, counts)
        requests, answers, exposed = (
            PartWriter(folder / name, row_group=ROW_GROUP, part_row_groups=FILE_ROW_GROUPS)
            for name in ("requests", "answers", "random/requests")
        )
        merge(grouped["standard"], users, videos, (requests, answers), counts)
        merge(grouped["random"], users, videos, (exposed,), counts)
        if RANDOM in files.missing and not exposed.rows:
            # Without the log of random exposures an empty dataset would look as if nothing had been exposed.
            shutil.rmtree(folder / "random")
        shutil.rmtree(spill)
    counts.update({"requests": requests.rows, "requests with answers": answers.rows, "random requests": exposed.rows})
    return "\n".join([f"{out}: KuaiRand-{files.variant}", *(f"  {n:>13,}  {name}" for name, n in counts.items())])


def time_edges(minutes: Counter[int]) -> Int:
    """Times in milliseconds that split the log into slices of about `SLICE_ROWS` impressions."""
    ordered = sorted(minutes)
    slices = np.cumsum([minutes[minute] for minute in ordered]) // SLICE_ROWS
    return np.array(ordered, dtype=np.int64)[1:][np.diff(slices) > 0] * MINUTE_MS


def _runs(values: Int) -> tuple[list[int], list[int], list[int]]:
    """(value, start, length) of every run of equal values."""
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
    return values[starts].tolist(), starts.tolist(), np.diff(np.r_[starts, len(values)]).tolist()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Turns KuaiRand into the datasets requests/, answers/ and random/requests/ of easq-rec.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--raw", type=Path, required=True, help="unpacked archive, or its folder data/")
    parser.add_argument("--out", type=Path, required=True, help="directory to write; must not exist or be empty")
    parser.add_argument("--reveal", type=float, default=0.05, help="share of explicit signals revealed as answers")
    parser.add_argument("--seed", type=int, default=0, help="seed of the revealed answers")
    parser.add_argument("--candidates", type=int, default=12, help="maximum number of impressions in a request")
    parser.add_argument("--window", type=int, help=f"maximum length of a request in seconds; None: one of {WINDOW_S}")
    parser.add_argument("--random-window", type=int, default=86_400, help="the same for random exposures")
    parser.add_argument("--history", type=int, default=50, help="maximum length of a written history, in videos")
    parser.add_argument("--variant", choices=VARIANTS, help="variant to convert, if the directory has several")
    options = parser.parse_args(arguments)
    try:
        print(prepare(**vars(options)))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
