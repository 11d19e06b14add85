"""The usual counts, and recipes that read them."""

from __future__ import annotations

import dataclasses

import pytest

from easq_rec.config import command_line as arguments
from easq_rec.config.counts import (
    USUAL_KEYS,
    counts_of,
    usual_answer_counts,
    usual_counts,
    with_counts,
    with_usual_answer_counts,
    with_usual_counts,
    without_answer_counts,
    without_counts,
)
from easq_rec.config.recipes import (
    BASES,
    FILM_SMOOTHING,
    RECIPES,
    kuairand_schema,
    movielens_schema,
    recipe,
    world_schema,
)
from easq_rec.config.schema import Count, Feature, Outcome, numbers
from easq_rec.config.variants import VARIANTS
from easq_rec.errors import UserError


def test_a_schema_with_counts_has_a_feature_for_each() -> None:
    plain = world_schema(users=8, videos=8, dim=8)
    counts = (Count(name="all", outcome="like"), Count(name="rate", outcome="like", keys=("tags", "user.device")))
    schema = with_counts(plain, counts)
    assert schema.counts == counts
    assert [(feature.column, feature.kind) for feature in schema.floats[-2:]] == [("all", "count"), ("rate", "count")]
    assert numbers(schema.floats) == numbers(plain.floats) + 3 * len(counts)
    assert dataclasses.replace(schema, counts=(), candidate=plain.candidate) == plain


def test_counts_are_all_combinations_of_keys_outcomes_and_half_lives() -> None:
    found = counts_of([(), ("user_id", "user.tab")], ["like"], [None, 1.5])
    assert found == (
        Count(name="all_like", outcome="like"),
        Count(name="all_like_1_5h", outcome="like", half_life_h=1.5),
        Count(name="user_tab_like", outcome="like", keys=("user_id", "user.tab"), frozen=True),
        Count(name="user_tab_like_1_5h", outcome="like", keys=("user_id", "user.tab"), half_life_h=1.5, frozen=True),
    )


def test_usual_counts_are_those_of_columns_that_the_schema_reads() -> None:
    found = usual_counts(kuairand_schema())
    assert tuple(dict.fromkeys(count.keys for count in found)) == USUAL_KEYS
    assert {count.outcome for count in found} == {"long_view", "valid_play"} and len(found) == 2 * len(USUAL_KEYS)
    assert {count.keys for count in usual_counts(world_schema(users=8, videos=8, dim=8))} == {
        ("video_id",),
        ("author_id",),
        ("tags",),
        ("user_id",),
        ("user_id", "duration_class"),
        ("user_id", "tags"),
    }
    assert {count.name for count in usual_counts(movielens_schema())} == {
        f"{key}_long_view" for key in ("video", "tags", "user", "user_tags")
    }
    assert not with_usual_counts(movielens_schema()).count_ranges, "it has no duration"


def test_usual_counts_of_users_are_frozen() -> None:
    for count in usual_counts(kuairand_schema()):
        assert count.frozen == ("user_id" in count.keys)


def test_usual_counts_are_those_of_binary_outcomes() -> None:
    plain = world_schema(users=8, videos=8, dim=8)
    watched = Outcome(name="watched", weight=1.0, kind="amount")
    schema = dataclasses.replace(plain, outcomes=(*plain.outcomes, watched))
    assert usual_counts(schema) == usual_counts(plain)


def test_usual_counts_replace_other_counts_and_are_added_once() -> None:
    plain = world_schema(users=8, videos=8, dim=8)
    schema = with_usual_counts(plain)
    assert len(schema.count_features) == len(schema.counts) == len(usual_counts(plain)) == 18
    assert with_usual_counts(schema) == schema
    assert without_counts(schema) == without_counts(plain) == plain
    other = with_counts(plain, (Count(name="all", outcome="like"),))
    assert with_usual_counts(other) == schema and without_counts(other) == plain


def test_usual_counts_of_answers_are_those_of_columns_that_the_schema_reads() -> None:
    names = ["video_answer", "author_answer"]
    for schema, wanted in (
        (world_schema(users=8, videos=8, dim=8), names),
        (kuairand_schema(), names),
        (movielens_schema(), ["video_answer"]),
    ):
        found = usual_answer_counts(schema)
        assert [count.name for count in found] == wanted and {count.of for count in found} == {"answer"}


def test_counts_of_answers_are_features_of_the_satisfaction_tower_only() -> None:
    plain = world_schema(users=8, videos=8, dim=8)
    schema = with_usual_answer_counts(plain)
    assert schema.candidate == plain.candidate and schema.floats == plain.floats
    assert [feature.column for feature in schema.satisfaction] == [count.name for count in usual_answer_counts(plain)]
    assert with_usual_answer_counts(schema) == schema and without_answer_counts(schema) == plain
    counted = with_usual_counts(plain)
    of_outcome = Feature(name="y", kind="count", source=counted.counts[0].name)
    with pytest.raises(UserError, match=r"schema.satisfaction: counts=\['y'\] is not allowed: counts of answers"):
        dataclasses.replace(counted, satisfaction=(of_outcome,))
    feature = Feature(name="x", kind="count", source="video_answer")
    with pytest.raises(
        UserError, match=r"schema.candidate: counts=\['x'\] is not allowed: no counts of answers, which"
    ):
        dataclasses.replace(schema, candidate=(*schema.candidate, feature))


def test_counts_of_answers_and_of_outcomes_do_not_touch_each_other() -> None:
    plain = world_schema(users=8, videos=8, dim=8)
    both = with_usual_answer_counts(with_usual_counts(plain))
    assert both == with_usual_counts(with_usual_answer_counts(plain)) == with_usual_counts(both)
    assert without_answer_counts(both) == with_usual_counts(plain) and without_counts(both) == plain


@pytest.mark.parametrize(
    "name", ["easq_without_answer_counts", "quickstart_with_dense_without_counts", "kuairand", "kuairand_counts"]
)
def test_recipes_read_counts_of_answers_by_a_suffix(name: str) -> None:
    plain, found = recipe(name), recipe(f"{name}_answer_counts")
    changed = with_usual_answer_counts(plain.schema)
    assert found == dataclasses.replace(plain, recipe=found.recipe, schema=changed)
    again = recipe(f"{name}_answer_counts_without_answer_counts")
    assert again == dataclasses.replace(plain, recipe=again.recipe)


@pytest.mark.parametrize("name", ["easq", "quickstart", "quickstart_with_dense", "mmoe_evidence", "ips_answers"])
def test_recipes_of_the_worlds_read_counts_of_answers(name: str) -> None:
    plain, found = recipe(f"{name}_without_answer_counts"), recipe(name)
    assert not plain.schema.satisfaction and [one.column for one in found.schema.satisfaction] == [
        "video_answer",
        "author_answer",
    ]
    assert found == dataclasses.replace(recipe(f"{name}_answer_counts"), recipe=name)


@pytest.mark.parametrize("variant", ["main_only", "label_weights", "direct", "reward_model"])
def test_a_ranker_without_satisfaction_tower_reads_no_counts_of_answers(variant: str) -> None:
    plain = recipe(f"quickstart_{variant}")
    assert recipe(f"quickstart_{variant}_answer_counts").schema == plain.schema
    assert VARIANTS[variant](recipe("quickstart")).schema == plain.schema


@pytest.mark.parametrize("variant", ["without_answers", "without_any_answers", "shuffled_answers", "paper", "mmoe"])
def test_controls_and_other_methods_read_no_counts_of_answers(variant: str) -> None:
    found = VARIANTS[variant](recipe("quickstart")).schema
    assert found == recipe(f"quickstart_{variant}").schema


def test_informed_hard_sharing_reads_the_counts_of_answers_of_its_recipe() -> None:
    config = recipe("quickstart")
    found = VARIANTS["mmoe_evidence"](config).schema
    assert (found.satisfaction, found.counts) == (config.schema.satisfaction, config.schema.counts)


ADDED = ("without_counts", "answer_counts")
COUNTED = [name for name in RECIPES if name not in BASES and name not in ADDED] + ["easq", "quickstart"]


@pytest.mark.parametrize("name", COUNTED)
def test_recipes_of_the_worlds_read_the_usual_counts(name: str) -> None:
    schema = recipe(name).schema
    assert schema.counts and with_usual_counts(schema) == schema


@pytest.mark.parametrize("name", ["movielens", "movielens_20m"])
def test_recipes_of_movielens_read_the_usual_counts_of_answers(name: str) -> None:
    schema = recipe(name).schema
    assert schema.satisfaction and with_usual_answer_counts(schema, smoothing=FILM_SMOOTHING) == schema
    assert recipe(f"{name}_main_only").schema == without_answer_counts(schema) == without_counts(schema)


@pytest.mark.parametrize("name", ["movielens_main_only", "kuairand", "kuairand_main_only"])
def test_recipes_of_other_data_read_no_counts(name: str) -> None:
    schema = recipe(name).schema
    assert without_counts(schema) == schema


@pytest.mark.parametrize("name", ["kuairand", "kuairand_main_only", "main_only", "quickstart_paper_without_lora"])
def test_any_recipe_reads_counts_by_a_suffix(name: str) -> None:
    config = arguments.parse_config([f"{name}_counts"], prog="train")
    plain = recipe(name)
    assert config.recipe == f"{name}_counts"
    assert config == dataclasses.replace(plain, recipe=config.recipe, schema=with_usual_counts(plain.schema))


@pytest.mark.parametrize("name", ["", "quickstart", "quickstart_main_only", "kuairand", "paper_without_lora"])
def test_any_recipe_leaves_counts_out_by_a_suffix(name: str) -> None:
    config = recipe(f"{name}_without_counts".lstrip("_"))
    plain = recipe(name or "easq")
    assert config == dataclasses.replace(plain, recipe=config.recipe, schema=without_counts(plain.schema))
    assert not config.schema.counts and not config.schema.count_features


def test_an_unknown_recipe_with_counts_is_refused() -> None:
    with pytest.raises(UserError, match=r"unknown recipe 'nothing_counts': .*quickstart_ple_counts"):
        arguments.parse_config(["nothing_counts"], prog="train")
