"""Configuration: recipes, their JSON form, overrides, and errors that name the field, its value and what is allowed."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from easq_rec.config import HSTU, Config, Data, LoRA, Losses, Model, Sharding, TableSharding, Tower, Transformer
from easq_rec.config import command_line as arguments
from easq_rec.config.losses import Dense, Evidence
from easq_rec.config.recipes import BASES, RECIPES, easq, recipe
from easq_rec.config.schema import Feature, FeatureSchema, Outcome, Table
from easq_rec.config.serialization import from_dict, load_json, to_dict
from easq_rec.config.variants import VARIANTS
from easq_rec.errors import UserError

NEED_ACTIONS = ("label_weights", "action_ranker", "without_any_answers")
"""Variants for schemas with an outcome like or follow."""
COMBINED = [
    f"{base}_{variant}"
    for base in BASES
    for variant in VARIANTS
    if base in ("quickstart", "easq") or variant not in NEED_ACTIONS
]


@pytest.mark.parametrize("name", [*RECIPES, *COMBINED, *(f"{base}_counts" for base in BASES), "kuairand_paper_counts"])
def test_config_round_trips_through_json(name: str) -> None:
    config = recipe(name)
    assert config.recipe == name
    assert from_dict(Config, json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize("base", ["kuairand", "movielens"])
@pytest.mark.parametrize("variant", NEED_ACTIONS)
def test_a_variant_that_needs_actions_is_refused_by_name(base: str, variant: str) -> None:
    problem = f"variant {variant} needs an outcome named like or follow: recipe '{base}' has only long_view"
    with pytest.raises(UserError, match=problem):
        arguments.parse_config([f"{base}_{variant}"], prog="train")


def test_label_weights_change_the_utility_of_training_only() -> None:
    """The world with more outcomes keeps them."""
    plain, config = recipe("quickstart"), recipe("quickstart_label_weights")
    weights = {one.name: (one.weight, one.weight_in_training) for one in config.schema.outcomes}
    assert weights == {"long_view": (1.0, 1.0), "like": (0.5, 3.0), "follow": (0.5, 3.0)}
    assert [one.weight for one in plain.schema.outcomes] == [one.weight for one in config.schema.outcomes]
    assert not config.aligned and config.losses == recipe("quickstart_main_only").losses
    second = arguments.parse_config(["quickstart_label_weights", "--world.version", "2"], prog="train")
    assert [one.weight_in_training for one in second.schema.outcomes] == [1.0, 3.0, 3.0, 0.5]


def test_weights_of_evidence_by_hand_are_given_by_outcome() -> None:
    argv = ["quickstart", "--losses.evidence.weights", "like", "1.5", "follow", "-2"]
    config = arguments.parse_config(argv, prog="train")
    assert config.losses.evidence.weights == {"like": 1.5, "follow": -2.0}
    assert from_dict(Config, json.loads(json.dumps(to_dict(config)))) == config
    with pytest.raises(UserError, match=r"weights='lik' is not allowed: one of the outcomes long_view, like, follow"):
        arguments.parse_config(["quickstart", "--losses.evidence.weights", "lik", "1.5"], prog="train")
    for weights in ({}, {"like": 0.0}, {"like": float("nan")}):
        with pytest.raises(ValueError, match=r"losses.evidence.weights=.* is not allowed: finite numbers"):
            Evidence(weights=weights)


def test_answers_are_read_only_where_something_needs_them() -> None:
    """Losses that compare answers, weights of evidence that are estimated, and a warm-up that counts answers."""
    by_hand = recipe("without_any_answers")
    assert by_hand.aligned and not by_hand.reads_answers
    estimated = dataclasses.replace(by_hand.losses, evidence=Evidence(weight=1.0))
    waiting = dataclasses.replace(by_hand.losses, warmup_per_class=1)
    for losses in (estimated, waiting, by_hand.losses.weighted(satisfaction=0.1)):
        assert dataclasses.replace(by_hand, losses=losses).reads_answers
    unserved = dataclasses.replace(by_hand.model, satisfaction_weight=0.0)
    assert not dataclasses.replace(by_hand, losses=waiting, model=unserved).reads_answers
    found = {name for name in VARIANTS if not recipe(name).reads_answers}
    assert found == {"main_only", "label_weights", "action_ranker", "without_any_answers"}


def test_the_backbone_is_chosen_by_the_recipe_and_its_sizes_by_flags() -> None:
    config = arguments.parse_config(["quickstart_hstu", "--model.backbone.layers", "3"], prog="train")
    assert config.model.backbone == HSTU(heads=2, layers=3)
    config = arguments.parse_config(["quickstart", "--model.backbone.ffn", "48"], prog="train")
    assert config.model.backbone == Transformer(heads=2, layers=2, ffn=48)
    with pytest.raises(UserError, match=r"model.backbone.ffn"):
        arguments.parse_config(["quickstart_hstu", "--model.backbone.ffn", "48"], prog="train")


def test_lora_targets_are_linear_layers_of_the_backbone() -> None:
    argv = ["quickstart", "--model.lora.targets", "query", "attention_out"]
    lora = arguments.parse_config(argv, prog="train").model.lora
    assert lora is not None and lora.targets == ("query", "attention_out")
    Model(backbone=HSTU(), lora=LoRA(targets=("input", "gate")))
    with pytest.raises(UserError, match=r"model.lora.targets='ffn_in' is not allowed: one of .*'gate'.* with this"):
        Model(backbone=HSTU(), lora=LoRA(targets=("ffn_in",)))


def test_unknown_and_missing_fields_are_named() -> None:
    values = to_dict(easq())
    with pytest.raises(UserError, match=r"a Config:\n  trainer.bach_size: unknown key: did you mean 'batch_size'\?"):
        from_dict(Config, {**values, "trainer": {"bach_size": 1}})
    with pytest.raises(UserError, match=r'schema: missing: add "schema": \(an object\)'):
        from_dict(Config, {name: value for name, value in values.items() if name != "schema"})


def test_all_problems_of_a_stored_config_are_listed(tmp_path: Path) -> None:
    """One message lists values that the dataclasses reject as well as values of a wrong type."""
    values = json.loads(json.dumps(to_dict(easq())))
    values["trainer"] |= {"batch_size": "128", "device": "tpu", "pin_cores": 1}
    values["optim"]["dense_lr"] = -1
    values["model"]["main"]["experts"] = -1
    values["schema"]["tables"][1]["rows"] = None
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError) as raised:
        load_json(Config, tmp_path / "config.json")
    title, *problems = str(raised.value).splitlines()
    assert title == f"{tmp_path / 'config.json'} is not the config.json of a run:"
    assert [problem.strip() for problem in problems] == [
        "schema.tables[1].rows: is None, expected a whole number",
        "model.main: tower.experts=-1 is not allowed: 0 or more",
        "optim.dense_lr=-1.0 is not allowed: more than 0",
        "trainer.batch_size: is '128', expected a whole number",
        'trainer.device: is \'tpu\', expected one of "auto", "cpu", "cuda"',
        "trainer.pin_cores: is 1, expected true or false",
    ]


def test_overrides_set_their_fields() -> None:
    argv = [
        "easq",
        "--data",
        "/logs",
        "--run-dir",
        "/runs/one",
        "--trainer.max-steps",
        "5",
        "--losses.dense.weight",
        "0.5",
    ]
    config = arguments.parse_config(argv, prog="train")
    assert (config.data.path, config.run_dir, config.trainer.max_steps) == ("/logs", "/runs/one", 5)
    assert config == dataclasses.replace(
        easq(),
        run_dir="/runs/one",
        data=config.data,
        trainer=config.trainer,
        losses=easq().losses.weighted(dense=0.5),
    )


def test_quickstart_is_the_default_recipe() -> None:
    assert arguments.parse_config([], prog="train") == recipe("quickstart")


def test_a_stored_config_is_used_without_its_run_directory(tmp_path: Path) -> None:
    stored = dataclasses.replace(recipe("main_only"), run_dir="/runs/one")
    (tmp_path / "config.json").write_text(json.dumps(to_dict(stored)))
    config = arguments.parse_config([str(tmp_path / "config.json"), "--trainer.seed", "7"], prog="train")
    assert config == dataclasses.replace(stored, run_dir=None, trainer=dataclasses.replace(stored.trainer, seed=7))


@pytest.mark.parametrize("name", RECIPES)
def test_help_describes_every_flag(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each flag has a description and a default."""
    with pytest.raises(SystemExit) as leaving:
        arguments.parse_config([name, "--help"], prog="train")
    assert not leaving.value.code
    text = re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out)
    # The line of a flag, then its description, which ends at the default.
    flags = re.findall(r"\n +(--[a-z][^\n]*?[A-Z}])\s*\n(.*?)\(default:", text, flags=re.DOTALL)
    assert len(flags) > 40
    for name, description in flags:
        assert "--" not in description, f"{name} shows no default"
        assert description.strip(), f"{name} has no description"


def test_schema_errors_name_the_problem() -> None:
    tables = (Table(name="a", rows=4, dim=8), Table(name="b", rows=4, dim=8))
    good = {
        "tables": tables,
        "user": (Feature(name="user_id", table="a"),),
        "history": (Feature(name="video_id", table="b"),),
        "candidate": (Feature(name="video_id", table="b"),),
        "outcomes": (Outcome(name="like", weight=1.0),),
    }
    FeatureSchema(**good)  # type: ignore[arg-type]
    for change, message in (
        ({"user": (Feature(name="user_id", table="zzz"),)}, r"user_id: table='zzz' is not allowed: one of .*'a', 'b'"),
        ({"user": (Feature(name="age", kind="float"),)}, "at least one id feature"),
        ({"candidate": (Feature(name="video_id", table="a"),)}, "already serves the user features"),
        ({"tables": (tables[0], tables[0])}, "unique names"),
        ({"outcomes": ()}, "at least one outcome"),
        ({"trigger": "view"}, r"schema.trigger='view' is not allowed: an outcome of the schema, \['like'\], or None"),
        ({"satisfaction_dim": 6}, r"schema.satisfaction_dim=6 is not allowed: a multiple of 4, or 0"),
        ({"satisfaction_dim": -4}, r"schema.satisfaction_dim=-4 is not allowed"),
        ({"tables": (*tables, Table(name="satisfaction_b", rows=4, dim=8))}, r"\['b'\] is not allowed: no name that"),
    ):
        with pytest.raises(ValueError, match=message):
            FeatureSchema(**{**good, **change})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="multiple of 4"):
        Table(name="a", rows=4, dim=6)


def test_contradictory_options_are_refused() -> None:
    with pytest.raises(ValueError, match=r"losses.evidence.weight=1.0 is not allowed: 0 without a satisfaction tower"):
        dataclasses.replace(easq(), model=Model(satisfaction=None, lora=None), losses=Losses().aligned_by(evidence=1.0))
    with pytest.raises(ValueError, match=r"data.user_requests=0 is not allowed: at least 1"):
        Data(user_requests=0)
    with pytest.raises(ValueError, match=r"data.user_requests=4 is not allowed: 1 with data.shuffle=False"):
        Data(user_requests=4, shuffle=False)
    with pytest.raises(ValueError, match=r"losses.align_every=0 is not allowed: at least 1"):
        Losses(align_every=0)
    with pytest.raises(ValueError, match=r"losses.dense.temperature=0 is not allowed: more than 0"):
        Dense(temperature=0)
    with pytest.raises(ValueError, match=r"losses.dense.weight=0.3 is not allowed: 0 without a satisfaction tower"):
        dataclasses.replace(easq(), model=Model(satisfaction=None, lora=None), losses=Losses().aligned_by(dense=0.3))
    with pytest.raises(ValueError, match=r"model.backbone.heads=5 is not allowed: a divisor of model.dim=64"):
        Model(backbone=Transformer(heads=5))
    with pytest.raises(ValueError, match=r"tower.experts=-1"):
        Tower(experts=-1)
    with pytest.raises(ValueError, match=r"tower.activity=1 is not allowed: between 0 and 1, or None"):
        Tower(activity=1)
    with pytest.raises(
        ValueError, match=r"tower.gate_floor=0.0 is not allowed: above 0, unless tower.activity is None"
    ):
        Tower(gate_floor=0.0)
    assert Tower(gate_floor=0.0, activity=None).gate_floor == 0.0
    with pytest.raises(ValueError, match=r"model.main.experts=0 is not allowed: at least 1 without model.shared_exper"):
        Model(main=Tower(experts=0))
    with pytest.raises(ValueError, match=r"model.shared_experts=2 is not allowed: 0 unless model.pathway='shared'"):
        Model(shared_experts=2)
    with pytest.raises(ValueError, match=r"model.lora=.* is not allowed: None in the shared pathway"):
        Model(pathway="shared", isolate_embeddings=False)
    with pytest.raises(ValueError, match=r"model.isolate_embeddings=True is not allowed: False in the shared pathway"):
        Model(pathway="shared", lora=None)
    with pytest.raises(ValueError, match=r"model.satisfaction: \(hidden, out\)=\(8, 64\) is not allowed: \(64, 64\)"):
        Model(
            pathway="shared", lora=None, isolate_embeddings=False, shared_experts=2,
            satisfaction=Tower(experts=1, hidden=8),
        )  # fmt: skip
    with pytest.raises(ValueError, match=r"model.lora.rank=0"):
        LoRA(rank=0)
    with pytest.raises(ValueError, match=r"sharding.types='nope' is not allowed: a table of the schema: \['user'"):
        dataclasses.replace(easq(), sharding=Sharding(types={"nope": "row_wise"}))


@pytest.mark.parametrize(
    ("fixed", "message"),
    [
        (TableSharding(type="rows"), r"\['video'\].type='rows' is not allowed: one of \['table_wise'"),
        (TableSharding(kernel="dense"), r"\['video'\].kernel='dense' is not allowed: one of \['fused'"),
        (
            TableSharding(min_partition=6),
            r"min_partition=6 is not allowed: a multiple of 4, from 4 to the table's dim 32",
        ),
        (TableSharding(weights="bf16"), r"weights='bf16' is not allowed: 'fp32', 'fp16' or None"),  # type: ignore[arg-type]
        (TableSharding(min_partition=64), r"min_partition=64 is not allowed: a multiple of 4, from 4 to"),
        (TableSharding(type="row_wise", min_partition=8), r"min_partition=8 is not allowed: None with type 'row_wise'"),
        (
            TableSharding(type="table_wise", ranks=(0, 1)),
            r"ranks=\(0, 1\) is not allowed: one rank with type 'table_wi",
        ),
        (TableSharding(type="column_wise", ranks=(1, 1)), r"ranks=\(1, 1\) is not allowed: different ranks from 0 on"),
        (
            TableSharding(type="column_wise", ranks=()),
            r"ranks=\(\) is not allowed: different ranks from 0 on, at least",
        ),
        (
            TableSharding(ranks=(0,)),
            r"ranks=\(0,\) is not allowed: None with type None: it needs one of \['table_wise'",
        ),
        (TableSharding(load_factor=0.1), r"load_factor=0.1 is not allowed: None without kernel 'fused_uvm_caching'"),
        (
            TableSharding(kernel="fused_uvm_caching", load_factor=1.0),
            r"load_factor=1.0 is not allowed: more than 0 and",
        ),
    ],
)
def test_invalid_table_constraints_are_refused(fixed: TableSharding, message: str) -> None:
    with pytest.raises(ValueError, match=r"sharding.tables" + message if message[0] == "\\" else message):
        dataclasses.replace(easq(), sharding=Sharding(tables={"video": fixed}))


def test_a_table_cannot_be_constrained_twice() -> None:
    both = Sharding(types={"video": "row_wise"}, tables={"video": TableSharding(type="row_wise")})
    with pytest.raises(ValueError, match=r"sharding.types=\['video'\] is not allowed: tables that are not also in"):
        dataclasses.replace(easq(), sharding=both)


def test_constraints_round_trip_through_json() -> None:
    tables = {"video": TableSharding(type="column_wise", min_partition=8, ranks=(0, 1)), "tag": TableSharding()}
    config = dataclasses.replace(
        easq(), sharding=Sharding(tables=tables, types={"user": "table_wise"}, plan="plan.json")
    )
    assert from_dict(Config, json.loads(json.dumps(to_dict(config)))) == config
