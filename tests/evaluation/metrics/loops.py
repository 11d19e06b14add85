"""The metrics as plain Python loops say them, and what they are tried on."""

from __future__ import annotations

import itertools
import math

import torch
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score
from torch import Tensor

NAN = float("nan")
# Few distinct values make ties common; the others have no exact tie, one only differs in float64.
SCORES = st.sampled_from([-math.inf, -1.5, -0.0, 0.0, 0.5, 2.0, 0.1, 0.1 + 1e-12, 1e30])
TRUTHS = st.sampled_from([NAN, 0.0, 1.0, 2.0])
Item = tuple[float, float]


def requests_of(truth: st.SearchStrategy[float], score: st.SearchStrategy[float] = SCORES) -> st.SearchStrategy:
    """Up to eight requests, each a list of (score, truth); some empty, some of one candidate."""
    return st.lists(st.lists(st.tuples(score, truth), max_size=14), max_size=8)


def flatten(requests: list[list[Item]], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    items = [item for request in requests for item in request]
    score_N = torch.tensor([score for score, _ in items], dtype=dtype)
    truth_N = torch.tensor([truth for _, truth in items], dtype=dtype)
    return score_N, truth_N, torch.tensor([len(request) for request in requests], dtype=torch.int64)


def sklearn_ndcg(request: list[Item], k: int, dtype: torch.dtype = torch.float64) -> float:
    if not any(gain > 0 for _, gain in request):
        return NAN
    if len(request) == 1:  # scikit-learn refuses these
        return 1.0
    score_C, gain_C, _ = flatten([request], dtype)
    finite_C = score_C.nan_to_num(neginf=-1e37)  # scikit-learn refuses infinities
    return float(ndcg_score(gain_C[None].numpy(), finite_C[None].numpy(), k=k, ignore_ties=False))


def loop_auc(items: list[tuple[float, bool]]) -> float:
    positives = [score for score, label in items if label]
    negatives = [score for score, label in items if not label]
    if not positives or not negatives:
        return NAN
    wins = sum((p > n) + 0.5 * (p == n) for p, n in itertools.product(positives, negatives))
    return wins / (len(positives) * len(negatives))


def loop_pairs(requests: list[list[Item]]) -> tuple[float, int]:
    correct, pairs = 0.0, 0
    for request in requests:
        for (s, t), (other_s, other_t) in itertools.combinations(request, 2):
            if math.isnan(t) or math.isnan(other_t) or t == other_t:
                continue
            pairs += 1
            correct += 0.5 if s == other_s else float((s > other_s) == (t > other_t))
    return correct, pairs


def loop_gauc(items: list[tuple[float, bool, int]]) -> float:
    weighted, weight = 0.0, 0
    for user in {user for _, _, user in items}:
        own = [(score, label) for score, label, owner in items if owner == user]
        value = loop_auc(own)
        if not math.isnan(value):
            weighted, weight = weighted + value * len(own), weight + len(own)
    return weighted / weight if weight else NAN
