"""Options of the built-in worlds: the choice of the world, refusals, and the identity of World 1."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from easq_rec.config import World
from easq_rec.config.command_line import parse_config
from easq_rec.config.counts import with_counts, with_usual_counts, without_counts
from easq_rec.config.recipes import (
    easq,
    kuairand,
    quickstart,
    recipe,
    schema_for_world,
    with_world,
    world_schema,
)
from easq_rec.config.schema import Count
from easq_rec.config.serialization import from_dict, to_dict
from easq_rec.config.world import DEFAULT_VERSION, SECOND_KNOBS
from easq_rec.data.sources import world_directory

DEFAULTS = {field.name: field.default for field in dataclasses.fields(World)}
FIRST = {
    *("requests", "users", "videos", "candidates", "history", "exposure", "response", "density", "rho", "days", "seed"),
    *("trigger_watch_s", "trigger_progress", "response_progress", "questionnaire_seed"),
}


def test_recipes_use_the_default_world() -> None:
    assert World().version == easq().world.version == quickstart().world.version == DEFAULT_VERSION == 1


@pytest.mark.parametrize("name", SECOND_KNOBS)
def test_world_1_refuses_every_option_that_only_world_2_has(name: str) -> None:
    other = "inverted" if name == "careless" else DEFAULTS[name] * 0.5 + 0.01
    assert getattr(World(version=2, **{name: other}), name) == other
    with pytest.raises(ValueError, match=rf"world.{name}={other!r} is not allowed: left at .* only World 2 has it"):
        World(version=1, **{name: other})
    # A value equal to the default changes nothing.
    assert World(version=1, **{name: DEFAULTS[name]}) == World(version=1)


def test_every_option_belongs_to_both_worlds_or_to_world_2() -> None:
    assert set(DEFAULTS) == {"version", *FIRST, *SECOND_KNOBS}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"rho": 0.2}, r"world.rho=0.2 is not allowed: None with world.version=2: use world.play_slope"),
        ({"item_share": -0.1}, r"world.item_share=-0.1 is not allowed: between 0 and 1"),
        ({"item_share": 0.6}, r"item_share \+ world.user_share \+ world.taste_share=1.1 is not allowed: at most 1"),
        ({"like_slope": 5.5}, r"world.like_slope=5.5 is not allowed: between -5 and 5"),
        ({"clickbait_plays": float("nan")}, r"world.clickbait_plays=nan is not allowed"),
        ({"like_spread": -1.0}, r"world.like_spread=-1.0 is not allowed: between 0 and 5"),
        ({"clickbait_satisfaction": 1.2}, r"world.clickbait_satisfaction=1.2 is not allowed: between -1 and 1"),
        ({"satisfied_misreport": 1.5}, r"world.satisfied_misreport=1.5 is not allowed: between 0 and 1"),
        ({"careless": "sometimes"}, r"world.careless='sometimes' is not allowed: 'random' or 'inverted'"),
        ({"taste_drift": 2.0}, r"world.taste_drift=2.0 is not allowed: between 0 and 1"),
    ],
)
def test_impossible_options_of_world_2_are_refused(options: dict[str, float], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        World(version=2, **options)


def test_an_unknown_version_is_refused() -> None:
    with pytest.raises(ValueError, match=r"world\.version=3 is not allowed: 1 or 2"):
        World(version=3)  # type: ignore[arg-type]


def test_world_1_has_the_identity_that_it_had_before_there_was_another_world() -> None:
    """Worlds on disk are found again: this is the directory of `quickstart` of earlier versions."""
    assert set(World(version=1).identity) == FIRST
    assert world_directory(with_world(quickstart(), 1)) == Path("data/world-947aeb42")
    second = World(version=2).identity
    faults = {"careless_users", "careless", "bought_videos", "bought_likes"}
    assert set(second) == {"version", *FIRST, *SECOND_KNOBS} - {"rho"} - faults
    assert set(World(version=2, careless_users=0.1, bought_videos=0.1).identity) == set(second) | faults
    assert json.loads(json.dumps(second)) == second


def test_configs_of_runs_round_trip_and_older_ones_are_those_of_the_default_world() -> None:
    config = dataclasses.replace(with_world(quickstart(), 2), run_dir="r")
    assert from_dict(type(config), json.loads(json.dumps(to_dict(config)))) == config
    old = {name: value for name, value in to_dict(World()).items() if name in FIRST}
    assert from_dict(World, old) == World()


def test_the_schema_follows_the_world() -> None:
    """In World 2 a valid play triggers the questionnaire, so that L_evidence must compare all valid plays."""
    first, second = (world_schema(users=8, videos=8, dim=4, version=version) for version in (1, 2))  # type: ignore[arg-type]
    assert (first.trigger, second.trigger) == ("long_view", "valid_play")
    weights = {outcome.name: outcome.weight for outcome in second.outcomes}
    assert weights == {"long_view": 1.0, "like": 0.5, "follow": 0.5, "valid_play": 0.5}
    base = with_world(quickstart(), 1)
    changed = with_world(base, 2)
    assert changed.world == dataclasses.replace(base.world, version=2)
    assert changed.schema.trigger == "valid_play" and with_world(changed, 1) == base
    # A ranker that does not learn views does not learn those of the other world either.
    actions = with_world(recipe("quickstart_action_ranker"), 2).schema.outcomes
    assert [outcome.weight_in_training for outcome in actions] == [0.0, 0.5, 0.5, 0.0]
    # So do the usual counts, which a recipe has, and other counts stay.
    for changed_recipe in ("quickstart", "quickstart_action_ranker"):
        counted = with_world(recipe(changed_recipe), 2).schema
        outcomes = [count for count in counted.counts if count.of == "outcome"]
        assert counted == with_usual_counts(counted) and len(outcomes) == 6 * 4
        assert {count.outcome for count in outcomes} == set(weights)
    assert schema_for_world(without_counts(base.schema), 2) == without_counts(changed.schema)
    own = with_counts(without_counts(base.schema), (Count(name="all", outcome="like"),))
    assert schema_for_world(own, 2).counts == own.counts
    # Schemas of other data stay as they are.
    assert with_world(kuairand(), 2).schema == kuairand().schema
    with pytest.raises(ValueError, match=r"world\.rho=0\.3 is not allowed"):
        with_world(dataclasses.replace(base, world=World(version=1, rho=0.3)), 2)


def test_the_command_line_chooses_the_world(tmp_path: Path) -> None:
    config = parse_config(["quickstart_main_only", "--world.version", "2", "--world.like-slope", "0.4"], prog="p")
    assert config.world.version == 2 and config.world.like_slope == 0.4 and config.world.density == 100.0
    assert config.schema.trigger == "valid_play" and config.schema.satisfaction_dim == 0
    with pytest.raises(ValueError, match=r"like_slope=0.4 is not allowed: left at .* with world.version=1"):
        parse_config(["quickstart", "--world.version", "1", "--world.like-slope", "0.4"], prog="p")
