"""The report page: its content for runs and studies, escaping of names, and errors that name place and remedy."""

from __future__ import annotations

import importlib.resources
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from easq_rec.cli.main import main
from easq_rec.run_directory.formatting import NONE
from easq_rec.tools.report.command import report
from easq_rec.tools.report.configs import notable, recipe_defaults
from easq_rec.tools.report.names import HELD_OUT, OUTCOME, in_order, label
from easq_rec.tools.report.page import POLICY
from easq_rec.tools.report.sources import distinct_names, read_sources
from easq_rec.tools.report.study_files import StudyFiles
from easq_rec.tools.report.study_view import mean_course
from easq_rec.tools.studies.base import base_config
from easq_rec.tools.studies.command import STUDIES
from easq_rec.tools.studies.comparison import StudyComparison
from tests.tools.report import builders
from tests.tools.studies.priced_runs import priced_runs

REPOSITORY = Path(__file__).parents[3]
ATTRIBUTES = {
    *("aria-hidden", "aria-label", "charset", "class", "content", "d", "href", "http-equiv", "id", "lang", "name"),
    *("role", "scope", "style", "tabindex", "transform", "viewbox", "x", "y"),
}
"""All attributes that a page may have. None of them loads or runs anything, as src and on... do."""
HOSTILE = '"><script src="http://evil.example/x.js"></script><img src=x onerror=alert(1)>'


def written(*directories: Path) -> str:
    return report(directories, directories[0] / "page.html").read_text(encoding="utf-8")


def test_labels_equal_those_of_the_evaluation() -> None:
    from easq_rec.evaluation import results

    assert HELD_OUT == results.LABELS and OUTCOME == results.OUTCOME_LABELS
    names = ["outcome_ratio_b", "gauc", "outcome_ratio_a", "outcome_log_loss_b", "unknown"]
    values = dict.fromkeys([*names, *HELD_OUT])
    assert in_order(values) == results.metric_names(values)
    assert in_order(names) == ["gauc", "outcome_log_loss_b", "outcome_ratio_b", "outcome_ratio_a"]
    assert label("outcome_log_loss_b") == results.label("outcome_log_loss_b") == "b: log loss"


def test_reliability_has_a_panel_for_each_outcome_and_a_line_for_each_run(tmp_path: Path) -> None:
    """One run was not evaluated, and another does not predict one of the outcomes."""
    runs = [builders.run(tmp_path / name) for name in ("a", "b", "c")]
    error = {"value": 0.0125, "low": 0.01, "high": 0.02}
    for run, outcomes in ((runs[0], {"like": [(0.1, 0.2), (0.4, 0.3)]}), (runs[2], {"like": [(0.3, 0.3)], "hate": []})):
        content = {
            "metrics": {"outcome_calibration_error_like": error, "outcome_ratio_like": error},
            "outcomes": {name: builders.bins(points) for name, points in outcomes.items()},
            "calibration": "isotonic",
        }
        (run / "evaluation.json").write_text(json.dumps(content))
    page = written(*runs)
    assert "Reliability of the predicted outcomes" in page and "outcomes calibrated (isotonic)" in page
    assert "<figcaption>like</figcaption>" in page and "<figcaption>hate</figcaption>" not in page
    assert "Calibration error: a 0.0125, c 0.0125." in page
    assert '<th scope="row">like: calibration error</th>' in page.replace("_<wbr>", "_")
    rows = re.findall(r'<th scope="row">([ac])</th><td class="n">(0.\d)</td><td class="n">(0.\d)</td>', page)
    assert rows == [("a", "0.1", "0.2"), ("a", "0.4", "0.3"), ("c", "0.3", "0.3")]


def test_a_run_is_reported_with_changed_settings_curves_and_remedy(tmp_path: Path) -> None:
    config = json.loads((builders.run(tmp_path / "plain") / "config.json").read_text())
    dense = config["losses"]["dense"] | {"weight": 0.77}
    run = builders.run(tmp_path / "one", losses=config["losses"] | {"dense": dense})
    page = written(run)
    row = re.search(r"<code>losses.dense.weight</code>.*?</tr>", page, re.S)
    assert row and "<td>0.0</td>" in row[0] and "<b>0.77</b>" in row[0]
    assert "<code>losses.dpo.weight</code>" not in page
    assert f"easq-rec evaluate --run {run}" in page
    for caption in ("L_main", "satisfaction NDCG@5", "GAUC", "main tower: open gates", "impressions per second"):
        assert f"<figcaption>{caption}</figcaption>" in page, caption
    assert "0 throughout: L_DPO." in page and "Figures (all points)" in page


def test_a_run_that_follows_is_shown_by_hour(tmp_path: Path) -> None:
    """Runs that began at other hours are beside each other; a run without hours has no line."""
    runs = [builders.run(tmp_path / name) for name in ("one", "two", "fixed")]
    for place, run in enumerate(runs[:2]):
        hours = [
            {"step": 9, "split": "hour", "hour_ms": (100 + place + hour) * 3_600_000, "auc_like": 0.6 + hour / 10}
            for hour in range(3)
        ]
        with (run / "metrics.jsonl").open("a") as file:
            file.write("".join(json.dumps(hour | {"late_requests": 2.0}) + "\n" for hour in hours))
    page = written(*runs)
    found = re.search(r"<figcaption>like: AUC</figcaption>.*?</table>", page, re.S)
    assert found is not None
    rows = re.findall(r'<th scope="row">(\d)</th><td class="n">([^<]+)</td><td class="n">([^<]+)</td>', found[0])
    assert rows == [("0", "0.6", NONE), ("1", "0.7", "0.6"), ("2", "0.8", "0.7"), ("3", NONE, "0.8")]
    assert "hour of the stream" in page and "<figcaption>late requests</figcaption>" in page
    assert "hour by hour" not in written(runs[2])


def test_an_unfinished_run_is_marked_and_a_truncated_line_is_ignored(tmp_path: Path) -> None:
    run = builders.run(tmp_path / "one", steps=3)
    file = run / "metrics.jsonl"
    whole = file.read_text().splitlines(keepends=True)
    file.write_text("".join(whole[:-1]) + whole[-1][:20])
    page = written(run)
    assert "3, not finished" in page and "Not from the end of training: one at step 3." in page


def test_runs_are_compared_with_the_first_run(tmp_path: Path) -> None:
    first, other = builders.run(tmp_path / "a"), builders.run(tmp_path / "b", name="quickstart_main_only")
    file = other / "metrics.jsonl"
    file.write_text(file.read_text().replace('"gauc": 0.6', '"gauc": 0.65'))
    page = written(first, other)
    row = re.search(r"<b>GAUC</b>.*?</tr>", page, re.S)
    assert row and re.findall(r">([^<>]+)</td>", row[0]) == ["0.6000", "0.6500", "+0.0500"]
    assert "less a" in page and "These runs have no intervals" in page
    assert "model.satisfaction.experts" in page


def test_names_are_the_shortest_that_are_distinct() -> None:
    paths = [Path("/x/one/run"), Path("/x/two/run"), Path("/x/two/other")]
    assert distinct_names(paths) == ["one/run", "two/run", "two/other"]
    assert distinct_names(paths[1:]) == ["run", "other"]


def test_settings_that_differ_from_their_recipes_are_found() -> None:
    defaults = recipe_defaults("quickstart")
    assert defaults is not None and defaults["losses.dense.weight"] == 0.0 and recipe_defaults("custom") is None
    first = {"recipe": "quickstart", "losses": {"dense": {"weight": 0.0}}, "run_dir": "a"}
    second = {"recipe": "quickstart_paper", "losses": {"dense": {"weight": 0.1}}, "run_dir": "b"}
    (setting,) = notable([first, second])
    assert setting.field == "losses.dense.weight" and setting.values == [0.0, 0.1]
    assert not setting.chosen(0) and setting.chosen(1)


def test_a_study_is_reported_with_verdict_plots_and_environment(tmp_path: Path) -> None:
    page = written(builders.study(tmp_path / "study"))
    for text in ("How much?", "? undecided", "It gains.", "+2.0% [+1.0, +3.0]", "claimed above +1.5%", "A note."):
        assert text in page, text
    for text in ("easq-rec study frontier", "torch 2.13.0", "cpu one", "0, 1", "5 min"):
        assert text in page, text
    assert "gpu" not in page and "Settings" not in page and "Online test" not in page and "failed" not in page
    assert page.count('class="plot"') == 4
    assert "<b>+2.0% [+1.0, +3.0]</b>" in page and "-1.0% [-2.0, 0.0]</td>" not in page
    assert "-1.0% [-2.0, +0.0]</td>" in page


def test_curves_over_a_setting_include_the_default_and_may_be_logarithmic(tmp_path: Path) -> None:
    rows = [
        builders.row("K1=1 K2=1", 1.0, -1.0, series="K2 (K1 = 1)", x=1.0),
        builders.row("K1=1 K2=4", 2.0, -1.0, series="K2 (K1 = 1)", x=4.0),
        builders.row("K1=4 K2=1", 3.0, -1.0, series="K1 (K2 = 1)", x=4.0),
    ]
    page = written(builders.study(tmp_path / "experts", study="experts", rows=rows))
    assert "Over the experts" in page and "K1 (K2 = 1) goes from 1 at 1 to 3 at 4" in page
    sparsity = [builders.row(f"easq {x}", 1.0, -1.0, series="easq", x=x) for x in (1e-5, 1e-3, 1e-1)]
    page = written(builders.study(tmp_path / "sparsity", study="sparsity", rows=sparsity))
    # The ticks are at equal distances, because the axis is logarithmic.
    curve = page[page.index("Over the answers per triggered impression") :]
    found = {
        text: float(x) for x, text in re.findall(r'x="([\d.]+)"[^>]*>([^<]*)</text>', curve[: curve.index("</svg>")])
    }
    left, middle, right = (found[text] for text in ("1e-05", "0.001", "0.1"))
    assert left < middle and abs((middle - left) - (right - middle)) < 0.3


def test_curves_of_cells_are_averaged_over_common_steps(tmp_path: Path) -> None:
    def cell(world: int, margins: list[tuple[int, float]]) -> dict[str, object]:
        history = {"answers_train_margin": margins, "answers_holdout_margin": [(step, 1.0) for step, _ in margins]}
        return {"label": "easq", "world_seed": world, "seconds": 1.0, "metrics": {"gauc": None}, "history": history}

    cells = [cell(0, [(10, 2.0), (20, 4.0), (30, 9.0)]), cell(1, [(10, 4.0), (20, 8.0)])]
    page = written(builders.study(tmp_path / "stability", study="stability", cells=cells))
    assert "<figcaption>DPO margin, trained less held-out answers</figcaption>" in page
    assert "easq goes from 2 at 10 to 5 at 20" in page and "All 2 cells" in page
    assert mean_course([[(1.0, 2.0), (2.0, 3.0)], [(2.0, 5.0)]]) == [(2.0, 4.0)]


def test_the_limit_of_a_claim_about_divergence_is_drawn(tmp_path: Path) -> None:
    check = {"what": "KL", "measured": builders.estimate(1.0), "wanted": "below", "threshold": 0.5, "outcome": "fails"}
    verdict = {"claim": "Below.", "outcome": "fails", "checks": [check | {"unit": "nats"}]}
    cell = {
        "label": "easq",
        "metrics": {},
        "history": {"divergence": [(1, 0.1), (2, 0.9)], "policy_std": [(1, 1), (2, 2)]},
    }
    page = written(builders.study(tmp_path / "stability", study="stability", cells=[cell], verdict=verdict))
    assert "+1.00 nats [+0.00, +2.00]" in page and "claimed below +0.5 nats" in page
    assert page.count("stroke-dasharray:4,3") == 1 and "The dashed line is what the claim allows." in page


def test_an_online_test_and_settings_are_shown_as_tables(tmp_path: Path) -> None:
    change = builders.estimate(5.0)
    online = {
        "arms": [
            {"label": "easq", "metrics": {"watch_s": 31.5}},
            {"label": "main_only", "metrics": {"watch_s": 30.0}},
        ],
        "differences": [
            {
                "arm": "easq",
                "against": "main_only",
                "metric": "watch_s",
                "unit": "users",
                "change": change,
            }
        ],
        "days": {"easq": {"watch_s": [31.0, 32.0]}, "main_only": {"watch_s": [30.0, None]}},
    }
    settings = [{"rule": "always", "bias": builders.estimate(1.0, None)}, {"rule": "rarely", "share": 0.25, "on": True}]
    page = written(builders.study(tmp_path / "ab", study="ab", ab=online, settings=settings))
    assert "<b>+5.0% [+4.0, +6.0]</b>" in page and "5 users" in page and "31.5000" not in page and "31.5" in page
    assert "easq goes from 31 at 1 to 32 at 2" in page and "main_only goes from 30 at 1 to 30 at 1" in page
    assert "+1.00 [unknown]" in page and ">0.25</td>" in page and ">yes</td>" in page


def test_lifts_of_the_signal_study_are_shown(tmp_path: Path) -> None:
    lift = {"behaviour": "like", "answers": 40, "occurrences": 9, "rate": 0.225, "average": 0.15}
    rows = [
        lift | {"answer": "satisfied", "lift_percent": builders.estimate(50.0), "average_over": "all impressions"},
        lift | {"answer": "dissatisfied", "rate": None, "answers": 0, "lift_percent": builders.estimate(-40.0, None)},
    ]
    page = written(builders.study(tmp_path / "signal", study="signal", rows=rows))
    assert "Lift against all impressions in %" in page and "All variants" not in page
    assert "22.50%" in page and "-40.0% [unknown]" in page and page.count("stroke-dasharray:4,3") == 2


def test_methods_at_an_equal_price_are_shown_as_envelopes_bars_and_tables(tmp_path: Path) -> None:
    """What study `frontier` writes."""
    frontier = STUDIES["frontier"]
    cells = frontier.cells(base_config("full"), [0, 1, 2], "full")
    found = StudyComparison(priced_runs(cells, lambda name, config: 6.0 if name == "easq" else 3.0))
    findings = frontier.conclude(found, "full")
    rows = [row.values() for row in found.rows()]
    folder = builders.study(tmp_path / "f", rows=rows, verdict=findings.verdict.values(), **findings.extra)
    (study,) = read_sources([folder])
    assert isinstance(study, StudyFiles)
    read = {metric: [one.values() for one in families] for metric, families in study.prices.items()}
    assert read == json.loads(json.dumps(findings.extra["prices"])), "what is read is what was written"
    page = written(folder)
    for caption in ("Satisfaction NDCG@5 gained at a price in engagement", "Gain in pair accuracy"):
        assert f"<figcaption>{caption}" in page, caption
    assert "Pair accuracy at an equal price" in page and "All variants" in page and "claimed above +0 points" in page
    # The frontier with every point has no place beside that with envelopes.
    assert page.count('class="plot"') == 2 * 2 * 2
    easq = re.search(r'<th scope="row">easq</th>.*?</tr>', page, re.S)
    assert easq and re.search(r"\+6\.\d% \[", easq[0])
    check_self_contained(page)


def test_the_map_has_a_panel_for_each_number_of_answers(tmp_path: Path) -> None:
    """What study `map` writes."""
    study = STUDIES["map"]
    cells = study.cells(base_config("full"), [0, 1, 2], "full")
    found = StudyComparison(priced_runs(cells, lambda name, config: 6.0 if name == "easq" else 3.0))
    findings = study.conclude(found, "full")
    folder = builders.study(tmp_path / "map", study="map", world_version=2, **findings.extra)
    (read,) = read_sources([folder])
    assert isinstance(read, StudyFiles) and read.circumstances["world_version"] == 2
    assert [place.values() for place in read.places] == json.loads(json.dumps(findings.extra["map"]))
    page = written(folder)
    for caption in ("200 answers", "2,000 answers", "20,000 answers"):
        assert f"<figcaption>{caption}</figcaption>" in page
    assert re.search(r"log odds ratio 2\.21, share 0\.4: \+\d\.\d\d \[[^]]*\], easq gains most", page)
    assert "All places, gain in percent" in page and "Framed: the interval excludes 0." in page
    check_self_contained(page)


def test_robustness_has_bars_and_all_methods_of_each_setting(tmp_path: Path) -> None:
    """What study `robustness` writes."""
    study = STUDIES["robustness"]
    cells = study.cells(base_config("full"), [0, 1, 2], "full")
    found = StudyComparison(priced_runs(cells, lambda name, config: 6.0 - 10 * config.world.careless_users))
    findings = study.conclude(found, "full")
    folder = builders.study(tmp_path / "robustness", study="robustness", world_version=2, **findings.extra)
    (read,) = read_sources([folder])
    assert isinstance(read, StudyFiles)
    assert [one.values() for one in read.robustness] == json.loads(json.dumps(findings.extra["robustness"]))
    page = written(folder)
    assert "<figcaption>Gain by setting" in page and "All settings, gain in percent at a price of 1%" in page
    assert re.search(r"30% random</th>\s*<td>easq</td>(\s*<td[^>]*>[^<]*(<b>[^<]*</b>)?[^<]*</td>){3}", page, re.S)
    assert "easq, without evidence" in page and "paired by world" in page
    check_self_contained(page)


def test_text_from_files_is_escaped(tmp_path: Path) -> None:
    """Names, labels, sentences and keys of a run and of a study cannot add markup to the page."""
    run = builders.run(tmp_path / "run<i>", recipe=HOSTILE, schema_file=HOSTILE, **{HOSTILE: HOSTILE})
    lines = [{"step": step, "split": "train", HOSTILE: 1.0 * step, "ms_" + HOSTILE: 1.0} for step in (1, 2)]
    lines.append({"step": 2, "split": "final", HOSTILE: 0.5})
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    bins = {HOSTILE: builders.bins([(0.1, 0.2), (0.4, 0.3)])}
    content = {
        "metrics": {},
        "served": HOSTILE,
        "versions": {HOSTILE: HOSTILE},
        "outcomes": bins,
        "calibration": HOSTILE,
    }
    (run / "evaluation.json").write_text(json.dumps(content))
    rows = [builders.row(HOSTILE, 1.0, -1.0, series=HOSTILE, x=1.0), builders.row("b", 1.0, 2.0, series=HOSTILE, x=2.0)]
    cell = {"label": HOSTILE, "world_seed": HOSTILE, "metrics": {}, "history": {HOSTILE: [(1, 1.0), (2, 2.0)]}}
    check = {"measured": builders.estimate(1.0), "wanted": "above", "threshold": 0.0}
    differences = [{"arm": HOSTILE, "against": HOSTILE, "metric": HOSTILE, "unit": HOSTILE, "change": builders.EXACT}]
    study = builders.study(
        tmp_path / "study<i>",
        study=HOSTILE,
        question=HOSTILE,
        command=HOSTILE,
        versions={HOSTILE: HOSTILE},
        hardware={HOSTILE: HOSTILE},
        seeds=[HOSTILE],
        budget=HOSTILE,
        notes=[HOSTILE],
        failed=[HOSTILE],
        rows=rows,
        cells=[cell],
        settings=[{HOSTILE: HOSTILE}, {HOSTILE: [{HOSTILE: HOSTILE}]}],
        ab={"arms": [{"label": HOSTILE, "metrics": {HOSTILE: 1.0}}], "differences": differences, "days": {}},
        verdict={"claim": HOSTILE, "checks": [check | {"what": HOSTILE, "unit": HOSTILE}]},
    )
    page = written(run, study)
    assert "evil.example" in page
    for harm in ("<script", "<img", "<i>", "onerror=alert(1)>"):
        assert harm not in page, harm
    check_self_contained(page)


class Attributes(HTMLParser):
    """Collects (element, attribute, value) of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, str, str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [(tag, name, value or "") for name, value in attrs]


def check_self_contained(page: str) -> None:
    """Checks that the page refers to nothing outside of it and runs no code, and that ids of elements are unique."""
    found = Attributes(page).found
    assert ("meta", "content", POLICY) in found
    assert {name for _, name, _ in found} <= ATTRIBUTES
    assert all(value.startswith("#") for _, name, value in found if name == "href")
    names = [value for _, name, value in found if name == "id"]
    assert len(set(names)) == len(names)
    assert not any("url(" in value for _, _, value in found)
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style and "@import" not in style and "http" not in style


def test_equal_content_gives_equal_pages(tmp_path: Path) -> None:
    study = builders.study(tmp_path / "study")
    pages = [re.sub(r"Written [^.]*\.", "", written(study)) for _ in range(2)]
    assert pages[0] == pages[1]


def test_verdicts_equal_those_that_the_studies_have_published() -> None:
    directories = sorted((REPOSITORY / "docs" / "results").iterdir())
    assert len(directories) > 3
    for source in read_sources(directories):
        assert isinstance(source, StudyFiles)
        published = json.loads((source.directory / "results.json").read_text())
        if source.study == "worth":
            assert source.worth is not None and source.worth.outcome == published["decision"]["outcome"]
            continue
        assert source.verdict is not None
        assert source.verdict.values() == published["verdict"], source.name


def test_the_templates_are_part_of_the_package() -> None:
    """setuptools adds only modules to a wheel, and other files only if pyproject.toml names them."""
    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    folder = importlib.resources.files("easq_rec.tools.report")
    with importlib.resources.as_file(folder) as path:
        listed = {file for pattern in declared["easq_rec.tools.report"] for file in path.glob(pattern)}
        assert listed == set((path / "templates").iterdir()) and len(listed) == 5


def test_unpaired_surrogates_are_replaced(tmp_path: Path) -> None:
    assert "half ?" in written(builders.study(tmp_path / "study", notes=["half \ud800"]))


def test_the_page_of_a_long_run_is_small(tmp_path: Path) -> None:
    run = builders.run(tmp_path / "long", steps=20_000)
    assert len(written(run)) < 500_000


Break = Callable[[Path], object]


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda run: (run / "config.json").unlink(), "neither a run"),
        (lambda run: (run / "config.json").write_text("{"), "config.json: not readable as JSON"),
        (lambda run: (run / "config.json").write_text("[]"), "config.json: contains no JSON object"),
        (lambda run: (run / "metrics.jsonl").unlink(), "no metrics yet"),
        (lambda run: (run / "metrics.jsonl").write_text(""), "every 10 steps"),
        (lambda run: (run / "metrics.jsonl").write_text('{"step": 1}\n'), "line 1: not a record"),
        (lambda run: (run / "metrics.jsonl").write_bytes(b"\xff\n"), "every 10 steps"),
        (lambda run: (run / "evaluation.json").write_text('{"metrics": 3}'), "easq-rec evaluate --run"),
        (
            lambda run: (run / "evaluation.json").write_text(
                '{"metrics": {"gauc": {"value": "x", "low": 0, "high": 1}}}'
            ),
            "not an evaluation",
        ),
        (
            lambda run: (run / "evaluation.json").write_text(
                '{"metrics": {}, "outcomes": {"like": [{"predicted": 0.1}]}}'
            ),
            "not an evaluation (KeyError('observed'))",
        ),
        (lambda run: (run / "results.json").write_text('{"rows": []}'), "not what `easq-rec study` writes"),
        (lambda run: [path.unlink() for path in run.iterdir()] + [(run / "study.json").write_text("{}")], "--resume"),
        (lambda run: (run / "report.html").mkdir(), "is a directory: name a file to write"),
    ],
)
def test_input_that_cannot_be_reported_gives_a_one_line_error(
    harm: Break, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = builders.run(tmp_path / "run")
    harm(run)
    assert main(["report", str(run)]) == 2
    error = capsys.readouterr().err
    assert reason in error and str(run) in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "name at least one directory"),
        (("no/such/place",), "no/such/place: no such directory"),
        ((".", "./tests/.."), "given twice"),
    ],
)
def test_bad_arguments_give_a_one_line_error(
    arguments: tuple[str, ...], reason: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert main(["report", *arguments]) == 2
    error = capsys.readouterr().err
    assert reason in error and len(error.splitlines()) == 1


def test_the_page_is_written_to_the_first_directory_and_its_path_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, study = builders.run(tmp_path / "run"), builders.study(tmp_path / "study")
    assert main(["report", str(run), str(study)]) == 0
    assert capsys.readouterr().out == f"report in {run / 'report.html'}\n"
    assert not list(run.glob(".*")) and not list(study.glob("*.html"))
    assert main(["report", str(study), "--out", str(tmp_path / "new" / "page.html")]) == 0
    assert (tmp_path / "new" / "page.html").exists()


def test_a_report_without_evaluations_does_not_import_torch(tmp_path: Path) -> None:
    run, study = builders.run(tmp_path / "run"), builders.study(tmp_path / "study")
    program = (
        "import sys; from easq_rec.cli.main import main; main(['report', *sys.argv[1:]]);"
        "print([name for name in ('torch', 'torchrec') if name in sys.modules])"
    )
    command = [sys.executable, "-c", program, str(run), str(study)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
