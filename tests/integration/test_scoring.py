"""`easq-rec score` and `evaluate` agree with the trainer. `score` reads neither outcomes nor answers."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from easq_rec.tools.simulation.world import counted_schema, generate
from tests.conftest import Warm
from tests.integration.conftest import WORLD, metrics

Train = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def run_dir(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run, whose adapters are not zero any more."""
    run_dir = tmp_path_factory.mktemp("scored") / "run"
    train(run_dir, "--trainer.max-steps", "30", "--optim.dense-lr", "0.01")
    return run_dir


@pytest.mark.integration
def test_scores_equal_the_trainers_and_need_no_labels(run_dir: Path, world: Path, tmp_path: Path, warm: Warm) -> None:
    """The scores are the trainer's policy scores to within 1e-5, and the ranks of a request are 1..C.

    The scoring model has merged adapters and no satisfaction tower. Its input has no outcome columns.
    """
    bare = tmp_path / "bare" / "requests"
    bare.mkdir(parents=True)
    table = pa.concat_tables(pq.read_table(file) for file in sorted((world / "requests").glob("*.parquet")))
    pq.write_table(_without_labels(table), bare / "part.parquet", row_group_size=400)
    output = tmp_path / "scores.parquet"
    warm.run(
        warm.python,
        "-m",
        "easq_rec.cli",
        "score",
        "--run",
        str(run_dir),
        "--input",
        str(bare.parent),
        "--output",
        str(output),
    )
    scores = pq.read_table(output)
    assert scores.column_names == ["request_id", "video_id", "score", "rank"]
    expected = _training_scores(run_dir, world)
    found = dict(
        zip(
            zip(scores["request_id"].to_pylist(), scores["video_id"].to_pylist(), strict=True),
            scores["score"].to_pylist(),
            strict=True,
        )
    )
    assert found.keys() == expected.keys()
    np.testing.assert_allclose([found[key] for key in expected], list(expected.values()), atol=1e-5)
    request, rank = scores["request_id"].to_numpy(), scores["rank"].to_numpy()
    score = scores["score"].to_numpy()
    same = request[1:] == request[:-1]
    assert (rank[1:][same] == rank[:-1][same] + 1).all()
    assert (rank[1:][~same] == 1).all()
    assert (score[1:][same] <= score[:-1][same]).all()


@pytest.mark.integration
def test_evaluate_equals_the_trainers_final_metrics(run_dir: Path, warm: Warm) -> None:
    """The unsharded policy has the metrics that the sharded trainer wrote."""
    final = metrics(run_dir, "final")[0]
    out = run_dir / "evaluated.json"
    warm.run(warm.python, "-m", "easq_rec.cli", "evaluate", "--run", str(run_dir), "--out", str(out))
    evaluated = json.loads(out.read_text())
    for name, value in evaluated.items():
        assert final[name] == pytest.approx(value, abs=1e-4), name


def _without_labels(table: pa.Table) -> pa.Table:
    """Returns the requests with only the features of their candidates, and the counts that they have."""
    kept = {"video_id", "author_id", "tags", "duration_ms", *(count.name for count in counted_schema(1).counts)}
    candidates = [
        [{name: value for name, value in candidate.items() if name in kept} for candidate in row]
        for row in table["candidates"].to_pylist()
    ]
    return table.set_column(table.column_names.index("candidates"), "candidates", pa.array(candidates))


def _training_scores(run_dir: Path, world: Path) -> dict[tuple[int, int], float]:
    """Policy scores of the training network, with separate adapters and both towers."""
    from easq_rec.data.dataset import RequestDataset
    from easq_rec.data.layout import Layout
    from easq_rec.evaluation import predict as evaluation
    from easq_rec.run_directory.checkpoint_files import latest_of
    from easq_rec.run_directory.config_file import load_config
    from easq_rec.serving.score import load_ranker

    config = load_config(run_dir)
    ranker = load_ranker(config, latest_of(run_dir), policy_only=False)
    adapters = [p for name, p in ranker.named_parameters() if name.endswith("lora_b")]
    assert adapters
    assert all(bool(p.any()) for p in adapters)
    assert ranker.network.satisfaction is not None
    dataset = RequestDataset(world / "requests", Layout.of(config.schema), max_history=config.data.max_history)
    scores: dict[tuple[int, int], float] = {}
    for batch in evaluation.batches(dataset, config, truth=None):
        with torch.no_grad():
            served = ranker.score(batch).served_N.tolist()
        requests = np.repeat(batch.keys.request_id_R, np.diff(batch.candidate_offsets_R1.numpy()))
        scores |= dict(zip(zip(requests.tolist(), batch.keys.item_N.tolist(), strict=True), served, strict=True))
    return scores


@pytest.mark.integration
def test_requests_without_counts_get_those_of_the_run(tmp_path: Path, warm: Warm) -> None:
    """Scores with counts that `score` looks up in the run's table, of outcomes and of answers, equal those with the
    columns that the pass over a longer log writes for the same requests. Without a table, and with one too many, the
    error says what to do."""
    from easq_rec.data.count_files import read_counts

    world = tmp_path / "world"
    generate(WORLD, world, counts=False)

    def call(*words: object, code: int = 0) -> str:
        done = warm.run(warm.python, "-m", "easq_rec.cli", *map(str, words), check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stderr if code else done.stdout

    def counted(directory: Path, name: str) -> Path:
        # All counts go on: the later requests are in the held-out period.
        call("data", "counts", directory, "--recipe", recipe, "--holdout", 0, "--out", tmp_path / name)
        return tmp_path / name

    recipe = "quickstart_answer_counts"
    past = counted(world, "past")
    run = tmp_path / "run"
    options = ("--model.residual", "True", "--trainer.max-steps", "20", "--trainer.batch-size", "16")
    warm.run(warm.python, "easq_rec/train.py", recipe, "--data", str(past), "--run-dir", str(run), *options)
    table = pa.concat_tables(pq.read_table(file) for file in sorted((world / "requests").glob("*.parquet")))
    later = table.slice(len(table) - 40)
    times = read_counts(run / "counts").now_ms + np.arange(40)
    ids = 10**9 + np.arange(40)
    for name, values in (("timestamp_ms", times), ("request_id", ids)):
        place = later.schema.get_field_index(name)
        later = later.set_column(place, later.schema.field(name), pa.array(values, later.schema.field(name).type))
    for name, part in (("longer", pa.concat_tables([table, later])), ("later", _without_labels(later))):
        (tmp_path / name / "requests").mkdir(parents=True)
        pq.write_table(part, tmp_path / name / "requests" / "part.parquet")
    shutil.copytree(world / "answers", tmp_path / "longer" / "answers")
    whole = pq.read_table(counted(tmp_path / "longer", "all") / "requests").slice(len(table))
    assert whole["request_id"].to_pylist() == ids.tolist()
    assert any(candidate["video_answer"]["shown"] for row in whole["candidates"].to_pylist() for candidate in row)
    (tmp_path / "with").mkdir()
    pq.write_table(whole, tmp_path / "with" / "part.parquet")
    base = ("score", "--run", run, "--output", tmp_path / "scores.parquet", "--outcomes", "--fuse", 0.5, "--input")
    call(*base, tmp_path / "with")
    expected = pq.read_table(tmp_path / "scores.parquet")
    call(*base, tmp_path / "later")
    assert pq.read_table(tmp_path / "scores.parquet").equals(expected)
    call(*base, tmp_path / "later", "--counts", past / "counts")
    assert pq.read_table(tmp_path / "scores.parquet").equals(expected)
    assert len(expected) > 40 and np.std(expected["long_view"].to_numpy()) > 0
    assert "already have these columns: omit --counts" in call(
        *base, tmp_path / "with", "--counts", past / "counts", code=2
    )
    assert "so they know its future: give requests from after it, or an older table" in call(*base, world, code=2)
    (run / "counts").rename(tmp_path / "moved")
    assert "the requests lack the counts that the model reads (video_long_view" in call(
        *base, tmp_path / "later", code=2
    )
    assert "nowhere: no such directory" in call(*base, tmp_path / "later", "--counts", tmp_path / "nowhere", code=2)
