"""One pass over held-out requests: from batches to metrics.

Legend: R requests, N candidates, A answers, O outcomes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from easq_rec.config import Config
from easq_rec.config.answer_scale import NO_ANSWER
from easq_rec.config.schema import Outcome
from easq_rec.data.batch import RequestBatch, collate
from easq_rec.data.dataset import Period, RequestDataset
from easq_rec.data.encode import EncodedRequests
from easq_rec.data.order import RequestReader
from easq_rec.data.position import StreamPosition
from easq_rec.errors import UserError
from easq_rec.evaluation.metrics import RankingMetrics, outcome_columns, ranking_metrics
from easq_rec.model.ranker import Scores

Score = Callable[[RequestBatch], Scores]


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Scores and labels of evaluated requests."""

    main_N: Tensor
    """The main tower's score."""
    served_N: Tensor
    """The served score: the policy score, or that with another weight of the satisfaction score."""
    truth_N: Tensor
    utility_N: Tensor
    lengths_R: Tensor
    user_R: Tensor
    request_id_R: Tensor
    satisfaction_N: Tensor | None = None
    """Satisfaction score; None without a satisfaction tower."""
    logit_NO: Tensor | None = None
    """Predicted outcomes, corrected for thinned negatives; None if the model does not predict outcomes."""
    outcome_NO: Tensor | None = None
    """What happened; None with `logit_NO`."""

    def metrics(self) -> RankingMetrics:
        """Ranking metrics of the served score. Calibration is that of the main tower's score."""
        return ranking_metrics(
            self.served_N, self.truth_N, self.utility_N, self.lengths_R, self.user_R, policy_N=self.main_N
        )

    def outcome_columns(self, outcomes: Sequence[Outcome], *, thinned: bool = True) -> dict[str, Tensor]:
        """Sums by request from which the calibration of each outcome is computed; none without predicted outcomes."""
        if self.logit_NO is None or self.outcome_NO is None:
            return {}
        return outcome_columns(self.logit_NO, self.outcome_NO, self.lengths_R, outcomes, thinned=thinned)


def batches(
    dataset: RequestDataset,
    config: Config,
    *,
    truth: str | None,
    rank: int = 0,
    world_size: int = 1,
    limit: int | None = None,
) -> Iterator[RequestBatch]:
    """This rank's share of the first `limit` requests; all ranks get the same number of batches."""
    size = config.evaluation.batch_size
    reader = RequestReader(dataset, batch_size=size, rank=rank, world_size=world_size, spread=True)
    count = len(dataset) if limit is None else min(limit, len(dataset))
    for done in reader.read(StreamPosition(dealt=((0, count),)), epochs=1):
        yield collate(config.schema, done.requests, truth=truth)


def predict(
    score: Score,
    stream: Iterable[RequestBatch],
    config: Config,
    device: torch.device,
    *,
    fuse: float | None = None,
) -> Predictions:
    """Scores every request of the stream.

    Args:
        fuse: weight of the satisfaction score in the served score; None: that of the policy score.
    """
    utility_O = torch.tensor([outcome.weight for outcome in config.schema.outcomes])
    parts = []
    for batch in stream:
        candidates, requests = batch.stream.candidates, batch.stream.requests
        scores = score(batch.to(device))
        lengths_R = batch.candidate_offsets_R1.diff()[:requests]
        truth_N = batch.truth_N if batch.truth_N is not None else torch.full((candidates,), torch.nan)
        parts.append(
            Predictions(
                main_N=scores.main_N[:candidates].float().cpu(),
                served_N=served(scores, fuse)[:candidates],
                satisfaction_N=(
                    scores.satisfaction_N[:candidates].float().cpu() if scores.satisfaction_N is not None else None
                ),
                truth_N=truth_N[:candidates],
                utility_N=batch.outcome_NO[:candidates] @ utility_O,
                lengths_R=lengths_R,
                user_R=torch.from_numpy(batch.keys.user_id_R[:requests]),
                request_id_R=torch.from_numpy(batch.keys.request_id_R[:requests]),
                **_outcomes(scores, batch),
            )
        )
    return _concat(parts)


def _outcomes(scores: Scores, batch: RequestBatch) -> dict[str, Tensor]:
    """Predicted and observed outcomes of the stream's candidates, on the CPU."""
    if scores.outcomes is None:
        return {}
    candidates = batch.stream.candidates
    logit_NO = scores.outcomes.corrected_NO[:candidates].float().cpu()
    return {"logit_NO": logit_NO, "outcome_NO": batch.outcome_NO[:candidates]}


def served(scores: Scores, fuse: float | None) -> Tensor:
    """The served scores on the CPU, (N,).

    Args:
        fuse: weight of the satisfaction score in place of that of the policy score; None: the policy score.
    """
    if fuse is None:
        return scores.served_N.float().cpu()
    assert scores.satisfaction_N is not None, "a fused score needs a satisfaction tower"
    return (scores.main_N + fuse * scores.satisfaction_N).float().cpu()


def gather(mine: Predictions) -> Predictions:
    """The predictions of all ranks, on every rank."""
    if dist.get_world_size() == 1:
        return mine
    parts: list[Predictions | None] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, mine)
    return _concat([part for part in parts if part is not None])


def _concat(parts: list[Predictions]) -> Predictions:
    if not parts:
        raise UserError("there are no held-out requests: raise data.holdout or use a longer log")
    # All parts come from the same model, so they have the same fields.
    names = [field.name for field in fields(Predictions) if getattr(parts[0], field.name) is not None]
    return Predictions(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


@dataclass(frozen=True, kw_only=True)
class AnswerPredictions:
    """Scores and answers of all candidates of answered requests."""

    served_N: Tensor
    answer_N: Tensor
    """Answer codes (`FeatureSchema.answers`), int64; negative: no answer."""
    lengths_R: Tensor
    user_R: Tensor
    request_id_R: Tensor


def predict_answers(
    score: Score, answers: EncodedRequests, config: Config, device: torch.device, *, fuse: float | None = None
) -> AnswerPredictions:
    """Scores every candidate of the answered requests. `fuse`: as in `predict`."""
    found = [
        served(score(collate(config.schema, part).to(device)), fuse)
        for part in _in_parts(answers, config.evaluation.batch_size)
    ]
    return AnswerPredictions(
        served_N=torch.cat(found),
        answer_N=torch.from_numpy(answers.candidates.column("answer").astype(np.int64)),
        lengths_R=torch.from_numpy(answers.candidates.lengths),
        # Copies, because the columns are Arrow's memory.
        user_R=torch.tensor(answers.scalars["user_id"]),
        request_id_R=torch.tensor(answers.scalars["request_id"]),
    )


def _in_parts(requests: EncodedRequests, size: int) -> Iterator[EncodedRequests]:
    for begin in range(0, len(requests), size):
        yield requests.take(np.arange(begin, min(begin + size, len(requests))))


@dataclass(frozen=True, kw_only=True)
class AnswerMetrics:
    """Agreement of scores with answers; a pair is a satisfied and a dissatisfied answer, across requests."""

    policy_accuracy: float
    """Share of pairs that the policy score orders correctly; a tie counts half."""
    reference_accuracy: float
    """The same for the reference score."""
    margin: float
    """Mean over pairs of (y+ - s+) - (y- - s-), the argument of the score-difference DPO loss at beta 1: its gap
    between training and held-out answers grows when the policy memorises answers."""
    policy_std: float
    """Standard deviation of the policy score over the answered candidates."""
    reference_std: float
    pairs: int


def answer_metrics(
    score: Score, answers: EncodedRequests, config: Config, device: torch.device
) -> AnswerMetrics | None:
    """Scores answered requests; None if they have no pair or the model has no reference score."""
    main, reference, label = [], [], []
    for part in _in_parts(answers, config.evaluation.batch_size):
        answer = part.candidates.column("answer")
        scores = score(collate(config.schema, part).to(device))
        if scores.satisfaction_N is None:
            return None
        answered = torch.from_numpy(np.flatnonzero(answer != NO_ANSWER))
        main.append(scores.served_N.float().cpu()[answered])
        reference.append(scores.satisfaction_N.float().cpu()[answered])
        label.append(torch.from_numpy(answer.astype(np.int64))[answered])
    if not main:
        return None
    main_A, reference_A, label_A = torch.cat(main), torch.cat(reference), torch.cat(label)
    scale = config.schema.answers
    good, bad = (
        torch.isin(label_A, label_A.new_tensor(codes)) for codes in (scale.satisfied_codes, scale.dissatisfied_codes)
    )
    pairs = int(good.sum() * bad.sum())
    if not pairs:
        return None
    policy = main_A[good][:, None] - main_A[bad]
    satisfaction = reference_A[good][:, None] - reference_A[bad]
    return AnswerMetrics(
        policy_accuracy=_accuracy(policy),
        reference_accuracy=_accuracy(satisfaction),
        margin=float((policy - satisfaction).mean()),
        policy_std=float(main_A.std()),
        reference_std=float(reference_A.std()),
        pairs=pairs,
    )


def sample_answers(answers: EncodedRequests, period: Period, *, limit: int) -> EncodedRequests | None:
    """Up to `limit` answered requests of a period, evenly spread over it."""
    inside = np.flatnonzero((answers.timestamp_ms >= period.start_ms) & (answers.timestamp_ms < period.end_ms))
    if not len(inside):
        return None
    return answers.take(inside[np.linspace(0, len(inside) - 1, min(limit, len(inside))).round().astype(np.int64)])


def _accuracy(difference: Tensor) -> float:
    return float((difference > 0).float().mean() + 0.5 * (difference == 0).float().mean())
