"""Answers that a run cannot learn from are described, with what follows."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from easq_rec.config.recipes import recipe
from easq_rec.data.usable_answers import answers_warning, describe

NONE, DISSATISFIED, UNCERTAIN, SATISFIED = -1, 0, 1, 2
END = 1_000
BOTH = [SATISFIED, DISSATISFIED] * 40


@pytest.mark.parametrize(
    ("answers", "at", "expected"),
    [
        ([NONE, NONE], 0, "the data hold no answers"),
        ([], 0, "the data hold no answers"),
        (BOTH, END, "none of the 80 answers arrives before the end of the training period"),
        ([SATISFIED] * 50 + [NONE], 0, r"has 50 satisfied and 0 dissatisfied answers \(of 50\)$"),
        ([DISSATISFIED, UNCERTAIN], 0, r"has 0 satisfied and 1 dissatisfied answers \(of 2\)$"),
        ([*BOTH[:18], UNCERTAIN], 0, r"9 satisfied and 9 .* \(of 19\), fewer than losses.warmup_per_class=10"),
        ([*BOTH, UNCERTAIN, NONE], END - 1, None),
    ],
)
def test_answers_that_do_not_suffice_are_described(answers: list[int], at: int, expected: str | None) -> None:
    answer_N = np.array(answers, np.int8)
    found = describe(recipe("easq"), answer_N, np.full(len(answers), at), END)
    if expected is None:
        assert found is None
    else:
        assert found is not None and re.search(expected, found), found


def test_the_warning_says_what_follows() -> None:
    config = recipe("easq")
    said = answers_warning(config, None, END)
    assert said is not None and said.startswith("the data hold no answers. Recipe 'easq' learns from answers of both")
    assert "does not enter the policy score" in said and "main_only" in said
    at_once = replace(config, losses=replace(config.losses, warmup_per_class=0))
    said = answers_warning(at_once, None, END)
    assert said is not None and "losses on pairs" in said
    assert answers_warning(recipe("quickstart_main_only"), None, END) is None
