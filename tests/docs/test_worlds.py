"""The card of the synthetic worlds shows the published measurements, and names every option with its default."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from benchmarks.world_shares import WANTED, tables
from easq_rec.config import World
from easq_rec.config.world import SECOND_KNOBS
from easq_rec.tools.simulation.second_effects import ACTIONS, PLAY_ITEM, PLAY_USER
from tests.docs.pages import REPOSITORY

CARD = (REPOSITORY / "datasets" / "world" / "README.md").read_text()
RESULT = json.loads((REPOSITORY / "benchmarks" / "results" / "world_shares.json").read_text())


@pytest.mark.parametrize("name", ["calibration", "logs", "lifts", "rankers"])
def test_tables_are_those_of_the_published_result(name: str) -> None:
    assert tables(RESULT)[name] in CARD, "run benchmarks.world_shares and copy the tables that it prints with --tables"


def test_the_published_result_is_of_the_calibration_that_the_tests_hold() -> None:
    assert RESULT["wanted"] == json.loads(json.dumps({name: dataclasses.asdict(row) for name, row in WANTED.items()}))


def test_formulas_show_the_constants_of_the_code() -> None:
    assert f"{PLAY_USER:g} g_u + {PLAY_ITEM:g} a_v(t)" in CARD
    for name, action in ACTIONS.items():
        (row,) = re.findall(
            rf"^\| {name} \| .*$", CARD.split("### Other actions")[1].split("### Answers")[0], re.MULTILINE
        )
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert float(cells[1].split("%")[0]) == pytest.approx(100 * action.rate)
        assert cells[2] == f"{action.user:g}" if action.user is not None else "--like-spread" in cells[2]
        assert [float(cell) for cell in (cells[3], *cells[5:])] == [action.video, action.valid_play, action.long_view]


@pytest.mark.parametrize("name", SECOND_KNOBS)
def test_the_card_shows_the_default_of_every_option(name: str) -> None:
    flag, default = f"--{name.replace('_', '-')}", getattr(World(), name)
    if isinstance(default, str):
        assert re.findall(rf"`{flag}`\s*\(`(\w+)`\)", CARD) == [default]
        return
    shown = [float(value) for value in re.findall(rf"`{flag}`\s*\(?(-?[\d.]*\d)", CARD)]
    assert shown == [default]
