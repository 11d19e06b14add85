"""Counts of satisfied and dissatisfied answers, compared with a loop."""

from __future__ import annotations

import numpy as np
import pytest

from easq_rec.answers.class_counts import ClassCounts
from easq_rec.config.answer_scale import THREE_ANSWERS, AnswerScale

STARS = AnswerScale(names=("one", "two", "three", "four"), dissatisfied=("one", "two"), satisfied=("four",))


@pytest.mark.parametrize("scale", [THREE_ANSWERS, STARS], ids=["three answers", "four stars"])
def test_counts_equal_a_loop(scale: AnswerScale) -> None:
    codes = np.random.default_rng(0).integers(0, len(scale.names), 30)
    counts = ClassCounts(codes, scale)
    for admitted in range(32):
        first = codes[:admitted].tolist()
        expected = [
            sum(code in of_class for code in first) for of_class in (scale.satisfied_codes, scale.dissatisfied_codes)
        ]
        assert list(counts.among(admitted)) == expected
    assert min(counts.among(30)) > 3


def test_no_answers_have_no_classes() -> None:
    assert ClassCounts(np.zeros(0, np.int64), THREE_ANSWERS).among(0) == (0, 0)
