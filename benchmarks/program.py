"""How long does a served program take, compared with the ranker that it was made of?

    python -m benchmarks.program [--recipes quickstart easq] [--repeats 300] [--out FILE]

CPU time per call, median, one thread. For each recipe a ranker with random weights is exported and compiled, and the
sizes of `SIZES` are called in turn: the compiled program, from raw columns to scores; `Ranker.score`, from an encoded
batch to scores, which leaves out what the program does to encode; and `Ranker.score` with encoding. Then weights are
swapped: the constants of another package are loaded for the same code. `--table-rows` sets the rows of the tables of
users and videos.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.report import hardware, publish
from easq_rec.config import Config, recipes
from easq_rec.data.batch import collate
from easq_rec.data.columns import Ragged, RequestColumns
from easq_rec.data.encode import encode
from easq_rec.data.layout import Layout
from easq_rec.export.inputs import example_of, tensors_of
from easq_rec.export.package import write_constants
from easq_rec.export.program import ServedProgram
from easq_rec.export.trace import trace
from easq_rec.model.ranker import Ranker
from easq_rec.upstream.torch_inductor import CompiledProgram, compile_to

SIZES = ((1, 12), (1, 100), (1, 500), (16, 12))
"""(requests, candidates of each), with histories of the longest length."""
NOW_MS = 1_767_225_600_000


def config_of(recipe: str, rows: int | None) -> Config:
    """A recipe, with tables of users and videos of some rows; None: as they are."""
    config = recipes.recipe(recipe)
    if rows is None:
        return config
    tables = tuple(
        dataclasses.replace(table, rows=rows) if table.name in ("user", "video") else table
        for table in config.schema.tables
    )
    return dataclasses.replace(config, schema=dataclasses.replace(config.schema, tables=tables))


def requests_of(config: Config, count: int, candidates: int) -> RequestColumns:
    """Requests with random values in the columns of the config's schema."""
    rng, schema = np.random.default_rng(0), config.schema
    entries, impressions = count * config.data.max_history, count * candidates
    columns: dict[str, dict[str, Any]] = {"user": {}, "history": {}, "candidates": {}}
    groups = (
        ("user", schema.user, count),
        ("history", schema.history, entries),
        ("candidates", (*schema.candidate, *schema.satisfaction), impressions),
    )
    for group, features, rows in groups:
        for feature in features:
            columns[group][feature.column] = _column(config, feature, rng, rows)
    history = columns["history"] | {
        "timestamp_ms": NOW_MS - np.sort(rng.integers(0, 10**9, entries))[::-1],
        "watch_ratio": rng.random(entries, dtype=np.float32),
    }
    scalars = {"request_id": np.arange(count), "timestamp_ms": np.full(count, NOW_MS)}
    scalars["user_id"] = rng.integers(0, 2**40, count)
    own = {f"user.{name}": column for name, column in columns["user"].items() if name != "user_id"}
    candidate = columns["candidates"]
    candidate.setdefault(schema.item, np.arange(impressions))
    return RequestColumns(
        scalars=scalars | {name: column for name, column in own.items() if not isinstance(column, Ragged)},
        lists={name: column for name, column in own.items() if isinstance(column, Ragged)},
        history=Ragged(offsets=np.arange(count + 1) * config.data.max_history, children=history),
        candidates=Ragged(offsets=np.arange(count + 1) * candidates, children=candidate),
    )


def _column(config: Config, feature: Any, rng: np.random.Generator, rows: int) -> Any:
    if feature.kind in ("id", "id_list"):
        table = config.schema.table(feature.table)
        most = table.rows if table.id_space == "dense" else 2**40
        if feature.kind == "id":
            return rng.integers(0, most, rows)
        return Ragged(offsets=np.arange(rows + 1) * 2, children={"values": rng.integers(0, most, 2 * rows)})
    if feature.kind == "count":
        shown = rng.integers(0, 100, rows)
        return np.stack([shown, shown * rng.random(rows), rng.random(rows)], axis=1).astype(np.float32)
    return rng.random(rows, dtype=np.float32)


def measure(recipe: str, rows: int | None, repeats: int, folder: Path) -> dict[str, Any]:
    """Times of a recipe."""
    config = config_of(recipe, rows)
    ranker = Ranker(config, torch.device("cpu")).eval()
    ranker.network.merge_adapters()
    program = ServedProgram(ranker, config).eval()
    begin = time.process_time()
    exported = trace(program, example_of(program.inputs))
    traced = time.process_time() - begin
    begin = time.perf_counter()
    compile_to(exported, folder / "code.pt2")
    found: dict[str, Any] = {"recipe": recipe, "table_rows": rows, "trace_cpu_s": round(traced, 2)}
    found["compile_wall_s"] = round(time.perf_counter() - begin, 2)
    constants = _mapped(program, folder)
    compiled = CompiledProgram(folder / "code.pt2", constants, torch.device("cpu"))
    swaps = _median_ms({"swap": lambda: CompiledProgram(folder / "code.pt2", constants, torch.device("cpu"))}, 20)
    found["swap_cpu_ms"] = round(swaps["swap"], 3)
    layout = Layout.of(config.schema, outcomes=False)
    found["sizes"] = []
    for count, candidates in SIZES:
        requests = requests_of(config, count, candidates)
        columns = tensors_of(program.inputs, requests, max_history=config.data.max_history)
        batch = collate(config.schema, encode(layout, requests))
        difference = (compiled(columns) - ranker.score(batch).served_N).abs().max()
        times = _median_ms(
            {
                "program": lambda: compiled(columns),  # noqa: B023
                "ranker": lambda: ranker.score(batch),  # noqa: B023
                "ranker_and_encoding": lambda: ranker.score(collate(config.schema, encode(layout, requests))),  # noqa: B023
            },
            repeats,
        )
        row = {"requests": count, "candidates": candidates, "largest_difference": float(difference)}
        row |= {f"{name}_cpu_ms": round(value, 4) for name, value in times.items()}
        found["sizes"].append(row | {"speedup": round(times["ranker"] / times["program"], 2)})
    return found


def _mapped(program: ServedProgram, folder: Path) -> dict[str, torch.Tensor]:
    """The constants as a package has them: tables mapped from files."""
    files = write_constants(program, folder)
    constants = {**dict(program.named_parameters()), **dict(program.named_buffers())}
    for name, file in files.items():
        if file.endswith(".npy"):
            constants[name] = torch.from_numpy(np.load(folder / file, mmap_mode="c"))
    return {name: value.detach() for name, value in constants.items()}


def _median_ms(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """CPU milliseconds of each call, which take turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(repeats + 3):
        for name, call in calls.items():
            begin = time.process_time_ns()
            call()
            if number >= 3:
                times[name].append((time.process_time_ns() - begin) / 1e6)
    return {name: float(np.median(values)) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=["quickstart", "easq"])
    parser.add_argument("--table-rows", type=int, default=1_000_000, help="of users and videos, for recipe easq")
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for recipe in args.recipes:
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            rows.append(measure(recipe, args.table_rows if recipe == "easq" else None, args.repeats, Path(folder)))
    publish({"benchmark": "program", "rows": rows, **hardware()}, args.out)


if __name__ == "__main__":
    main()
