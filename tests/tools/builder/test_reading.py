"""The reader accepts the output of the builder: rows, batches, and training steps."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from easq_rec.config import Config, Evaluation, Logging, Model, Replay, Tower, TrainerConfig, Transformer
from easq_rec.config.schema import Feature, FeatureSchema, Outcome, Table
from easq_rec.data.batch import RequestBatch, collate
from easq_rec.data.dataset import RequestDataset
from easq_rec.data.layout import Layout
from easq_rec.data.order import RequestReader, StreamPosition
from tests.tools.builder.logs import config, random_log, read_rows, run_build, write_log

SCHEMA = FeatureSchema(
    tables=(
        Table(name="user", rows=16, dim=8),
        Table(name="region", rows=9, dim=8, id_space="dense"),
        Table(name="likes", rows=9, dim=8, id_space="dense"),
        Table(name="video", rows=16, dim=8),
        Table(name="author", rows=128, dim=8),
        Table(name="tag", rows=9, dim=8, id_space="dense"),
    ),
    user=(
        Feature(name="user_id", table="user"),
        Feature(name="region", table="region"),
        Feature(name="likes", kind="id_list", table="likes"),
    ),
    history=(Feature(name="video_id", table="video"), Feature(name="author_id", table="author")),
    candidate=(
        Feature(name="video_id", table="video"),
        Feature(name="author_id", table="author"),
        Feature(name="tags", kind="id_list", table="tag"),
        Feature(name="quality", kind="float"),
        Feature(name="duration_ms", kind="float", transform="log1p"),
    ),
    outcomes=(Outcome(name="long_view", weight=1.0), Outcome(name="like", weight=0.5)),
)


@pytest.fixture(scope="module", params=[False, True], ids=["whole", "divided"])
def data(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log that was built in one piece or in many."""
    folder = tmp_path_factory.mktemp("data")
    write_log(folder, random_log(30, impressions=300))
    return run_build(folder, config(), divided=request.param)


def test_every_request_is_read_once(data: Path) -> None:
    dataset = RequestDataset(data / "requests", Layout.of(SCHEMA))
    dataset.check_time_order()
    reader = RequestReader(dataset, batch_size=5, shuffle_row_groups=4, seed=1)
    rows = {row["request_id"]: row for row in read_rows(data / "requests")}
    seen, candidates = [], 0
    for slice_ in reader.read(StreamPosition(), epochs=1):
        batch = collate(SCHEMA, slice_.requests)
        assert isinstance(batch, RequestBatch)
        seen += slice_.requests.scalars["request_id"].tolist()
        candidates += len(slice_.requests.candidates.column("video_id"))
    assert sorted(seen) == sorted(rows)
    assert candidates == sum(len(row["candidates"]) for row in rows.values())


def test_answers_are_read(data: Path) -> None:
    columns = RequestDataset(data / "answers", Layout.of(SCHEMA, answers=True)).read_all()
    assert columns is not None
    expected = {
        row["request_id"]: [entry["answer"] for entry in row["candidates"]] for row in read_rows(data / "answers")
    }
    for index, ident in enumerate(columns.scalars["request_id"].tolist()):
        begin, end = columns.candidates.offsets[index : index + 2]
        found = columns.candidates.column("answer")[begin:end].tolist()
        assert found == [-1 if answer is None else answer for answer in expected[ident]]
    assert len(columns) > 10


def test_training_runs_on_built_data(data: Path, tmp_path: Path) -> None:
    from easq_rec.tools.simulation.default_data import prepare_data
    from easq_rec.training.session import train

    tower = Tower(experts=1, hidden=8, out=8)
    run = Config(
        schema=SCHEMA,
        model=Model(dim=16, backbone=Transformer(heads=2, layers=1, ffn=16), main=tower, satisfaction=tower),
        replay=Replay(answers_per_step=4),
        trainer=TrainerConfig(batch_size=8, max_steps=2, threads=1, device="cpu"),
        evaluation=Evaluation(every_steps=0),
        logging=Logging(tensorboard=False, every_steps=1),
        run_dir=str(tmp_path / "run"),
    )
    run = dataclasses.replace(run, data=dataclasses.replace(run.data, path=str(data)))
    train(run, prepare_data)
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count('"loss_satisfaction"') >= 2
