"""The throughput benchmark counts the work that was done, and its comparison distinguishes differences from noise."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from benchmarks.throughput.__main__ import main
from benchmarks.throughput.compare import compare, interval
from benchmarks.throughput.phases import Phases
from benchmarks.throughput.pipelines import PIPELINES
from benchmarks.throughput.shapes import losses, shapes
from benchmarks.throughput.work import UPDATE, Work
from easq_rec.config import Config, World
from easq_rec.config.command_line import parse_config
from easq_rec.kernels.linear import ONEDNN_WORK, linear
from easq_rec.tools.simulation.world import generate
from easq_rec.training.loop import Trainer
from easq_rec.training.process import running
from tests.conftest import Warm


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "data"
    generate(World(requests=800, users=60, videos=120), folder)
    return folder


def options(data: Path) -> list[str]:
    sizes = ["--world.users", "60", "--world.videos", "120", "--trainer.batch-size", "8", "--trainer.threads", "1"]
    return ["quickstart", "--data", str(data), *sizes, "--logging.tensorboard", "False"]


def config_of(data: Path) -> Config:
    config = parse_config(options(data), prog="test")
    return dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, device="cpu", max_steps=1_000))


# ---------------------------------------------------------------------------------------------------------------------
# Ranks


@pytest.mark.distributed
def test_one_and_two_ranks_are_measured(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], warm: Warm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHON_EXEC", warm.python)
    out, trace = tmp_path / "out.json", tmp_path / "trace.json"
    sizes = ["--rounds", "1", "--warm-up", "2", "--windows", "2", "--steps", "2", "--pipelines", "sparse_dist", "base"]
    shape = ["--ranks", "1", "2", "--scaling", "per_rank", "--ceiling-seconds", "0.01"]
    assert main(["run", *shape, *sizes, "--out", str(out), "--trace", str(trace), "--", *options(data)]) == 0
    found = json.loads(out.read_text())
    one, two = found["runs"]
    assert (one["name"], two["name"]) == ("1 rank x 8", "2 ranks x 8")
    for run in (one, two):
        (launch,), whole = run["launches"], run["summary"]
        assert {name: len(windows) for name, windows in launch["windows"].items()} == {"sparse_dist": 2, "base": 2}
        # Phases cover all parts of a step. Their sum may be larger, because their timing starts before the first step.
        assert sum(whole["phases_ms"].values()) >= 0.999 * whole["phases_step_ms"] > 0
        assert all(0 <= whole["waited_ms"][name] <= whole["phases_ms"][name] for name in whole["phases_ms"])
        assert whole["gflop_per_step_and_rank"] > 0 and whole["peak_rss_mib"] > 100
    assert sum(two["summary"]["waited_ms"].values()) > 0
    spans = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"## embeddings ##", "## losses ##", "## backward ##"} <= spans
    assert out.with_suffix(".png").stat().st_size > 10_000
    assert "2 ranks x 8" in capsys.readouterr().out
    assert main(["show", str(out)]) == 0
    assert "relative to sparse_dist, by window" in capsys.readouterr().out
    assert main(["compare", str(out), str(out)]) == 0
    said = capsys.readouterr().out
    assert said.count("no difference shown") == 8 and "1 launch of a shape" in said


@pytest.mark.parametrize("pipeline", ["base", "sparse_dist_lite"])
def test_pipelines_give_bit_identical_weights(data: Path, tmp_path: Path, pipeline: str) -> None:
    """The weights are those of the trainer's default pipeline, bit for bit: pipelines differ only in what overlaps."""
    config, ends = config_of(data), []
    for name in ("sparse_dist", pipeline):
        with running(config.trainer) as runtime:
            run_dir = tmp_path / name
            run_dir.mkdir()
            trainer = Trainer(config, runtime, directory=str(data), run_dir=run_dir, pipeline=PIPELINES[name])
            assert list(trainer.steps(6)) == [1, 2, 3, 4, 5, 6]
            ends.append({key: value.clone() for key, value in trainer.setup.ranker.network.state_dict().items()})
            trainer.log.close()
    assert all(torch.equal(value, ends[1][key]) for key, value in ends[0].items())


# ---------------------------------------------------------------------------------------------------------------------
# Phases


class Clock:
    """Advances by one each time it is read."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def test_the_time_of_a_phase_excludes_nested_phases(data: Path, tmp_path: Path) -> None:
    clock = Clock()
    config, phases = config_of(data), Phases(torch.device("cpu"), clock)
    with running(config.trainer) as runtime:
        trainer = Trainer(config, runtime, directory=str(data), run_dir=tmp_path)
        steps = trainer.steps(20)
        next(steps)
        step = trainer.setup.train_step
        before = (vars(step.pipeline).copy(), torch.Tensor.backward, vars(step).get("step"))
        with phases.installed(trainer):
            first = clock.now
            with phases.within("losses"):
                clock.now += 1_000
                with phases.within("data"):
                    clock.now += 10_000
            next(steps)
        last = clock.now
        assert (vars(step.pipeline).keys(), torch.Tensor.backward) == (before[0].keys(), before[1])
        assert vars(step).get("step") is before[2]
        next(steps)
        trainer.log.close()
    assert isinstance(trainer.setup.train_step.pipeline, TrainPipelineSparseDist)
    assert sum(phases.seconds.values()) == last - first, "the phases cover the whole block without overlap"
    assert 10_000 < phases.seconds["data"] < 11_000 and 1_000 < phases.seconds["losses"] < 2_000
    assert all(phases.seconds[name] > 0 for name in ("ids_exchange", "embeddings", "dense_forward", "optimizer"))


# ---------------------------------------------------------------------------------------------------------------------
# Work


@pytest.mark.parametrize("rows", [64, 4_096])
def test_matrix_products_are_counted(rows: int) -> None:
    """One product forward and two of the same size backward; oneDNN computes the large ones, BLAS the small ones."""
    assert (rows * 64 * 64 >= ONEDNN_WORK) == (rows == 4_096)
    x, layer = torch.randn(rows, 64, requires_grad=True), nn.Linear(64, 64)
    with Work() as work:
        linear(x, layer.weight, layer.bias).sum().backward()
    assert work.flops == 3 * 2 * rows * 64 * 64


def test_bytes_read_and_written_are_counted() -> None:
    one, two = torch.zeros(1_000), torch.zeros(1_000)
    with Work() as work:
        torch.empty(5_000)
        three = one + two
        three.view(10, 100).t().mul_(2.0)
    assert work.bytes == 4 * 3 * 1_000 + 4 * 2 * 1_000


def test_only_the_returned_rows_of_a_table_are_counted(data: Path, tmp_path: Path) -> None:
    config = config_of(data)
    with running(config.trainer) as runtime:
        trainer = Trainer(config, runtime, directory=str(data), run_dir=tmp_path)
        with Work(table_bytes=1) as work:
            next(trainer.steps(2))
        trainer.log.close()
    lookups = {name: size for name, size in work.by_operator.items() if name.startswith("fbgemm.split_embedding")}
    assert sum(lookups.values()) % (4 * (1 + UPDATE)) == 0 and sum(lookups.values()) > 0
    rows = sum(table.rows for table in config.schema.tables)
    assert sum(lookups.values()) < 4 * (1 + UPDATE) * rows * 32 * 3


# ---------------------------------------------------------------------------------------------------------------------
# Comparison of two results


def launches(rng: np.random.Generator, speed: float, count: int = 3, *, between: float = 0.0) -> list[np.ndarray]:
    """Rates of 8 windows per process, with a standard deviation of 3% within and of `between` between processes."""
    return [speed * (1 + between * rng.normal()) * (1 + 0.03 * rng.normal(size=8)) for _ in range(count)]


def test_differences_are_distinguished_from_noise() -> None:
    rng = np.random.default_rng(0)
    ratio, low, high = interval(launches(rng, 1_000), launches(rng, 1_200))
    assert 1.1 < low < ratio < high < 1.3
    found = [interval(launches(rng, 1_000), launches(rng, 1_000), resamples=1_000) for _ in range(40)]
    assert sum(low <= 1 <= high for _, low, high in found) >= 36
    # Variation between processes is not reported as a difference, even if the windows of each process are similar.
    found = [
        interval(launches(rng, 1_000, 5, between=0.1), launches(rng, 1_000, 5, between=0.1), resamples=1_000)
        for _ in range(40)
    ]
    assert sum(low <= 1 <= high for _, low, high in found) >= 34


def result_of(path: Path, speed: float, **fields: Any) -> Path:
    window = {"impressions_per_s": speed, "impressions_per_cpu_s": speed, "step_ms": 1.0}
    run = {"name": "1 rank x 8", "launches": [{"windows": {"base": [window] * 4}}] * 3}
    where = {"cpu": "one", "torch": "2"}
    content = {"benchmark": "throughput", "workload": "w", "requests": 8, "where": where, "runs": [run], **fields}
    path.write_text(json.dumps(content))
    return path


def test_a_comparison_gives_the_ratio_and_notes_different_hardware(tmp_path: Path) -> None:
    one = result_of(tmp_path / "a.json", 1_000.0)
    two = result_of(tmp_path / "b.json", 900.0, where={"cpu": "another", "torch": "2"})
    said = "\n".join(compare(one, two))
    assert "note: cpu differs, one in A and another in B" in said
    assert said.count("B is slower") == 2 and "0.900" in said and "too narrow" not in said


def test_files_that_cannot_be_compared_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = result_of(tmp_path / "a.json", 1_000.0)
    (tmp_path / "other.json").write_text('{"benchmark": "data"}')
    for path, reason in (
        (tmp_path / "other.json", "is not a result of"),
        (tmp_path / "none.json", "No such file"),
        (result_of(tmp_path / "c.json", 1.0, runs=[{"name": "2 ranks x 8", "launches": []}]), "in common"),
    ):
        assert main(["compare", str(one), str(path)]) == 2
        said = capsys.readouterr().err
        assert reason in said and said.count("\n") == 1


# ---------------------------------------------------------------------------------------------------------------------
# Shapes


def test_shapes_of_every_scaling() -> None:
    names = [shape.name for shape in shapes([1, 2, 4], 128, ("per_rank", "global", "independent"))]
    assert names == [
        "1 rank x 128",
        *("2 ranks x 128", "2 ranks x 64", "2 ranks x 128, independent"),
        *("4 ranks x 128", "4 ranks x 32", "4 ranks x 128, independent"),
    ]
    with pytest.raises(ValueError, match="3 ranks cannot share a batch of 128"):
        shapes([3], 128, ("global",))


def test_lost_efficiency_is_split_between_machine_and_waiting() -> None:
    parts = [
        {"name": "2 ranks x 8", "ranks": 2, "scaling": "per_rank", "speed_up": 1.62},
        {"name": "2 ranks x 8, independent", "ranks": 2, "scaling": "independent", "speed_up": 1.8},
    ]
    (line,) = losses(parts)
    assert "1.62 of 2" in line and "1.80 on this machine (90%)" in line and "90% of that" in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--ranks", "0"], "--ranks 0 is not allowed"),
        (["--steps", "0"], "--steps 0 is not allowed"),
        (["--pipelines", "prefetch"], "needs --device cuda"),
        (["--", "quickstrt"], "unknown recipe 'quickstrt'"),
    ],
)
def test_invalid_arguments_give_a_one_line_message(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *arguments]) == 2
    found = capsys.readouterr().err
    assert said in found and found.count("\n") == 1
