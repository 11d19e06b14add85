"""The rankers' benchmark: peers get the inputs of the requests and nothing else, and learn what the logs hold."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.rankers.__main__ import LIBRARIES, Row, average, main
from benchmarks.rankers.boosting import Encoder, history_columns
from benchmarks.rankers.counts import STRENGTHS, WEIGHTS, Counts, DurationBuckets, NaiveBayes, Popularity
from benchmarks.rankers.impressions import LABEL, NOT_INPUTS, Impressions, flatten, read
from benchmarks.rankers.launch import Workers
from benchmarks.rankers.quality import Truth, quality
from benchmarks.rankers.splits import HOLDOUT, Splits, write_splits
from benchmarks.rankers.torch_models import TASKS, Inputs, LibraryModel, targets
from benchmarks.rankers.worker import Job, Ranker, peer, tune
from easq_rec.config.recipes import recipe
from easq_rec.data.dataset import RequestDataset, split
from easq_rec.data.encode import encode
from easq_rec.data.layout import Layout
from easq_rec.errors import UserError
from easq_rec.evaluation.metrics.intervals import estimates
from easq_rec.serving.evaluate import evaluate
from easq_rec.tools.counts.command import add_counts
from tests.conftest import Warm
from tests.datasets.test_kuairand import REAL, impression, prepare, some_impressions, write_raw

TINY = "kuairand_main_only --trainer.max-steps 4 --trainer.batch-size 16"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kuairand")
    prepare.prepare(write_raw(folder / "raw", some_impressions(2_000)), folder / "out", window=300, reveal=0.5)
    return folder / "out"


@pytest.fixture(scope="module")
def splits(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Splits:
    return write_splits(data, tmp_path_factory.mktemp("splits"))


@pytest.fixture(scope="module")
def counted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same log with the usual counts."""
    folder = tmp_path_factory.mktemp("counted") / "out"
    add_counts(data, folder, recipe("kuairand_counts").schema)
    return folder


def rows_of(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def candidates_of(path: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(request, candidate) of every impression."""
    for row in rows_of(path):
        for candidate in row["candidates"]:
            yield row, candidate


# ---------------------------------------------------------------------------------------------------------------------
# Inputs


def test_impressions_are_those_of_the_file(data: Path) -> None:
    found = flatten(pq.read_table(data / "requests"), "here")
    wanted = list(candidates_of(data / "requests"))
    assert len(found) == len(wanted) > 1_000
    for number, (row, candidate) in enumerate(wanted):
        request = found.request_N[number]
        assert found.request_id_R[request] == row["request_id"]
        assert found.timestamp_N[number] == row["timestamp_ms"]
        user = {name: row["user_id"] if name == "user_id" else row["user"][name] for name in found.features.user_ids}
        ids = user | {name: candidate[name] for name in found.features.candidate_ids}
        assert {name: id_N[number] for name, id_N in found.ids.items()} == ids
        offset_N1, values = found.lists["tags"]
        assert values[offset_N1[number] : offset_N1[number + 1]].tolist() == candidate["tags"]
        duration = found.numbers["duration_ms"][number]
        assert duration == candidate["duration_ms"] or (np.isnan(duration) and candidate["duration_ms"] == 0)
        assert found.labels[number] == bool(candidate["valid_play"] or candidate["long_view"])
        assert {name: bool(candidate[name]) for name in LABEL} == {n: y_N[number] for n, y_N in found.outcomes.items()}
        entries = slice(found.history_R1[request], found.history_R1[request + 1])
        for name in found.history:
            assert found.history[name][entries].tolist() == [entry[name] for entry in row["history"]]
        assert found.history_ms_H[entries].tolist() == [entry["timestamp_ms"] for entry in row["history"]]


def test_features_are_those_of_the_recipe_and_never_an_outcome(data: Path) -> None:
    found = flatten(pq.read_table(data / "requests"), "here").features
    assert {"user_id", "tab", "onehot_8", "video_id", "author_id", "age", "tags", "duration_ms"} <= set(found.names)
    assert found.history_ids == ("video_id", "author_id")
    assert not set(found.names) & set(NOT_INPUTS)


def test_counts_of_candidates_become_numbers(data: Path) -> None:
    table = pq.read_table(data / "requests").combine_chunks()
    lists = table["candidates"].combine_chunks()
    values = lists.flatten()
    names = [field.name for field in values.type]
    count = pa.array(np.arange(len(values), dtype=np.float32) % 7, mask=np.arange(len(values)) == 3)
    wide = pa.StructArray.from_arrays(
        [*(values.field(name) for name in names), count], names=[*names, "video_plays_7d"]
    )
    starts = pa.array(np.r_[0, np.cumsum(lists.value_lengths().to_numpy())].astype(np.int32))
    table = table.set_column(
        table.column_names.index("candidates"), "candidates", pa.ListArray.from_arrays(starts, wide)
    )
    found = flatten(table, "here")
    assert found.features.numbers == ("duration_ms", "video_plays_7d")
    expected = np.where(np.arange(len(values)) == 3, np.nan, np.arange(len(values)) % 7)
    np.testing.assert_array_equal(found.numbers["video_plays_7d"], expected)
    assert "video_plays_7d" in Encoder(found, 3.0).names
    assert Inputs(found).rows("video_plays_7d") > 5


def test_peers_get_the_numbers_that_a_recipe_reads_of_counts(counted: Path, tmp_path: Path) -> None:
    """The same ones, and none of them is of the future: the split files have the counts of the whole log."""
    schema = recipe("kuairand_counts").schema
    found = flatten(pq.read_table(counted / "requests").slice(5), "here")
    columns = RequestDataset(counted / "requests", layout := Layout.of(schema)).read_all()
    assert columns is not None
    encoded = encode(layout, columns.slice(5, len(columns))).candidates
    assert found.features.numbers[0] == "duration_ms"
    assert len(found.features.numbers) == 1 + 2 * len(schema.counts)
    for count in schema.counts:
        number_N3 = encoded.column(f"feature.{count.name}")
        for name, place in (("rate", 0), ("shown", 1)):
            np.testing.assert_allclose(
                found.numbers[f"{count.name}.{name}"], number_N3[:, place], rtol=1e-5, atol=1e-5, err_msg=count.name
            )
    assert "video_long_view.rate" in Encoder(found, 3.0).names
    test = write_splits(counted, tmp_path / "splits").test
    assert read(test).features.numbers == found.features.numbers


def test_a_slice_of_a_table_has_its_own_impressions(data: Path) -> None:
    table = pq.read_table(data / "requests").combine_chunks()
    part, all_rows = flatten(table.slice(20, 15), "here"), flatten(table, "here")
    inside = (all_rows.request_N >= 20) & (all_rows.request_N < 35)
    np.testing.assert_array_equal(part.ids["video_id"], all_rows.ids["video_id"][inside])
    np.testing.assert_array_equal(part.labels, all_rows.labels[inside])
    assert part.history_R1[0] == 0 and part.history_R1[-1] == len(part.history_ms_H)


def test_splits_are_the_trainers_own(data: Path, splits: Splits) -> None:
    period, held_out = split(data / "requests", HOLDOUT)
    ids = [row["request_id"] for row in rows_of(data / "requests")]
    train, test, early, late = (rows_of(path) for path in (splits.train, splits.test, splits.early, splits.late))
    assert [row["request_id"] for row in train + test] == ids
    assert [row["request_id"] for row in early + late] == [row["request_id"] for row in train]
    assert all(row["timestamp_ms"] < period.end_ms == held_out.start_ms for row in train)
    assert all(row["timestamp_ms"] >= period.end_ms for row in test)
    assert early[-1]["timestamp_ms"] <= late[0]["timestamp_ms"] and late and early
    # Recipes train on the same requests; the trainer cuts their copy at the same time.
    copy = rows_of(splits.recipes / "requests")
    assert split(splits.recipes / "requests", HOLDOUT)[0] == period
    assert copy == [*train, rows_of(data / "requests")[-1]]
    answered = rows_of(splits.recipes / "answers")
    assert answered == [row for row in rows_of(data / "answers") if row["timestamp_ms"] < period.end_ms]
    assert 0 < len(answered) < len(rows_of(data / "answers"))


def test_held_out_files_have_no_outcomes(data: Path, splits: Splits) -> None:
    last = rows_of(data / "requests")[-len(rows_of(splits.test)) :]
    for row in last:
        for candidate in row["candidates"]:
            for name in NOT_INPUTS:
                candidate.pop(name, None)
    assert rows_of(splits.test) == last
    found = read(splits.test)
    assert found.label_N is None and not found.outcomes and splits.held.label_N is not None


@pytest.mark.parametrize("folder", [".", "answers"])
def test_a_folder_that_was_not_converted_is_named(data: Path, tmp_path: Path, folder: str) -> None:
    with pytest.raises(UserError, match=r"no folder requests/: write it with datasets/kuairand/prepare\.py"):
        write_splits(tmp_path if folder == "." else data / folder, tmp_path / "splits")


def test_logs_of_another_kind_are_named(tmp_path: Path) -> None:
    table = pa.table({"request_id": [1, 2], "timestamp_ms": [1_650_000_000_000, 1_650_000_100_000]})
    (tmp_path / "requests").mkdir()
    pq.write_table(table, tmp_path / "requests" / "part.parquet")
    with pytest.raises(UserError, match=r"no column candidates, history, user, user_id: pass a folder that"):
        write_splits(tmp_path, tmp_path / "splits")


# ---------------------------------------------------------------------------------------------------------------------
# Counts


def test_smoothed_rates_equal_a_loop(splits: Splits) -> None:
    rows = read(splits.train)
    key_N, label_N = rows.ids["video_id"], rows.labels
    counts = Counts.of(key_N, label_N)
    asked = np.array([*np.unique(key_N), 999_999, -5])
    for key, rate in zip(asked, counts.rate(asked, 3.0), strict=True):
        mine = key_N == key
        assert rate == pytest.approx((label_N[mine].sum() + 3 * label_N.mean()) / (mine.sum() + 3))


def test_popularity_and_naive_bayes_equal_a_loop(splits: Splits) -> None:
    train, held = read(splits.train), read(splits.test)
    popularity = Popularity().fit(train, {"strength": 10.0}, seed=0)(held)
    strengths = {"video": 10.0, "user": 3.0, "tab": 1.0, "duration": 30.0}
    bayes = NaiveBayes().fit(train, strengths, seed=0)(held)
    buckets = DurationBuckets.of(train)
    base = train.labels.mean()

    def keys(rows: Impressions) -> dict[str, Any]:
        ids = rows.ids
        return {"video": ids["video_id"], "user": ids["user_id"], "tab": ids["tab"], "duration": buckets.bucket(rows)}

    for number in range(0, len(held), 17):
        odds = base / (1 - base)
        for name, key_N in keys(held).items():
            mine = keys(train)[name] == key_N[number]
            rate = (train.labels[mine].sum() + strengths[name] * base) / (mine.sum() + strengths[name])
            if name == "video":
                assert popularity[number] == pytest.approx(rate)
            odds *= rate / (1 - rate) / (base / (1 - base))
        assert bayes[number] == pytest.approx(odds / (1 + odds))


def test_naive_bayes_adds_the_evidence_of_counts(counted: Path, tmp_path: Path) -> None:
    """Equal to a loop over the candidates of the file: the three fields of each count, with the count's own prior."""
    found = write_splits(counted, tmp_path / "splits")
    train, held = read(found.train), read(found.test)
    settings = {"video": 10.0, "user": 3.0, "tab": 1.0, "duration": 30.0}
    alone = NaiveBayes().fit(train, settings, seed=0)(held)
    both = NaiveBayes().fit(train, settings | {"counts": 0.2}, seed=0)(held)
    declared = {count.name: count for count in recipe("kuairand_counts").schema.counts}
    assert len(declared) > 10
    for number, (_, candidate) in enumerate(candidates_of(found.test)):
        odds = alone[number] / (1 - alone[number])
        for name, count in declared.items():
            shown, happened, prior = (candidate[name][field] for field in ("shown", "happened", "prior"))
            strength = 3.0 if "user_id" in count.keys else 10.0
            rate = (happened + strength * prior) / (shown + strength)
            odds *= (rate / (1 - rate) / (prior / (1 - prior))) ** 0.2
        assert both[number] == pytest.approx(odds / (1 + odds), rel=1e-5)
    assert np.abs(both - alone).max() > 0.05


def test_naive_bayes_is_tuned_with_and_without_counts(counted: Path, splits: Splits) -> None:
    own = len(STRENGTHS) ** 2
    train, valid = read(splits.early), read(splits.late)
    assert len(list(NaiveBayes().tries(train, valid))) == own
    rows = flatten(pq.read_table(counted / "requests"), "here")
    tried = list(NaiveBayes().tries(rows, rows))
    assert len(tried) == own * (1 + len(WEIGHTS))
    assert {settings.get("counts") for settings, _ in tried} == {None, *WEIGHTS}
    assert len({score_N.tobytes() for _, score_N in tried}) == len(tried), "every try is another ranker"


def test_duration_buckets_are_equally_full_and_keep_unknown_apart(splits: Splits) -> None:
    train = read(splits.train)
    bucket_N, duration_N = DurationBuckets.of(train).bucket(train), train.numbers["duration_ms"]
    assert (bucket_N == 0).tolist() == np.isnan(duration_N).tolist() and (bucket_N == 0).sum() > 0
    full = np.bincount(bucket_N)[1:]
    assert full.min() > 0.5 * full.max()


# ---------------------------------------------------------------------------------------------------------------------
# Features of the trees


def test_an_encoding_never_contains_the_rows_own_label(splits: Splits) -> None:
    """Every label of a request is flipped: the request's own encodings stay, and those of other requests change."""
    rows = read(splits.train)
    names = Encoder(rows, 3.0).names
    before = Encoder(rows, 3.0).out_of_fold()
    changed_elsewhere = 0
    for request in range(0, len(rows.request_id_R), 40):
        mine = rows.request_N == request
        flipped = replace(rows, label_N=rows.labels ^ mine)
        after = Encoder(flipped, 3.0).out_of_fold()
        np.testing.assert_array_equal(before[mine], after[mine], err_msg=str(names))
        changed_elsewhere += int((before != after).any(axis=1).sum())
    assert changed_elsewhere > 100


def test_held_out_encodings_count_all_training_rows(splits: Splits) -> None:
    train, held = read(splits.train), read(splits.test)
    encoder = Encoder(train, 3.0)
    found_NF = encoder.encode(held)
    column = {name: found_NF[:, place] for place, name in enumerate(encoder.names)}
    base = train.labels.mean()
    offset_N1, tags = held.lists["tags"]
    owner = np.repeat(np.arange(len(train)), np.diff(train.lists["tags"][0]))
    for number in range(0, len(held), 29):
        both = (train.ids["user_id"] == held.ids["user_id"][number]) & (train.ids["tab"] == held.ids["tab"][number])
        rate = (train.labels[both].sum() + 3 * base) / (both.sum() + 3)
        assert column["rate_user_id_tab"][number] == pytest.approx(rate)
        assert column["count_user_id_tab"][number] == pytest.approx(np.log1p(both.sum()))
        rates = []
        for tag in tags[offset_N1[number] : offset_N1[number + 1]]:
            mine = owner[train.lists["tags"][1] == tag]
            base_of_tags = train.labels[owner].mean()
            rates.append((train.labels[mine].sum() + 3 * base_of_tags) / (len(mine) + 3))
        assert column["rate_tags"][number] == pytest.approx(np.mean(rates))


def test_history_columns_equal_a_loop(data: Path, splits: Splits) -> None:
    found = history_columns(read(splits.test))
    wanted = list(candidates_of(splits.test))
    assert max(found["history_same_author_id"]) > 1
    for number, (row, candidate) in enumerate(wanted):
        entries = row["history"]
        assert found["history_length"][number] == len(entries)
        for name in ("video_id", "author_id"):
            assert found[f"history_same_{name}"][number] == sum(e[name] == candidate[name] for e in entries)
        if entries:
            hours = (row["timestamp_ms"] - entries[-1]["timestamp_ms"]) / 3_600_000
            assert found["history_hours"][number] == pytest.approx(hours)
            assert found["history_ratio"][number] == pytest.approx(np.mean([e["watch_ratio"] for e in entries]))
        else:
            assert np.isnan(found["history_hours"][number]) and np.isnan(found["history_ratio"][number])


# ---------------------------------------------------------------------------------------------------------------------
# Learning


def planted(folder: Path) -> Splits:
    """A log in which users of even and odd ids like videos of even and odd ids: only a product of features ranks it."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(4_000):
        user, video = int(rng.integers(6)), int(rng.integers(40))
        likes = rng.random() < (0.9 if user % 2 == video % 2 else 0.1)
        rows.append(impression(user, video, 30 * number, 30_000 if likes else 1_000))
    prepare.prepare(write_raw(folder / "raw", rows), folder / "out", window=600)
    return write_splits(folder / "out", folder / "splits")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    return planted(tmp_path_factory.mktemp("planted"))


def auc_of(score_N: Any, held: Impressions) -> float:
    truth = Truth(label_N=held.labels, user_N=held.user_R[held.request_N], request_N=held.request_N)
    return quality([score_N], truth, probability=True, resamples=2)["auc"].value


@pytest.mark.skipif(
    not any(REAL.glob("log_standard_*_pure.csv")),
    reason="no logs of KuaiRand-Pure: set EASQ_KUAIRAND to the directory that holds log_standard_*_pure.csv",
)
def test_counts_order_real_logs(tmp_path: Path) -> None:
    """Both orders hold on any part of the log: users differ more than videos, and videos more than chance."""
    prepare.prepare(REAL, tmp_path / "out")
    found = write_splits(tmp_path / "out", tmp_path / "splits")
    train, held = read(found.train), read(found.test)
    popular = Popularity().fit(train, {"strength": 10.0}, seed=0)(held)
    strengths = {"video": 10.0, "user": 3.0, "tab": 10.0, "duration": 10.0}
    bayes = NaiveBayes().fit(train, strengths, seed=0)(held)
    assert 0.6 < auc_of(popular, found.held) < 0.7 < auc_of(bayes, found.held) < 0.76


LIBRARY_OF = {"lightgbm": "lightgbm", "dcn": "deepctr_torch"} | dict.fromkeys(
    ("fm", "deepfm", "din", "mmoe"), "torch_rechub"
)
"""Peer: the module that it needs."""
NETS = {"rate": 1e-2, "weight_decay": 1e-6, "penalty": 1e-6}


@pytest.mark.parametrize("name", list(LIBRARY_OF))
def test_library_models_learn_what_counts_cannot(plain: Splits, name: str) -> None:
    pytest.importorskip(LIBRARY_OF[name], reason="needs the extra `rankers`")
    ranker: Ranker = peer(name)
    nets = NETS | {"epochs": 10}
    trees = {"strength": 3.0, "leaves": 31, "least": 20, "rate": 0.1, "rounds": 300}
    settings = trees if name == "lightgbm" else nets
    train, held = read(plain.train), read(plain.test)
    popular = Popularity().fit(train, {"strength": 10.0}, seed=0)(held)
    score_N = ranker.fit(train, settings, seed=0)(held)
    assert auc_of(popular, plain.held) < 0.6
    assert auc_of(score_N, plain.held) > 0.8
    assert ((score_N > 0) & (score_N < 1)).all()
    assert np.array_equal(score_N, ranker.fit(train, settings, seed=0)(held)), "the seed decides"
    assert not np.array_equal(score_N, ranker.fit(train, settings, seed=1)(held))


@pytest.mark.parametrize("name", ["fm", "deepfm", "din", "mmoe", "dcn"])
def test_library_models_read_every_count(counted: Path, name: str) -> None:
    """Another value of any one number of a count changes the scores, and training on it changes them, too."""
    pytest.importorskip(LIBRARY_OF[name], reason="needs the extra `rankers`")
    rows = flatten(pq.read_table(counted / "requests"), "here")
    scorer = peer(name).fit(rows, NETS | {"epochs": 1}, seed=0)
    score_N = scorer(rows)
    assert score_N.shape == (len(rows),) and np.isfinite(score_N).all()
    numbers = [f"{count}.{number}" for count in rows.counts for number in ("rate", "shown")]
    assert len(numbers) > 20 and set(numbers) < set(rows.features.numbers)
    for number in numbers:
        # In another order, so that the quantile buckets, and nothing else, differ.
        other = replace(rows, numbers=rows.numbers | {number: rows.numbers[number][::-1]})
        assert not np.array_equal(scorer(other), score_N), number


def test_mmoe_learns_the_label_and_its_outcomes_and_is_scored_by_the_label(plain: Splits) -> None:
    pytest.importorskip("torch_rechub", reason="needs the extra `rankers`")
    train, held = read(plain.train), read(plain.test)
    target_NT = targets("mmoe", train).numpy()
    assert target_NT.shape == (len(train), TASKS)
    wanted = [
        (c["valid_play"] or c["long_view"], c["valid_play"], c["long_view"]) for _, c in candidates_of(plain.train)
    ]
    np.testing.assert_array_equal(target_NT, np.array(wanted, dtype=np.float32))
    assert np.array_equal(targets("deepfm", train).numpy(), target_NT[:, 0])
    # Heads of outcomes that never happen learn to say so; the score follows the label all the same.
    never = {name: np.zeros(len(train), bool) for name in LABEL}
    settings = {"rate": 1e-2, "weight_decay": 1e-6, "epochs": 10}
    score_N = LibraryModel("mmoe").fit(replace(train, outcomes=never), settings, seed=0)(held)
    assert auc_of(score_N, plain.held) > 0.8
    assert score_N.mean() == pytest.approx(plain.held.labels.mean(), abs=0.1)


def test_the_best_try_is_chosen_on_the_late_part(splits: Splits) -> None:
    found = tune(Job(ranker="popularity", kind="tune", train=str(splits.early), held=str(splits.late)))
    assert len(found["tried"]) > 3
    best = max(found["tried"], key=lambda one: one["auc"] + one["gauc"])
    assert found["settings"] == best["settings"]
    late = read(splits.late)
    again = Popularity().fit(read(splits.early), best["settings"], seed=0)(late)
    assert best["auc"] == pytest.approx(auc_of(again, late), abs=1e-4)


# ---------------------------------------------------------------------------------------------------------------------
# The command


def test_a_cheap_ranker_loads_no_torch() -> None:
    code = "import sys, benchmarks.rankers.worker as w; w.peer('lightgbm'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_recipe_is_scored_as_evaluate_scores_it(data: Path, splits: Splits, tmp_path: Path, warm: Warm) -> None:
    job = {"ranker": TINY, "kind": "recipe", "train": str(splits.recipes), "held": str(splits.test), "holdout": HOLDOUT}
    (tmp_path / "job.json").write_text(json.dumps(job))
    warm.run(warm.python, "-m", "benchmarks.rankers.worker", str(tmp_path / "job.json"))
    score_N = np.load(tmp_path / "job.scores.npy")
    held = splits.held
    truth = Truth(label_N=held.labels, user_N=held.user_R[held.request_N], request_N=held.request_N)
    found = quality([score_N], truth, probability=False, resamples=2)
    # A valid play or a long view is what the recipe's utility is above 0 for, so both GAUC are of the same label.
    evaluated = estimates(evaluate(tmp_path / "job.run", str(data)).sums(), resamples=2)
    assert found["gauc"].value == pytest.approx(evaluated["gauc"].value, abs=1e-3)
    result = json.loads((tmp_path / "job.result.json").read_text())
    assert result["cpu_seconds"] > 0 and result["peak_rss_mib"] > 100


@pytest.mark.integration
def test_the_command_compares_peers_and_recipes(data: Path, tmp_path: Path, warm: Warm) -> None:
    out = tmp_path / "rankers.json"
    options = ["--seeds", "2", "--rankers", "popularity", "--recipes", TINY, "--out", str(out)]
    done = warm.run(warm.python, "-m", "benchmarks.rankers", "--data", str(data), *options)
    result = json.loads(out.read_text())
    assert result == json.loads(done.stdout.splitlines()[-1])
    assert set(result["rows"]) == {"popularity", TINY}
    popularity, ours = result["rows"]["popularity"], result["rows"][TINY]
    assert (popularity["seeds"], ours["seeds"]) == (1, 2) and ours["log_loss"] is None
    assert popularity["settings"] in [one["settings"] for one in popularity["tried"]]
    for row in (popularity, ours):
        assert row["auc"]["low"] <= row["auc"]["value"] <= row["auc"]["high"]
        assert row["train_impressions_per_cpu_second"] > 0 and row["peak_rss_mib"] > 10
    assert "| `popularity` | 0." in done.stderr and (tmp_path / "rankers.png").stat().st_size > 10_000


def test_peers_and_their_average_are_rows(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No recipe is trained if none is named."""
    names = ["popularity", "naive_bayes"]
    options = ["--rankers", *names, "--recipes", "--average", *names, "--out", str(tmp_path / "rankers.json")]
    assert main(["--data", str(data), *options]) == 0
    rows = json.loads((tmp_path / "rankers.json").read_text())["rows"]
    kinds = {"popularity": "peer", "naive_bayes": "peer", "average": "average"}
    assert {name: row["kind"] for name, row in rows.items()} == kinds
    assert 0 < rows["naive_bayes"]["auc"]["value"] < 1 and rows["average"]["log_loss"] is None
    assert rows["average"]["train_cpu_seconds"] == pytest.approx(
        sum(rows[n]["train_cpu_seconds"] for n in names), abs=0.02
    )
    assert "| `naive_bayes` |" in capsys.readouterr().err
    with pytest.raises(UserError, match="--average 'din': no such row: name some of popularity, naive_bayes"):
        main(["--data", str(data), "--rankers", *names, "--recipes", "--average", "din"])


def test_an_average_gives_each_ranker_the_same_weight() -> None:
    """Scores of other scales count alike, and a ranker without seeds is averaged with each seed of the other."""
    first, second, third = np.array([0.0, 1.0, 2.0]), np.array([0.0, -10.0, 20.0]), np.array([5.0, 5.0, 6.0])

    def row(*scores: np.ndarray) -> Row:
        return Row(kind="peer", scores=list(scores), probability=True, cpu_seconds=1.0, peak_rss_mib=2.0, tuning={})

    found = average([row(first), row(second, third)])
    assert (len(found.scores), found.cpu_seconds, found.probability) == (2, 2.0, False)
    for score_N, other in zip(found.scores, (second, third), strict=True):
        expected = [(x - x.mean()) / x.std() for x in (first, other)]
        np.testing.assert_allclose(score_N, (expected[0] + expected[1]) / 2)


def test_a_peer_is_trained_again_only_if_something_changed(splits: Splits, tmp_path: Path) -> None:
    workers = Workers(tmp_path / "kept", tmp_path, {"lightgbm": "4.6"})
    job = Job(ranker="popularity", kind="fit", train=str(splits.train), held=str(splits.test), settings={"strength": 3})
    first, score_N = workers.run(job)
    assert score_N is not None and len(score_N) == len(splits.held)
    moved = tmp_path / "moved.parquet"
    moved.write_bytes(splits.train.read_bytes())
    again, _ = workers.run(replace(job, train=str(moved)))
    assert again == first
    early = replace(job, train=str(splits.early))
    for other, changed in ((workers, early), (Workers(tmp_path / "kept", tmp_path, {"lightgbm": "4.7"}), job)):
        result, _ = other.run(changed)
        assert result != first


def test_failures_are_one_line(data: Path, warm: Warm) -> None:
    command = [warm.python, "-m", "benchmarks.rankers", "--data", str(data), "--rankers", "--recipes", "nonsense"]
    done = warm.run(*command, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("easq-rec: nonsense: ") and "quickstart" in done.stderr


def test_a_library_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    monkeypatch.setitem(LIBRARIES, "din", "no-such-distribution")
    with pytest.raises(UserError, match=r"--rankers din: needs the package no-such-distribution: pip"):
        main(["--data", str(data), "--rankers", "popularity", "din"])
