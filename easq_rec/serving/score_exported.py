"""Ranks requests of files with a package: the same code and weights that a server scores with."""

from __future__ import annotations

import itertools
import multiprocessing
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from easq_rec.config import Config
from easq_rec.data import files
from easq_rec.data.dataset import RequestDataset
from easq_rec.errors import UserError
from easq_rec.export.package import Package
from easq_rec.export.versions import current_of
from easq_rec.run_directory.config_file import load_config
from easq_rec.serving.score import open_requests, ordered, requests_folder, score_columns, write_scores
from easq_rec.training.process import quiet

AHEAD = 2
"""Row groups that each process may have ranked before they are written."""


@dataclass(frozen=True, kw_only=True)
class PackageRanking:
    """A package and the requests that it ranks."""

    package: Package
    config: Config
    dataset: RequestDataset

    @classmethod
    def of(cls, folder: Path, source: files.Location, counts: Path | None, *, verify: bool = True) -> PackageRanking:
        """Opens both. Raises UserError as `score_exported` does."""
        package = Package(folder, verify=verify)
        config = load_config(folder)
        return cls(package=package, config=config, dataset=open_requests(config, folder, source, counts))

    def row_group(self, index: int) -> list[pa.Table]:
        """The ranked candidates of a row group, in batches."""
        requests = self.dataset.read(self.dataset.row_groups[index])
        requests = requests.take(np.flatnonzero(requests.candidates.lengths))
        found, size = [], self.config.evaluation.batch_size
        for begin in range(0, len(requests), size):
            part = requests.slice(begin, min(begin + size, len(requests)))
            request_id_R, item_N = part.scalars["request_id"], part.candidates.column(self.config.schema.item)
            score_N = self.package.score(part).numpy()
            order_N, rank_N = ordered(score_N, part.candidates.lengths)
            columns = [request_id_R[part.candidates.owners], item_N[order_N], score_N[order_N], rank_N]
            found.append(pa.table(columns, schema=score_columns(self.config)))
        return found


def score_exported(
    directory: Path,
    source: files.Location,
    output: Path,
    *,
    counts: Path | None = None,
    top: int | None = None,
    processes: int = 1,
) -> int:
    """The same as `score` with the current package of a directory that `easq-rec export` wrote.

    Args:
        processes: they share the row groups of the files, and the memory of the tables. The result is the same.

    Raises:
        UserError: as `score`; or there is no package, it is damaged, or it was compiled for another device.
    """
    quiet()
    folder, location = current_of(directory), requests_folder(source, output)
    ranking = PackageRanking.of(folder, location, counts)
    groups = len(ranking.dataset.row_groups)
    if processes == 1:
        own = itertools.chain.from_iterable(map(ranking.row_group, range(groups)))
        write_scores(own, score_columns(ranking.config), output, top=top)
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, context, _open, (folder, location, counts)) as pool:
            tables = _in_order(pool, groups, most=AHEAD * processes)
            write_scores(tables, score_columns(ranking.config), output, top=top)
    return len(ranking.dataset)


def _in_order(pool: ProcessPoolExecutor, groups: int, *, most: int) -> Iterator[pa.Table]:
    """The tables of all row groups, of which at most so many wait."""
    waiting: deque[Future[list[pa.Table]]] = deque()
    try:
        for index in range(groups):
            if len(waiting) == most:
                yield from waiting.popleft().result()
            waiting.append(pool.submit(_row_group, index))
        while waiting:
            yield from waiting.popleft().result()
    except BrokenProcessPool as error:
        raise UserError("a process that ranks has ended, maybe for lack of memory: use fewer --processes") from error


_ranking: PackageRanking | None = None
"""Of this process, if it is one of several."""


def _open(folder: Path, source: files.Location, counts: Path | None) -> None:
    global _ranking
    quiet()
    torch.set_num_threads(1)
    # The process that started this one has verified it.
    _ranking = PackageRanking.of(folder, source, counts, verify=False)


def _row_group(index: int) -> list[pa.Table]:
    assert _ranking is not None
    return _ranking.row_group(index)
