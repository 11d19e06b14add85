"""The page about alignment: its tables are those of the JSON files, and its prose has no other figures."""

from __future__ import annotations

import re
import shlex

import pytest

from easq_rec.cli.main import MARKERS, Command
from easq_rec.config.command_line import parse
from easq_rec.tools.studies.command import trainings
from easq_rec.tools.studies.grid import ANCHORS
from tests.docs.pages import REPOSITORY
from tests.docs.test_generated import REMEDY, script

FIGURE = re.compile(r"[+-]?\d+\.\d+")
MEASURED_ELSEWHERE = "## The base ranker on the worlds"
"""The last section has tables that a benchmark prints, with the command beside them."""

PRESENT = (
    *("frontier-world1", "frontier-world2", "map", "operating-point", "robustness"),
    *("frontier-movielens-users", "frontier-movielens-user-clock", "frontier-kuairand"),
)
"""Studies of the present default."""


def test_tables_are_those_of_the_json_files() -> None:
    module = script("science_page")
    assert module.FILE.read_text(encoding="utf-8") == module.content(), REMEDY


def test_every_table_is_on_the_page() -> None:
    module = script("science_page")
    assert set(re.findall(r"<!-- table (\S+) -->", module.FILE.read_text("utf-8"))) == set(module.TABLES)


def test_figures_of_the_prose_are_in_a_table() -> None:
    """With its sign, if it has one."""
    module = script("science_page")
    page = module.FILE.read_text(encoding="utf-8").split(MEASURED_ELSEWHERE)[0]
    tables = "\n".join(line for line in page.splitlines() if line.startswith("|"))
    prose = module.BLOCK.sub("", page)
    # Versions and addresses of articles are no figures.
    prose = re.sub(r"torch \d+\.\d+\.\d+|arXiv \d+\.\d+|\d+\.\d+\.\d+", "", prose)
    known = set(FIGURE.findall(tables))
    known |= {figure.lstrip("+-") for figure in known}
    strange = [figure for figure in FIGURE.findall(prose) if figure not in known]
    assert not strange, f"{strange}: not in a table of {module.FILE.relative_to(REPOSITORY)}"


@pytest.mark.parametrize("name", PRESENT)
def test_studies_are_of_the_present_default(name: str) -> None:
    """The page says so: the trainings of these studies have the configs that their commands give now.

    Whoever changes a default runs them again, or says on the page which default they are of.
    """
    published = script("science_page").results(name)
    options = parse(Command, shlex.split(published["command"])[1:], prog="easq-rec", markers=MARKERS)
    trained = {cell["digest"] for cell in published["cells"] if cell["variant"] not in ANCHORS}
    assert trained == {cell.digest for cell in trainings(options)}


def test_figures_of_the_readme_are_those_of_the_json_files() -> None:
    """In what it says about the gain of alignment."""
    module = script("science_page")
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    text = text[text.index("## Results") : text.index("On real short-video logs")]
    mean = module.benchmark("movielens")["mean"]
    known = {f"{value:.4f}" for found in mean.values() for value in found.values()}
    known |= set(FIGURE.findall(module.priced("frontier-world2"))) | set(FIGURE.findall(module.movielens_users()))
    known |= set(FIGURE.findall(module.priced("frontier-movielens-users", "pair_accuracy")))
    known |= set(FIGURE.findall(module.priced("operating-point")))
    figures = FIGURE.findall(text)
    assert len(figures) > 20 and not [figure for figure in figures if figure not in known]
