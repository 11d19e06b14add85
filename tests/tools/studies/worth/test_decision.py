"""Each verdict, from made-up evidence."""

from __future__ import annotations

import dataclasses
import json

import pytest

from easq_rec.evaluation.mean_interval import Estimate
from easq_rec.tools.studies.worth.decision import VerdictBasis, decide, needed_answers
from easq_rec.tools.studies.worth.responders import ResponderDifference, Responders


def of(value: float, low: float, high: float) -> Estimate:
    return Estimate(value=value, low=low, high=high, count=1_000)


WHO = Responders(
    impressions=100_000,
    users=1_000,
    answering=500,
    triggered=True,
    of_users=(0.3, 0.3),
    of_items=(0.6, 0.6),
    patterns=[],
    differences=[ResponderDifference(behaviour="like", difference=of(0.1, -0.1, 0.3))],
)
ADDS = VerdictBasis(
    answers=10_000,
    adds=of(5.0, 4.0, 6.0),
    adds_auc=of(0.05, 0.04, 0.06),
    adds_within=of(0.02, 0.01, 0.03),
    adds_to_others=of(2.0, 1.0, 3.0),
    doubled=of(1.5, 1.0, 2.0),
    potential=of(8.0, 6.0, 10.0),
    responders=WHO,
)


def test_ask_more() -> None:
    found = decide(ADDS)
    assert found.outcome == "ask more" and found.needed is None
    said = " ".join(found.why)
    for number in ("+5.0% [+4.0, +6.0]", "+0.050 [+0.040, +0.060]", "+2.0% [+1.0, +3.0]", "+1.5%", "+8.0%"):
        assert number in said
    assert json.loads(json.dumps(found.values()))["outcome"] == "ask more"


@pytest.mark.parametrize("doubled", [of(0.1, -0.1, 0.3), of(0.4, 0.1, 0.7), of(0.9, -0.2, 2.0)])
def test_enough_answers(doubled: Estimate) -> None:
    found = decide(dataclasses.replace(ADDS, doubled=doubled))
    assert found.outcome == "enough answers"
    assert ("is not excluded" in found.why[-1]) == (doubled.high >= 0.5)


@pytest.mark.parametrize(
    ("who", "others", "reason"),
    [
        (WHO, of(0.1, -0.1, 0.4), "less than 0.5% about others"),
        (dataclasses.replace(WHO, of_users=(0.7, 0.6)), of(2.0, 1.0, 3.0), "give 70% of the answers"),
        (dataclasses.replace(WHO, of_items=(0.8, 0.6)), of(2.0, 1.0, 3.0), "have 80% of the answers"),
        (
            dataclasses.replace(
                WHO, differences=[ResponderDifference(behaviour="like", difference=of(-0.8, -1.0, -0.6))]
            ),
            of(2.0, 1.0, 3.0),
            "like -0.80 [-1.00, -0.60]",
        ),
    ],
)
@pytest.mark.parametrize("doubled", [of(1.5, 1.0, 2.0), of(0.1, -0.1, 0.3)])
def test_ask_others(who: Responders, others: Estimate, reason: str, doubled: Estimate) -> None:
    found = decide(dataclasses.replace(ADDS, responders=who, adds_to_others=others, doubled=doubled))
    assert found.outcome == "ask others" and reason in " ".join(found.why)


def test_popular_items_alone_are_no_reason_to_ask_about_others() -> None:
    assert decide(dataclasses.replace(ADDS, responders=dataclasses.replace(WHO, of_items=(0.66, 0.6)))).outcome == (
        "ask more"
    )


@pytest.mark.parametrize("adds", [of(0.1, -0.2, 0.4), of(-0.2, -0.3, -0.1), of(0.2, 0.1, 0.3)])
def test_do_not_ask(adds: Estimate) -> None:
    found = decide(dataclasses.replace(ADDS, adds=adds, doubled=of(0.0, -0.1, 0.1), potential=of(0.1, -0.3, 0.45)))
    assert found.outcome == "do not ask" and "end below 0.5%" in found.why[-1]


def test_answers_that_add_nothing_yet_may_be_too_few_to_learn_from() -> None:
    found = decide(
        dataclasses.replace(ADDS, adds=of(0.1, -0.2, 0.4), doubled=of(0.5, -1.0, 2.0), potential=of(1.0, -2.0, 4.0))
    )
    assert found.outcome == "too few answers to tell" and found.needed == 80_000


def test_few_answers_that_change_no_prediction_do_not_decide() -> None:
    nothing = dataclasses.replace(ADDS, adds=of(0.0, -0.1, 0.1), potential=of(0.1, -0.3, 0.45))
    assert decide(nothing).outcome == "do not ask"
    found = decide(dataclasses.replace(nothing, answers=1_000))
    assert found.outcome == "too few answers to tell" and found.needed == 6_400


def test_a_better_calibration_alone_is_no_information() -> None:
    found = decide(dataclasses.replace(ADDS, adds=of(1.0, 0.5, 1.5), adds_auc=of(-0.001, -0.004, 0.002)))
    assert found.outcome == "too few answers to tell"


def test_too_few_answers_to_tell() -> None:
    found = decide(dataclasses.replace(ADDS, adds=of(1.0, -1.0, 3.0)))
    # The interval has to be half as wide, which takes four times as many answers.
    assert found.outcome == "too few answers to tell" and found.needed == 30_000
    assert "30,000 more answers (3.0 times" in found.why[-1]


def test_without_any_measurement_the_answers_are_planned() -> None:
    found = decide(dataclasses.replace(ADDS, answers=50, adds=None, doubled=None, potential=None, responders=None))
    assert found.outcome == "too few answers to tell" and found.needed == 7_400 - 50


def test_needed_answers_are_those_of_the_nearer_limit() -> None:
    # 0.1 lies 0.4 below the threshold, and only 0.1 above 0.
    assert needed_answers(1_000, of(0.1, -0.7, 0.9)) == 3_000
    assert needed_answers(1_000, of(0.3, float("-inf"), float("inf"))) == 99_000
