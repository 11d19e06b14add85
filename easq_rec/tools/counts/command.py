"""`easq-rec data counts`: one pass over a log in the order of time, which adds counts to its candidates."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tqdm import tqdm

from easq_rec.config import Data
from easq_rec.config.schema import FeatureSchema
from easq_rec.data import files
from easq_rec.data.count_files import FOLDER, write_counts
from easq_rec.data.counts import MINUTE_MS
from easq_rec.data.dataset import split
from easq_rec.data.published_counts import Impressions, PublishedCounts
from easq_rec.data.writer import check_unused, published
from easq_rec.errors import UserError
from easq_rec.tools.counts.log import Log
from easq_rec.tools.counts.publisher import Publisher

DATASETS = ("requests", "answers")
COUNTED: dict[str, Impressions] = {"requests": "outcome", "answers": "answer"}
"""What is counted of the impressions of a dataset."""
REQUESTS, ANSWERS = COUNTED


def add_counts(
    directory: files.Location,
    out: Path,
    schema: FeatureSchema,
    *,
    holdout: float = Data.holdout,
    frozen_after_ms: Sequence[int] | None = None,
) -> str:
    """Writes a data directory with counts to `out` and returns a summary.

    The impressions of `requests/` are counted, and for counts of answers those of `answers/` that have one. Candidates
    of every dataset, also of those in folders such as `random/requests/`, are looked up. Other files are copied. The
    counts after the last request go to `counts/`.

    Args:
        holdout: last fraction of the time line that training holds out: frozen counts are frozen at its beginning.
            0: nothing is frozen.
        frozen_after_ms: times in place of `holdout`, in milliseconds since 1970. From the first one on, frozen counts
            are published only at these.

    Raises:
        UserError: the schema has no counts, or no frozen one although `frozen_after_ms` is given; `out` is used; the
            data are missing, out of order, or lack columns.
    """
    where = files.display_name(directory)
    if not schema.counts:
        raise UserError("the schema declares no counts: add [[counts]] to it, or name a recipe that ends in _counts")
    check_unused(out)
    if not files.is_dir(files.join(directory, REQUESTS)):
        raise UserError(f"{where}: it has no folder {REQUESTS}/ (see docs/reference/data-contract.md)")
    of_answers = [count.name for count in schema.counts if count.of == "answer"]
    if of_answers and not files.is_dir(files.join(directory, ANSWERS)):
        raise UserError(
            f"{where}: it has no folder {ANSWERS}/, and the schema counts answers ({', '.join(of_answers)}): leave "
            "these counts out, or name a recipe that ends in _without_answer_counts"
        )
    names = files.all_files(directory)
    if any(name.startswith(f"{FOLDER}/") for name in names):
        raise UserError(f"{where}: already has counts in {FOLDER}/: start from the data without them")
    _, held_out = split(files.join(directory, REQUESTS), holdout)
    frozen_ms = sorted(frozen_after_ms) if frozen_after_ms is not None else [held_out.start_ms] if holdout else []
    if frozen_after_ms is not None and not any(count.frozen for count in schema.counts):
        raise UserError("--frozen-after: no count of the schema has frozen = true: set it, or leave the option out")
    datasets = {name: dataset for name in names if (dataset := _dataset(name)) is not None}
    with published(out) as folder:
        logs = {
            dataset: Log(files.join(directory, dataset), folder / dataset, schema, counted=_counted(dataset, schema))
            for dataset in sorted(set(datasets.values()), key=lambda dataset: dataset != REQUESTS)
        }
        counts = _run(list(logs.values()), schema, frozen_ms)
        write_counts(counts, folder / FOLDER)
        for name in names:
            if name not in datasets:
                files.copy(files.join(directory, name), folder / name)
    return _summary(out, logs, counts, frozen_ms)


def _dataset(name: str) -> str | None:
    """The folder of the dataset that a file belongs to: `answers`, `random/requests`; None: it belongs to none."""
    folders = name.split("/")[:-1]
    place = next((place for place, folder in enumerate(folders) if folder in DATASETS), None)
    return "/".join(folders[: place + 1]) if place is not None else None


def _counted(dataset: str, schema: FeatureSchema) -> Impressions | None:
    """Which counts of a schema the impressions of a dataset enter; None: they are only looked up."""
    of = COUNTED.get(dataset)
    return of if any(count.of == of for count in schema.counts) else None


def _run(logs: list[Log], schema: FeatureSchema, frozen_ms: Sequence[int]) -> PublishedCounts:
    """Goes through the buckets of time; returns the counts for the bucket after the last request."""
    publisher = Publisher(schema, frozen_ms)
    # disable=None: no bar unless there is a terminal.
    with tqdm(total=sum(log.requests for log in logs), unit=" requests", desc="counts", disable=None) as progress:
        while (now_ms := min((ms for log in logs if (ms := log.next_ms()) is not None), default=None)) is not None:
            progress.update(sum(log.load(now_ms, publisher) for log in logs))
            publisher.advance(now_ms)
            for log in logs:
                log.fill(publisher)
    for log in logs:
        log.close(publisher)
    width = schema.count_bucket_minutes * MINUTE_MS
    return publisher.publish((max(log.last_ms for log in logs) // width + 1) * width)


def _summary(out: Path, logs: dict[str, Log], counts: PublishedCounts, frozen_ms: Sequence[int]) -> str:
    lines = [f"{out}: {len(counts.counts)} counts per candidate, in buckets of {counts.bucket_minutes} minutes"]
    lines += [f"  {log.requests:>13,}  {name}, {log.candidates:,} candidates" for name, log in logs.items()]
    for count in counts.counts:
        ids, shown, _ = counts.state_of(count).table(count)
        by = " x ".join(ids) or "all impressions"
        how = "" if count.bucket_minutes is None else f", every {count.bucket_minutes} minutes"
        how += ", frozen" if count.frozen else ""
        lines.append(f"  {len(shown):>13,}  {count.name}: by {by}, overall rate {counts.overall(count).prior:.3%}{how}")
    if any(count.frozen for count in counts.counts):
        times = [f"{datetime.fromtimestamp(ms / 1_000, UTC):%Y-%m-%d %H:%M:%S} UTC ({ms})" for ms in frozen_ms]
        lines.append(f"  frozen counts are published last at {', '.join(times)}" if times else "  nothing is frozen")
    return "\n".join(lines)
