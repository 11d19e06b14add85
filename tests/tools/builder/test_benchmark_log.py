"""The log of the benchmarks: the builder accepts it, and the compared engines give the same result."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pyarrow as pa
import pytest

from benchmarks.engines import ENGINES, sums
from benchmarks.rawlog import CANDIDATES, write_log
from easq_rec.tools.builder.parse import load
from easq_rec.tools.builder.publish import run


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("log") / "raw"
    write_log(folder, 4_000)
    return folder


def test_the_builder_quarantines_only_duplicates(log: Path, tmp_path: Path) -> None:
    build = load(log / "logs.toml")
    run(build, base=log, out=tmp_path / "out", progress=lambda line: None)
    counts = json.loads((tmp_path / "out" / "build.json").read_text())["counts"]
    reasons = {name.split(".")[-1] for name in counts if ".quarantined." in name}
    assert counts["impressions.read"] == 4_000 and reasons == {"duplicate"}
    assert counts["requests.kept"] == 4_000 // CANDIDATES
    assert counts["answers.kept"] > 0 and counts["history.entries"] > 10_000


def test_engines_give_the_same_sums(log: Path, tmp_path: Path) -> None:
    threads = pa.cpu_count()
    found = {}
    for name, (engine, form) in ENGINES.items():
        if importlib.util.find_spec(name.split()[0]) or name == "arrow numpy":
            engine(log, tmp_path / f"{name}.parquet", form)
            found[name] = sums(tmp_path / f"{name}.parquet")
    pa.set_cpu_count(threads)
    assert {"arrow numpy", "duckdb join", "duckdb slice"} <= set(found)
    assert len(set(found.values())) == 1, found
    assert found["arrow numpy"][0] == 4_000 // CANDIDATES
