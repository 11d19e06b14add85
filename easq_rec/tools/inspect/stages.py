"""The stages of the questionnaire: impressions, triggered, shown, answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from easq_rec.answers.questionnaire import Questionnaire
from easq_rec.config.answer_scale import THREE_ANSWERS, AnswerScale
from easq_rec.tools.inspect.column import Kind
from easq_rec.tools.inspect.sql_dataset import REQUEST_MS, Relation, struct


@dataclass(frozen=True, kw_only=True)
class Stages:
    """Impressions at each stage. A stage whose columns are missing is None."""

    scale: AnswerScale = THREE_ANSWERS
    triggered: int | None = None
    """Impressions that the questionnaire's rule allows to ask about; needs watch_ms and duration_ms."""
    shown: int | None = None
    """Needs column `shown`."""
    answers: dict[str, int] | None = None
    """By name of the answer, the worst first; needs column `answer`."""
    other_answers: int = 0
    """Answers of an unknown code."""
    delays: list[float] | None = None
    """Median and 95% quantile of the time from a request to its answers, in milliseconds. Approximate (t-digest)."""
    early: int = 0
    """Answers that are earlier than their request or have no time."""


def stage_figures(relation: Relation, kinds: Mapping[str, Kind], scale: AnswerScale) -> dict[str, str]:
    """SQL aggregates over the relation of the candidates, by field of `Stages`."""
    # DuckDB orders NaN above all numbers; as null it compares with nothing.
    number = {path: f"nullif(({expression})::DOUBLE, 'nan')" for path, expression in relation.columns.items()}
    watch, duration, shown = (number.get(f"candidates.{name}") for name in ("watch_ms", "duration_ms", "shown"))
    integers = {path: expression for path, expression in relation.columns.items() if kinds[path] == "integer"}
    answer, time = (integers.get(f"candidates.{name}") for name in ("answer", "answered_at_ms"))
    rule = Questionnaire()
    wanted: dict[str, str] = {}
    if watch and duration:
        long = f"{watch} > {rule.trigger_watch_s * 1_000} OR {watch} > {rule.trigger_progress} * {duration}"
        wanted["triggered"] = f"count(*) FILTER ({long})"
    if shown:
        wanted["shown"] = f"count(*) FILTER ({shown} != 0)"
    if answer:
        wanted["answers"] = struct({name: f"count(*) FILTER ({answer} = {code})" for name, code in scale.codes.items()})
        wanted["other_answers"] = f"count(*) FILTER ({answer} NOT BETWEEN {scale.first} AND {scale.last})"
    if answer and time:
        delay = f"({time} - {REQUEST_MS})"
        wanted["early"] = f"count(*) FILTER ({answer} IS NOT NULL AND ({time} IS NULL OR {delay} < 0))"
        wanted["delays"] = f"approx_quantile({delay}, [0.5, 0.95]) FILTER ({answer} IS NOT NULL AND {delay} >= 0)"
    return wanted
