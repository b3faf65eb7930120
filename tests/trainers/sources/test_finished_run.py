"""Training on what a diagnosis of the train split sampled; a run of anything else is refused, and such a run is no verdict."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.refusals import refused
from helpers.stored_runs import rewrite_shard
from typer.testing import CliRunner

from posttrain.cli import app, main
from posttrain.diagnose import compare, gate, run
from posttrain.diagnose.engines.hf.transformers_engine import TransformersEngine
from posttrain.diagnose.errors import RunError, UserError
from posttrain.diagnose.progress import Reporter
from posttrain.diagnose.storage.files import read_json, write_json
from posttrain.diagnose.types import Split
from posttrain.trainers import train

BEHAVIOR = (
    "problems: digits.jsonl\nverifier: {kind: number}\nprompt: {format: completion}\n"
    "sampling: {max_tokens: 16, stop: [' ', '=', '?', '.', ',', ':']}\nsplit: {train: 0.5, final: 0.2}\n"
)


def write_behavior(folder: Path, text: str = BEHAVIOR) -> Path:
    """Return a behavior that a random model over characters gets right now and then, reading the only number of a short text."""
    rows = [{"id": f"d{i}", "prompt": f"say {chr(97 + i)}:", "answer": str(i % 5), "references": [str(i % 5)]} for i in range(16)]
    (folder / "digits.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / "digits.yaml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def digits(folder: Path) -> Path:
    return write_behavior(folder)


@pytest.fixture(scope="module")
def train_run(folder: Path, digits: Path, tiny_model: Path) -> Path:
    """64 samples of each train problem."""
    run(str(tiny_model), [digits], out=folder / "train", samples=64, probes=("none",), pilot=False, split=Split.TRAIN)
    return folder / "train"


@pytest.fixture
def never_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    def sample(*_: Any, **__: Any) -> None:
        raise AssertionError("training on a run draws nothing")

    monkeypatch.setattr(TransformersEngine, "sample", sample)


Refuses = Callable[..., str]


@pytest.fixture
def refuses() -> Refuses:
    """Run the command line, and want one line with a code."""

    def refuses(*arguments: object, code: str) -> str:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert isinstance(result.exception, UserError)
        assert result.exception.code == code
        assert "\n" not in str(result.exception)
        return str(result.exception)

    return refuses


@pytest.mark.usefixtures("never_sample")
@pytest.mark.parametrize("stage", ["rft", "dpo", "kto", "reward_model"])
def test_stages_learn_from_a_run_without_sampling(
    stage: str, train_run: Path, digits: Path, tiny_model: Path, tmp_path: Path
) -> None:
    result = train(
        stage, tiny_model, [digits], out=tmp_path / "out", from_run=train_run,
        overrides=["num_steps=1", "rows_per_batch=2", "learning_rate=1e-3", "dev_share=0.0"],
    )  # fmt: skip
    assert result.num_steps == 1
    assert result.generated_tokens == 0
    prepared = json.loads((tmp_path / "out" / "training_log.jsonl").read_text().splitlines()[0])
    assert prepared["rows"] > 0


def test_the_limit_of_samples_is_that_of_the_run(tiny_model: Path, tmp_path: Path) -> None:
    """Its references, of a single character each, would give 64."""

    class Listener(Reporter):
        def __init__(self) -> None:
            super().__init__(quiet=True)
            self.lines: list[str] = []

        def say(self, text: str) -> None:
            self.lines.append(text)

    behavior = write_behavior(tmp_path, BEHAVIOR.replace("max_tokens: 16, ", ""))
    sampled = run(str(tiny_model), [behavior], out=tmp_path / "run", samples=16, probes=("none",), pilot=False, split=Split.TRAIN)
    assert sampled["digits"].behavior.sampling.max_tokens == 64
    record = read_json(tmp_path / "run" / "run.json")
    limits = {"digits": {"max_tokens": 96, "source": "pilot"}}
    write_json(tmp_path / "run" / "run.json", {**record, "token_limits": limits})
    listener, settings = Listener(), ["num_steps=1", "rows_per_batch=2", "dev_share=0.25", "eval_every=1", "eval_samples=1"]
    train("rft", tiny_model, [behavior], out=tmp_path / "out", from_run=tmp_path / "run", overrides=settings, reporter=listener)
    assert any("96 tokens" in line for line in listener.lines), listener.lines


def test_only_right_samples_of_train_problems_outside_the_dev_slice_are_imitated(
    train_run: Path, digits: Path, tiny_model: Path
) -> None:
    from posttrain.diagnose import load_behavior
    from posttrain.trainers.sources.finished_run import read_run
    from posttrain.trainers.training_types import TrainingSet

    engine = TransformersEngine.open(str(tiny_model))
    training_set = TrainingSet([load_behavior(digits)], dev_share=0.25)
    rows = read_run(train_run, engine, training_set)
    items = {item.problem.id: item for item in training_set.train}
    assert len(rows) == 64 * len(items)
    assert {row.problem_id for row in rows} == set(items)
    assert training_set.dev
    for row in rows:
        assert (
            row.prompt_ids
            == engine.codec.encode_prompt(items[row.problem_id].problem.prompt, items[row.problem_id].behavior.prompt).token_ids
        )
        assert row.sampler_logprobs is not None
        assert row.reward == 0.0 or (not row.truncated and row.text[:1] and items[row.problem_id].problem.answer in row.text)


def test_a_run_of_the_eval_split_is_refused(
    folder: Path, digits: Path, tiny_model: Path, refuses: Refuses, tmp_path: Path
) -> None:
    run(str(tiny_model), [digits], out=folder / "eval", samples=4, probes=("none",), pilot=False)
    refuses(
        "train", "rft", tiny_model, digits, "--from", folder / "eval", "--out", tmp_path / "out",
        code="run_measured_split",
    )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_a_run_of_other_behaviors_is_refused(
    train_run: Path, tiny_model: Path, sums_file: Path, refuses: Refuses, tmp_path: Path
) -> None:
    refuses(
        "train", "rft", tiny_model, sums_file, "--from", train_run, "--out", tmp_path / "out",
        code="run_of_other_behaviors",
    )  # fmt: skip


def test_a_behavior_that_has_changed_since_is_refused(
    train_run: Path, tiny_model: Path, refuses: Refuses, tmp_path: Path
) -> None:
    changed = write_behavior(tmp_path, BEHAVIOR.replace("train: 0.5", "train: 0.3"))
    refuses(
        "train", "rft", tiny_model, changed, "--from", train_run, "--out", tmp_path / "out", code="behavior_changed"
    )  # fmt: skip


def test_other_options_than_those_of_the_samples_are_named(
    train_run: Path, digits: Path, tiny_model: Path, refuses: Refuses, tmp_path: Path
) -> None:
    said = refuses(
        "train", "rft", tiny_model, digits, "--from", train_run, "--limit", 3, "--out", tmp_path / "out", code="other_behavior_options"
    )  # fmt: skip
    assert "with --limit 3; give the same" in said


@pytest.mark.parametrize(
    ("damage", "code"), [("flipped", "damaged_shard"), ("gone", "missing_shard"), ("twice", "unknown_shard")]
)
def test_a_damaged_run_is_refused(
    damage: str, code: str, train_run: Path, digits: Path, tiny_model: Path, refuses: Refuses, tmp_path: Path
) -> None:
    shutil.copytree(train_run, tmp_path / "run")
    file = sorted((tmp_path / "run" / "rollouts").glob("digits.train-sampled.*.parquet"))[0]
    content = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    elif damage == "twice":
        shutil.copy(file, file.with_name("digits.train-sampled.0001-00000-of-00001.parquet"))
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    said = refuses("train", "rft", tiny_model, digits, "--from", tmp_path / "run", "--out", tmp_path / "out", code=code)
    assert "digits.train-sampled" in said


@pytest.mark.parametrize("split", ["train", "eval"])
def test_a_forged_split_is_refused(
    split: str, train_run: Path, digits: Path, tiny_model: Path, refuses: Refuses, tmp_path: Path
) -> None:
    """The rollout says train and the behavior says eval, or the other way round."""
    from posttrain.diagnose import load_behavior

    forged = tmp_path / "forged"
    shutil.copytree(train_run, forged)
    problem = load_behavior(digits).split(Split.EVAL if split == "train" else Split.TRAIN)[0].id
    file = sorted((forged / "rollouts").glob("digits.train-sampled.*.parquet"))[0]

    def forge(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
        names, numbers, splits = (list(columns[name]) for name in ("problem_id", "sample_index", "split"))
        row = names.index(problem) if problem in names else max(row for row, name in enumerate(names) if name == names[0])
        if names[row] != problem:  # the last sample of a problem, so that those before it are still all there
            names[row], numbers[row] = problem, 0
        splits[row] = split
        return {"problem_id": names, "sample_index": numbers, "split": splits}

    rewrite_shard(file, forge)
    said = refuses(
        "train", "rft", tiny_model, digits, "--from", forged, "--out", tmp_path / "out", "--set", "dev_share=0.0",
        code="measured_problem",
    )  # fmt: skip
    assert f"digits/{problem} (its row says {split})" in said


def test_samples_in_the_tokens_of_another_model_are_refused(
    digits: Path, tiny_model: Path, refuses: Refuses, tmp_path: Path
) -> None:
    (tmp_path / "model.yaml").write_text("success: 0.5\n")
    run(
        str(tmp_path / "model.yaml"),
        [digits],
        out=tmp_path / "run",
        engine="scripted",
        samples=4,
        probes=("none",),
        split=Split.TRAIN,
    )
    refuses(
        "train", "rft", tiny_model, digits, "--from", tmp_path / "run", "--out", tmp_path / "out",
        code="run_of_other_tokens",
    )  # fmt: skip


def test_stages_that_sample_for_themselves_refuse_a_run(
    train_run: Path, digits: Path, tiny_model: Path, refuses: Refuses, tmp_path: Path
) -> None:
    for stage in ("grpo", "sft"):
        refuses(
            "train", stage, tiny_model, digits, "--from", train_run, "--out", tmp_path / "out", code="data_not_read"
        )  # fmt: skip


def test_a_folder_without_a_run_is_refused_in_one_line(
    digits: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["posttrain", "train", "rft", tiny_model, digits, "--from", tmp_path, "--out", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", [str(word) for word in command])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("posttrain: ")]
    assert len(lines) == 1
    assert "run.json" in lines[0]


# ------------------------------------------------------------------------------------------------------------ never a verdict


def test_a_diagnosis_of_the_train_split_says_that_it_is_no_verdict(
    train_run: Path, folder: Path, digits: Path, tiny_model: Path
) -> None:
    behavior = json.loads((train_run / "diagnosis.json").read_text())["behaviors"][0]
    assert behavior["sentence"].startswith("digits (train split, no verdict): ")
    assert behavior["caveats"][0].startswith("These are train problems")
    for page in ("report.md", "report.html"):
        assert "These are train problems" in (train_run / page).read_text()
    with refused(RunError, "train_split"):
        gate(train_run, ["pass@1>=0"])
    again = folder / "again"
    run(str(tiny_model), [digits], out=again, samples=64, probes=("none",), pilot=False, split=Split.TRAIN, seed=1)
    with refused(RunError, "train_split"):
        compare(train_run, again, out=folder / "compared")


def test_a_diagnosis_of_the_eval_split_says_nothing_of_the_kind(folder: Path, digits: Path, tiny_model: Path) -> None:
    measured = run(str(tiny_model), [digits], out=folder / "plain", samples=4, probes=("none",), pilot=False)
    assert "train split" not in measured.diagnoses[0].sentence
    assert not any(caveat.code == "train_split" for caveat in measured.diagnoses[0].caveats)
    gate(folder / "plain", ["pass@1>=0"])
