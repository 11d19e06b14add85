"""Answer scales: codes, roles, errors, and their table in a schema file."""

from __future__ import annotations

import dataclasses

import pytest

from easq_rec.answers.questionnaire import Questionnaire
from easq_rec.config.answer_scale import FIVE_STARS, NO_OR_YES, THREE_ANSWERS, AnswerScale
from easq_rec.config.recipes import world_schema
from easq_rec.config.schema_file import parse_schema, schema_to_toml


@pytest.mark.parametrize(
    ("scale", "codes", "dissatisfied", "satisfied", "ranked", "expected"),
    [
        (THREE_ANSWERS, [0, 1, 2], (0,), (2,), (0, 2), "0, 1 or 2"),
        (FIVE_STARS, [1, 2, 3, 4, 5], (1, 2), (4, 5), (1, 2, 3, 4, 5), "1, 2, 3, 4 or 5"),
        (NO_OR_YES, [0, 1], (0,), (1,), (0, 1), "0 or 1"),
    ],
)
def test_codes_and_roles(
    scale: AnswerScale,
    codes: list[int],
    dissatisfied: tuple[int, ...],
    satisfied: tuple[int, ...],
    ranked: tuple[int, ...],
    expected: str,
) -> None:
    assert list(scale.codes.values()) == codes and scale.last == codes[-1]
    assert (scale.dissatisfied_codes, scale.satisfied_codes) == (dissatisfied, satisfied)
    assert scale.ranked(between=False) == ranked and scale.ranked(between=True) == tuple(codes)
    assert scale.expected == expected
    degrees = {code: 1.0 if code in satisfied else 0.0 if code in dissatisfied else 0.5 for code in codes}
    assert scale.satisfaction == degrees


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ("good",)}, "answers.names"),
        ({"names": ("good", "good")}, "answers.names"),
        ({"first": -1}, "answers.first=-1"),
        ({"first": 126}, "codes up to 127"),
        ({"satisfied": ("splendid",)}, "answers of the scale"),
        ({"satisfied": ("bad",)}, "answers better than all dissatisfied answers"),
        ({"uncertain": ("good",)}, "answers that are neither satisfied nor dissatisfied"),
    ],
)
def test_invalid_scales_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AnswerScale(**{"names": ("bad", "so so", "good"), **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [THREE_ANSWERS, FIVE_STARS, NO_OR_YES])
def test_a_schema_file_declares_a_scale(scale: AnswerScale) -> None:
    schema = dataclasses.replace(world_schema(users=8, videos=8, dim=4), answers=scale)
    written = schema_to_toml(schema)
    assert ("[answers]" in written) == (scale != THREE_ANSWERS)
    assert parse_schema(written, "schema.toml") == schema


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('[answers]\nnames = ["no", "yes"]\nbest = "yes"', r"answers\.best: unknown key"),
        ("[answers]\nfirst = 1", r"answers\.names: missing: add names = \(a list\)"),
        ('[answers]\nnames = "yes"', r"answers\.names: is 'yes', expected a list"),
        ('[answers]\nnames = ["yes"]', r"answers\.names=\('yes',\) is not allowed"),
    ],
)
def test_errors_in_the_scale_of_a_schema_file_are_named(table: str, message: str) -> None:
    written = schema_to_toml(world_schema(users=8, videos=8, dim=4)).replace("[[tables]]", f"{table}\n[[tables]]", 1)
    with pytest.raises(ValueError, match=message):
        parse_schema(written, "schema.toml")


def test_options_of_a_questionnaire_are_codes_of_its_scale() -> None:
    assert Questionnaire(answers=FIVE_STARS).codes == {"1": 1, "2": 2, "3": 3, "4": 4, "5": 5}
    assert Questionnaire(answers=NO_OR_YES, options={"ja": 1, "nein": 0}).codes == {"ja": 1, "nein": 0}
    with pytest.raises(ValueError, match=r"questionnaire.options.ja=2 is not allowed: one of 0 \(no\), 1 \(yes\)"):
        Questionnaire(answers=NO_OR_YES, options={"ja": 2})
