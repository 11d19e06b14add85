"""The metrics of resampled users, against a loop over the drawn users, and the intervals that contain them."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from easq_rec.errors import UserError
from easq_rec.evaluation.mean_interval import Estimate, t_interval
from easq_rec.evaluation.metrics import ranking_metrics
from easq_rec.evaluation.predict import Predictions
from easq_rec.evaluation.resampling import RESAMPLES, user_weights
from easq_rec.tools.studies.comparison import METRICS, StudyComparison
from easq_rec.tools.studies.grid import BASE, BY_USER
from easq_rec.tools.studies.known import take_over
from easq_rec.tools.studies.price import NORMAL, Priced, gain_at, over_users
from easq_rec.tools.studies.served_scores import user_metrics
from easq_rec.tools.studies.store import Run, opened
from easq_rec.tools.studies.user_metrics import NAMES, POLICY, UserMetrics
from tests.tools.studies.builders import cells
from tests.tools.studies.test_comparison import run
from tests.tools.studies.test_known import VERSIONS, result

USERS, REQUESTS, CANDIDATES = 30, 120, 4


def predictions(seed: int, skill: float) -> Predictions:
    """Rankings of the same requests; higher skill orders them better by truth, and worse by engagement."""
    rng = np.random.default_rng(0)
    truth_N = torch.from_numpy(rng.integers(0, 3, REQUESTS * CANDIDATES)).double()
    utility_N = torch.from_numpy(rng.integers(0, 2, REQUESTS * CANDIDATES)).double()
    noise_N = torch.from_numpy(np.random.default_rng(seed).normal(0, 1, REQUESTS * CANDIDATES))
    score_N = noise_N + skill * truth_N + (1 - skill) * utility_N
    return Predictions(
        main_N=score_N,
        served_N=score_N,
        truth_N=truth_N,
        utility_N=utility_N,
        lengths_R=torch.full((REQUESTS,), CANDIDATES),
        user_R=torch.from_numpy(np.arange(REQUESTS) % USERS),
        request_id_R=torch.arange(REQUESTS),
    )


def slow_metrics(found: Predictions, users: np.ndarray) -> list[float]:
    """The metrics of requests that are repeated as often as their user was drawn. A copy of a user is another user."""
    rows, owners = [], []
    for copy, user in enumerate(users):
        mine = torch.nonzero(found.user_R == user).squeeze(1)
        rows.append(mine)
        owners.append(torch.full_like(mine, copy))
    row_R = torch.cat(rows)
    item_N = (row_R[:, None] * CANDIDATES + torch.arange(CANDIDATES)).flatten()
    ranked = ranking_metrics(
        found.served_N[item_N],
        found.truth_N[item_N],
        found.utility_N[item_N],
        found.lengths_R[row_R],
        torch.cat(owners),
    )
    return [getattr(ranked, name) for name in NAMES]


def test_metrics_of_resampled_users_equal_a_loop() -> None:
    """The names are those that studies compare."""
    assert tuple(METRICS.values()) == NAMES
    found = {POLICY: predictions(1, 0.2), "0.5": predictions(2, 0.8)}
    sums = user_metrics(found)
    draws = sums.resampled()
    weights = np.concatenate(list(user_weights(len(sums.user_U), RESAMPLES, seed=0)))
    for served, of_served in found.items():
        assert draws[served].shape == (RESAMPLES, len(NAMES))
        for draw in (0, 7, 999):
            users = np.repeat(sums.user_U, weights[draw].astype(int))
            assert draws[served][draw].tolist() == pytest.approx(slow_metrics(of_served, users)), (served, draw)


def test_the_file_is_read_back_and_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cell.npz"
    sums = user_metrics({POLICY: predictions(1, 0.2), "answer_prior=0.05": predictions(2, 0.8)})
    sums.save(path)
    found = UserMetrics.load(path)
    assert np.array_equal(found.user_U, sums.user_U) and list(found.sums) == list(sums.sums)
    for served, parts in sums.sums.items():
        assert all(np.array_equal(mine, theirs) for mine, theirs in zip(found.sums[served], parts, strict=True))
    whole = path.read_bytes()
    for damaged in (b"", whole[:100], whole[: len(whole) // 2], b"{}"):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"cell\.npz does not have the sums of users .* delete it and the result"):
            UserMetrics.load(path)


def kept(path: Path, variant: str, seed: int, found: dict[str, Predictions]) -> Run:
    """A cell that keeps the sums of users."""
    user_metrics(found).save(path)
    made = run(variant, 0, 0.5, training_seed=seed)
    data = dataclasses.replace(made.cell.config.data, path="somewhere")
    cell = dataclasses.replace(made.cell, config=dataclasses.replace(made.cell.config, data=data))
    metrics, *fused = (
        dict(zip(NAMES, (float(getattr(one.metrics(), name)) for name in NAMES), strict=True)) for one in found.values()
    )
    served = dict(zip(list(found)[1:], fused, strict=True))
    return dataclasses.replace(made, cell=cell, metrics=metrics, fused=served, user_metrics=path)


@pytest.fixture
def comparison(tmp_path: Path) -> StudyComparison:
    """Two training seeds of `main_only` and of `easq`, which has two points."""
    runs = []
    for seed in (0, 1):
        runs.append(kept(tmp_path / f"base{seed}.npz", BASE, seed, {POLICY: predictions(10 + seed, 0.2)}))
        points = {
            POLICY: predictions(20 + seed, 0.3),
            "0.1": predictions(30 + seed, 0.4),
            "0.2": predictions(40 + seed, 0.6),
        }
        runs.append(kept(tmp_path / f"easq{seed}.npz", "easq", seed, points))
    return StudyComparison(runs)


def test_gains_are_computed_for_resampled_users(comparison: StudyComparison) -> None:
    """Both points and the base are measured on the same drawn users."""
    labels = ["easq, fused 0.1", "easq, fused 0.2"]
    priced = Priced.of(comparison, labels)
    assert list(priced.by_world) == list(priced.resampled) == ["seed 0", "seed 1"]
    for seed in (0, 1):
        base, *points = (
            user_metrics({POLICY: predictions(start + seed, skill)}).resampled()[POLICY][:, :2]
            for start, skill in ((10, 0.2), (30, 0.4), (40, 0.6))
        )
        drawn = priced.resampled_gains(2.0)[f"seed {seed}"]
        for draw in (0, 500):
            changes = [tuple(100 * (point[draw] / base[draw] - 1))[::-1] for point in points]
            assert drawn[draw] == pytest.approx(gain_at(changes, 2.0))
    # The interval over seeds alone is narrower.
    seeds = t_interval(priced.gains(2.0).values())
    both = priced.gain(2.0)
    spread = np.std(np.mean(list(priced.resampled_gains(2.0).values()), axis=0), ddof=1)
    assert both.value == seeds.value
    assert both.high - both.value == pytest.approx(math.hypot(seeds.high - seeds.value, NORMAL * spread))


def test_a_family_leads_itself_by_nothing_whoever_the_users_are(comparison: StudyComparison) -> None:
    priced = Priced.of(comparison, ["easq, fused 0.1", "easq, fused 0.2"])
    lead = priced.lead(priced, 1.0)
    assert (lead.value, lead.low, lead.high) == (0.0, 0.0, 0.0)


def test_intervals_over_seeds_and_users_by_hand() -> None:
    seeds = Estimate(value=2.0, low=-1.0, high=5.0, count=3)
    drawn = [np.array([1.0, 3.0, 2.0]), np.array([3.0, 5.0, 4.0])]
    # The means of both seeds are 2, 4 and 3: their standard deviation is 1.
    found = over_users(seeds, drawn)
    assert (found.low, found.high) == pytest.approx((2 - math.hypot(3, 1.96), 2 + math.hypot(3, 1.96)))
    assert over_users(seeds, []) == seeds
    one = Estimate(value=2.0, low=-math.inf, high=math.inf, count=1)
    found = over_users(one, drawn[:1])
    assert (found.low, found.high) == pytest.approx((0.04, 3.96))


@pytest.mark.parametrize(("undefined", "known"), [(1, True), (99, True), (100, False), (1_000, False)])
def test_a_value_that_few_users_decide_has_no_interval(undefined: int, known: bool) -> None:
    """Without them it is undefined: it depends on them, and not on all users."""
    drawn = np.random.default_rng(0).normal(2, 1, 1_000)
    drawn[:undefined] = np.nan
    found = over_users(Estimate(value=2.0, low=-1.0, high=5.0, count=3), [drawn, np.full(1_000, 2.0)])
    assert math.isfinite(found.high) == math.isfinite(found.low) == known


def test_a_draw_without_a_defined_change_has_no_gain(comparison: StudyComparison) -> None:
    priced = Priced.of(comparison, ["easq, fused 0.1"])
    drawn = priced.resampled["seed 0"].copy()
    drawn[3, 0, 1] = np.inf
    found = dataclasses.replace(priced, resampled={"seed 0": drawn}).resampled_gains(1.0)["seed 0"]
    assert np.flatnonzero(~np.isfinite(found)).tolist() == [3]


def test_cells_without_the_sums_have_intervals_over_seeds(comparison: StudyComparison) -> None:
    runs = [*comparison.runs(BASE), *comparison.runs("easq")]
    plain = StudyComparison([dataclasses.replace(one, user_metrics=None) for one in runs])
    priced = Priced.of(plain, ["easq"])
    assert not priced.resampled and priced.gain(1.0) == t_interval(priced.gains(1.0).values())


def test_known_cells_bring_the_sums_of_their_users(tmp_path: Path) -> None:
    """A cell whose file is missing is run again."""
    (tmp_path / "data").mkdir()
    (tmp_path / "earlier" / "users").mkdir(parents=True)
    first, second = (dataclasses.replace(cell, arguments=(BY_USER,)) for cell in cells(tmp_path / "data", 1.0))
    earlier = [Run(cell=cell, metrics={"gauc": 0.5}, seconds=1.0) for cell in (first, second)]
    known = result(tmp_path / "earlier" / "results.json", earlier)
    user_metrics({POLICY: predictions(1, 0.2)}).save(tmp_path / "earlier" / "users" / f"{first.name}.npz")
    with opened(tmp_path / "new", study="test", budget="small", resume=False) as store:
        assert take_over(known, store, [first, second], study="test", versions=VERSIONS) == 1
        (taken,) = store.finished([first, second]).values()
        assert taken.user_metrics is not None and len(UserMetrics.load(taken.user_metrics).user_U) == USERS
