"""Scans and drafts of datasets on disk, each with a separate engine."""

from __future__ import annotations

from functools import partial

from easq_rec.data import files
from easq_rec.data.layout import Layout
from easq_rec.tools.inspect.checks import Duplicates, Refusals, find_duplicates, find_refusals
from easq_rec.tools.inspect.draft import Draft, draft
from easq_rec.tools.inspect.scan import DatasetStats, scan
from easq_rec.tools.inspect.sql_dataset import SqlDataset, count_ids, engine


def scanned(folder: files.Location) -> DatasetStats:
    with engine() as connection:
        return scan(SqlDataset(connection, "requests", folder))


def drafted(requests: files.Location, answers: files.Location | None = None) -> Draft:
    folders = {"requests": requests} | ({} if answers is None else {"answers": answers})
    with engine() as connection:
        datasets = {name: SqlDataset(connection, name, folder) for name, folder in folders.items()}
        stats = {name: scan(dataset) for name, dataset in datasets.items()}
        return draft(stats["requests"], stats.get("answers"), partial(count_ids, datasets.values()))


def duplicates(folder: files.Location) -> Duplicates | None:
    with engine() as connection:
        return find_duplicates(SqlDataset(connection, "requests", folder))


def refusals(folder: files.Location, layout: Layout) -> Refusals:
    with engine() as connection:
        return find_refusals(SqlDataset(connection, "requests", folder), layout)
