"""`easq-rec data counts`: one pass over a log in the order of time, which adds counts to its candidates."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from tqdm import tqdm

from easq_rec.config.schema import FeatureSchema
from easq_rec.data import files
from easq_rec.data.count_files import FOLDER, write_counts
from easq_rec.data.counts import MINUTE_MS, CountState
from easq_rec.data.dataset import TIME, time_line
from easq_rec.data.timestamp_units import unit_problem
from easq_rec.data.writer import check_unused, published
from easq_rec.errors import UserError
from easq_rec.tools.counts.log import Log
from easq_rec.tools.counts.waiting import Waiting

DATASETS = ("requests", "answers")
COUNTED = "requests"
"""The dataset whose impressions are counted."""


def add_counts(directory: files.Location, out: Path, schema: FeatureSchema) -> str:
    """Writes a data directory with counts to `out` and returns a summary.

    The impressions of `requests/` are counted. Candidates of every dataset, also of those in folders such as
    `random/requests/`, are looked up. Other files are copied. The counts after the last request go to `counts/`.

    Raises:
        UserError: the schema has no counts, `out` is used, or the data are missing, out of order, or lack columns.
    """
    where = files.display_name(directory)
    if not schema.counts:
        raise UserError("the schema declares no counts: add [[counts]] to it, or name a recipe that ends in _counts")
    check_unused(out)
    if not files.is_dir(files.join(directory, COUNTED)):
        raise UserError(f"{where}: it has no folder {COUNTED}/ (see docs/reference/data-contract.md)")
    names = files.all_files(directory)
    if any(name.startswith(f"{FOLDER}/") for name in names):
        raise UserError(f"{where}: already has counts in {FOLDER}/: start from the data without them")
    problem = unit_problem(TIME, *time_line(files.join(directory, COUNTED)))
    if problem is not None:
        raise UserError(f"{files.display_name(files.join(directory, COUNTED))}, column {problem}")
    datasets = {name: dataset for name in names if (dataset := _dataset(name)) is not None}
    with published(out) as folder:
        logs = {
            dataset: Log(files.join(directory, dataset), folder / dataset, schema, outcomes=dataset == COUNTED)
            for dataset in sorted(set(datasets.values()), key=lambda dataset: dataset != COUNTED)
        }
        state = _run(list(logs.values()), schema)
        write_counts(state, folder / FOLDER)
        for name in names:
            if name not in datasets:
                _copy(files.join(directory, name), folder / name)
    return _summary(out, logs, state)


def _dataset(name: str) -> str | None:
    """The folder of the dataset that a file belongs to: `answers`, `random/requests`; None: it belongs to none."""
    folders = name.split("/")[:-1]
    place = next((place for place, folder in enumerate(folders) if folder in DATASETS), None)
    return "/".join(folders[: place + 1]) if place is not None and name.endswith(".parquet") else None


def _run(logs: list[Log], schema: FeatureSchema) -> CountState:
    """Goes through the buckets of time; returns the counts for the bucket after the last one."""
    width = schema.count_bucket_minutes * MINUTE_MS
    state, waiting = CountState(schema.counts, schema.count_bucket_minutes), Waiting(width)
    # disable=None: no bar unless there is a terminal.
    with tqdm(total=sum(log.requests for log in logs), unit=" requests", desc="counts", disable=None) as progress:
        while (now_ms := min((ms for log in logs if (ms := log.next_ms()) is not None), default=None)) is not None:
            progress.update(sum(log.load(now_ms, waiting) for log in logs))
            state.add(waiting.take_before(now_ms), now_ms)
            for log in logs:
                log.fill(state)
    end_ms = state.now_ms + width
    state.add(waiting.take_before(end_ms), end_ms)
    for log in logs:
        log.close(state, waiting)
    return state


def _copy(source: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with files.open_file(source) as file:
            file.download(str(target))
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{files.display_name(source)}: cannot be copied: {error}") from error


def _summary(out: Path, logs: dict[str, Log], state: CountState) -> str:
    lines = [f"{out}: {len(state.counts)} counts per candidate, in buckets of {state.bucket_minutes} minutes"]
    lines += [f"  {log.requests:>13,}  {name}, {log.candidates:,} candidates" for name, log in logs.items()]
    for count in state.counts:
        ids, shown, _ = state.table(count)
        every = state.overall(count.outcome, count.half_life_h, state.now_ms)
        by = " x ".join(ids) or "all impressions"
        lines.append(f"  {len(shown):>13,}  {count.name}: by {by}, overall rate {every.prior:.3%}")
    return "\n".join(lines)
