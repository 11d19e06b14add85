"""From a run to a package that is served: `easq-rec export`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from easq_rec.config import Config
from easq_rec.config.schema import FeatureSchema
from easq_rec.data import files
from easq_rec.data.batch import collate
from easq_rec.data.columns import RequestColumns
from easq_rec.data.encode import encode
from easq_rec.data.layout import Layout
from easq_rec.data.sources import open_holdout
from easq_rec.data.writer import published
from easq_rec.doctor import core_versions
from easq_rec.errors import UserError
from easq_rec.evaluation.predict import served
from easq_rec.export.code import code_key, device_name
from easq_rec.export.gate import Gate, relative
from easq_rec.export.inputs import columns_of, tensors_of
from easq_rec.export.manifest import Manifest
from easq_rec.export.package import Package, sums, write_code, write_constants, write_golden
from easq_rec.export.program import ServedProgram
from easq_rec.export.tables import Precision
from easq_rec.export.versions import set_current
from easq_rec.model.ranker import Ranker
from easq_rec.run_directory.checkpoint_files import checkpoint_of
from easq_rec.run_directory.checksums import digest_of
from easq_rec.run_directory.config_file import write_config
from easq_rec.serving.evaluate import data_of, held_out, quarantine_of
from easq_rec.serving.score import load_served
from easq_rec.training.process import quiet

CPU = torch.device("cpu")
GATE_REQUESTS = 2_000
"""Held-out requests that a package is compared on, if there are as many."""
BATCH = 64
GOLDEN_REQUESTS = 64
ALONE = 32
"""Requests that are also scored alone."""
YEAR_MS = 366 * 86_400_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exported:
    """What `export` wrote."""

    folder: Path
    gate: Gate
    compiled: bool
    """False: a package with the same code lent it."""


def export(
    config: Config,
    run_dir: Path,
    output: Path,
    *,
    precision: Precision = "fp32",
    fuse: float | None = None,
    best: bool = False,
    data: files.Location | None = None,
    requests: RequestColumns | None = None,
    stream: Mapping[str, object] | None = None,
) -> Exported:
    """Writes `output/VERSION`, compares it with the ranker on held-out requests, and names it in `current.json`.

    Args:
        precision: of the tables.
        fuse: weight of the satisfaction score in place of `model.satisfaction_weight`; None: that weight.
        best: use the checkpoint that `checkpoint.best` kept, not the newest.
        data: location with requests/; None: that of the training.
        requests: the package is compared with the ranker on these, not on held-out ones of `data`.
        stream: how far the run has read, if it trains continuously; it becomes a part of the manifest.

    Raises:
        UserError: the run has no such checkpoint; there are no held-out requests; the package does not rank as the
            ranker does, and then nothing is published.
    """
    quiet()
    checkpoint = checkpoint_of(run_dir, best=best)
    ranker = load_served(config, run_dir, fuse, best=best)
    program = ServedProgram(ranker, config, fuse, precision=precision).eval()
    satisfaction = ranker.network.satisfaction is not None
    key = code_key(config, satisfaction=satisfaction, precision=precision, device=CPU)
    columns = columns_of(config, satisfaction=satisfaction)
    now = datetime.now(UTC)
    name = _free(output, now)
    with published(output / name) as folder:
        manifest = Manifest(
            run=str(run_dir),
            recipe=config.recipe,
            step=checkpoint.step,
            checkpoint=digest_of(checkpoint),
            created=now.isoformat(timespec="seconds"),
            versions=core_versions(),
            item=config.schema.item,
            inputs=program.inputs,
            bounds={column.path: column.table.rows for column in columns if column.table is not None},
            max_history=config.data.max_history,
            precision=precision,
            fuse=fuse,
            code=key,
            device=device_name(CPU),
            constants=write_constants(program, folder),
            gate={},
            stream=stream,
        )
        write_config(config, folder)
        compiled = write_code(program, key, folder, output)
        manifest.write(folder)
        package = Package(folder, verify=False)
        if requests is None:
            requests = _requests(config, run_dir, data)
        else:
            requests = requests.take(np.flatnonzero(requests.candidates.lengths))
        golden = tensors_of(program.inputs, with_edges(requests, config.schema), max_history=config.data.max_history)
        write_golden(program.inputs, golden, package(golden), folder)
        gate = _gate(package, ranker, config, requests, fuse)
        gate.check(precision)
        dataclasses.replace(manifest, gate=gate.values(), files=sums(folder)).write(folder)
    set_current(output, name)
    return Exported(folder=output / name, gate=gate, compiled=compiled)


def with_edges(requests: RequestColumns, schema: FeatureSchema) -> RequestColumns:
    """The golden requests: held-out ones, of which the first have no history, one candidate, entries from the future
    and from a year ago, and ids of any sign and size."""
    requests = requests.slice(0, min(GOLDEN_REQUESTS, len(requests)))
    starts = requests.candidates.offsets
    second = min(1, len(requests) - 1)
    of_second = np.arange(starts[second] + 1, starts[second + 1])
    requests = requests.keep_candidates(np.setdiff1d(np.arange(starts[-1]), of_second))
    owners = requests.history.owners
    requests = dataclasses.replace(requests, history=requests.history.keep(np.flatnonzero(owners != 0)))
    owners, history = requests.history.owners, dict(requests.history.children)
    times = requests.history.column("timestamp_ms").copy()
    times[owners == 2] += YEAR_MS
    times[owners == 3] -= YEAR_MS
    history["timestamp_ms"] = times
    candidates = dict(requests.candidates.children)
    strange = np.flatnonzero(requests.candidates.owners == 4)
    extremes = np.resize(np.array([-1, 2**63 - 1, -(2**63), 2**53 + 1, 0]), len(strange))
    for feature in schema.candidate:
        if feature.kind == "id" and schema.table(str(feature.table)).id_space != "dense":
            ids = requests.candidates.column(feature.column).copy()
            ids[strange] = extremes
            candidates[feature.column] = ids
    return dataclasses.replace(
        requests,
        history=dataclasses.replace(requests.history, children=history),
        candidates=dataclasses.replace(requests.candidates, children=candidates),
    )


def _gate(package: Package, ranker: Ranker, config: Config, requests: RequestColumns, fuse: float | None) -> Gate:
    layout = Layout.of(config.schema)
    utility_O = torch.tensor([outcome.weight for outcome in config.schema.outcomes])
    expected, found, utility = [], [], []
    for part in _parts(requests):
        batch = collate(config.schema, encode(layout, part))
        expected.append(served(ranker.score(batch), fuse)[: batch.stream.candidates])
        utility.append((batch.outcome_NO @ utility_O)[: batch.stream.candidates])
        found.append(package.score(part))
    few = requests.slice(0, min(ALONE, len(requests)))
    alone = torch.cat([package.score(few.slice(at, at + 1)) for at in range(len(few))])
    lowest = min(float(one.min()) for one in utility)
    return Gate.of(
        torch.cat(expected),
        torch.cat(found),
        torch.cat(utility) - min(lowest, 0.0),
        torch.from_numpy(requests.candidates.lengths),
        alone=float(relative(alone, package.score(few))),
    )


def _parts(requests: RequestColumns) -> Iterator[RequestColumns]:
    for begin in range(0, len(requests), BATCH):
        yield requests.slice(begin, min(begin + BATCH, len(requests)))


def _requests(config: Config, run_dir: Path, data: files.Location | None) -> RequestColumns:
    """Held-out requests with candidates."""
    directory = data_of(config, data)
    period, quarantine = held_out(config, directory), quarantine_of(config, run_dir)
    holdout, _ = open_holdout(config, files.join(directory, "requests"), period, quarantine=quarantine)
    parts: list[RequestColumns] = []
    for group in holdout.row_groups:
        read = holdout.read(group)
        parts.append(read.take(np.flatnonzero(read.candidates.lengths)))
        if sum(map(len, parts)) >= GATE_REQUESTS:
            break
    if not sum(map(len, parts)):
        raise UserError(
            f"{files.display_name(directory)}: has no held-out requests to compare the package with the ranker: name "
            "later data with --data"
        )
    requests = RequestColumns.concat(parts)
    return requests.slice(0, min(GATE_REQUESTS, len(requests)))


def _free(output: Path, now: datetime) -> str:
    """A name of a version that sorts by time and is not taken."""
    name, count = now.strftime("%Y%m%dT%H%M%SZ"), 0
    while (output / (found := f"{name}-{count}" if count else name)).exists():
        count += 1
    return found
