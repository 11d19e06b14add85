"""Leaves features of training examples out at random, so that no score rests on a single id.

An id that was seen a few times can learn its own labels by heart, above all in a second epoch. If it is sometimes
missing, the other features must explain these labels, too. What is left out depends only on the seed, the epoch, the
request, the place of the candidate and the feature: a resumed run and any number of ranks leave out the same.

Legend: R requests, N candidates, U id features of the user, C id features of the candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from easq_rec.config.schema import Feature, FeatureSchema
from easq_rec.data.columns import Rows
from easq_rec.data.encode import EncodedRequests
from easq_rec.data.mixing import mixed

Scale = NDArray[np.float32]
WHOLE_REQUEST = -1
"""Place of the user's features, which all candidates share."""


@dataclass(frozen=True, kw_only=True)
class FeatureScales:
    """Factors of the embeddings: 0 where a feature is left out, else the inverse of its probability to stay.

    Their expected value is 1, as in serving, where nothing is left out.
    """

    user_RU: Scale
    candidate_NC: Scale


class FeatureDropout:
    """Draws the features that training leaves out.

    Args:
        rate: probability for an id feature that declares none (`Feature.dropout`).
    """

    def __init__(self, schema: FeatureSchema, *, rate: float, seed: int) -> None:
        self._user_U = _rates(schema.user_ids, rate)
        self._candidate_C = _rates(schema.candidate_ids, rate)
        self._seed = seed

    @staticmethod
    def of(schema: FeatureSchema, *, rate: float, seed: int) -> FeatureDropout | None:
        """None if no feature may be left out."""
        dropout = FeatureDropout(schema, rate=rate, seed=seed)
        return dropout if dropout._user_U.any() or dropout._candidate_C.any() else None

    def __call__(self, requests: EncodedRequests, epoch: int) -> FeatureScales:
        request_R: Rows = requests.scalars["request_id"]
        lengths_R = requests.candidates.lengths
        request_N = np.repeat(request_R, lengths_R)
        place_N = np.arange(len(request_N)) - np.repeat(np.cumsum(lengths_R) - lengths_R, lengths_R)
        alone_R = np.full(len(request_R), WHOLE_REQUEST)
        return FeatureScales(
            user_RU=self._scales(request_R, alone_R, epoch, self._user_U),
            candidate_NC=self._scales(request_N, place_N, epoch, self._candidate_C),
        )

    def _scales(self, request_N: Rows, place_N: Rows, epoch: int, rate_C: NDArray[np.float64]) -> Scale:
        scale_NC = np.ones((len(request_N), len(rate_C)), np.float32)
        for feature in np.flatnonzero(rate_C):
            fixed = [np.full(len(request_N), number) for number in (self._seed, epoch, int(feature))]
            uniform_N = mixed(request_N, place_N, *fixed) * 2.0**-63
            scale_NC[:, feature] = (uniform_N >= rate_C[feature]) / (1 - rate_C[feature])
        return scale_NC


def _rates(features: Sequence[Feature], rate: float) -> NDArray[np.float64]:
    return np.array([rate if feature.dropout is None else feature.dropout for feature in features], dtype=np.float64)
