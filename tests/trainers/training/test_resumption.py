"""A run that was stopped goes on as if it had never been: the same weights, bit for bit, and the same numbers in the log."""

from __future__ import annotations

import errno
import json
import os
import signal
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.character_engine import ASKS_DATE, CharacterEngine
from helpers.refusals import refused
from helpers.training import TinyEngine, grade_all, grade_parity, make_behavior, make_inputs, random_rows, tiny_llama
from safetensors.torch import save_file
from typer.testing import CliRunner

from posttrain.diagnose.errors import RunError
from posttrain.diagnose.types import Grade, GradeStatus, Reference
from posttrain.trainers.distributed.interrupts import StoppedAtOnceError, held_interrupts
from posttrain.trainers.distributed.processes import ProcessGroup
from posttrain.trainers.recipes.overrides import load_config
from posttrain.trainers.recipes.registry import RECIPES
from posttrain.trainers.row_json import fingerprint_rows, row_from_json, row_to_json
from posttrain.trainers.sources.policy import PolicySource, RolloutSampler
from posttrain.trainers.step.optimizer_step import Stepper
from posttrain.trainers.training.dev_evaluation import DevEvaluator
from posttrain.trainers.training.preparation import run_identity
from posttrain.trainers.training.result import TrainingResult
from posttrain.trainers.training.resume_state import ResumeStore, StoredTensors, find_state, write_synced
from posttrain.trainers.training.trainer import run_recipe
from posttrain.trainers.training_types import RowRole, TrainingSet

SAMPLED = ["problems_per_batch=3", "group_size=4", "num_steps=6"]
SETTINGS = {
    "sft": ["rows_per_batch=5", "num_epochs=3", "schedule=cosine", "warmup_steps=2"],  # 27 rows: the last of 6 batches has 2
    "dpo": ["rows_per_batch=2", "num_steps=6", "num_samples=4", "schedule=cosine", "warmup_steps=2", "weight_decay=0.1"],
    "grpo": [*SAMPLED, "kl_weight=0.1", "updates_per_batch=2"],
    "guided_grpo": [*SAMPLED, "anneal_after=1.0"],
    "ppo": SAMPLED,
    "rft": ["rows_per_batch=3", "num_samples=4", "num_steps=3", "rounds=2"],
}  # fmt: skip


class Stopped:
    """Presses Ctrl-C when a record of some kind is logged."""

    def __init__(self, event: str, step: int) -> None:
        self.event, self.step = event, step

    def __call__(self, record) -> None:
        if record["event"] == self.event and record["step"] == self.step:
            raise KeyboardInterrupt


def train(
    name: str,
    tokenizer,
    out: Path,
    *more: str,
    on_step=None,
    evaluated: bool = False,
    grade=None,
    wrap=lambda evaluate: evaluate,
    kept: tuple = (),
):
    """Train from the weights of the start, as a second process would; the behaviors `kept` are retained."""
    model = tiny_llama()
    training_set = TrainingSet([guided_behavior() if name == "guided_grpo" else make_behavior(num_train=12)])
    config = load_config(name, None, ["autocast=float32", "learning_rate=1e-2", *SETTINGS[name], *more])
    engine = TinyEngine(model)
    grade = grade or (grade_few if name == "guided_grpo" else grade_parity)
    evaluate = None
    if evaluated:
        sampler = RolloutSampler(engine=_Scoring(engine), graders={"sums": grade})
        evaluate = wrap(DevEvaluator(sampler, training_set, num_samples=2, seed=0))
    inputs = make_inputs(model, tokenizer, grade=grade, engine=engine, training_set=training_set)
    if kept:
        graders = {**inputs.graders, **dict.fromkeys((one.name for one in kept), grade_parity)}
        inputs = replace(inputs, retained=TrainingSet(kept, dev_share=0), graders=graders)
    result = run_recipe(name, inputs, config, out=out, on_step=on_step, evaluate=evaluate)
    return model, result


def guided_behavior():
    """Few problems, so that each comes again, with paths that are long enough to give parts of."""
    behavior = make_behavior(num_train=8)
    long = (Reference(steps=("0120120",)),)
    return replace(behavior, problems=tuple(replace(problem, references=long) for problem in behavior.problems))


def grade_few(problem, texts):
    """One text in six is right: the guide goes up and down."""
    import hashlib

    digits = [hashlib.sha256(text.encode()).digest()[0] for text in texts]
    return [Grade(status=GradeStatus.SCORED, score=float(digit % 6 == 0)) for digit in digits]


class _Scoring:
    """The tiny engine, with scores of references."""

    def __init__(self, engine) -> None:
        self._engine = engine

    def __getattr__(self, name: str):
        return getattr(self._engine, name)

    def score(self, requests):
        from posttrain.diagnose.engines.base import TokenScores

        found = []
        for one in requests:
            with torch.no_grad():
                ids = torch.tensor([one.prompt_ids + one.path_ids])
                logits = self._engine.model(input_ids=ids).logits[0, len(one.prompt_ids) - 1 : -1]
            values = torch.log_softmax(logits, -1).gather(1, torch.tensor(one.path_ids)[:, None])[:, 0].numpy()
            found.append(TokenScores(logprobs=values, ranks=np.zeros(len(values), dtype=np.int32)))
        return found


def numbers(result: TrainingResult) -> list[dict]:
    """Return the log without what time tells."""
    records = [json.loads(line) for line in result.log.read_text().splitlines()]
    return [
        {key: value for key, value in record.items() if not key.endswith("seconds")}
        for record in records
        if record["event"] != "resumed"
    ]


def compare(whole, resumed) -> None:
    (model, result), (other, again) = whole, resumed
    for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert numbers(result) == numbers(again)
    for each in fields(result):
        if each.name not in ("seconds", "log", "checkpoint"):
            assert getattr(result, each.name) == getattr(again, each.name), each.name


@pytest.mark.parametrize("stopped_at", [1, 4])
@pytest.mark.parametrize("name", SETTINGS)
def test_resumed_is_uninterrupted(name: str, stopped_at: int, tokenizer, tmp_path: Path) -> None:
    whole = train(name, tokenizer, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(name, tokenizer, tmp_path / "cut", on_step=Stopped("step", stopped_at))
    state = find_state(tmp_path / "cut")
    assert state is not None
    assert state.name == f"training_state-{stopped_at + 1}"
    compare(whole, train(name, tokenizer, tmp_path / "cut"))
    assert find_state(tmp_path / "cut") is None


def die(record) -> None:
    if record.get("step") == 4:
        raise StoppedAtOnceError


KEPT = (replace(make_behavior(num_train=5), name="kept"), replace(make_behavior(num_train=7), name="also"))


@pytest.mark.parametrize("stopped_at", [1, 4])
@pytest.mark.parametrize("name", ["sft", "grpo", "guided_grpo", "rft"])
def test_rows_of_retained_behaviors_resume_too(name: str, stopped_at: int, tokenizer, tmp_path: Path) -> None:
    whole = train(name, tokenizer, tmp_path / "whole", kept=KEPT)
    with pytest.raises(KeyboardInterrupt):
        train(name, tokenizer, tmp_path / "cut", kept=KEPT, on_step=Stopped("step", stopped_at))
    resumed = train(name, tokenizer, tmp_path / "cut", kept=KEPT)
    compare(whole, resumed)
    assert whole[1].retained_rows > 0


def test_a_killed_run_with_retained_behaviors_goes_on_and_other_ones_are_refused(tokenizer, tmp_path: Path) -> None:
    """With evaluations of the dev slice, whose best weights are saved."""
    more = ["save_every=2", "eval_every=2", "patience=3", "dev_share=0.3"]
    whole = train("grpo", tokenizer, tmp_path / "whole", *more, evaluated=True, kept=KEPT)
    with pytest.raises(StoppedAtOnceError):
        train("grpo", tokenizer, tmp_path / "cut", *more, evaluated=True, kept=KEPT, on_step=die)
    with refused(RunError, "other_settings") as caught:
        train("grpo", tokenizer, tmp_path / "cut", *more, evaluated=True, kept=KEPT[:1])
    assert "retained" in str(caught.value)
    compare(whole, train("grpo", tokenizer, tmp_path / "cut", *more, evaluated=True, kept=KEPT))


def test_the_guide_remembers_its_rungs(tokenizer, tmp_path: Path) -> None:
    """What is compared above is not trivially alike: prefixes were given by the time of the stop."""
    with pytest.raises(KeyboardInterrupt):
        train("guided_grpo", tokenizer, tmp_path, on_step=Stopped("step", 4), grade=grade_all(0.0))
    # No step had a signal, and the rungs rose all the same.
    found = find_state(tmp_path)
    assert found is not None
    rungs = json.loads((found / "state.json").read_text())["source"]["rungs"]
    assert max(rungs.values()) >= 1
    records = [json.loads(line) for line in (tmp_path / "training_log.jsonl").read_text().splitlines()]
    assert records[-1]["sampled_rows"] > 3 * 4, "nothing was given"


def test_rounds_keep_the_rows_of_a_model_that_is_gone(tokenizer, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train("rft", tokenizer, tmp_path, on_step=Stopped("step", 4))
    found = find_state(tmp_path)
    assert found is not None
    source = json.loads((found / "state.json").read_text())["source"]
    assert source["sampled_in"] == 1
    assert source["rows"]


@pytest.mark.parametrize("event", ["step", "dev"])
def test_evaluations_averages_and_best_checkpoints_resume_too(event: str, tokenizer, tmp_path: Path) -> None:
    more = ["eval_every=2", "patience=3", "ema_decay=0.5", "dev_share=0.3"]
    whole = train("sft", tokenizer, tmp_path / "whole", *more, evaluated=True)
    with pytest.raises(KeyboardInterrupt):
        train("sft", tokenizer, tmp_path / "cut", *more, evaluated=True, on_step=Stopped(event, 3))
    resumed = train("sft", tokenizer, tmp_path / "cut", *more, evaluated=True)
    compare(whole, resumed)
    assert sum(record["event"] == "dev" for record in numbers(resumed[1])) == 4
    saved = [(result.checkpoint / "model.safetensors").read_bytes() for _, result in (whole, resumed)]
    assert saved[0] == saved[1]


@pytest.mark.parametrize("where", ["sampling", "training", "evaluating"])
def test_a_stop_within_a_step_goes_back_to_its_begin(where: str, tokenizer, tmp_path: Path, monkeypatch) -> None:
    """Half a step has moved the guide, or the weights of nothing: neither may be kept."""
    more = ["eval_every=2", "dev_share=0.3"]
    whole = train("guided_grpo", tokenizer, tmp_path / "whole", *more, evaluated=True)
    calls = 0

    def stop_at_the_third(function):
        def wrapped(*arguments, **named):
            nonlocal calls
            found = function(*arguments, **named)
            calls += 1
            if calls == 3:
                raise KeyboardInterrupt
            return found

        return wrapped

    with monkeypatch.context() as patch:
        if where == "sampling":
            patch.setattr(PolicySource, "batch", stop_at_the_third(PolicySource.batch))
        elif where == "training":
            patch.setattr(Stepper, "accumulate", stop_at_the_third(Stepper.accumulate))
        wrap = stop_at_the_third if where == "evaluating" else lambda evaluate: evaluate
        with pytest.raises(KeyboardInterrupt):
            train("guided_grpo", tokenizer, tmp_path / "cut", *more, evaluated=True, wrap=wrap)
    compare(whole, train("guided_grpo", tokenizer, tmp_path / "cut", *more, evaluated=True))


def test_a_killed_run_goes_on_from_its_last_state(tokenizer, tmp_path: Path) -> None:
    """Nothing is written when it dies; steps behind the last state are made again, and leave no second line in the log."""
    whole = train("grpo", tokenizer, tmp_path / "whole", "save_every=2")
    with pytest.raises(StoppedAtOnceError):
        train("grpo", tokenizer, tmp_path / "cut", "save_every=2", on_step=die)
    found = find_state(tmp_path / "cut")
    assert found is not None
    assert found.name == "training_state-4"
    compare(whole, train("grpo", tokenizer, tmp_path / "cut", "save_every=2"))
    assert (tmp_path / "cut" / "checkpoint-6").is_dir()


def write_to_a_full_disk(file: Path, content) -> None:
    """Write the tensors; the disk is full in the middle of the record."""
    if isinstance(content, str):
        file.write_text("{")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    write_synced(file, content)


def test_the_old_state_stays_until_the_new_one_is_whole(tokenizer, tmp_path: Path) -> None:
    whole = train("grpo", tokenizer, tmp_path / "whole", "save_every=2")
    with pytest.raises(KeyboardInterrupt):
        train("grpo", tokenizer, tmp_path / "cut", "save_every=2", on_step=Stopped("step", 1))
    left = find_state(tmp_path / "cut")
    assert left is not None
    assert left.name == "training_state-2"
    files = {path.name for path in (tmp_path / "cut").iterdir()}
    store = ResumeStore(tmp_path / "cut", {}, ProcessGroup(), write_file=write_to_a_full_disk)
    with pytest.raises(OSError) as full:
        store.write(4, {"log_bytes": 0}, {"a": torch.zeros(2)})
    assert full.value.errno == errno.ENOSPC
    assert find_state(tmp_path / "cut") == left
    assert {path.name for path in (tmp_path / "cut").iterdir()} == files
    compare(whole, train("grpo", tokenizer, tmp_path / "cut", "save_every=2"))


def test_what_a_kill_left_half_written_is_no_state_and_is_swept(tokenizer, tmp_path: Path) -> None:
    half = tmp_path / ".training_state-abc"
    half.mkdir()
    (half / "state.json").write_text("{}")
    assert find_state(tmp_path) is None
    train("sft", tokenizer, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"training_log.jsonl", "checkpoint"}


def test_a_state_of_the_same_step_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    """After a stop right before an evaluation, the evaluation is made and the same step is kept again."""
    store = ResumeStore(tmp_path, {}, ProcessGroup())
    for number in (0, 1):
        store.write(3, {"number": number}, {"a": torch.tensor([float(number)])})
        state = store.read()
        assert state is not None
        assert state.record["number"] == number
        assert state.tensors.read_full("a") == number
    assert len(list(tmp_path.iterdir())) == 1
    next(tmp_path.glob("training_state-*/tensors-*")).unlink()
    with pytest.raises(RunError) as caught:
        store.read()
    assert caught.value.code == "unreadable_state"


class OneOfMany(ProcessGroup):
    """A process that holds the rows that it is told."""

    def __init__(self, first: int, end: int) -> None:
        self._rows = first, end

    def row_range(self, weight: torch.Tensor) -> tuple[int, int]:
        return self._rows


@pytest.mark.parametrize("readers", [1, 2, 4, 5])
def test_rows_are_found_in_whichever_files_hold_them(readers: int, tmp_path: Path) -> None:
    """Three processes wrote tensors of 7, 5 and 1 rows, so that the last one had few of them or none."""
    wholes = {str(height): torch.randn(height, 3) for height in (7, 5, 1)}
    for rank in range(3):
        parts = {name: rows_of(value, rank, 3) for name, value in wholes.items()}
        save_file(
            {name: part.contiguous() for name, part in parts.items()}, tmp_path / f"tensors-0000{rank + 1}-of-00003.safetensors"
        )
    for name, value in wholes.items():
        expected = [rows_of(value, rank, readers) for rank in range(readers)]
        assert torch.equal(torch.cat(expected), value)
        for rank, part in enumerate(expected):
            first = sum(len(other) for other in expected[:rank])
            stored = StoredTensors(tmp_path, OneOfMany(first, first + len(part)))
            assert torch.equal(stored.read_shard(name, value), part)


def rows_of(value: torch.Tensor, rank: int, size: int) -> torch.Tensor:
    chunks = value.chunk(size)
    return chunks[rank] if rank < len(chunks) else value[:0]


def test_other_settings_are_refused_with_the_difference(tokenizer, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train("sft", tokenizer, tmp_path, on_step=Stopped("step", 1))
    with refused(RunError, "other_settings") as caught:
        train("sft", tokenizer, tmp_path, "betas=[0.9, 0.99]")
    assert all(value in str(caught.value) for value in ("betas", "[0.9, 0.95]", "[0.9, 0.99]"))
    assert find_state(tmp_path) is not None


def press(times: int, done: list[int]) -> None:
    with held_interrupts():
        for number in range(times):
            os.kill(os.getpid(), signal.SIGINT)
            done.append(number)


def test_ctrl_c_waits_for_the_end_of_a_block(capsys) -> None:
    done: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        press(1, done)
    assert done == [0]
    assert "stopping after this step" in capsys.readouterr().err
    with pytest.raises(StoppedAtOnceError):
        press(2, done)
    assert done == [0, 0]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_rows_survive_json() -> None:
    (row,) = random_rows(num_groups=1, group_size=1, advantages=True)
    row = replace(
        row,
        role=RowRole.CHOSEN,
        teacher_prompt_ids=(3, 4),
        step_ends=(0,),
        step_scores=(0.25,),
        truncated=True,
        sampler_logprobs=np.random.default_rng(0).normal(size=len(row.completion_ids)).astype(np.float32),
    )
    again = row_from_json(json.loads(json.dumps(row_to_json(row))))
    for each in fields(row):
        mine, theirs = getattr(row, each.name), getattr(again, each.name)
        assert np.array_equal(mine, theirs), each.name
        assert type(mine) is type(theirs), each.name
    assert again.sampler_logprobs.dtype == np.float32


def test_the_command_resumes(sums_file: Path, tiny_model: Path, tmp_path: Path, monkeypatch) -> None:
    from posttrain.cli import app

    def command(out: str, *more: str):
        settings = ["num_steps=4", "rows_per_batch=3", "learning_rate=1e-3", *more]
        flags = [flag for setting in settings for flag in ("--set", setting)]
        return CliRunner().invoke(app, ["train", "sft", str(tiny_model), str(sums_file), "--out", str(tmp_path / out), *flags])

    assert command("whole").exit_code == 0
    step, calls = Stepper.step, []

    def stopped_at_the_third(self, *arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "step", stopped_at_the_third)
        assert command("cut").exit_code != 0
    work = tmp_path / ".cut.work"
    assert not (tmp_path / "cut").exists()
    assert find_state(work) is not None
    assert (work / "checkpoint" / "config.json").exists()  # the steps so far, for who does not want to go on
    stopped = command("cut", "learning_rate=1e-2")
    assert isinstance(stopped.exception, RunError)
    assert "learning_rate: there 0.001, here 0.01" in str(stopped.exception)
    assert find_state(work) is not None

    resumed = command("cut")
    assert resumed.exit_code == 0, resumed.exception
    assert "4 optimizer steps" in resumed.stdout
    assert not work.exists()
    assert (tmp_path / "cut" / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert not list((tmp_path / "cut").glob("training_state*"))


class DatedEngine(CharacterEngine):
    """A model whose template asks for the date."""

    def __init__(self) -> None:
        super().__init__(ASKS_DATE)


def test_a_run_is_known_by_its_data_file_and_by_the_date_that_its_template_is_told() -> None:
    recipe, config, model = RECIPES["sft"], load_config("sft"), tiny_llama()
    rows = tuple(random_rows())
    made = run_identity(recipe, make_inputs(model, data=rows), config)
    read = run_identity(recipe, make_inputs(model, data=rows, data_fingerprint="a1", engine=DatedEngine()), config)
    again = run_identity(recipe, make_inputs(model, data=rows[:1], data_fingerprint="a1", engine=DatedEngine()), config)
    assert (made["data"], made["template_date"]) == (fingerprint_rows(rows), None)
    assert (read["data"], read["template_date"]) == ("a1", "2025-01-01")
    assert read == again
