"""Constraints per table and plan files through the command line, on two ranks."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from easq_rec.config import Sharding, TableSharding
from easq_rec.config.recipes import recipe
from easq_rec.config.serialization import to_dict
from tests.conftest import Warm
from tests.integration.conftest import SMALL


def train(name: str, run_dir: Path, world: Path, warm: Warm, *arguments: str) -> tuple[int, str]:
    """Trains on two ranks; returns the exit code and the output."""
    paths = ("--data", str(world), "--run-dir", str(run_dir), "--trainer.max-steps", "2", "--data.holdout", "0")
    done = warm.run(*warm.torchrun(2), "easq_rec/train.py", name, *paths, *SMALL, *arguments, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.integration
def test_a_run_obeys_constraints_and_another_run_uses_its_plan(world: Path, tmp_path: Path, warm: Warm) -> None:
    tables = {
        "user": TableSharding(type="table_wise", ranks=(1,)),
        "region": TableSharding(type="column_wise", min_partition=8, ranks=(1, 0)),
        "video": TableSharding(type="row_wise"),
        "author": TableSharding(type="table_wise", ranks=(0,)),
    }
    config = dataclasses.replace(recipe("quickstart"), sharding=Sharding(tables=tables))
    (tmp_path / "constrained.json").write_text(json.dumps(to_dict(config)))
    first, second = tmp_path / "first", tmp_path / "second"
    code, output = train(str(tmp_path / "constrained.json"), first, world, warm)
    assert code == 0, output
    plan = json.loads((first / "plan.json").read_text())
    assert {name: plan[name] for name in ("device", "ranks", "ranks_per_host")} == {
        "device": "cpu",
        "ranks": 2,
        "ranks_per_host": 2,
    }
    found = {
        name: (entry["type"], [part["rank"] for part in entry["shards"]]) for name, entry in plan["tables"].items()
    }
    assert found["user"] == ("table_wise", [1])
    assert found["video"] == ("row_wise", [0, 1])
    assert found["author"] == ("table_wise", [0])
    kind, ranks = found["region"]
    width = next(table.dim for table in config.schema.tables if table.name == "region")
    assert kind == "column_wise" and ranks == [1, 0] * (width // 16)
    assert output.count("region:column_wise@1,0") == 1

    # A run with this plan file and without the constraints has the same plan.
    code, output = train("quickstart", second, world, warm, "--sharding.plan", str(first / "plan.json"))
    assert code == 0, output
    assert json.loads((second / "plan.json").read_text()) == plan
    losses = [
        [json.loads(line)["loss_main"] for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (first, second)
    ]
    assert len(losses[0]) == 2 and losses[0] == losses[1]

    # A plan for another number of ranks is refused, and no rank waits for another rank that has refused it.
    plan["ranks"] = 4
    (tmp_path / "four.json").write_text(json.dumps(plan))
    code, output = train("quickstart", tmp_path / "third", world, warm, "--sharding.plan", f"{tmp_path}/four.json")
    assert code != 0
    assert f"sharding.plan='{tmp_path}/four.json' is for ranks=4: this run has 2" in output
    assert "Traceback" not in output.split("torch/distributed")[0]


@pytest.mark.integration
def test_the_output_names_tables_in_half_precision(world: Path, tmp_path: Path, warm: Warm) -> None:
    tables = {"tag": TableSharding(weights="fp16")}
    config = dataclasses.replace(recipe("quickstart"), sharding=Sharding(tables=tables))
    (tmp_path / "half.json").write_text(json.dumps(to_dict(config)))
    code, output = train(str(tmp_path / "half.json"), tmp_path / "run", world, warm)
    assert code == 0, output
    assert "  tag:table_wise,fp16@" in output and output.count("fp16") == 1
