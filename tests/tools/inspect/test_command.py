"""The command `easq-rec data inspect`: its report, files and errors, and training with its draft."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from easq_rec.cli import main as cli
from easq_rec.config import World
from easq_rec.config.schema_file import load_schema, schema_to_toml
from easq_rec.tools.simulation.world import generate
from tests.conftest import Warm
from tests.data.builders import SCHEMA, arrow_schema, make_answers, make_rows, write_dataset, write_file

REPOSITORY = Path(__file__).parents[3]
PLOTS = ("candidates", "history", "requests_over_time", "answers_per_stage", "table_cardinalities")
Output = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("world") / "data"
    generate(World(requests=1_500, users=300, videos=500, density=500.0), directory)
    return directory


@pytest.fixture(scope="module")
def inspected(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that an inspection of the world writes."""
    out = tmp_path_factory.mktemp("out") / "a" / "b"
    assert cli.main(["data", "inspect", str(world), "--out", str(out)]) == 0
    return out


def inspect(directory: Path, out: Path, *more: str) -> int:
    return cli.main(["data", "inspect", str(directory), "--out", str(out), *more])


def data_directory(root: Path, *, start_ms: int = 1_704_067_200_000) -> Path:
    rng = np.random.default_rng(0)
    rows = make_rows(rng, 40, start_ms=start_ms)
    write_dataset(root / "requests", rows, file_sizes=[15])
    write_dataset(root / "answers", make_answers(rng, rows[:9]), schema=arrow_schema(answers=True))
    return root


# ---------------------------------------------------------------------------------------------------------------------
# Printed and written output


def test_all_files_are_written(inspected: Path) -> None:
    assert {file.name for file in inspected.iterdir()} == {
        "schema.toml",
        "report.json",
        *(f"{name}.png" for name in PLOTS),
    }
    for name in PLOTS:
        content = (inspected / f"{name}.png").read_bytes()
        assert content.startswith(b"\x89PNG") and len(content) > 5_000
    load_schema(inspected / "schema.toml")


def test_the_report_contains_the_statistics_of_the_datasets(world: Path, inspected: Path) -> None:
    report = json.loads((inspected / "report.json").read_text())
    requests = report["datasets"]["requests"]
    assert sum(requests["group_rows"]) == 1_500
    assert requests["lengths"]["candidates"] == {"counts": {"12": 1_500}}
    assert requests["disorder"] == {"rows": 0, "row_groups": 0, "first": None}
    assert report["duplicates"]["requests"] == {"extra_rows": 0, "examples": {}}
    assert requests["columns"]["user.region"]["distinct"] == 32
    assert report["tables"]["region"]["ids"] == report["tables"]["region"]["rows"] == 32
    stages = report["questionnaire"]
    assert stages["impressions"] == 18_000
    assert 0 < sum(stages["answers"].values()) < stages["shown"] <= stages["triggered"] < 18_000
    median, p95 = stages["delays"]
    assert 60_000 < median < p95 < 2 * 86_400_000
    assert report["advice"] == []


def test_the_text_is_aligned_and_has_no_escape_sequences(tmp_path: Path, capsys: Output) -> None:
    assert inspect(data_directory(tmp_path / "data"), tmp_path / "out") == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    lines = out.splitlines()
    table = lines[lines.index("Ids and other integers") + 1 :]
    table = table[: table.index("")]
    assert len(table) > 10
    # The counts of negative numbers are right-aligned, so they end in the same column as the header.
    ends = {line.index("negative") + len("negative") for line in table[:1]}
    assert ends == {len(line[: line.index("  dense")].rstrip()) for line in table if "  dense" in line}
    for text in (
        "40\n",
        "outcome that each correlates with most",
        "user.region",
        "repeated ids  0 rows",
        "Not read\n  page: string",
        "2024-01-01 to 2024-01-01",
    ):
        assert text in out
    assert f"next: easq-rec train easq --data {tmp_path / 'data'} --schema {tmp_path / 'out' / 'schema.toml'}" in out


def test_a_single_dataset_is_inspected(tmp_path: Path, capsys: Output) -> None:
    folder = data_directory(tmp_path / "data") / "requests"
    assert inspect(folder, tmp_path / "out") == 0
    out = capsys.readouterr().out
    assert out.startswith(f"requests ({folder})")
    assert "no column answer" in out and "next:" not in out


def test_suspicious_data_are_reported(tmp_path: Path, capsys: Output) -> None:
    rng = np.random.default_rng(0)
    rows = make_rows(rng, 90, start_ms=1_704_067_200)
    for row in rows:
        row["timestamp_ms"] = 1_704_067_200 + row["request_id"]
        for candidate in row["candidates"]:
            candidate["duration_ms"] = int(rng.integers(1, 300))
    rows[70]["request_id"] = rows[1]["request_id"]
    rows[5]["history"] = None
    rows[20], rows[60] = rows[60], rows[20]
    answers = make_answers(rng, make_rows(rng, 4))
    answers[0]["candidates"][0] |= {"answer": 7, "answered_at_ms": None}
    write_dataset(tmp_path / "requests", rows, row_group_sizes=[9])
    write_dataset(tmp_path / "answers", answers, schema=arrow_schema(answers=True))
    assert inspect(tmp_path, tmp_path / "out") == 0
    out = capsys.readouterr().out.split("To look at")[1]
    file = tmp_path / "requests" / "part=00" / "0000.parquet"
    for message in (
        f"requests: request_id: 1 rows repeat the id of another row: 1 (id 1 in {file}, row group 0, row 1 and "
        f"{file}, row group 7, row 7)",
        "requests: history: 1 nulls",
        "requests: row groups of 9 rows (median) read slowly",
        f"requests: 1 row groups begin before the previous one, the first is {file}, row group 6",
        "requests: timestamp_ms: values from 1704067200 to 1704067289, which are seconds of 2024-01-01",
        "requests: candidates.duration_ms: the largest is",
        "answers: candidates.answer: 1 codes other than 0, 1 or 2",
        "answers: candidates.answered_at_ms: 1 answers are earlier than their request",
    ):
        assert message in out, message


def test_data_that_a_given_schema_refuses_are_listed(tmp_path: Path, capsys: Output) -> None:
    data = data_directory(tmp_path / "data")
    file = tmp_path / "own.toml"
    file.write_text(schema_to_toml(SCHEMA))
    assert inspect(data, tmp_path / "out", "--schema", str(file)) == 0
    out = capsys.readouterr().out
    assert "  requests: every file and every row is accepted\n  answers: every file and every row is accepted" in out
    file.write_text(schema_to_toml(SCHEMA).replace("rows = 5\n", "rows = 4\n").replace('"tags"', '"labels"'))
    assert inspect(data, tmp_path / "out", "--schema", str(file)) == 0
    out = capsys.readouterr().out
    assert out.count("candidates.labels: missing, expected a list of integers") == 2
    file.write_text(schema_to_toml(SCHEMA).replace("rows = 5\n", "rows = 4\n"))
    assert inspect(data, tmp_path / "out", "--schema", str(file)) == 0
    assert "rows: user.region: expected 0..3 (dense table 'region'); first " in capsys.readouterr().out
    refused = json.loads((tmp_path / "out" / "report.json").read_text())["refusals"]["requests"]["rows"]
    regions = [row["user"]["region"] for row in make_rows(np.random.default_rng(0), 40)]
    assert [bad["rows"] for bad in refused] == [regions.count(4)]


def test_a_dataset_without_rows_gets_a_report(tmp_path: Path, capsys: Output) -> None:
    write_file(tmp_path / "requests" / "a.parquet", arrow_schema().empty_table())
    assert inspect(tmp_path / "requests", tmp_path / "out") == 0
    captured = capsys.readouterr()
    assert "requests: holds no rows" in captured.out
    assert "no schema.toml" in captured.err
    assert not (tmp_path / "out" / "schema.toml").exists()


# ---------------------------------------------------------------------------------------------------------------------
# Errors


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("nowhere", "no such directory"),
        ("empty", "has no Parquet files"),
        ("no answers", "no folder answers/ next to requests/; without a questionnaire, inspect"),
        ("no requests", "no folder requests/ next to answers/"),
        ("garbage", "z.parquet: not a readable Parquet file"),
        ("other columns", "z.parquet: its columns differ from those of"),
        ("out is a file", "cannot be written"),
        ("schema", "own.toml is not a feature schema"),
    ],
)
def test_bad_input_gives_one_message_and_exit_code_2(tmp_path: Path, capsys: Output, damage: str, message: str) -> None:
    data, out, more = data_directory(tmp_path / "data"), tmp_path / "out", ()
    match damage:
        case "nowhere":
            data = tmp_path / "nowhere"
        case "empty":
            data = tmp_path / "empty"
            data.mkdir()
        case "no answers":
            (data / "answers").rename(tmp_path / "away")
        case "no requests":
            (data / "requests").rename(tmp_path / "away")
        case "garbage":
            (data / "requests" / "z.parquet").write_bytes(b"no Parquet")
        case "other columns":
            write_file(data / "requests" / "z.parquet", pa.table({"timestamp_ms": [1]}))
        case "out is a file":
            out.write_text("")
        case "schema":
            (tmp_path / "own.toml").write_text("")
            more = ("--schema", str(tmp_path / "own.toml"))
    assert inspect(data, out, *more) == 2
    error = capsys.readouterr().err
    assert error.startswith("easq-rec: ") and message in error
    assert damage == "schema" or error.count("\n") == 1


# ---------------------------------------------------------------------------------------------------------------------
# Training with the draft


@pytest.mark.integration
def test_training_with_the_draft_resumes_without_the_schema_file(
    world: Path, inspected: Path, tmp_path: Path, warm: Warm
) -> None:
    """The run stops, refuses another schema, and resumes and is evaluated without the schema file."""
    schema, run = tmp_path / "schema.toml", tmp_path / "run"
    schema.write_bytes((inspected / "schema.toml").read_bytes())
    small = ["--trainer.batch-size", "64", "--trainer.threads", "1", "--logging.tensorboard", "False"]
    argv = ["train", "quickstart", "--data", str(world), "--run-dir", str(run), "--trainer.max-steps", "2", *small]

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return warm.run(warm.python, "-m", "easq_rec.cli", *arguments, check=False)

    first = call(*argv, "--schema", str(schema), "--trainer.stop-at-step", "1")
    assert first.returncode == 0, first.stderr
    stored = json.loads((run / "config.json").read_text())
    assert stored["schema_file"] == str(schema)
    assert {table["name"]: table["rows"] for table in stored["schema"]["tables"]}["video"] == 1_024
    schema.write_text(schema.read_text().replace("rows = 1024\n", "rows = 2048\n"))
    refused = call(*argv, "--schema", str(schema))
    assert refused.returncode == 2
    assert "holds a run with another configuration: schema.tables.video.rows is 1024 there, 2048 here" in refused.stderr
    schema.unlink()
    score = ["score", "--run", str(run), "--input", str(world), "--output", str(tmp_path / "scores.parquet")]
    resumed, evaluated, scored = call(*argv), call("evaluate", "--run", str(run)), call(*score)
    assert resumed.returncode == evaluated.returncode == scored.returncode == 0, evaluated.stderr
    assert "from step 1" in resumed.stdout
    assert "satisfaction NDCG@5" in resumed.stdout and "satisfaction NDCG@5" in evaluated.stdout
    assert (tmp_path / "scores.parquet").exists()


# ---------------------------------------------------------------------------------------------------------------------
# Files of a dataset


@pytest.mark.parametrize("names", [["x", "x"], ["user.region"]])
def test_columns_with_one_name_are_refused(tmp_path: Path, capsys: Output, names: list[str]) -> None:
    """A name with a dot may be that of a feature in a struct."""
    data = data_directory(tmp_path / "data")
    file = next((data / "requests").rglob("*.parquet"))
    table = pq.read_table(file, partitioning=None)
    user = table.schema.field("user").type
    names = [f"user.{user.field(0).name}" if "." in name else name for name in names]
    for name in names:
        table = table.append_column(name, pa.array([1] * len(table)))
    pq.write_table(table, file)
    assert inspect(data, tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert f"{file}: several columns are named {names[0]}" in said and len(said.splitlines()) == 1


def test_files_without_suffix_in_any_folder_and_behind_links_are_read(tmp_path: Path, capsys: Output) -> None:
    data = data_directory(tmp_path / "data [1]")
    files = sorted((data / "requests").rglob("*.parquet"))
    files[0].rename(files[0].with_suffix(""))
    (tmp_path / "store").mkdir()
    files[1].rename(tmp_path / "store" / "b.PARQ")
    (data / "requests" / "day2").symlink_to(tmp_path / "store")
    assert inspect(data, tmp_path / "out") == 0
    found = json.loads((tmp_path / "out" / "report.json").read_text(), parse_constant=pytest.fail)
    assert sum(found["datasets"]["requests"]["group_rows"]) == 40
    (data / "requests" / "notes.md").write_text("hi")
    capsys.readouterr()
    assert inspect(data, tmp_path / "out") == 2
    assert "notes.md: is not Parquet, as every file of a dataset" in capsys.readouterr().err


def test_an_output_in_a_dataset_is_refused(tmp_path: Path, capsys: Output) -> None:
    data = data_directory(tmp_path / "data")
    assert inspect(data, data / "requests" / "inspect") == 2
    assert "requests, which is read: choose a place outside of it" in capsys.readouterr().err
    assert inspect(data, data / "inspect") == 0
