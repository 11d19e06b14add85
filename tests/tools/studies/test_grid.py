"""Cells: labels, pairs, digests, and the grids of all studies."""

from __future__ import annotations

import dataclasses

import pytest

from easq_rec.config.serialization import from_dict, to_dict
from easq_rec.tools.studies.base import Budget, base_config
from easq_rec.tools.studies.command import STUDIES
from easq_rec.tools.studies.grid import BASE, Cell, differences, grid, seeded


@pytest.fixture
def cell() -> Cell:
    return Cell(variant="easq", config=seeded(base_config("small"), 3))


def changed(cell: Cell, **parts: dict[str, object]) -> Cell:
    config = cell.config
    new = {part: dataclasses.replace(getattr(config, part), **fields) for part, fields in parts.items()}
    return dataclasses.replace(cell, config=dataclasses.replace(config, **new))


def test_a_grid_has_every_variant_on_every_world() -> None:
    base = base_config("small")
    cells = grid({"one": base, "two": base}, [0, 4], curve={"two": ("curve", 7.0)})
    assert [(cell.variant, cell.world_seed, cell.training_seed, cell.x) for cell in cells] == [
        ("one", 0, 0, None),
        ("two", 0, 0, 7.0),
        ("one", 4, 4, None),
        ("two", 4, 4, 7.0),
    ]


def test_the_digest_depends_on_the_config_but_not_on_variant_and_run_directory(cell: Cell) -> None:
    assert cell.digest == dataclasses.replace(cell, variant="other").digest
    moved = dataclasses.replace(cell, config=dataclasses.replace(cell.config, run_dir="elsewhere"))
    assert cell.digest == moved.digest
    assert cell.digest != changed(cell, losses={"warmup_per_class": 7}).digest
    stored = Cell(variant="easq", config=from_dict(type(cell.config), to_dict(cell.config)))
    assert cell.digest == stored.digest


def test_the_digest_depends_on_options_that_came_later_only_where_they_do_something(cell: Cell) -> None:
    """Otherwise every new option would make the published cells those of another config."""
    copied = changed(cell, checkpoint={"copy_to": "s3://somewhere"}, follow={"poll_seconds": 9.0})
    assert cell.digest == copied.digest
    first, *others = cell.config.schema.tables

    def digest(**change: object) -> str:
        table = dataclasses.replace(first, **change)  # type: ignore[arg-type]
        return changed(cell, schema={"tables": (table, *others)}).digest

    assert len({cell.digest, digest(id_space="admitted"), digest(id_space="admitted", admit_after=2)}) == 3
    assert "admit_after" not in cell.values["schema"]["tables"][0]


def test_cells_are_paired_by_their_data(cell: Cell) -> None:
    assert cell.pair == changed(cell, losses={"warmup_per_class": 7}).pair
    assert cell.pair == changed(cell, trainer={"seed": 9}).pair
    assert cell.pair != changed(cell, world={"density": 1.0}).pair
    on_data = changed(cell, data={"path": "somewhere"})
    assert on_data.pair == changed(on_data, world={"seed": 1}).pair == "seed 3"
    assert on_data.pair != changed(on_data, trainer={"seed": 1}).pair


def test_cell_names_are_valid_file_names(cell: Cell) -> None:
    assert dataclasses.replace(cell, variant="a b/c", setting="rate 1e-05").name == "a_b_c_rate_1e-05--world_3"
    assert changed(cell, trainer={"seed": 9}).name == "easq--world_3_seed_9"


def test_differences_name_the_field() -> None:
    assert differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "c": 2}) == ["a.b is 1 there, 3 here"]
    assert differences({"a": 1}, {}) == ["a is 1 there, None here"]


@pytest.mark.parametrize(
    ("name", "budget"), [(name, budget) for name, study in STUDIES.items() for budget in study.budgets]
)
def test_every_study_has_its_base_on_every_world(name: str, budget: Budget) -> None:
    cells = STUDIES[name].cells(base_config(budget), [0, 1], budget)
    assert len({cell.name for cell in cells}) == len(cells)
    assert {cell.world_seed for cell in cells} == {0, 1}
    bases = {cell.pair for cell in cells if cell.variant == BASE}
    assert bases == {cell.pair for cell in cells}
    # No two cells are the same run under two names.
    assert len({cell.digest for cell in cells}) == len(cells)


def test_the_full_grids_have_the_expected_values() -> None:
    base = base_config("full")
    by_name = {name: study.cells(base, [0], "full") for name, study in STUDIES.items()}
    weights = {(c.policy, c.weight) for c in (c.config.losses.dpo for c in by_name["lambda2"] if c.variant != BASE)}
    assert weights == {
        (policy, weight)
        for policy in ("slate_softmax", "score_difference")
        for weight in (0.1, 0.3, 1, 3, 6, 9, 12, 15)
    }
    rates = {cell.config.world.answer_rate for cell in by_name["sparsity"]}
    assert sorted(rates) == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2, 1e-1])
    ranks = {c.config.model.lora.rank for c in by_name["rank"] if c.config.model.lora is not None}
    assert ranks == {2, 4, 8, 16, 32}
    towers = [cell.config.model.towers for cell in by_name["experts"] if cell.variant != BASE]
    assert {tower["main"].experts for tower in towers} == {1, 2, 4, 6, 8, 12}
    assert {tower["satisfaction"].experts for tower in towers} == {1, 2, 3, 4, 6, 8}
    assert base.world.requests == 40_000 and base.trainer.threads == 1
