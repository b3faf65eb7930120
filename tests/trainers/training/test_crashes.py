"""Whatever ends a run of any recipe, its last whole state is kept, and the resumed run ends as one that was never stopped."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from helpers.training import TinyEngine, grade_parity, make_behavior, make_inputs, make_tokenizer, tiny_llama
from torch import nn
from transformers import PreTrainedTokenizerFast

from posttrain.diagnose.errors import NonFiniteError, StoppedBySignal, VerifierError
from posttrain.diagnose.types import Grade, Problem, Reference
from posttrain.trainers.distributed.interrupts import stopped_by_signals
from posttrain.trainers.recipes.overrides import load_config
from posttrain.trainers.recipes.registry import RECIPES
from posttrain.trainers.stage import FrozenModel
from posttrain.trainers.training.resume_state import find_state
from posttrain.trainers.training.trainer import run_recipe
from posttrain.trainers.training.transform import run_transform
from posttrain.trainers.training_types import TrainingSet

SETTINGS = {
    ("sft", "dft", "logit_kd"): ["rows_per_batch=3"],
    ("dpo", "ipo", "kto", "simpo", "orpo", "cpo", "reward_model"): ["rows_per_batch=2", "num_samples=4"],
    ("grpo", "rloo", "dr_grpo", "dapo", "gspo", "cispo", "online_dpo"): ["problems_per_batch=3", "group_size=4"],
    ("guided_grpo", "luffy", "hpt"): ["problems_per_batch=3", "group_size=4"],
    ("ppo",): ["problems_per_batch=3", "group_size=4", "updates_per_batch=3"],
    ("chord",): ["problems_per_batch=3", "group_size=4", "rows_per_batch=2"],
    ("process",): ["problems_per_batch=3", "group_size=4", "num_rollouts=1", 'step_separator=" "'],
    ("process_reward_model",): ["rows_per_batch=2", "num_samples=2", "num_rollouts=1", 'step_separator=" "'],
    ("opd", "minillm"): ["problems_per_batch=3"],
    ("gkd",): ["problems_per_batch=3", "on_policy=0.5"],
    ("rft",): ["rows_per_batch=2", "num_samples=4", "rounds=2"],
    ("seq_kd", "replay", "self_distill"): ["rows_per_batch=2", "num_samples=8"],
}
QUICK = ("sft", "ppo")


class Counter:
    """Counts the forward passes of the decoder, and runs a fault at one of them."""

    def __init__(self, at: int = 0, fault: Callable[[object], object] | None = None) -> None:
        self.at, self.fault, self.count, self.after_step = at, fault, 0, []

    def __call__(self, module: nn.Module, inputs: object, output: object) -> object:
        self.count += 1
        return self.fault(output) if self.fault is not None and self.count == self.at else None


def out_of_memory(output: object) -> object:
    raise MemoryError


def not_a_number(output: object) -> object:
    output.last_hidden_state = output.last_hidden_state * float("nan")
    return output


def terminate(output: object) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


class KilledTokenizer(PreTrainedTokenizerFast):
    """A tokenizer that copies a folder while it is saved: a SIGKILL in the middle of writing a checkpoint leaves just that."""

    folder: ClassVar[Path]
    left: ClassVar[list[Path]] = []

    @classmethod
    def found_by(cls, tokenizer: PreTrainedTokenizerFast, folder: Path) -> PreTrainedTokenizerFast:
        cls.folder = folder
        cls.left.clear()
        tokenizer.__class__ = cls
        return tokenizer

    def save_pretrained(self, folder: str, **named: object) -> tuple[str, ...]:
        if find_state(self.folder) is not None:
            self.left.append(leave(self.folder, f"writing {len(self.left)}"))
        return super().save_pretrained(folder, **named)


def leave(folder: Path, when: str) -> Path:
    """Return a copy of what a SIGKILL leaves of a run: the files as they are at that moment."""
    return shutil.copytree(folder, folder.with_name(f"{folder.name} killed {when}"))


class DyingGrader:
    """Grades, and dies at one of its calls."""

    def __init__(self, at: int = 0) -> None:
        self.at, self.count, self.after_step = at, 0, []

    def __call__(self, problem: Problem, texts: Sequence[str]) -> list[Grade]:
        self.count += 1
        if self.count == self.at:
            raise VerifierError("the child process is gone")
        return grade_parity(problem, texts)


class FullDisk(PreTrainedTokenizerFast):
    """A tokenizer that can be saved once, before the first step; then the disk is full."""

    saved: ClassVar[list[str]] = []

    @classmethod
    def found_by(cls, tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
        cls.saved.clear()
        tokenizer.__class__ = cls
        return tokenizer

    def save_pretrained(self, folder: str, **named: object) -> tuple[str, ...]:
        if self.saved:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.saved.append(folder)
        return super().save_pretrained(folder, **named)


def train(
    name: str,
    out: Path,
    counter: Counter,
    grade: DyingGrader | None = None,
    tokenizer: PreTrainedTokenizerFast | None = None,
    more: Sequence[str] = (),
):
    """Train from the weights of the start, as a second process would."""
    model, teacher = tiny_llama(), tiny_llama(seed=1)
    model.get_decoder().register_forward_hook(counter)
    paths = (Reference(steps=("0120",)),)
    behavior = make_behavior(num_train=8)
    behavior = replace(behavior, problems=tuple(replace(problem, references=paths) for problem in behavior.problems))
    own = next(settings for names, settings in SETTINGS.items() if name in names)
    settings = ["autocast=float32", "learning_rate=1e-2", "num_steps=3", "dev_share=0", *own, *more]
    grader = grade or DyingGrader()

    def on_step(record) -> None:
        if record["event"] == "step":
            counter.after_step.append(counter.count)
            grader.after_step.append(grader.count)

    frozen = FrozenModel(source="t", fingerprint="t", model=teacher, tokenizer=make_tokenizer(), engine=TinyEngine(teacher))
    inputs = make_inputs(
        model,
        tokenizer or make_tokenizer(),
        grade=grader,
        training_set=TrainingSet([behavior], dev_share=0),
        teacher=frozen,
        earlier=frozen if name == "replay" else None,
    )
    result = run_recipe(name, inputs, load_config(name, None, settings), out=out, on_step=on_step)
    return model, result


def compare(whole, again) -> None:
    (model, result), (other, resumed) = whole, again
    for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
    logs = []
    for one in (result, resumed):
        records = [json.loads(line) for line in one.log.read_text().splitlines()]
        logs.append(
            [
                {key: value for key, value in record.items() if not key.endswith("seconds")}
                for record in records
                if record["event"] != "resumed"
            ]
        )
    assert logs[0] == logs[1]
    assert replace(result, seconds=0, log=resumed.log, checkpoint=resumed.checkpoint) == replace(resumed, seconds=0)
    assert (result.checkpoint / "model.safetensors").read_bytes() == (resumed.checkpoint / "model.safetensors").read_bytes()


EVERY = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
    for name, recipe in RECIPES.items()
    if recipe.transform is None
]


@pytest.mark.parametrize("name", EVERY)
def test_a_crash_at_any_point_resumes(name: str, tmp_path: Path) -> None:
    counter, grader = Counter(), DyingGrader()
    whole = train(name, tmp_path / "whole", counter, grader)
    before, end, *_ = counter.after_step
    assert whole[1].num_steps
    faults = {
        "first forward pass of a step": (Counter(before + 1, out_of_memory), None),
        "last forward pass of a step": (Counter(end, out_of_memory), None),
        "numbers that are not finite": (Counter(end, not_a_number), None),
    }
    if grader.after_step[1] > grader.after_step[0]:
        faults["grader"] = Counter(), DyingGrader(grader.after_step[1])
    for what, fault in faults.items():
        cut = tmp_path / what
        with pytest.raises((MemoryError, NonFiniteError, VerifierError)):
            train(name, cut, *fault)
        state = find_state(cut)
        assert state is not None, what
        assert state.name == "training_state-1", what
        assert (cut / "checkpoint" / "model.safetensors").exists(), what
        compare(whole, train(name, cut, Counter()))
        assert find_state(cut) is None
    cut = tmp_path / "saving"
    with pytest.raises(OSError) as full:
        train(name, cut, Counter(), tokenizer=FullDisk.found_by(make_tokenizer()))
    assert full.value.errno == errno.ENOSPC
    state = find_state(cut)
    assert state is not None
    assert state.name == f"training_state-{len(counter.after_step)}"
    assert not (cut / "checkpoint").exists()
    compare(whole, train(name, cut, Counter()))


@pytest.fixture
def termination() -> Iterator[None]:
    """Whoever started the tests may have ignored the signal, as nohup does."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("termination")
@pytest.mark.parametrize("name", EVERY)
def test_a_signal_or_a_kill_at_a_random_point_resumes(name: str, tmp_path: Path) -> None:
    counter = Counter()
    whole = train(name, tmp_path / "whole", counter)
    before, end, *_ = counter.after_step
    places = random.Random(name)
    cut = tmp_path / "terminated"
    with pytest.raises(StoppedBySignal), stopped_by_signals():
        train(name, cut, Counter(places.randint(before + 1, end), terminate))
    state = find_state(cut)
    assert state is not None
    assert state.name in ("training_state-1", "training_state-2")  # a step that has begun is finished
    assert (cut / "checkpoint" / "model.safetensors").exists()
    compare(whole, train(name, cut, Counter()))

    run, left = tmp_path / "run", list[Path]()
    spying = Counter(places.randint(before + 1, end), lambda output: left.append(leave(run, "at a forward pass")))
    tokenizer = KilledTokenizer.found_by(make_tokenizer(), run)
    compare(whole, train(name, run, spying, tokenizer=tokenizer, more=["save_every=1"]))
    assert len(left) == 1
    assert len(KilledTokenizer.left) >= 2  # a checkpoint of a later step, and the last one
    for folder in (*left, *KilledTokenizer.left):
        assert find_state(folder) is not None
        compare(whole, train(name, folder, Counter(), more=["save_every=1"]))
        assert find_state(folder) is None


def merge(out: Path, tokenizer: PreTrainedTokenizerFast | None = None) -> bytes:
    """Merge from the weights of the start, and return the weights of the checkpoint."""
    teacher = tiny_llama(seed=1)
    frozen = FrozenModel(source="t", fingerprint="t", model=teacher, tokenizer=make_tokenizer(), engine=TinyEngine(teacher))
    inputs = make_inputs(tiny_llama(), tokenizer or make_tokenizer(), grade=grade_parity, earlier=frozen)
    result = run_transform("merge", inputs, load_config("merge", None, []), out=out)
    return (result.checkpoint / "model.safetensors").read_bytes()


def test_a_merge_that_was_cut_begins_anew(tmp_path: Path) -> None:
    whole = merge(tmp_path / "whole")
    with pytest.raises(OSError) as full:
        merge(tmp_path / "cut", FullDisk.found_by(make_tokenizer()))
    assert full.value.errno == errno.ENOSPC
    assert [path.name for path in (tmp_path / "cut").iterdir()] == ["training_log.jsonl"]
    assert merge(tmp_path / "cut") == whole
