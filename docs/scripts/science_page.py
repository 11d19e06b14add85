"""Fills the tables of explanation/science.md from the JSON files of docs/results/ and benchmarks/results/.

A table stands between the comments `<!-- table NAME -->` and `<!-- end -->`. `make docs` runs this script;
tests/docs/test_science.py holds the committed page equal to its output, and every figure of the prose to a figure of
the page's tables.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1]
FILE = DOCS / "explanation" / "science.md"
BLOCK = re.compile(r"<!-- table (\S+) -->\n.*?<!-- end -->", re.DOTALL)


def content() -> str:
    """The text of the page, with current tables."""
    return BLOCK.sub(
        lambda found: f"<!-- table {found[1]} -->\n\n{TABLES[found[1]]()}\n\n<!-- end -->", FILE.read_text("utf-8")
    )


def results(name: str) -> dict[str, Any]:
    """The results.json of a study."""
    found: dict[str, Any] = json.loads((DOCS / "results" / name / "results.json").read_text("utf-8"))
    return found


def benchmark(name: str) -> dict[str, Any]:
    """The JSON file of a benchmark."""
    path = DOCS.parent / "benchmarks" / "results" / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def interval(estimate: Mapping[str, float | None] | None, unit: str = "%", digits: int = 1) -> str:
    """A value with its interval: +6.5% [+5.0, +8.0]; a dash if there is none."""
    if estimate is None:
        return "-"
    value, low, high = (estimate[name] for name in ("value", "low", "high"))
    if value is None:
        return "-"
    shown = f"{value:+.{digits}f}{unit}"
    return shown if low is None or high is None else f"{shown} [{low:+.{digits}f}, {high:+.{digits}f}]"


def priced(study: str, metric: str = "satisfaction") -> str:
    """Gains of the families of a study at equal prices."""
    return table(*priced_rows(study, metric))


def priced_rows(study: str, metric: str) -> tuple[list[str], list[list[str]]]:
    """(headings, rows) of `priced`."""
    rows = []
    for family in results(study)["prices"][metric]:
        gains = [interval(entry["gain"]) for entry in family["gains"]]
        leads = [interval(entry["lead"], "") for entry in family["easq_less_it"]] or ["-"] * len(gains)
        name = f"**`{family['name']}`**" if family["name"] == "easq" else f"`{family['name']}`"
        rows.append([name, family["role"], *(cell for pair in zip(gains, leads, strict=True) for cell in pair)])
    prices = [entry["price"] for entry in results(study)["prices"][metric][0]["gains"]]
    headings = ["family", "role"]
    for price in prices:
        headings += [f"gain at {price:g}%", "`easq` less it, points"]
    return headings, rows


def priced_by_clock(studies: Mapping[str, str], metric: str) -> str:
    """Gains of the families at equal prices, in several studies.

    Args:
        studies: what is held out, by study.
    """
    found = {held_out: priced_rows(study, metric) for study, held_out in studies.items()}
    headings = next(iter(found.values()))[0]
    rows = [[held_out, *cells] for held_out, (_, of_study) in found.items() for cells in of_study]
    return table(["held out", *headings], rows)


def levels(study: str) -> str:
    """What main_only has, and what there is to gain, in a study of worlds."""
    wanted = ("main_only", "random", "oracle of satisfaction", "oracle of engagement")
    rows = {row["label"]: row for row in results(study)["rows"]}
    return table(
        ["row", "satisfaction NDCG@5", "engagement NDCG@5"],
        [
            [f"`{name}`" if name == "main_only" else name, *(f"{rows[name]['mean'][m]:.3f}" for m in LEVELS)]
            for name in wanted
            if name in rows
        ],
    )


def weights() -> str:
    """What each weight of the satisfaction score gains and costs."""
    rows = []
    studies = {
        "frontier-world2": "World 2",
        "frontier-world1": "World 1",
        "operating-point": "World 2, a million requests",
    }
    for study, world in studies.items():
        for row in results(study)["rows"]:
            if row["series"] == "easq, fused":
                cells = [interval(row["change_percent"][metric]) for metric in LEVELS]
                rows.append([world, f"{row['x']:g}", *cells])
    return table(["world", "weight", "satisfaction NDCG@5", "engagement NDCG@5"], rows)


def answers_map() -> str:
    """Who gains most at a price of 1% in the worlds of study map."""
    rows = []
    for place in results("map")["map"]:
        gains = {name: gain["value"] for name, gain in place["gains"].items()}
        rows.append(
            [
                f"{place['like_log_odds']:.2f}",
                f"{place['item_share']:g}",
                f"{place['answers']:,.0f}",
                f"{gains['easq']:+.1f}%",
                f"`{place['other']}` {gains[place['other']]:+.1f}%",
                interval(place["lead"], ""),
            ]
        )
    headings = ["log odds ratio of a like", "part of the video", "answers", "`easq`", "best other method"]
    return table([*headings, "`easq` less it, points"], rows)


def robustness() -> str:
    """What `easq` keeps if answers or likes are bad, with its guards changed, and the best other method."""
    found = results("robustness")["robustness"]
    rows = []
    for setting in dict.fromkeys(one["setting"] for one in found):
        here = [one for one in found if one["setting"] == setting]
        others = [one for one in here if one["role"] == "baseline"]
        best = max(others, key=lambda one: one["gain"]["value"], default=None)
        for one in here:
            if one["role"] != "baseline" or one is best:
                name = f"**`{one['method']}`**" if one["role"] == "ours" else f"`{one['method']}`"
                shown = [interval(one[column]) for column in (*LEVELS, "gain")]
                rows.append([setting, name, *shown, interval(one["lost"], "")])
    headings = ["setting", "method", "satisfaction NDCG@5", "engagement NDCG@5", "gain at 1%", "lost, points"]
    return table(headings, rows)


LEVELS = ("satisfaction", "engagement")


def worth() -> str:
    """What answers add to behaviour, for each log."""
    more = "World 2, ten times as many answers"
    logs = {"worth": "World 2", "worth-dense": more, "worth-movielens": "MovieLens-100K"}
    logs |= {"worth-kuairand": "KuaiRand", "worth-kuairand-all": "KuaiRand, all signals revealed"}
    rows = []
    for name, log in logs.items():
        decision = results(name)["decision"]
        found = decision["evidence"]
        rows.append(
            [
                log,
                f"{found['answers']:,}",
                interval(found["adds"]),
                interval(found["adds_auc"], "", 3),
                interval(found["adds_to_others"]),
                interval(found["doubled"]),
                decision["outcome"],
            ]
        )
    headings = ["log", "answers", "answers add to behaviour", "in AUC", "for users who never answered"]
    return table([*headings, "twice as many add", "verdict"], rows)


def movielens() -> str:
    """Means over training seeds on the held-out period of MovieLens."""
    mean = benchmark("movielens")["mean"]
    columns = {
        "pair_accuracy": "rating pair accuracy",
        "satisfaction_ndcg5": "rating NDCG@5",
        "engagement_ndcg5": "engagement NDCG@5",
        "gauc": "GAUC",
    }
    rows = [[f"`{name}`", *(f"{found[column]:.4f}" for column in columns)] for name, found in mean.items()]
    return table(["recipe", *columns.values()], rows)


def movielens_users() -> str:
    """easq less main_only on MovieLens, by clock and group of users."""
    columns = {
        "pair_accuracy": "rating pair accuracy",
        "answer_gauc": "GAUC of held-out answers",
        "engagement_ndcg5": "engagement NDCG@5",
        "gauc": "GAUC",
    }
    rows = []
    for clock, groups in benchmark("movielens_users")["clocks"].items():
        for group, found in groups.items():
            cells = [interval(found["metrics"][name]["difference"], "", 4) for name in columns]
            rows.append(
                [f"clock of {'the log' if clock == 'log' else 'users'}", group, f"{found['requests']:,}", *cells]
            )
    return table(["held out by", "users", "requests", *columns.values()], rows)


def default_choices() -> str:
    """Gains of the present and of the earlier default, and of baselines without training."""
    found = benchmark("default_choices")
    shown = ("easq", "earlier default", "item_prior", "answer_prior")
    gains = {(row["place"], row["row"]): row["at 1%"]["value"] for row in found["rows"]}
    rows = [
        [place, f"{about['density'] / 100:g}", *(f"{gains[place, name]:+.1f}%" for name in shown)]
        for place, about in found["places"].items()
    ]
    headings = ["`easq`", "earlier default", "`item_prior`", "`answer_prior`"]
    return table(["place", "answers, relative to World 2", *headings], rows)


TABLES: dict[str, Callable[[], str]] = {
    "levels-world2": lambda: levels("frontier-world2"),
    "frontier-world2": lambda: priced("frontier-world2"),
    "frontier-world1": lambda: priced("frontier-world1"),
    "frontier-movielens": lambda: priced("frontier-movielens", "pair_accuracy"),
    "frontier-movielens-users": lambda: priced_by_clock(
        {
            "frontier-movielens-users": "the last fifth of the log",
            "frontier-movielens-user-clock": "the last fifth of every user's history",
        },
        "pair_accuracy",
    ),
    "operating-point": lambda: priced("operating-point"),
    "levels-kuairand": lambda: levels("frontier-kuairand"),
    "frontier-kuairand": lambda: priced("frontier-kuairand"),
    "weights": weights,
    "map": answers_map,
    "robustness": robustness,
    "default-choices": default_choices,
    "movielens": movielens,
    "movielens-users": movielens_users,
    "worth": worth,
}


if __name__ == "__main__":
    FILE.write_text(content(), "utf-8")
