"""`easq-rec report` of real runs and studies, checked in a real browser without a display."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest

from easq_rec.tools.report.command import report
from tests.conftest import Warm
from tests.integration.conftest import REPOSITORY
from tests.tools.report import builders
from tests.tools.report.browser import Browser, find, started

pytestmark = pytest.mark.integration

Train = Callable[..., subprocess.CompletedProcess[str]]

PLOTS = """[...document.querySelectorAll('figure')].map(figure => {
  const visible = [...figure.querySelectorAll('svg.plot')].map(plot => plot.getBoundingClientRect())
    .filter(box => box.width > 0 && box.height > 0);
  return [figure.querySelector('figcaption').textContent, visible.length, visible.length ? visible[0].width : 0];
})"""
"""For each figure: its title, the number of visible plots, and the width of the first."""
OVERLAPS = """[...document.querySelectorAll('svg.plot')].flatMap(plot => {
  const boxes = [...plot.querySelectorAll('text')]
    .map(text => [text.textContent, text.getBoundingClientRect()])
    .filter(([, box]) => box.width > 0);
  return boxes.flatMap(([one, a], index) => boxes.slice(index + 1)
    .filter(([, b]) => a.left + 1 < b.right && b.left + 1 < a.right && a.top + 3 < b.bottom && b.top + 3 < a.bottom)
    .map(([other]) => `${one} / ${other}`));
})"""
"""Pairs of overlapping texts in a plot."""
OPEN_ALL = "document.querySelectorAll('details').forEach(details => { details.open = true; })"
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
BACKGROUND = "getComputedStyle(document.body).backgroundColor"
SMALLEST = """Math.min(...[...document.querySelectorAll('svg.plot')]
  .filter(plot => plot.getBoundingClientRect().width > 0)
  .flatMap(plot => [...plot.querySelectorAll('text')].map(text =>
    parseFloat(getComputedStyle(text).fontSize) * plot.getBoundingClientRect().width / plot.viewBox.baseVal.width)))"""
"""Displayed size of the smallest text in a plot, in pixels."""
COLOURS = """[...new Set([...document.querySelectorAll('.plot %s')]
  .map(element => getComputedStyle(element).%s).filter(colour => colour.startsWith('rgb(')))]"""
TEXTS = COLOURS % ("text", "fill")
"""Colours of the text in plots."""
STROKES = COLOURS % ('path[style*="stroke:var(--s"]', "stroke")
"""Colours of series."""
BODY = "getComputedStyle(document.body).color"

IN_RUNS = (
    *("L_main", "L_satis", "satisfaction NDCG@5", "engagement NDCG@5", "pair accuracy", "GAUC"),
    *("main tower, run: open gates", "satisfaction tower, run: open gates", "main tower, base: open gates"),
    *("standard deviation of the policy score", "KL of policy from reference, nats", "answers admitted"),
    *("DPO margin, held-out answers", "impressions per second"),
)
FRONTIER, BARS = "Satisfaction against engagement, change against main_only in %", "Change against main_only in %"
IN_STUDIES = (
    *(FRONTIER, BARS, "KL of policy from reference, nats", "standard deviation of the policy score"),
    *("DPO margin, trained less held-out answers", "Lift against triggered impressions in %"),
)


def easq_rec(warm: Warm, *arguments: object) -> str:
    return warm.run(warm.python, "-m", "easq_rec.cli", *map(str, arguments)).stdout


@pytest.fixture(scope="module")
def runs(train: Train, world: Path, warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of two trained and evaluated runs."""
    folder = tmp_path_factory.mktemp("report")
    run, base = folder / "run", folder / "base"
    short = ("--trainer.max-steps", "12", "--evaluation.every-steps", "4")
    train(run, *short, "--losses.warmup-steps", "2")
    config = [*("--data", world, "--run-dir", base), *short, "--trainer.batch-size", "16"]
    few = ("--logging.every-steps", "1", "--logging.tensorboard", "False", "--trainer.threads", "1")
    easq_rec(warm, "train", "quickstart_main_only", *config, *few)
    for directory in (run, base):
        easq_rec(warm, "evaluate", "--run", directory, "--resamples", 50)
    told = easq_rec(warm, "report", run, base)
    assert told == f"report in {run / 'report.html'}\n"
    return run / "report.html"


@pytest.fixture(scope="module")
def studies(world: Path, warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a study whose results are part of the repository, of results of earlier studies in this folder, and
    of one study of the small world."""
    folder = tmp_path_factory.mktemp("studies")
    easq_rec(warm, "study", "signal", "--data", world, "--out", folder / "signal")
    kept = [REPOSITORY / "docs" / "results" / "frontier-world2"]
    kept += [Path(__file__).parent / "studies" / name for name in ("ablation", "stability")]
    easq_rec(warm, "report", *kept, folder / "signal", "--out", folder / "page.html")
    return folder / "page.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = find()
    if program is None:
        pytest.skip("no Chromium here: install the package chromium, or name one in EASQ_CHROMIUM")
    with started(program) as found:
        yield found


def test_the_page_of_runs_has_paired_differences(runs: Path) -> None:
    page = runs.read_text(encoding="utf-8")
    assert "base against run" in page and "Paired under the same 1,000 resamples of" in page
    assert "no intervals" not in page and "<code>losses.warmup_<wbr>steps</code>" in page
    assert len(page) < 1_000_000


@pytest.mark.parametrize("width", [360, 1_280])
@pytest.mark.parametrize(("which", "expected"), [("runs", IN_RUNS), ("studies", IN_STUDIES)])
def test_a_browser_shows_every_plot_and_reports_no_problem(
    which: str, expected: tuple[str, ...], width: int, browser: Browser, request: pytest.FixtureRequest
) -> None:
    page: Path = request.getfixturevalue(which)
    browser.open(page.as_uri(), width=width)
    shown = {title: (plots, wide) for title, plots, wide in browser.evaluate(PLOTS)}
    assert set(expected) <= set(shown), set(expected) - set(shown)
    for title in expected:
        plots, wide = shown[title]
        # A plot that is drawn for both widths shows only one of its drawings.
        assert plots == 1 and 200 < wide < width, (title, plots, wide)
    assert browser.evaluate(OVERLAPS) == []
    assert browser.evaluate(SMALLEST) >= 10
    assert browser.evaluate(WIDER) == 0
    browser.evaluate(OPEN_ALL)
    assert browser.evaluate(WIDER) == 0
    assert all(plots == 1 for _, plots, _ in browser.evaluate(PLOTS))
    assert browser.problems == [] and browser.requests == [page.as_uri()]


def test_long_names_do_not_widen_the_page(browser: Browser, tmp_path: Path) -> None:
    """Neither a long word nor a long sentence widens the page, wherever the name is shown."""
    long, words = "variant" * 20, "a long name " * 12
    cells = [{"label": name, "metrics": {}, "history": {long: [(1, 1.0), (2, 2.0)]}} for name in (long, words)]
    rows = [builders.row(name, 1.0 + at, -1.0 - at) for at, name in enumerate((long, words))]
    study = builders.study(tmp_path / "study", study=long, question=long, notes=[long], rows=rows, cells=cells)
    page = report([builders.run(tmp_path / long), builders.run(tmp_path / words), study], tmp_path / "page.html")
    for width in (360, 1_000):
        browser.open(page.as_uri(), width=width)
        browser.evaluate(OPEN_ALL)
        assert browser.evaluate(WIDER) == 0 and browser.problems == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_lines_are_readable_in_both_colour_schemes(
    scheme: Literal["light", "dark"], studies: Path, browser: Browser
) -> None:
    # The narrowest page that shows the wide drawings.
    browser.open(studies.as_uri(), width=928, scheme=scheme)
    assert browser.evaluate(SMALLEST) >= 10
    background = _luminance(browser.evaluate(BACKGROUND))
    assert background > 0.9 if scheme == "light" else background < 0.02
    texts = [browser.evaluate(BODY), *browser.evaluate(TEXTS)]
    series = browser.evaluate(STROKES)
    # Text has the contrast that the Web Content Accessibility Guidelines require (1.4.3, level AA). Two of Okabe and
    # Ito's colours are light, so series also have markers and dashes.
    assert len(texts) >= 3 and all(_contrast(colour, background) >= 4.5 for colour in texts), texts
    assert len(series) >= 4 and all(_contrast(colour, background) >= 2.1 for colour in series), series


def test_the_browser_reports_external_content_and_scripts(studies: Path, browser: Browser, tmp_path: Path) -> None:
    """The tests above can fail: the browser finds an image, a script and a wide element."""
    page = tmp_path / "page.html"
    harm = '<img src="http://127.0.0.1:9/x.png"><script>1</script><p style="width:900px">wide</p></main>'
    page.write_text(studies.read_text(encoding="utf-8").replace("</main>", harm), encoding="utf-8")
    browser.open(page.as_uri(), width=360)
    assert any("image" in problem or "img-src" in problem for problem in browser.problems), browser.problems
    assert any("script" in problem for problem in browser.problems), browser.problems
    assert browser.evaluate(WIDER) > 0


def _luminance(colour: str) -> float:
    """Relative luminance of `rgb(...)`, by the Web Content Accessibility Guidelines."""
    parts = [float(part) / 255 for part in colour[colour.index("(") + 1 : colour.index(")")].split(",")[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(colour: str, background: float) -> float:
    low, high = sorted((_luminance(colour), background))
    return (high + 0.05) / (low + 0.05)
