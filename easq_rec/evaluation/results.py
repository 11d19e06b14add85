"""The result files of an evaluation: a table with one row per held-out request, and a summary with intervals.

Every metric, its interval, and its paired difference from another run can be computed from the table, without the
model.

Legend: R held-out requests (rows), A compared answers, K calibration bins.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from easq_rec import json_file
from easq_rec.config.answer_scale import THREE_ANSWERS, AnswerScale
from easq_rec.config.schema import Outcome
from easq_rec.config.serialization import from_dict, to_dict
from easq_rec.data.columns import Array
from easq_rec.errors import UserError
from easq_rec.evaluation.evaluation_file import evaluation_file
from easq_rec.evaluation.mean_interval import NORMAL
from easq_rec.evaluation.metrics.by_request import (
    CALIBRATION,
    CUTOFFS,
    MEANS,
    answer_columns,
    request_columns,
)
from easq_rec.evaluation.metrics.calibration import BINS
from easq_rec.evaluation.metrics.intervals import AnswerScores, Interval, UserSums
from easq_rec.evaluation.metrics.outcomes import OBSERVED, PREDICTED, WEIGHT, outcome_names
from easq_rec.evaluation.predict import AnswerPredictions, Predictions
from easq_rec.evaluation.ranking_metrics import RankingMetrics

FORMAT = 2
METADATA = b"easq_rec"
"""Metadata key of the Parquet file for the origin of the evaluation."""
DISTRIBUTIONS = ("numpy", "pyarrow", "torch", "torchrec", "fbgemm-gpu-cpu", "fbgemm-gpu")

UserGroup = Literal["all", "known", "new"]
"""known: users with a request in the training period; new: the others."""

LABELS = {
    **{f"satisfaction_ndcg{k}": f"satisfaction NDCG@{k}" for k in CUTOFFS},
    "pair_accuracy": "pair accuracy",
    "user_pair_accuracy": "pair accuracy of a user",
    **{f"engagement_ndcg{k}": f"engagement NDCG@{k}" for k in CUTOFFS},
    "engagement_pair_accuracy": "engagement pair accuracy",
    "gauc": "GAUC",
    "answer_auc": "answer AUC",
    "answer_gauc": "answer GAUC",
    **{f"answer_ndcg{k}": f"answer NDCG@{k}" for k in CUTOFFS},
    "calibration_error": "pair calibration error",
    "calibration_gap": "pair calibration gap",
}
"""Labels for printed tables, in row order. Those of the outcomes follow: see `label`."""
OUTCOME_LABELS = {
    "outcome_calibration_error": "calibration error",
    "outcome_log_loss": "log loss",
    "outcome_ratio": "predicted / observed",
}


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The evaluated checkpoint and the settings."""

    recipe: str
    step: int
    """Training steps of the checkpoint."""
    fuse: float | None
    """Weight of the satisfaction score in the served score; None: that of the policy score."""
    answers: AnswerScale = THREE_ANSWERS
    """The scale of the held-out answers."""
    calibration: str | None = None
    """How the predicted outcomes were calibrated; None: they are as the model predicts them."""
    user_group: UserGroup = "all"
    """Users whose requests were evaluated."""

    @property
    def served(self) -> str:
        return "the policy score" if self.fuse is None else f"main score + {self.fuse:g} * satisfaction score"


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """One run evaluated on its held-out requests."""

    origin: Origin
    table: pa.Table
    """One row per held-out request, see `evaluation_table`."""

    def sums(self) -> UserSums:
        """The sums from which metrics and intervals are computed."""
        columns = {
            name: _column(self.table, name)
            for name in self.table.column_names
            if name not in ("request_id", "user_id", "candidates", "answer", "answer_score")
        }
        return UserSums(_column(self.table, "user_id"), columns, self._answers())

    def _answers(self) -> AnswerScores:
        lists = self.table["answer"].combine_chunks()
        code_A = lists.flatten().to_numpy()
        user_A = np.repeat(_column(self.table, "user_id"), lists.value_lengths().to_numpy(zero_copy_only=False))
        score_A = self.table["answer_score"].combine_chunks().flatten().to_numpy()
        satisfied_A = np.isin(code_A, self.origin.answers.satisfied_codes)
        compared_A = satisfied_A | np.isin(code_A, self.origin.answers.dissatisfied_codes)
        return AnswerScores(score_A=score_A[compared_A], satisfied_A=satisfied_A[compared_A], user_A=user_A[compared_A])

    def outcomes(self) -> list[str]:
        """Names of the outcomes that the run predicts."""
        return outcome_names(self.table.column_names)

    def counts(self) -> dict[str, int]:
        """Numbers of evaluated requests, users and answers."""
        code_A = self.table["answer"].combine_chunks().flatten().to_numpy()
        return {
            "users": len(np.unique(_column(self.table, "user_id"))),
            "requests": len(self.table),
            "candidates": int(_column(self.table, "candidates").sum()),
            **{f"answers_{name}": int((code_A == code).sum()) for name, code in self.origin.answers.codes.items()},
        }

    def reliability(self) -> list[dict[str, float | int | None]]:
        """For each bin of the policy's preference probability: predicted, observed, pairs."""
        sums = [_column(self.table, name).sum(0) for name in CALIBRATION]
        return [
            {
                "from": 0.5 + 0.5 * k / BINS,
                "to": 0.5 + 0.5 * (k + 1) / BINS,
                "predicted": _plain(predicted / pairs) if pairs else None,
                "observed": _plain(observed / pairs) if pairs else None,
                "pairs": int(pairs),
            }
            for k, (predicted, observed, pairs) in enumerate(zip(*sums, strict=True))
        ]

    def outcome_reliability(self) -> dict[str, list[dict[str, float]]]:
        """For each outcome and each bin of its predictions: mean prediction, mean outcome with its 95% interval over
        users, and the candidates that the bin stands for. Empty bins are left out."""
        user_R = np.unique(_column(self.table, "user_id"), return_inverse=True)[1]
        return {name: self._reliability_of(name, user_R) for name in self.outcomes()}

    def _reliability_of(self, name: str, user_R: Array) -> list[dict[str, float]]:
        predicted_RK, observed_RK, weight_RK = (
            _column(self.table, f"{part}{name}") for part in (PREDICTED, OBSERVED, WEIGHT)
        )
        found: list[dict[str, float]] = []
        for predicted_R, observed_R, weight_R in zip(predicted_RK.T, observed_RK.T, weight_RK.T, strict=True):
            weight = float(weight_R.sum())
            if not weight:
                continue
            observed = float(observed_R.sum()) / weight
            # The linearised ratio of two sums over users: a user's candidates resemble each other.
            deviation_U = np.bincount(user_R, observed_R - observed * weight_R)
            half = NORMAL * float(np.sqrt((deviation_U**2).sum())) / weight
            found.append(
                {
                    "predicted": float(predicted_R.sum()) / weight,
                    "observed": observed,
                    "low": max(observed - half, 0.0),
                    "high": observed + half,
                    "candidates": weight,
                }
            )
        return found


def label(name: str) -> str:
    """The label of a metric; that of an outcome's metric begins with the name of the outcome."""
    for kind, shown in OUTCOME_LABELS.items():
        if name.startswith(f"{kind}_"):
            return f"{name.removeprefix(f'{kind}_')}: {shown}"
    return LABELS[name]


def metric_names(found: Mapping[str, object]) -> list[str]:
    """The metrics in the order of printed tables, those of the outcomes last and outcome by outcome."""
    outcomes = [name.removeprefix("outcome_ratio_") for name in found if name.startswith("outcome_ratio_")]
    ours = (f"{kind}_{outcome}" for outcome in outcomes for kind in OUTCOME_LABELS)
    return [*LABELS, *(name for name in ours if name in found)]


def evaluation_table(
    predictions: Predictions,
    answered: AnswerPredictions | None,
    *,
    scale: AnswerScale = THREE_ANSWERS,
    outcomes: Sequence[Outcome] = (),
    thinned: bool = True,
) -> pa.Table:
    """One row per held-out request.

    Columns: request_id, user_id, candidates; the NDCGs (null if undefined), the sums in `QUOTIENTS` and `CALIBRATION`
    and those of `outcome_columns`; `answer` and `answer_score`, lists over the answered candidates. An answered request
    that is not among the predictions gets a separate row, which only the metrics of answers use.

    Args:
        outcomes: the outcomes of the schema, for the calibration of the predicted ones; empty: it is left out.
        thinned: as in `outcome_columns`.
    """
    columns = {
        name: value.numpy()
        for name, value in request_columns(
            predictions.served_N,
            predictions.truth_N,
            predictions.utility_N,
            predictions.lengths_R,
            predictions.user_R,
            policy_N=predictions.main_N,
        ).items()
    }
    if outcomes:
        found = predictions.outcome_columns(outcomes, thinned=thinned)
        columns |= {name: value.numpy() for name, value in found.items()}
    columns |= {"request_id": predictions.request_id_R.numpy(), "user_id": predictions.user_R.numpy()}
    columns["candidates"] = predictions.lengths_R.numpy().astype(np.int32)
    if answered is None:
        nothing = torch.zeros(0, dtype=torch.int64)
        answered = AnswerPredictions(
            served_N=nothing.float(), answer_N=nothing, lengths_R=nothing, user_R=nothing, request_id_R=nothing
        )
    return _joined(columns, answered, scale)


def _joined(columns: dict[str, Array], answered: AnswerPredictions, scale: AnswerScale) -> pa.Table:
    """Joins the columns of requests and answers by request."""
    found = answer_columns(answered.served_N, answered.answer_N, answered.lengths_R, answered.user_R, scale=scale)
    theirs = {name: value.numpy() for name, value in found.items()}
    row_Q, alone_Q = _rows_of(answered.request_id_R.numpy(), columns["request_id"])
    added = int(alone_Q.sum())
    fresh = {
        "request_id": answered.request_id_R.numpy()[alone_Q],
        "user_id": answered.user_R.numpy()[alone_Q],
        "candidates": answered.lengths_R.numpy()[alone_Q].astype(np.int32),
    }
    for name, value_R in columns.items():
        empty = np.full((added, *value_R.shape[1:]), np.nan if name in MEANS else 0, value_R.dtype)
        columns[name] = np.concatenate([value_R, fresh.get(name, empty)])
    rows = len(columns["request_id"])
    for name, value_Q in theirs.items():
        columns[name] = np.full(rows, np.nan if name in MEANS else 0.0)
        columns[name][row_Q] = value_Q
    row_A = np.repeat(row_Q, answered.lengths_R.numpy())
    kept_A = answered.answer_N.numpy() >= 0
    order_A = np.argsort(row_A[kept_A], kind="stable")
    lengths = np.bincount(row_A[kept_A], minlength=rows)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    lists = {
        "answer": answered.answer_N.numpy()[kept_A][order_A].astype(np.int8),
        "answer_score": answered.served_N.double().numpy()[kept_A][order_A],
    }
    arrays = {name: _array(name, columns[name]) for name in ("request_id", "user_id", "candidates")}
    arrays |= {name: _array(name, value) for name, value in columns.items() if name not in arrays}
    arrays |= {name: pa.ListArray.from_arrays(offsets, pa.array(value)) for name, value in lists.items()}
    return pa.table(arrays)


def _rows_of(wanted_Q: NDArray[np.int64], request_R: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(row of each answered request, whether it is a new row; new rows follow those of the requests)."""
    order_R = np.argsort(request_R, kind="stable")
    place_Q = np.searchsorted(request_R[order_R], wanted_Q)
    row_Q = np.append(order_R, -1)[place_Q]
    # Of two answered requests with the same id, only the first can use the row of the request.
    first_Q = np.zeros(len(wanted_Q), bool)
    first_Q[np.unique(wanted_Q, return_index=True)[1]] = True
    alone_Q = ~first_Q | (np.append(request_R, 0)[row_Q] != wanted_Q) | (row_Q < 0)
    row_Q[alone_Q] = len(request_R) + np.arange(int(alone_Q.sum()))
    return row_Q, alone_Q


def write(
    evaluated: Evaluated, intervals: Mapping[str, Interval], folder: Path, name: str, how: dict[str, object]
) -> None:
    """Writes NAME.parquet and NAME.json, each published by rename.

    Args:
        how: other values for the summary (run, data, resamples, ...).
    """
    origin = {"recipe": evaluated.origin.recipe, "step": evaluated.origin.step, "fuse": evaluated.origin.fuse}
    origin |= {"calibration": evaluated.origin.calibration, "user_group": evaluated.origin.user_group}
    summary = {
        **how,
        **origin,
        "served": evaluated.origin.served,
        **evaluated.counts(),
        "metrics": {
            key: {"value": _plain(found.value), "low": _plain(found.low), "high": _plain(found.high)}
            for key in metric_names(intervals)
            for found in (intervals[key],)
        },
        "reliability": evaluated.reliability(),
        "outcomes": evaluated.outcome_reliability(),
        "versions": versions(),
    }
    kept = json_file.text({"format": FORMAT, **origin, "answers": to_dict(evaluated.origin.answers)}).encode()
    partial = folder / f".{name}.partial"
    pq.write_table(evaluated.table.replace_schema_metadata({METADATA: kept}), partial, compression="zstd")
    partial.rename(folder / f"{name}.parquet")
    partial.write_text(json_file.text(summary, indent=2) + "\n")
    partial.rename(folder / f"{name}.json")


def plain_values(evaluated: Evaluated, intervals: Mapping[str, Interval]) -> dict[str, float]:
    """The values that the trainer logs (`RankingMetrics`, and the calibration of the outcomes), by name."""
    counts = evaluated.counts()
    names = [field.name for field in fields(RankingMetrics)]
    names += [name for name in metric_names(intervals) if name not in LABELS]
    return {name: intervals[name].value if name in intervals else counts[name] for name in names}


def read(source: Path) -> Evaluated:
    """Reads the files of `write`.

    Args:
        source: a run directory or the Parquet file.

    Raises:
        UserError: the file is missing, or has another format.
    """
    file = evaluation_file(source)
    try:
        table = pq.read_table(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{file}: not a readable Parquet file: {error}") from error
    kept = json.loads((table.schema.metadata or {}).get(METADATA, b"{}"))
    if kept.get("format") != FORMAT:
        raise UserError(
            f"{file}: not an evaluation that this version can read (format {kept.get('format')}, expected {FORMAT}): "
            "run `easq-rec evaluate` again"
        )
    origin = Origin(
        recipe=kept["recipe"],
        step=kept["step"],
        fuse=kept["fuse"],
        answers=from_dict(AnswerScale, kept["answers"], "answers"),
        calibration=kept.get("calibration"),
        user_group=kept.get("user_group", "all"),
    )
    return Evaluated(origin=origin, table=table)


def print_evaluation(evaluated: Evaluated, intervals: Mapping[str, Interval], confidence: float) -> None:
    """Prints the table of one run."""
    counts = evaluated.counts()
    answers = sum(counts[f"answers_{name}"] for name in evaluated.origin.answers.names)
    group = evaluated.origin.user_group
    kind = "" if group == "all" else f"{group} "
    print(
        f"{counts['requests']:,} held-out requests of {counts['users']:,} {kind}users, ranked by "
        f"{evaluated.origin.served}; "
        f"{answers:,} answers; {confidence:.0%} intervals"
    )
    if evaluated.origin.calibration is not None:
        print(f"predicted outcomes are calibrated ({evaluated.origin.calibration})")
    names = metric_names(intervals)
    width = max(26, *(len(label(name)) + 2 for name in names))
    for name in names:
        print(f"  {label(name):<{width}}{format_interval(intervals[name])}".rstrip())


def format_interval(found: Interval, *, sign: bool = False, percent: bool = False) -> str:
    """A value with its interval, in a fixed width."""
    mark, scale, unit = ("+" if sign else ""), (100 if percent else 1), ("%" if percent else "")
    digits = 2 if percent else 4
    if math.isnan(found.value):
        return f"{'undefined':<28}"
    value = f"{found.value * scale:{mark}.{digits}f}{unit}"
    if math.isnan(found.low):
        return f"{value:>8}  {'no interval':<18}"
    text = f"[{found.low * scale:{mark}.{digits}f}, {found.high * scale:{mark}.{digits}f}]"
    return f"{value:>8}  {text:<18}"


def versions() -> dict[str, str]:
    """Versions of the packages that the values depend on."""
    found = {"easq-rec": metadata.version("easq-rec"), "python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _column(table: pa.Table, name: str) -> Array:
    """(R,), or (R, K) for a column of fixed-size lists; null becomes NaN."""
    column = table[name].combine_chunks()
    if pa.types.is_fixed_size_list(column.type):
        return column.flatten().to_numpy().reshape(len(table), column.type.list_size)
    return column.to_numpy(zero_copy_only=False)


def _array(name: str, value: Array) -> pa.Array:
    if value.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(pa.array(value.ravel()), value.shape[1])
    return pa.array(value, from_pandas=name in MEANS)


def _plain(value: float) -> float | None:
    """NaN becomes None, because JSON has no NaN."""
    return float(value) if math.isfinite(value) else None
