"""Environments of several turns: their own loop asks a server, what it stored is imported, and nothing stored is sampled again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from helpers.completion_servers import ChatServer, Reply, serve
from helpers.environments import use_stand_in, write_environment
from helpers.refusals import refused
from typer.testing import CliRunner

from posttrain.cli import app
from posttrain.diagnose import run
from posttrain.diagnose.behaviors.behavior_options import BehaviorOptions
from posttrain.diagnose.errors import BehaviorError, ModelError, RunError, SettingsError, UserError
from posttrain.diagnose.pipeline.environment_run import EnvironmentRun
from posttrain.diagnose.storage.diagnosed_run import DiagnosedRun
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.types import Split

NO_SERVER = "openai:http://127.0.0.1:9"
TWO_TURNS: dict[str, Any] = {"num_eval": 3, "kind": "MultiTurnEnv"}


def say(messages: list[dict[str, Any]]) -> str:
    """At first `0`; asked again `2`, which is right for the first problem of three, and for the third what its grader cannot read."""
    if len(messages) == 1:
        return "0"
    return "raise" if messages[0]["content"] == "2 + 2 =" else "2"


class Measured(NamedTuple):
    folder: Path
    server: ChatServer
    address: str
    first_run: str
    """What was said where the server failed after a while."""
    asked_first: int
    stored_first: int
    found: DiagnosedRun


def stored(measured: Measured) -> pa.Table:
    """Return the rollouts of the run."""
    (shard,) = RunDirectory(measured.found.path).shards("rollouts", "sums")
    return pq.read_table(shard)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Measured]:
    """Four samples of three problems. The server fails within the first run, and a row is torn; the same call again ends it."""
    folder, server = tmp_path_factory.mktemp("measured"), ChatServer(say)
    with pytest.MonkeyPatch.context() as patch, serve(server) as address:
        use_stand_in(folder, patch)
        patch.setenv("OPENAI_API_KEY", "secret")
        path = write_environment(folder, TWO_TURNS, more="name: sums\nsampling: {temperature: 0.7, max_tokens: 9}")
        server.most = 19
        given: dict[str, Any] = {"engine": f"openai:{address}", "samples": 4, "out": folder / "run"}
        with refused(RunError, "rollouts_failed") as said:
            run("m", [path], **given)
        rows = folder / "run" / "evaluation" / "results.jsonl"
        kept = [json.loads(line) for line in rows.read_text().splitlines()]
        with rows.open("a") as file:
            file.write('{"example_id": 0, "prom')
        asked, server.most = len(server.asked), None
        found = run("m", [path], **given)
        yield Measured(folder, server, address, str(said.value), asked, sum(not row["error"] for row in kept), found)


def test_the_loop_of_the_environment_samples(measured: Measured) -> None:
    table = stored(measured)
    graded = Counter(zip(table["problem_id"].to_pylist(), table["score"].to_pylist(), strict=True))
    assert graded == {("0", 1.0): 4, ("1", 0.0): 4, ("2", None): 4}
    assert table["num_turns"].to_pylist() == [2] * 12
    assert [diagnosis.name for diagnosis in measured.found.diagnoses] == ["sums"]


def test_a_rollout_whose_reward_function_fails_is_missing_and_not_wrong(measured: Measured) -> None:
    missing = stored(measured).filter(pc.field("score").is_null())
    assert missing["text"].to_pylist() == ["raise"] * 4
    assert missing["stop"].to_pylist() == ["eos"] * 4


def test_what_is_stored_is_not_sampled_again(measured: Measured) -> None:
    """The first chat of each call finds out whether the server answers chats at all; 18 further ones are answered of the first call, two a rollout."""
    assert "500" in measured.first_run
    assert 6 <= measured.stored_first <= 9
    assert len(measured.server.asked) - measured.asked_first == 1 + 2 * (12 - measured.stored_first)


def test_the_server_is_asked_as_the_behavior_says(measured: Measured) -> None:
    """VLLM would set from the model's own file what is not named."""
    sampler = {"temperature": 0.7, "top_p": 1.0, "max_tokens": 9, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
    asked = measured.server.asked[-1]
    assert asked["_key"] == "Bearer secret"
    assert {key: value for key, value in asked.items() if key not in ("_key", "messages")} == {"model": "m", **sampler}
    told = RunDirectory(measured.found.path).read_json()["settings"]["source"]["sampling"]
    assert (told["temperature"], told["max_tokens"]) == (0.7, 9)


def test_a_finished_run_asks_nothing_and_is_no_other_run(measured: Measured) -> None:
    asked, path = len(measured.server.asked), measured.folder / "b.yaml"
    given: dict[str, Any] = {"engine": f"openai:{measured.address}", "out": measured.found.path}
    again = run("m", [path], samples=4, **given)
    assert [one.sentence for one in again.diagnoses] == [one.sentence for one in measured.found.diagnoses]
    with refused(RunError, "other_settings"):
        run("m", [path], samples=5, **given)
    assert len(measured.server.asked) == asked


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_stand_in(tmp_path, monkeypatch)
    return tmp_path


def test_a_dry_run_needs_no_server(folder: Path) -> None:
    """Without an eval set its train set is measured."""
    path = write_environment(folder, {"num_train": 5, "kind": "MultiTurnEnv"})
    words = [
        "diagnose",
        "m",
        str(path),
        "--engine",
        NO_SERVER,
        "--dry-run",
        "--samples",
        "4",
        "--limit",
        "3",
        "--max-tokens",
        "9",
    ]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert all(said in done.output for said in ("3 problems", "train set", "12 rollouts"))


@pytest.mark.parametrize(
    ("more", "given", "options", "code"),
    [
        ("", {"precision": 0.1}, {}, "environment_option"),
        ("", {"seed": 1}, {}, "environment_option"),
        ("", {"probes": ("diversity",)}, {}, "environment_option"),
        ("", {"teacher": "demo"}, {}, "environment_option"),
        ("", {"split": Split.TRAIN}, {}, "environment_option"),
        ("", {}, {"system": "Be brief."}, "environment_option"),
        ("", {}, {"split_eval": "all"}, "environment_option"),
        ("", {"samples": 0}, {}, "samples"),
        ("prompt: {system: Be brief.}", {}, {}, "environment_setting"),
        ("sampling: {top_k: 5}", {}, {}, "environment_setting"),
        ("verifier: {kind: number}", {}, {}, "environment_setting"),
        ("measure: {primary_k: 4}", {}, {}, "environment_setting"),
    ],
)
def test_what_its_loop_cannot_follow_is_refused(
    more: str, given: dict[str, Any], options: dict[str, Any], code: str, tmp_path: Path
) -> None:
    accepted: dict[str, Any] = {"engine": NO_SERVER, "probes": ("none",), "split": Split.EVAL, "pilot": False}
    path = write_environment(tmp_path, more="measure: {success: 2}\nverifier: {kind: environment}")
    usual = {"model": "m", "out": tmp_path / "run"}
    EnvironmentRun(**usual, behaviors=[path], given=accepted, options=BehaviorOptions(temperature=0.5, limit=3, max_tokens=9))
    path = write_environment(tmp_path, more=more)
    with refused(SettingsError, code):
        EnvironmentRun(**usual, behaviors=[path], given=accepted | given, options=BehaviorOptions(**options))
    with refused(SettingsError, "environment_beside_others"):
        EnvironmentRun(**usual, behaviors=[path, "products"], given=accepted)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"rubric": "GroupRubric"}, "group_rewards"),
        ({"weight": 0.5}, "no_success_score"),
        ({"weight": 2.0}, "score_range"),
        ({"num_eval": 0}, "environment_split"),
    ],
)
def test_an_environment_that_cannot_be_measured_is_refused(arguments: dict[str, Any], code: str, folder: Path) -> None:
    path = write_environment(folder, TWO_TURNS | arguments)
    with refused(BehaviorError, code):
        run("m", [path], out=folder / "run", engine=NO_SERVER)
    assert not (folder / "run").exists()


def test_the_command_line_refuses_what_does_not_fit(folder: Path) -> None:
    path = write_environment(folder, TWO_TURNS)
    words = ["diagnose", "m", str(path), "--engine", NO_SERVER, "--out", str(folder / "run"), "--system", "Be brief."]
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, SettingsError)
    assert done.exception.code == "environment_option"


@pytest.mark.parametrize(
    ("model", "chats", "kind", "code"),
    [("other", True, ModelError, "model_not_served"), ("m", False, SettingsError, "refused_by_server")],
)
def test_a_server_that_cannot_be_used_is_refused(model: str, chats: bool, kind: type[UserError], code: str, folder: Path) -> None:
    server = ChatServer(say)

    def answer(path: str, body: dict[str, Any]) -> Reply:
        return server(path if chats else path.replace("chat", "no"), body)

    path = write_environment(folder, TWO_TURNS)
    with serve(answer) as address, refused(kind, code):
        run(model, [path], out=folder / "run", engine=f"openai:{address}")
    assert not (folder / "run").exists()


def test_problems_that_are_others_each_time_are_not_mixed(folder: Path) -> None:
    """The server fails after its first chat, so that the first run ends without a result."""
    server = ChatServer(say)
    server.most = 1
    path = write_environment(folder, {"num_train": 2, "kind": "MultiTurnEnv", "anew": True})
    given: dict[str, Any] = {"out": folder / "run", "samples": 1}
    with serve(server) as address:
        with refused(RunError, "rollouts_failed"):
            run("m", [path], engine=f"openai:{address}", **given)
        with refused(RunError, "environment_changes"):
            run("m", [path], engine=f"openai:{address}", **given)


def test_a_folder_with_other_files_is_left_alone(folder: Path) -> None:
    (folder / "run").mkdir()
    (folder / "run" / "notes.txt").write_text("mine")
    with refused(RunError, "other_files"):
        run("m", [write_environment(folder, TWO_TURNS)], out=folder / "run", engine=NO_SERVER)
    with refused(BehaviorError, "multi_turn_environment"):
        run("m", [write_environment(folder, TWO_TURNS)], out=folder / "run", engine="transformers")


@pytest.mark.slow
def test_a_killed_run_goes_on_and_leaves_no_process_behind(folder: Path) -> None:
    """SIGKILL, which nothing can answer, at the 200th of some 240 chats: its child ends by itself and asks nothing more."""
    started: list[subprocess.Popen[bytes]] = []

    def kill_late(messages: list[dict[str, Any]]) -> str:
        if len(server.asked) >= 200:
            started[0].kill()
            time.sleep(0.3)
        return say(messages)

    server, rows = ChatServer(kill_late), folder / "run" / "evaluation" / "results.jsonl"
    path = write_environment(folder, {**TWO_TURNS, "num_eval": 2})
    with serve(server) as address:
        given = ["m", str(path), "--engine", f"openai:{address}", "--samples", "60", "--out", str(folder / "run")]
        started.append(subprocess.Popen([sys.executable, "-c", "from posttrain.cli import main; main()", "diagnose", *given]))
        assert started[0].wait(60) == -signal.SIGKILL
        asked = -1
        while asked < len(server.asked):
            asked = len(server.asked)
            time.sleep(2)
        there, server.reply = len(rows.read_text().splitlines()), say
        run("m", [path], out=folder / "run", engine=f"openai:{address}", samples=60)
    assert 0 < there < 120
    assert len(server.asked) - asked == 1 + 2 * (120 - there)
