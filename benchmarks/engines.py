"""Which engine joins impressions into requests with the least CPU time and memory?

    python -m benchmarks.engines [--impressions 2000000] [--out FILE]

Each engine does the same core work in a separate process with two threads: join videos, group impressions into
requests, give each request the last 50 watched impressions of its user that had ended by then, and write nested lists
to Parquet (zstd). The forms of an engine are ways to compute the history; all must give the same sums.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.rawlog import START_MS, write_log

HISTORY = 50
THREADS = 2

DUCKDB_START = """
CREATE TEMP TABLE shown AS
SELECT i.*, v.author_id, v.duration_ms, i.served_ms + i.watch_ms AS known_ms, i.watch_ms / v.duration_ms AS ratio,
       row_number() OVER (
           PARTITION BY i.user_id, i.watch_ms > 0 ORDER BY i.served_ms + i.watch_ms, i.served_ms, i.video_id
       ) AS place
FROM read_parquet('{raw}/impressions/*.parquet') i
JOIN (FROM read_parquet('{raw}/videos.parquet') WHERE since_ms < {start}) v USING (video_id);
CREATE TEMP TABLE requests AS
SELECT request_id, user_id, min(served_ms) AS timestamp_ms,
       list({{video_id: video_id, author_id: author_id, duration_ms: duration_ms, watch_ms: watch_ms, "like": "like"}}
            ORDER BY served_ms, video_id) AS candidates
FROM shown GROUP BY request_id, user_id;
CREATE TEMP TABLE ends AS
SELECT r.request_id, r.user_id, r.timestamp_ms, w.place
FROM requests r ASOF LEFT JOIN
     (SELECT user_id, known_ms, max(place) AS place FROM shown WHERE watch_ms > 0 GROUP BY user_id, known_ms) w
     ON r.user_id = w.user_id AND r.timestamp_ms >= w.known_ms;
"""
ENTRY = "{video_id: video_id, author_id: author_id, timestamp_ms: served_ms, watch_ratio: ratio::FLOAT}"
DUCKDB = {
    # One row per history entry, found by its position, then grouped again.
    "join": f"""
CREATE TEMP TABLE histories AS
SELECT e.request_id, list({ENTRY} ORDER BY place) AS history
FROM (SELECT request_id, user_id, unnest(range(greatest(place - {HISTORY}, 0) + 1, place + 1)) AS place FROM ends) e
JOIN (FROM shown WHERE watch_ms > 0) USING (user_id, place) GROUP BY e.request_id;
""",
    # One list per user; every request takes a slice of it.
    "slice": f"""
CREATE TEMP TABLE histories AS
SELECT request_id, list_slice(watched, greatest(place - {HISTORY}, 0) + 1, place) AS history
FROM ends JOIN (SELECT user_id, list({ENTRY} ORDER BY place) AS watched FROM shown WHERE watch_ms > 0 GROUP BY user_id)
     USING (user_id) WHERE place IS NOT NULL;
""",
}
DUCKDB_END = """
COPY (SELECT request_id, user_id, timestamp_ms, coalesce(history, []) AS history, candidates
      FROM requests LEFT JOIN histories USING (request_id) ORDER BY timestamp_ms, request_id)
TO '{out}' (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 2048);
"""


def run_duckdb(raw: Path, out: Path, form: str) -> None:
    import duckdb

    connection = duckdb.connect(":memory:", config={"threads": THREADS, "memory_limit": "12GB"})
    for part in (DUCKDB_START, DUCKDB[form], DUCKDB_END):
        connection.execute(part.format(raw=raw, out=out, start=START_MS) if part is not DUCKDB[form] else part)


def run_polars(raw: Path, out: Path, form: str) -> None:
    import polars as pl

    videos = pl.scan_parquet(raw / "videos.parquet").filter(pl.col("since_ms") < START_MS)
    shown = (
        pl.scan_parquet(raw / "impressions" / "*.parquet")
        .join(videos.select("video_id", "author_id", "duration_ms"), on="video_id")
        .with_columns(
            known_ms=pl.col("served_ms") + pl.col("watch_ms"),
            ratio=(pl.col("watch_ms") / pl.col("duration_ms")).cast(pl.Float32),
        )
        .collect(engine="streaming")
        .lazy()
    )
    watched = (
        shown.filter(pl.col("watch_ms") > 0)
        .sort("user_id", "known_ms", "served_ms", "video_id")
        .with_columns(place=pl.int_range(pl.len()).over("user_id"))
        .collect(engine="streaming")
        .lazy()
    )
    names = ("video_id", "author_id", "duration_ms", "watch_ms", "like")
    requests = (
        shown.sort("served_ms", "video_id")
        .group_by("request_id", "user_id", maintain_order=True)
        .agg(timestamp_ms=pl.col("served_ms").min(), candidates=pl.struct(*names))
        .sort("timestamp_ms", "request_id")
        .collect(engine="streaming")
        .lazy()
    )
    known = watched.select("user_id", "known_ms", "place").sort("known_ms", "place")
    ends = requests.select("request_id", "user_id", "timestamp_ms").join_asof(
        known, left_on="timestamp_ms", right_on="known_ms", by="user_id", strategy="backward", check_sortedness=False
    )
    entry = pl.struct("video_id", "author_id", pl.col("served_ms").alias("timestamp_ms"), pl.col("ratio"))
    first = (pl.col("place") - HISTORY + 1).clip(lower_bound=0)
    if form == "join":
        places = pl.int_ranges(first, pl.col("place") + 1).alias("place")
        histories = (
            ends.filter(pl.col("place").is_not_null())
            .select("request_id", "user_id", places)
            .explode("place")
            .join(watched, on=["user_id", "place"], maintain_order="left")
            .group_by("request_id", maintain_order=True)
            .agg(history=entry)
        )
    else:
        lists = watched.group_by("user_id", maintain_order=True).agg(watched=entry)
        length = pl.col("place") - first + 1
        histories = (
            ends.filter(pl.col("place").is_not_null())
            .join(lists, on="user_id")
            .select("request_id", history=pl.col("watched").list.slice(first, length))
        )
    joined = requests.join(histories, on="request_id", how="left").sort("timestamp_ms", "request_id")
    joined.sink_parquet(out, compression="zstd", row_group_size=2_048, engine="streaming")


def run_arrow(raw: Path, out: Path, form: str) -> None:
    """Arrow reads and writes; numpy sorts, searches and gathers (form: the name of the only one)."""
    from easq_rec.tools.builder.history import histories
    from easq_rec.tools.builder.versions import Versions, ragged

    pa.set_cpu_count(THREADS)
    shown = pq.read_table(raw / "impressions")
    videos = pq.read_table(raw / "videos.parquet", filters=[("since_ms", "<", START_MS)])
    column = {name: shown[name].to_numpy() for name in shown.column_names}
    at = Versions(videos["video_id"].to_numpy()).find(column["video_id"])
    for name in ("author_id", "duration_ms"):
        column[name] = videos[name].to_numpy()[at]
    order = np.lexsort((column["video_id"], column["served_ms"], column["request_id"]))
    column = {name: values[order] for name, values in column.items()}
    ratio = (column["watch_ms"] / column["duration_ms"]).astype(np.float32)
    starts = np.flatnonzero(np.append(True, np.diff(column["request_id"]) != 0))
    lengths = np.diff(np.append(starts, len(order)))
    times = np.minimum.reduceat(column["served_ms"], starts)
    past = histories(
        user=column["user_id"],
        timestamp_ms=column["served_ms"],
        watch_ms=column["watch_ms"],
        counts=column["watch_ms"] > 0,
        request_user=column["user_id"][starts],
        request_ms=times,
        longest=HISTORY,
    )
    requests = np.lexsort((column["request_id"][starts], times))
    names = ("video_id", "author_id", "duration_ms", "watch_ms", "like")
    writer: pq.ParquetWriter | None = None
    for begin in range(0, len(requests), 2_048):
        chunk = requests[begin : begin + 2_048]
        seen, rows = past.entries(chunk), ragged(starts[chunk], lengths[chunk])
        entries = {name: column[name][seen] for name in ("video_id", "author_id")}
        entries |= {"timestamp_ms": column["served_ms"][seen], "watch_ratio": ratio[seen]}
        table = pa.table(
            {
                "request_id": column["request_id"][starts[chunk]],
                "user_id": column["user_id"][starts[chunk]],
                "timestamp_ms": times[chunk],
                "history": _lists(past.lengths[chunk], entries),
                "candidates": _lists(lengths[chunk], {name: column[name][rows] for name in names}),
            }
        )
        writer = writer or pq.ParquetWriter(out, table.schema, compression="zstd", use_dictionary=False)
        writer.write_table(table)
    assert writer is not None
    writer.close()


def _lists(lengths: np.ndarray, columns: dict[str, np.ndarray]) -> pa.ListArray:
    values = pa.StructArray.from_arrays([pa.array(column) for column in columns.values()], names=list(columns))
    return pa.ListArray.from_arrays(pa.array(np.append(0, np.cumsum(lengths)).astype(np.int32)), values)


ENGINES = {
    "duckdb join": (run_duckdb, "join"),
    "duckdb slice": (run_duckdb, "slice"),
    "polars join": (run_polars, "join"),
    "polars slice": (run_polars, "slice"),
    "arrow numpy": (run_arrow, "gather"),
}


def child(engine: str, raw: Path, out: Path) -> None:
    """Runs one engine and prints its resource use."""
    run, form = ENGINES[engine]
    begin = time.perf_counter()
    run(raw, out, form)
    used = resource.getrusage(resource.RUSAGE_SELF)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    figures = {"wall_s": time.perf_counter() - begin, "cpu_s": used.ru_utime + used.ru_stime}
    print(json.dumps({**figures, "peak_rss_mib": int(status["VmHWM"].split()[0]) / 1_024}))


def sums(out: Path) -> tuple[int, ...]:
    """Sums that must be equal for all engines."""
    table = pq.read_table(out, columns=["request_id", "history", "candidates"])
    columns = [
        table[name].combine_chunks().flatten().field("video_id").to_numpy() for name in ("history", "candidates")
    ]
    return (len(table), *(int(number) for ids in columns for number in (len(ids), ids.sum())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impressions", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.child:
        child(args.child[0], Path(args.child[1]), Path(args.child[2]))
        return
    # Imported here, because it loads torch, whose memory must not count for the engines' processes.
    from benchmarks.report import hardware, publish

    folder = Path(tempfile.mkdtemp(prefix="easq-engines-"))
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in ENGINES}
    found = {}
    try:
        write_log(folder / "raw", args.impressions)
        for _ in range(args.rounds):
            for name in ENGINES:
                command = [sys.executable, "-m", "benchmarks.engines", "--child", name]
                command += [str(folder / "raw"), str(folder / "out.parquet")]
                environment = {"POLARS_MAX_THREADS": str(THREADS), "OMP_NUM_THREADS": str(THREADS)}
                done = subprocess.run(
                    command, check=True, capture_output=True, text=True, env={**os.environ, **environment}
                )
                runs[name].append(json.loads(done.stdout.splitlines()[-1]))
                found[name] = sums(folder / "out.parquet")
    finally:
        shutil.rmtree(folder)
    assert len(set(found.values())) == 1, found
    engines: dict[str, Any] = {}
    for name, values in runs.items():
        best = min(values, key=lambda value: value["cpu_s"])
        engines[name] = {key: round(value, 1) for key, value in best.items()}
        engines[name]["impressions_per_cpu_second"] = round(args.impressions / best["cpu_s"])
    versions = {name: importlib.metadata.version(name) for name in ("duckdb", "polars", "pyarrow", "numpy")}
    result = {"benchmark": "engines", "impressions": args.impressions, "engines": engines}
    publish({**result, **versions, **hardware()}, args.out)


if __name__ == "__main__":
    main()
