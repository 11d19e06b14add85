"""The thinned log and the error of perfect probabilities that benchmarks.calibration reports."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks.calibration import perfect_error, thinned
from easq_rec.config.schema import Outcome
from easq_rec.evaluation.predict import Predictions
from easq_rec.evaluation.results import Evaluated, Origin, evaluation_table


def test_a_thinned_log_keeps_outcomes_and_time_line_and_declares_its_shares(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    valid_NC = generator.random((2_000, 3)) < 0.4
    long_NC = valid_NC & (generator.random((2_000, 3)) < 0.5)
    rows = []
    for r, outcomes in enumerate(np.stack([valid_NC, long_NC], axis=2).astype(int).tolist()):
        candidates = [{"valid_play": valid, "long_view": long} for valid, long in outcomes]
        rows.append({"timestamp_ms": r, "candidates": candidates})
    (tmp_path / "requests").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "requests" / "part.parquet")
    schema = thinned(tmp_path, tmp_path / "out")
    found = pq.read_table(tmp_path / "out" / "requests" / "part.parquet").to_pylist()
    assert found[0] == rows[0] and found[-1] == rows[-1]
    assert all(row["candidates"] for row in found)
    kept = [candidate for row in found for candidate in row["candidates"]]
    for outcome, happened_NC in zip(schema.outcomes, (long_NC, valid_NC), strict=True):
        assert sum(candidate[outcome.name] for candidate in kept) == happened_NC.sum()
        negatives = sum(not candidate[outcome.name] for candidate in kept)
        assert outcome.negatives_kept == pytest.approx(negatives / (~happened_NC).sum(), abs=1e-4)
    shares = {outcome.name: outcome.negatives_kept for outcome in schema.outcomes}
    assert shares["valid_play"] == pytest.approx(0.25, abs=0.02) and shares["long_view"] > 0.35


def test_the_error_of_perfect_probabilities_is_that_of_a_simulation() -> None:
    generator, like = torch.Generator().manual_seed(0), Outcome(name="like", weight=1.0)
    logit_N1 = torch.randn(4_000, 1, generator=generator)
    user_R = torch.arange(400)
    errors = []
    for _ in range(30):
        outcome_N1 = (torch.rand(4_000, 1, generator=generator) < logit_N1.sigmoid()).float()
        flat_N = outcome_N1[:, 0]
        predictions = Predictions(
            main_N=flat_N,
            served_N=flat_N,
            truth_N=flat_N,
            utility_N=flat_N,
            lengths_R=torch.full((400,), 10),
            user_R=user_R,
            request_id_R=user_R,
            logit_NO=logit_N1,
            outcome_NO=outcome_N1,
        )
        table = evaluation_table(predictions, None, outcomes=[like])
        evaluated = Evaluated(origin=Origin(recipe="perfect", step=0, fuse=None), table=table)
        bins = evaluated.outcome_reliability()["like"]
        errors.append(sum(abs(one["predicted"] - one["observed"]) * one["candidates"] for one in bins) / 4_000)
    assert perfect_error(evaluated, "like") == pytest.approx(np.mean(errors), rel=0.1)
