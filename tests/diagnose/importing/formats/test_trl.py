"""Completions that TRL logs, written by its own trainer, and by hand in the columns of its versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers.rollout_files import by_problem, read_rollouts

from posttrain.diagnose.errors import SourceError
from posttrain.diagnose.importing.imported import Untold

NAN = float("nan")


def starts_even(completions: list[str], **_: Any) -> list[float]:
    """Reward completions of an even length."""
    return [float(len(completion) % 2 == 0) for completion in completions]


def only_sums(prompts: list[str], **_: Any) -> list[float | None]:
    """Reward sums; products are not for this function."""
    return [None if "*" in prompt else 1.0 for prompt in prompts]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_the_trainer_logged_is_read_and_counted_once(tiny_model: Path, tmp_path: Path):
    datasets, trl = pytest.importorskip("datasets"), pytest.importorskip("trl")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    settings = trl.GRPOConfig(
        output_dir=str(tmp_path / "run"),
        per_device_train_batch_size=4,
        num_generations=2,
        steps_per_generation=2,  # so that every batch is logged twice
        max_completion_length=4,
        max_steps=4,
        logging_steps=1,
        log_completions=True,
        num_completions_to_print=0,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
        bf16=False,
    )
    prompts = datasets.Dataset.from_list([{"prompt": prompt} for prompt in ("2+2=", "7*8=", "3+3=", "1*7=")])
    trainer = trl.GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny_model),
        args=settings,
        train_dataset=prompts,
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
        reward_funcs=[starts_even, only_sums],
    )
    trainer.train()
    logged = tmp_path / "run" / "completions"
    assert len(list(logged.glob("*.parquet"))) == 4
    read = read_rollouts("trl", logged, score="only_sums")
    assert len(read.samples) == 2 * 8  # two batches of eight, each logged twice
    assert [note.code for note in read.source.notes] == ["logged_again"]
    assert all(sample.score == (None if "*" in str(sample.prompt) else 1.0) for sample in read.samples)
    assert {sample.behavior for sample in read.samples} == {"run"}
    even = read_rollouts("trl", logged, score="starts_even")
    assert all(sample.score == float(len(sample.text or "") % 2 == 0) for sample in even.samples)
    with pytest.raises(SourceError) as refused:
        read_rollouts("trl", logged)
    assert refused.value.code == "several_scores"


def write(folder: Path, step: int, rows: list[dict[str, Any]]) -> Path:
    path = folder / "completions" / f"completions_{step:05d}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame([{"step": step, **row} for row in rows]).to_parquet(path)
    return path


def row(prompt: str, completion: str, **others: Any) -> dict[str, Any]:
    return {"prompt": prompt, "completion": completion, "advantage": 0.5, **others}


def test_old_columns_have_the_sum_as_the_score(tmp_path: Path):
    write(
        tmp_path,
        1,
        [
            row("p", "a", reward=1.5, reward_right=1.0, reward_form=0.5),
            row("p", "b", reward=NAN, reward_right=NAN, reward_form=0.0),
        ],
    )
    assert list(by_problem(read_rollouts("trl", tmp_path)).values()) == [[1.5, None]]
    assert list(by_problem(read_rollouts("trl", tmp_path, score="reward_form")).values()) == [[0.5, 0.0]]


def test_hard_files(tmp_path: Path):
    first = [row("p", "a", right=1.0), row("p", "b", right=0.0), row("q", "a", right=NAN)]
    write(tmp_path, 9, first)
    write(tmp_path, 10, [*first[1:], row("q", "c", right=1.0)])  # an evaluation pushed one sample in
    write(tmp_path, 100, [row("p", "a", right=1.0), row("p", "a", right=1.0), row("r", "a", right=0.0)])
    read = read_rollouts("trl", tmp_path)
    assert [(sample.policy, sample.score) for sample in read.samples] == [
        ("9", 1.0),
        ("9", 0.0),
        ("9", None),
        ("10", 1.0),
        ("100", 1.0),
        ("100", 1.0),
        ("100", 0.0),
    ]
    assert read.source.untold >= {Untold.PROBLEM_IDS, Untold.COMPLETENESS, Untold.STOP_REASONS, Untold.SAMPLING}


def test_chats_and_tools_become_turns(tmp_path: Path):
    call = {"type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}
    said = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "4", "tool_calls": None},
        {"role": "assistant", "content": "4", "tool_calls": None},
    ]
    write(tmp_path, 1, [{**row("", "", right=1.0), "prompt": [{"role": "user", "content": "2+2?"}], "completion": said}])
    sample = read_rollouts("trl", tmp_path).samples[0]
    assert (sample.num_turns, sample.text) == (2, "4")
    assert isinstance(sample.prompt, tuple)
    assert sample.prompt[0].content == "2+2?"


@pytest.mark.parametrize(
    ("rows", "options", "code"),
    [
        ([{"prompt": "p", "answer": "q"}], {}, "not_this_format"),
        ([row("p", "a")], {}, "several_scores"),  # no reward at all
        ([row("p", "a", right=1.0)], {"score": "wright"}, "unknown_score"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, rows: list[dict[str, Any]], options: dict[str, Any], code: str):
    write(tmp_path, 1, rows)
    with pytest.raises(SourceError) as refused:
        read_rollouts("trl", tmp_path, **options)
    assert refused.value.code == code


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path):
    path = tmp_path / "completions_00001.parquet"
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(SourceError) as refused:
        read_rollouts("trl", path)
    assert refused.value.code == "unreadable_file"
