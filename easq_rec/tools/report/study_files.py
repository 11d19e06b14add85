"""The results.json of a study, as `easq_rec.tools.studies` writes it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from easq_rec.errors import UserError
from easq_rec.evaluation.mean_interval import Estimate
from easq_rec.tools.figures.lines import Point
from easq_rec.tools.studies.comparison import Row
from easq_rec.tools.studies.map_view import MapPlace
from easq_rec.tools.studies.price_view import FamilyResult
from easq_rec.tools.studies.robustness_view import MethodResult
from easq_rec.tools.studies.verdict import Check, Verdict

CIRCUMSTANCES = ("command", "versions", "hardware", "budget", "world_version", "seeds", "wall_seconds", "cell_seconds")


@dataclass(frozen=True, kw_only=True)
class AnswerLift:
    """A row of study `signal`: how much more frequent a behaviour is after an answer."""

    behaviour: str
    answer: str
    answers: int
    rate: float
    average: float
    over: str
    """Impressions that the average is taken over."""
    change: Estimate
    """In percent."""


@dataclass(frozen=True, kw_only=True)
class CellRecord:
    """One training of the study."""

    label: str
    world_seed: int | None
    training_seed: int | None
    seconds: float
    metrics: dict[str, float]
    history: dict[str, list[Point]]
    """(step, value), by metric."""


@dataclass(frozen=True, kw_only=True)
class OnlineDifference:
    """An arm of an online test against another."""

    arm: str
    against: str
    metric: str
    unit: str
    """What the measurements are independent of each other by: users, days, worlds."""
    change: Estimate
    """In percent."""


@dataclass(frozen=True, kw_only=True)
class OnlineTest:
    """A simulated online test (A/B)."""

    arms: dict[str, dict[str, float]]
    """Means by arm and metric."""
    differences: list[OnlineDifference]
    days: dict[str, dict[str, list[float]]]
    """A value for each day, by arm and metric."""


@dataclass(frozen=True, kw_only=True)
class WorthSource:
    """One source of study `worth`, in one split, before or after the view."""

    held_out: str
    question: str
    source: str
    metrics: dict[str, Estimate]
    """By name: auc, within, loss, explained."""


@dataclass(frozen=True, kw_only=True)
class WorthRecord:
    """What only study `worth` has."""

    outcome: str
    """Its verdict, in words."""
    why: list[str]
    sources: list[WorthSource]
    adds: list[WorthSource]
    """Differences of `both` and `behaviour alone`."""
    levels: dict[str, list[tuple[float, Estimate]]]
    """(answers, explained) of the learning curves, by source."""
    gains: dict[str, list[tuple[int, Estimate]]]
    """(times as many answers, what they would add), by source."""
    patterns: list[dict[str, Any]]
    differences: list[tuple[str, Estimate]]
    """(behaviour, how far the users who answer lie from all users)."""


@dataclass(frozen=True, kw_only=True)
class StudyFiles:
    """A study's directory."""

    directory: Path
    name: str
    """Distinguishes it from the other studies of the report."""
    study: str
    question: str
    verdict: Verdict | None
    rows: list[Row]
    lifts: list[AnswerLift]
    notes: list[str]
    cells: list[CellRecord]
    failed: list[str]
    settings: list[dict[str, Any]]
    online: OnlineTest | None
    worth: WorthRecord | None
    prices: dict[str, list[FamilyResult]]
    """Families at an equal price, by the gained metric; only study `frontier` has them."""
    places: list[MapPlace]
    """Of study `map`."""
    robustness: list[MethodResult]
    """Of study `robustness`."""
    circumstances: dict[str, Any] = field(default_factory=dict)
    """Those of `CIRCUMSTANCES` that the file has."""


def read_study(directory: Path, name: str, content: dict[str, Any]) -> StudyFiles:
    """The study of a results.json. Raises UserError where its content is something else."""
    try:
        return _study(directory, name, content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{directory / 'results.json'}: not what `easq-rec study` writes ({error!r}); run the study again with "
            "--resume, which keeps its finished cells"
        ) from error


def _study(directory: Path, name: str, content: dict[str, Any]) -> StudyFiles:
    entries = content.get("rows", [])
    online = content.get("ab")
    return StudyFiles(
        directory=directory,
        name=name,
        study=str(content["study"]),
        question=str(content.get("question", "")),
        verdict=_verdict(content["verdict"]) if content.get("verdict") else None,
        rows=[_row(entry) for entry in entries if "change_percent" in entry],
        lifts=[_lift(entry) for entry in entries if "lift_percent" in entry],
        notes=[str(note) for note in content.get("notes", [])],
        cells=[_cell(entry) for entry in content.get("cells", [])],
        failed=[str(cell) for cell in content.get("failed", [])],
        settings=[dict(entry) for entry in content.get("settings", [])],
        online=None if online is None else _online(online),
        worth=_worth(content["decision"], content["worth"]) if content.get("decision") else None,
        prices={
            str(metric): [_family(entry) for entry in entries] for metric, entries in content.get("prices", {}).items()
        },
        places=[_place(entry) for entry in content.get("map", [])],
        robustness=[_method(entry) for entry in content.get("robustness", [])],
        circumstances={key: content[key] for key in CIRCUMSTANCES if content.get(key) is not None},
    )


def estimate_of(values: dict[str, Any]) -> Estimate:
    """The inverse of `easq_rec.tools.studies.comparison.estimate_values`: null stands for unknown."""
    value, low, high = (_number(values[key]) for key in ("value", "low", "high"))
    return Estimate(
        value=value,
        low=-math.inf if math.isnan(low) else low,
        high=math.inf if math.isnan(high) else high,
        count=int(values.get("count", 0)),
    )


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    return {str(name): _number(value) for name, value in values.items()}


def _row(entry: dict[str, Any]) -> Row:
    return Row(
        label=str(entry["label"]),
        variant=str(entry.get("variant", "")),
        series=str(entry.get("series") or ""),
        x=None if entry.get("x") is None else float(entry["x"]),
        mean=_numbers(entry["mean"]),
        change={str(name): estimate_of(change) for name, change in entry["change_percent"].items()},
    )


def _family(entry: dict[str, Any]) -> FamilyResult:
    return FamilyResult(
        name=str(entry["name"]),
        role=str(entry["role"]),
        gains={float(one["price"]): estimate_of(one["gain"]) for one in entry["gains"]},
        behind={float(one["price"]): estimate_of(one["lead"]) for one in entry["easq_less_it"]},
        points=[
            (float(one["weight"]), estimate_of(one["engagement"]), estimate_of(one["gained"]))
            for one in entry["points"]
        ],
        curve=[(float(price), float(gain)) for price, gain in entry["curve"]],
    )


def _place(entry: dict[str, Any]) -> MapPlace:
    return MapPlace(
        like_slope=float(entry["like_slope"]),
        item_share=float(entry["item_share"]),
        density=float(entry["density"]),
        answers=_number(entry["answers"]),
        like_log_odds=_number(entry["like_log_odds"]),
        gains={str(name): estimate_of(gain) for name, gain in entry["gains"].items()},
        winner=str(entry["winner"]),
        other=str(entry["other"]),
        lead=estimate_of(entry["lead"]),
    )


def _method(entry: dict[str, Any]) -> MethodResult:
    return MethodResult(
        setting=str(entry["setting"]),
        method=str(entry["method"]),
        role=entry["role"],
        **{name: estimate_of(entry[name]) for name in ("satisfaction", "engagement", "gain", "lost", "easq_less_it")},
    )


def _lift(entry: dict[str, Any]) -> AnswerLift:
    return AnswerLift(
        behaviour=str(entry["behaviour"]),
        answer=str(entry["answer"]),
        answers=int(entry["answers"]),
        rate=_number(entry["rate"]),
        average=_number(entry["average"]),
        over=str(entry.get("average_over", "impressions")),
        change=estimate_of(entry["lift_percent"]),
    )


def _verdict(values: dict[str, Any]) -> Verdict:
    """The outcome is computed from the checks, as it was when the file was written."""
    checks = [
        Check(
            what=str(check["what"]),
            measured=estimate_of(check["measured"]),
            wanted=check["wanted"],
            threshold=float(check["threshold"]),
            unit=_unit(str(check["unit"])),
        )
        for check in values["checks"]
    ]
    return Verdict(claim=str(values["claim"]), checks=checks, budget=values.get("budget", "full"))


def _unit(unit: str) -> str:
    return unit if unit in ("", "%") else f" {unit}"


def _cell(entry: dict[str, Any]) -> CellRecord:
    return CellRecord(
        label=str(entry["label"]),
        world_seed=entry.get("world_seed"),
        training_seed=entry.get("training_seed"),
        seconds=_number(entry.get("seconds")),
        metrics=_numbers(entry["metrics"]),
        history={
            str(name): [(float(step), float(value)) for step, value in points]
            for name, points in entry.get("history", {}).items()
        },
    )


def _online(values: dict[str, Any]) -> OnlineTest:
    return OnlineTest(
        arms={str(arm["label"]): _numbers(arm["metrics"]) for arm in values.get("arms", [])},
        differences=[
            OnlineDifference(
                arm=str(entry["arm"]),
                against=str(entry["against"]),
                metric=str(entry["metric"]),
                unit=str(entry.get("unit", "")),
                change=estimate_of(entry["change"]),
            )
            for entry in values.get("differences", [])
        ],
        days={
            str(arm): {str(name): [_number(value) for value in course] for name, course in metrics.items()}
            for arm, metrics in values.get("days", {}).items()
        },
    )


def _worth(decision: dict[str, Any], values: dict[str, Any]) -> WorthRecord:
    levels: dict[str, list[tuple[float, Estimate]]] = {}
    for entry in values["curve"]:
        levels.setdefault(entry["source"], []).append((float(entry["answers"]), estimate_of(entry["explained"])))
    gains: dict[str, list[tuple[int, Estimate]]] = {}
    for entry in values["continued"]:
        gains.setdefault(entry["source"], []).append((int(entry["times"]), estimate_of(entry["gain"])))
    who = values["who"]
    return WorthRecord(
        outcome=str(decision["outcome"]),
        why=[str(reason) for reason in decision["why"]],
        sources=[_worth_source(entry, str(entry["source"])) for entry in values["information"]],
        adds=[_worth_source(entry, "both - behaviour alone") for entry in values["adds"]],
        levels=levels,
        gains=gains,
        patterns=[dict(entry) for entry in who["patterns"]],
        differences=[(str(entry["behaviour"]), estimate_of(entry["difference"])) for entry in who["differences"]],
    )


def _worth_source(entry: dict[str, Any], source: str) -> WorthSource:
    return WorthSource(
        held_out=str(entry["held_out"]),
        question=str(entry["question"]),
        source=source,
        metrics={name: estimate_of(entry[name]) for name in ("auc", "within", "loss", "explained")},
    )
