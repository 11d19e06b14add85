"""`easq-rec train --follow`: trains on a folder that grows, goes on where it stopped, publishes, and raises alarms."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from easq_rec.data.stream.messages import message_of
from easq_rec.export.manifest import Manifest
from easq_rec.export.package import Package
from easq_rec.export.versions import current_of, versions_of
from easq_rec.run_directory.checkpoint_files import latest_of
from easq_rec.run_directory.event_file import read_events
from easq_rec.training.follow.session import ended_by_alarm
from tests.conftest import Warm
from tests.integration.conftest import SMALL, Train, metrics

FOLLOW = (
    "--follow.stop-when-idle-seconds", "1.5", "--follow.wait-seconds", "0.5", "--follow.poll-seconds", "0.05",
    "--losses.dense.weight", "0.3",
)  # fmt: skip
REQUESTS = 300
"""Requests of a file: with 16 requests per step, a step has requests of two files."""

Follow = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def follow(warm: Warm, tmp_path: Path) -> Follow:
    """follow(*options, code=0): follows `tmp_path/live` into `tmp_path/run`."""

    def call(*options: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        words = ("quickstart", "--follow", tmp_path / "live", "--run-dir", tmp_path / "run", *SMALL, *FOLLOW, *options)
        done = warm.run(warm.python, "easq_rec/train.py", *map(str, words), check=False)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return call


def commit(world: Path, live: Path, *files: int) -> None:
    """Commits so many files of the world's requests, by their numbers, and all answers with the first."""
    table = pq.read_table(world / "requests")
    (live / "requests").mkdir(parents=True, exist_ok=True)
    for number in files:
        partial = live / "requests" / f".{number}"
        pq.write_table(table.slice(number * REQUESTS, REQUESTS), partial, row_group_size=128)
        partial.rename(live / "requests" / f"{number:03d}.parquet")
    if not (live / "answers").exists():
        shutil.copytree(world / "answers", live / "answers")


@pytest.mark.integration
def test_a_run_follows_a_folder_and_goes_on(follow: Follow, train: Train, world: Path, tmp_path: Path) -> None:
    """Hourly metrics are of scores before learning; a fixed log and a stream do not resume each other."""
    live, run = tmp_path / "live", tmp_path / "run"
    commit(world, live, 0, 1)
    done = follow()
    assert f"stopped after step 38 with a checkpoint: {2 * REQUESTS:,} requests" in done.stdout
    commit(world, live, 2, 3)
    done = follow()
    assert "from step 38" in done.stdout and f"{4 * REQUESTS:,} requests" in done.stdout
    hours = metrics(run, "hour")
    assert sum(hour["requests"] for hour in hours) > 2 * REQUESTS / 2
    assert len({hour["hour_ms"] for hour in hours}) == len(hours), "an hour is reported once, also over a restart"
    assert hours[-1]["replay_admitted"] > hours[0]["replay_admitted"]
    assert {"auc_long_view", "engagement_ndcg5", "ratio_long_view", "late_requests"} <= set(hours[-1])
    assert sum(hour.get("answers_scored", 0.0) for hour in hours) > 10
    assert all(hour.get("answers", 0.0) >= hour.get("answers_scored", 0.0) for hour in hours)
    assert any("auc_answers" in hour for hour in hours), "null in an hour without answers of both classes"
    losses = [line["loss_pointwise"] for line in metrics(run)]
    assert sum(losses[-10:]) < sum(losses[:10])
    refused = train(run, check=False)
    assert refused.returncode == 2 and "resume it with --follow" in refused.stderr


@pytest.mark.integration
def test_what_is_refused(follow: Follow, world: Path, tmp_path: Path) -> None:
    commit(world, tmp_path / "live", 0)
    assert "needs a last step" in follow("--optim.schedule", "cosine", code=2).stderr
    assert "METRIC>BOUND" in follow("--follow.alarm-if", "auc", code=2).stderr
    assert "the metrics are requests," in follow("--follow.publish-if", "auc>1", code=2).stderr
    assert "--data and --follow" in follow("--data", world, code=2).stderr
    assert "holds no checkpoint" in follow("--follow.start-from", tmp_path / "nothing", code=2).stderr


@pytest.mark.integration
def test_nothing_to_train_on_is_no_error(follow: Follow, tmp_path: Path) -> None:
    done = follow()
    assert f"waiting for the first requests of {tmp_path / 'live'}" in done.stdout
    assert "ended before the first request arrived" in done.stdout
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.integration
def test_an_alarm_ends_the_run_with_a_checkpoint(follow: Follow, world: Path, tmp_path: Path) -> None:
    commit(world, tmp_path / "live", 0, 1)
    done = follow("--follow.alarm-if", "rate_long_view>0.01", "--follow.on-alarm", "stop", code=3)
    assert "alarm: rate_long_view>0.01" in done.stdout
    events = read_events(tmp_path / "run" / "logs" / "rank_0.jsonl").events
    assert [event for event in events if event.name == "alarm"]
    assert list((tmp_path / "run" / "checkpoints").glob("step_*"))
    assert "rate_long_view>0.01" in (ended_by_alarm(tmp_path / "run") or "")
    # The same command by a person goes on, and the next hour raises the next alarm.
    commit(world, tmp_path / "live", 2)
    assert "from step" in follow().stdout
    assert ended_by_alarm(tmp_path / "run") is None


@pytest.mark.integration
def test_torchrun_does_not_undo_an_alarm(warm: Warm, world: Path, tmp_path: Path) -> None:
    commit(world, tmp_path / "live", 0, 1)
    words = ["quickstart", "--follow", tmp_path / "live", "--run-dir", tmp_path / "run", *SMALL, *FOLLOW]
    alarm = ["--follow.alarm-if", "rate_long_view>0.01", "--follow.on-alarm", "stop"]
    launcher = warm.torchrun(1, "--max_restarts", "1")
    done = warm.run(*launcher, "easq_rec/train.py", *map(str, words), *alarm, check=False)
    assert done.returncode != 0 and done.stdout.count("stopped after step") == 1, done.stdout + done.stderr
    assert "not restarted: an alarm has ended the run: rate_long_view>0.01" in done.stdout


@pytest.mark.integration
def test_packages_are_published_beside_training(
    follow: Follow, train: Train, world: Path, tmp_path: Path, exported: tuple[Path, Path]
) -> None:
    """A run that starts from another one publishes packages with its clock; a bound holds a worse one back."""
    run, packages = exported
    live = tmp_path / "live"
    shutil.copytree(packages, tmp_path / "packages")
    before = versions_of(tmp_path / "packages")
    commit(world, live, 0, 1)
    options = (
        "--schema",
        run.parent / "schema.toml",
        "--follow.start-from",
        run,
        "--follow.packages",
        tmp_path / "packages",
        "--follow.publish-minutes",
        "0.001",
    )
    refused = follow(*options[2:], code=2)
    assert "has other tables than the model: author has 33 x 16 values, for ids admitted after 1," in refused.stderr
    shutil.rmtree(tmp_path / "run")
    done = follow(*options, "--follow.publish-if", "auc_long_view>0.999")
    assert "is not published: auc_long_view>0.999 does not hold" in done.stdout
    assert versions_of(tmp_path / "packages") == before
    commit(world, live, 2, 3)
    done = follow(*options, "--follow.publish-if", "auc_long_view>0.01", "--follow.keep-packages", "2")
    assert "is published as" in done.stdout
    served = current_of(tmp_path / "packages")
    manifest = Manifest.read(served)
    assert served.name not in before and manifest.step > 20 and len(versions_of(tmp_path / "packages")) == 2
    assert manifest.stream is not None and manifest.stream["metrics"]["auc_long_view"] > 0.01
    times = pq.read_table(live / "requests", columns=["timestamp_ms"]).column("timestamp_ms").to_pylist()
    assert min(times) <= manifest.stream["clock_ms"] <= max(times)
    Package(served)


@pytest.mark.integration
def test_a_run_follows_topics_of_kafka_on_two_ranks(warm: Warm, world: Path, tmp_path: Path) -> None:
    """Requests in four partitions of which one is empty, answers in another topic; started by `easq.follow`."""
    pytest.importorskip("confluent_kafka", reason="needs the extra kafka")
    from confluent_kafka import Producer

    from benchmarks.mock_kafka import MockKafka

    broker = MockKafka()
    broker.create("requests", 4)
    broker.create("answers", 1)
    producer = Producer({"bootstrap.servers": broker.servers})
    requests, answers = (pq.read_table(world / name) for name in ("requests", "answers"))
    for number, begin in enumerate(range(0, 1_200, 64)):
        message = message_of(requests.slice(begin, min(64, 1_200 - begin)))
        producer.produce("requests", message, partition=number % 3)
    producer.produce("answers", message_of(answers), partition=0)
    assert producer.flush(30) == 0
    torchx = str(Path(sys.executable).with_name("torchx"))
    source = f"kafka://{broker.servers}/requests,answers"
    job = ("easq.follow", "--max_restarts", "0", "--source", source, "--run_dir", str(tmp_path / "run"), "-j", "1x2")
    times = ("--follow.idle-seconds", "3", "--follow.stop-when-idle-seconds", "8", "--follow.wait-seconds", "0.5")
    warm.run(torchx, "run", *job, "quickstart", *SMALL, *times)
    broker.close()
    checkpoint = latest_of(tmp_path / "run")
    progress = json.loads(checkpoint.progress.read_text())["loader"]
    assert progress["rows"] == 1_200 and progress["held"]["admitted"] > 10
    assert progress["requests"]["positions"] == {"0": [7, 0], "1": [6, 0], "2": [6, 0]}


@pytest.mark.integration
def test_two_ranks_stop_between_steps_and_go_on(warm: Warm, world: Path, tmp_path: Path) -> None:
    """Both ranks have prepared batches ahead when they stop; none waits for a plan that the other left out."""
    commit(world, tmp_path / "live", 0, 1, 2)
    words = ("easq_rec/train.py", "quickstart", "--follow", str(tmp_path / "live"), "--run-dir", str(tmp_path / "run"))
    for stop, rows in (("7", 7 * 32), ("11", 11 * 32)):
        done = warm.run(*warm.torchrun(2), *words, *SMALL, *FOLLOW, "--trainer.stop-at-step", stop, timeout=120)
        assert f"stopped after step {stop} with a checkpoint: {rows} requests" in done.stdout
