"""Study `worth` from a data directory to its verdict: constructed logs, generated worlds, scales, and bad input."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from easq_rec.config import World
from easq_rec.config.answer_scale import FIVE_STARS, NO_OR_YES
from easq_rec.config.recipes import schema_for_world, world_schema
from easq_rec.errors import UserError
from easq_rec.tools.report.study_files import read_study
from easq_rec.tools.report.study_view import study_view
from easq_rec.tools.simulation.world import generate
from easq_rec.tools.studies.command import run as run_study
from easq_rec.tools.studies.options import StudyOptions
from easq_rec.tools.studies.worth.study import Worth, run
from tests.tools.studies.worth.logs import by_chance, by_person, by_video, schema, write_log


def added(found: Worth) -> Any:
    assert found.evidence.adds is not None
    return found.evidence.adds


def test_what_few_videos_say_is_learnt_at_once(tmp_path: Path) -> None:
    found = run(write_log(tmp_path / "log", satisfied=by_video, videos=8, requests=10_000), schema())
    assert found.decision.outcome == "enough answers", found.decision.text()
    assert added(found).low > 10 and found.evidence.adds_to_others.low > 10  # type: ignore[union-attr]


def test_what_many_videos_say_takes_more_answers(tmp_path: Path) -> None:
    found = run(write_log(tmp_path / "log", satisfied=by_video, videos=1_000), schema())
    assert found.decision.outcome == "ask more", found.decision.text()


def test_answers_about_the_person_ask_for_other_people(tmp_path: Path) -> None:
    found = run(write_log(tmp_path / "log", satisfied=by_person, users=100), schema())
    assert found.decision.outcome == "ask others", found.decision.text()
    assert added(found).low > 10 and found.evidence.adds_to_others.high < 0.5  # type: ignore[union-attr]


def test_answers_of_few_users_ask_for_other_people(tmp_path: Path) -> None:
    """The ten most active of a hundred users have half of the impressions and nearly all answers."""
    log = write_log(
        tmp_path / "log",
        satisfied=by_video,
        answered=lambda user, video: np.where(user < 10, 0.95, 0.02),
        users=20,
        videos=20,
    )
    # The first users also open the app more often: the others' requests are spread over ninety more users.
    for name in ("requests", "answers"):
        file = log / name / "part.parquet"
        table = pq.ParquetFile(file).read()
        user = table.column("user_id").to_numpy()
        spread = np.where(user < 10, user, 10 + np.arange(len(user)) % 90)
        table = table.set_column(table.schema.get_field_index("user_id"), "user_id", pa.array(spread))
        pq.write_table(table, file, row_group_size=500)
    found = run(log, schema())
    assert found.decision.outcome == "ask others", found.decision.text()
    assert found.who.of_users[0] > 0.9 and "ask the others" in found.decision.text()


def test_random_answers_say_do_not_ask(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", satisfied=by_chance, videos=20, users=100, requests=16_000)
    found = run(log, schema())
    assert found.decision.outcome == "do not ask", found.decision.text()
    for split in found.measured:
        for row in split.rows.values():
            assert row.explained.estimate(0).high < 1.5
            # Users' own earlier answers must not depend on the order of the held-out ones.
            assert abs(row.within.value - 0.5) < 0.03


def test_likes_that_say_it_all_say_do_not_ask(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", satisfied=by_video, copies=True, videos=20, users=400, requests=16_000)
    found = run(log, schema())
    assert found.decision.outcome == "do not ask", found.decision.text()
    time = found.measured[0]
    before = time.rows["before the view", "behaviour alone"].explained.value
    after = time.rows["after the view", "behaviour alone"].explained.value
    # The likes of others tell which videos satisfy; one's own like tells more.
    assert before > 25 and after > before + 10


def test_few_answers_are_too_few(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", satisfied=by_video, videos=500, requests=300)
    found = run(log, schema())
    assert found.decision.outcome == "too few answers to tell" and found.decision.needed
    sparse = write_log(
        tmp_path / "sparse", satisfied=by_video, answered=lambda user, video: np.full(len(user), 0.01), requests=2_000
    )
    found = run(sparse, schema())
    assert found.decision.outcome == "too few answers to tell" and not found.measured
    assert not found.figures and "Answers by behaviour of the impression" in found.tables


def test_later_answers_are_held_out(tmp_path: Path) -> None:
    found = run(write_log(tmp_path / "log", satisfied=by_video, videos=20), schema())
    time, user = (one.split for one in found.measured)
    answered = found.answered
    assert answered.answered_ms_A[time.fit_A].max() < answered.request_ms_A[time.test_A].min()
    assert time.test_A.sum() == pytest.approx(0.3 * len(answered), abs=2)
    assert not set(answered.user_A[user.fit_A]) & set(answered.user_A[user.test_A])
    assert not (user.known_A & user.test_A).any() and not (time.known_A & time.test_A).any()


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Worth]:
    """Small worlds: the second, the second where plays tell satisfaction, and one of random answers."""
    folder = tmp_path_factory.mktemp("worlds")
    base = World(version=2, requests=5_000, users=500, videos=200, history=5, density=2_000.0, item_drift=0.0)
    # Plays follow satisfaction closely, and satisfaction is that of the video.
    told = dataclasses.replace(
        base, play_slope=5.0, clickbait_plays=0.0, user_share=0.0, item_share=0.9, taste_share=0.1, answer_noise=0.0
    )
    random = dataclasses.replace(base, answer_noise=5.0, satisfied_misreport=0.5, dissatisfied_misreport=0.5)
    found = {}
    for name, world in (("second", base), ("told", told), ("random", random)):
        generate(world, folder / name)
        plain = world_schema(users=500, videos=200, dim=8, version=2)
        found[name] = run(folder / name, schema_for_world(plain, 2))
    return found


@pytest.mark.slow
def test_answers_of_the_second_world_say_more_than_behaviour(worlds: dict[str, Worth]) -> None:
    second = worlds["second"]
    assert added(second).low > 1 and second.decision.outcome in ("ask more", "enough answers", "ask others")
    assert {"long_view", "like", "follow", "valid_play", "comment", "forward", "hate"} < set(second.chosen.outcomes)


@pytest.mark.slow
def test_where_plays_tell_satisfaction_answers_add_little(worlds: dict[str, Worth]) -> None:
    """The part of the explained log loss that behaviour explains alone."""
    parts = {}
    for name in ("told", "second"):
        rows = worlds[name].measured[0].rows
        both, alone = (rows["before the view", source].explained.value for source in ("both", "behaviour alone"))
        parts[name] = alone / both
    assert parts["told"] > 0.75 and parts["second"] < 0.5, parts


@pytest.mark.slow
def test_random_answers_of_a_world_add_nothing(worlds: dict[str, Worth]) -> None:
    assert added(worlds["random"]).high < 0.5
    assert worlds["random"].decision.outcome in ("do not ask", "too few answers to tell")


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Results with the default scale."""
    log = tmp_path_factory.mktemp("usual") / "log"
    return run(write_log(log, satisfied=by_video, videos=20, requests=1_000), schema()).values()


@pytest.mark.parametrize(
    ("scale", "codes"), [(FIVE_STARS, (2, 4)), (FIVE_STARS, (1, 5)), (NO_OR_YES, (0, 1))], ids=["4-2", "5-1", "yes-no"]
)
def test_other_scales_measure_the_same(
    tmp_path: Path, usual: dict[str, Any], scale: Any, codes: tuple[int, int]
) -> None:
    other = write_log(tmp_path / "other", satisfied=by_video, videos=20, requests=1_000, codes=codes)
    assert run(other, schema(scale)).values() == usual


def test_errors_name_the_place_and_the_remedy(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", satisfied=by_video, requests=200)
    with pytest.raises(UserError, match=r"no folder requests/.*data-contract"):
        run(tmp_path, schema())
    with pytest.raises(UserError, match=r"none of the 1\d\d answers counts as satisfied \(4, 5\).*--schema FILE"):
        run(write_log(tmp_path / "one", satisfied=by_video, requests=200, codes=(1, 2)), schema(FIVE_STARS))
    wrong = dataclasses.replace(schema(), outcomes=(dataclasses.replace(schema().outcomes[0], name="purchase"),))
    with pytest.raises(UserError, match=r"candidates\.purchase: missing, expected a number"):
        run(log, wrong)
    nobody = write_log(tmp_path / "nobody", satisfied=by_video, requests=200)
    file = nobody / "answers" / "part.parquet"
    pq.write_table(pq.ParquetFile(file).read().slice(0, 0), file)
    with pytest.raises(UserError, match=r"answers/ has no answers"):
        run(nobody, schema())
    plain = tmp_path / "plain"
    (plain / "answers").mkdir(parents=True)
    (plain / "requests").symlink_to(log / "requests")
    pq.write_table(pq.ParquetFile(log / "requests" / "part.parquet").read(), plain / "answers" / "part.parquet")
    with pytest.raises(UserError, match=r"candidates\.answer: missing"):
        run(plain, schema())


def test_the_command_writes_what_the_report_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write_log(tmp_path / "log", satisfied=by_video, videos=20, requests=1_200)
    toml = tmp_path / "schema.toml"
    toml.write_text(SCHEMA)
    out = tmp_path / "out"
    assert run_study(StudyOptions(name="worth", data=str(log), schema=toml, out=out)) == 0
    printed = capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    assert results["decision"]["outcome"] in printed and "both - behaviour alone" in printed
    assert f"--schema {toml}" in results["command"] and "--seeds" not in results["command"]
    assert f"**{results['decision']['outcome']}**" in (out / "table.md").read_text()
    assert len(results["worth"]["information"]) == 2 * 2 * 4 and len(results["worth"]["curve"]) == 4 * 4
    for name in ("information.png", "learning.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    view = study_view(read_study(out, "worth", results))
    assert view.files.worth is not None and view.files.worth.outcome == results["decision"]["outcome"]
    assert [plot.title for plot in view.plots] == ["What tells whether an answer is satisfied"]
    assert view.curves is not None and len(view.curves.plots) == 1
    assert [heading for heading, _, _ in view.tables] == [
        "All sources",
        "Answers by behaviour of the impression",
        "Users who answer",
    ]
    assert len(view.tables[0][2].rows) == 2 * 2 * 4 + 4
    before = results
    assert run_study(StudyOptions(name="worth", data=str(log), schema=toml, out=out, resume=True)) == 0
    again = json.loads((out / "results.json").read_text())
    assert again["worth"] == before["worth"] and again["decision"] == before["decision"]


SCHEMA = """
[[tables]]
name = "user"
rows = 1024
dim = 8
[[tables]]
name = "video"
rows = 1024
dim = 8
[[user]]
name = "user_id"
table = "user"
[[history]]
name = "video_id"
table = "video"
[[candidate]]
name = "video_id"
table = "video"
[[outcomes]]
name = "like"
weight = 1.0
"""


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"seeds": 3}, "--seeds"),
        ({"schema": Path("schema.toml")}, "given with --data"),
        ({"ray": "local"}, "study worth trains nothing"),
        ({"data": "no/such/place"}, "no/such/place"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path: Path, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        run_study(StudyOptions(name="worth", out=tmp_path / "out", **options))
    assert not (tmp_path / "out").exists()


def test_without_data_a_world_is_generated(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run_study(StudyOptions(name="worth", budget="small", out=out)) == 0
    results = json.loads((out / "results.json").read_text())
    assert results["notes"][0].startswith("The budget is small") and (out / "worlds").is_dir()
