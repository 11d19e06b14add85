"""The benchmark of base rankers on worlds trains with the code of a commit, and measures as `easq-rec evaluate`."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.worlds import HOLDOUT, REPOSITORY, Found, Held, compare, divide, main, rows_of, summary, table
from easq_rec.config import World
from easq_rec.data.dataset import split
from easq_rec.errors import UserError
from easq_rec.evaluation.metrics.intervals import estimates
from easq_rec.serving.evaluate import evaluate
from easq_rec.tools.simulation.world import generate
from tests.conftest import Warm

WORLD = World(requests=600, users=200, videos=300, density=100.0, seed=7)
SHORT = "quickstart_main_only --trainer.max-steps 6"
BATCH = "trainer=TrainerConfig(batch_size={}, epochs=2)"


def commit(repository: Path, message: str) -> None:
    git = ["git", "-C", str(repository), "-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run([*git, "add", "--all"], check=True, capture_output=True)
    subprocess.run([*git, "commit", "--quiet", "-m", message], check=True, capture_output=True)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two commits of the package: in the second, `quickstart` has smaller batches; the first lacks a module."""
    found = tmp_path_factory.mktemp("repository")
    shutil.copytree(REPOSITORY / "easq_rec", found / "easq_rec", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["git", "init", "--quiet", str(found)], check=True)
    recipes, module = found / "easq_rec/config/recipes.py", found / "easq_rec/run_directory/config_file.py"
    text, source = recipes.read_text(), module.read_text()
    assert text.count(BATCH.format(128)) == 1
    module.unlink()
    commit(found, "without a module")
    module.write_text(source)
    recipes.write_text(text.replace(BATCH.format(128), BATCH.format(48)))
    commit(found, "smaller batches")
    recipes.write_text("raise SystemExit('files that are not committed were read')")
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "data"
    generate(WORLD, folder)
    return folder


@pytest.mark.slow
def test_the_code_of_a_commit_trains_the_first_row(repository: Path, world: Path, tmp_path: Path, warm: Warm) -> None:
    """It equals today's code with the option that the commit changed, measured by `evaluate` on the whole world."""
    rows = compare([SHORT], [WORLD], "HEAD", repository)["rows"]
    old, today, *orders = rows
    assert old.startswith(f"{SHORT} at ") and today == SHORT
    assert orders == ["random", "oracle_satisfaction", "oracle_engagement"]
    assert rows[today]["change_percent"][old]["satisfaction_ndcg5"]["value"] != 0
    assert set(rows[old]["change_percent"]) == {today} and set(rows["random"]["change_percent"]) == {old, today}
    assert rows[old]["cpu_seconds"] > 0 and rows[today]["cpu_seconds"] > 0
    git = ["git", "-C", str(repository)]
    worktrees = subprocess.run([*git, "worktree", "list"], capture_output=True, text=True, check=True).stdout
    assert len(worktrees.splitlines()) == 1, "the temporary worktree is left"
    train, _ = divide(world, tmp_path / "divided")
    words = [*SHORT.split(), "--trainer.batch-size", "48", "--trainer.seed", str(WORLD.seed), "--data", str(train)]
    run_dir = tmp_path / "run"
    warm.run(warm.python, "-m", "easq_rec.cli", "train", *words, "--run-dir", str(run_dir))
    evaluated = estimates(evaluate(run_dir, str(world)).sums(), resamples=2)
    for metric, value in rows[old]["mean"].items():
        assert value == pytest.approx(evaluated[metric].value, abs=1e-4), metric
        assert value != pytest.approx(rows[today]["mean"][metric], abs=1e-4), metric


def test_code_that_lacks_what_the_benchmark_calls_is_an_error(repository: Path) -> None:
    with pytest.raises(UserError, match=r"main_only at .*: its code is too old .*config_file.*: choose a later commit"):
        compare(["quickstart_main_only"], [WORLD], "HEAD~1", repository)


def test_training_gets_no_held_out_request_but_the_last(world: Path, tmp_path: Path) -> None:
    train, held = divide(world, tmp_path / "divided")
    period, late = split(world / "requests", HOLDOUT)
    rows = pq.read_table(world / "requests").to_pylist()
    mine = pq.read_table(train / "requests").to_pylist()
    assert mine == [*(row for row in rows if row["timestamp_ms"] < period.end_ms), rows[-1]]
    answers = pq.read_table(train / "answers")["timestamp_ms"].to_numpy()
    assert len(answers) > 0 and answers.max() < period.end_ms == late.start_ms
    wanted = [(row, candidate) for row in rows[len(mine) - 1 :] for candidate in row["candidates"]]
    assert len(held.lengths_R) == len(rows) - len(mine) + 1
    for number, (row, one) in enumerate(wanted):
        assert (held.request_N[number], held.video_N[number]) == (row["request_id"], one["video_id"])
        assert held.satisfaction_N[number] == one["true_satisfaction"]
        assert held.engagement_N[number] == pytest.approx(one["true_engagement"])
        assert held.utility_N[number] == one["long_view"] + 0.5 * one["like"] + 0.5 * one["follow"]


def test_equal_scores_have_the_mean_of_all_orders(tmp_path: Path) -> None:
    """So the row `random` is the expectation, not one draw."""
    order_RC = np.array(list(itertools.permutations(range(6))))
    requests = len(order_RC)
    held = Held(
        folder=tmp_path,
        request_N=np.repeat(np.arange(requests), 6),
        video_N=np.tile(np.arange(6), requests),
        satisfaction_N=np.tile(np.array([0, 4, 1, 1, 3, 0], np.float32), requests),
        engagement_N=np.zeros(6 * requests, np.float32),
        utility_N=np.tile([0.0, 0, 2, 1, 1.5, 0], requests),
        lengths_R=np.full(requests, 6),
        user_R=np.arange(requests),
    )
    expected = held.quality(order_RC.ravel().astype(np.float32))
    assert held.quality(np.zeros(6 * requests)) == pytest.approx(expected)
    assert max(expected.values()) < 0.8
    assert held.quality(held.satisfaction_N)["satisfaction_ndcg5"] == pytest.approx(1)
    assert held.quality(held.utility_N)["engagement_ndcg5"] == pytest.approx(1)


def test_changes_are_paired_by_world() -> None:
    """A gain of 10% on worlds of any difficulty is 10% without spread."""
    base = [{"satisfaction_ndcg5": level, "engagement_ndcg5": 0.5, "cpu_seconds": 3.0} for level in (0.2, 0.4, 0.8)]
    gains = (1.1, 1.1, 1.1), (1.0, 1.1, 1.2)
    better = [
        {"satisfaction_ndcg5": run["satisfaction_ndcg5"] * by, "engagement_ndcg5": 0.5 * other, "cpu_seconds": 4.0}
        for run, by, other in zip(base, *gains, strict=True)
    ]
    found: Found = {"a": base, "b": better, "random": [dict.fromkeys(list(base[0])[:2], 0.1)] * 3}
    rows = summary(found)
    assert rows["b"]["change_percent"]["a"]["satisfaction_ndcg5"] == {"value": 10, "low": 10, "high": 10}
    # Student's t with 2 degrees of freedom: 4.303 standard errors of 10 / sqrt(3).
    assert rows["b"]["change_percent"]["a"]["engagement_ndcg5"] == {"value": 10, "low": -14.84, "high": 34.84}
    back = rows["a"]["change_percent"]["b"]["satisfaction_ndcg5"]
    assert back["value"] == back["low"] == back["high"] == -9.09
    assert set(rows["a"]["change_percent"]) == {"b"}, "the random order is no base"
    lines = table(rows).splitlines()
    assert lines[2] == "| `a` | 0.4667 | - | 0.5000 | - | 3.0 |"
    assert lines[3] == "| `b` | 0.5133 | +10.0% [+10.0, +10.0] | 0.5500 | +10.0% [-14.8, +34.8] | 4.0 |"
    assert lines[4].startswith("| `random` | 0.1000 | ") and lines[4].endswith(" | - |")
    alone = summary({name: runs[:1] for name, runs in found.items()})
    assert alone["b"]["change_percent"]["a"]["satisfaction_ndcg5"] == {"value": 10, "low": None, "high": None}
    assert "+10.0% [unknown]" in table(alone) and json.loads(json.dumps(alone)) == alone


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--recipes", "quickstart"], r"--recipes 'quickstart': it learns from answers: choose one without"),
        (["--recipes", SHORT, SHORT], r"it occurs twice"),
        (["--recipes", "quickstart_main_only --optim.speed 3"], r"speed"),
        (["--recipes", SHORT, "--before", "no-such-commit"], r"--before no-such-commit: .*choose a commit"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        main(arguments)


def test_default_rows_are_options_of_the_trainer() -> None:
    from benchmarks.worlds import RECIPES

    rows: list[Any] = rows_of(RECIPES, ("abc", Path("/old")))
    assert [row.root for row in rows] == [Path("/old"), *[REPOSITORY] * len(RECIPES)]
    assert rows[0].words == rows[1].words and rows[0].name == f"{RECIPES[0]} at abc"
