"""Rows and prompts that are longer than the model reads, or than is asked for, are found before the first step."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.training import TinyEngine, grade_all, grade_parity, make_behavior, make_inputs, make_tokenizer, tiny_llama
from transformers import AutoConfig, GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM, PreTrainedModel

from posttrain.diagnose.engines.limits import context_length
from posttrain.diagnose.errors import BehaviorError, SettingsError
from posttrain.diagnose.types import Reference, Split
from posttrain.trainers.recipes.overrides import load_config
from posttrain.trainers.row_lengths import LengthLimit, TooLong
from posttrain.trainers.training.result import TrainingResult
from posttrain.trainers.training.trainer import run_recipe
from posttrain.trainers.training_types import RowRole, TrainingRow, TrainingSet

SMALL = {"vocab_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16}


def models() -> dict[str, PreTrainedModel]:
    """Models that read 16 tokens, by learned and by rotary positions."""
    opt = OPTConfig(**SMALL, ffn_dim=16, word_embed_proj_dim=16, max_position_embeddings=16)
    llama = tiny_llama()
    llama.config.max_position_embeddings = 16
    return {
        "gpt2": GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=16, n_embd=16, n_layer=1, n_head=2)),
        "opt": OPTForCausalLM(opt),
        "llama": llama,
    }


def row(length: int, number: int = 0, **more: Any) -> TrainingRow:
    """Return a row of some length, three tokens of which are the prompt."""
    return TrainingRow(
        behavior="data:x",
        problem_id=f"row{number}",
        split=Split.TRAIN,
        group_id=f"g{number}",
        prompt_ids=(1, 2, 3),
        completion_ids=tuple(4 + place % 20 for place in range(length - 3)),
        role=more.pop("role", RowRole.DEMONSTRATION),
        **more,
    )


def train(
    model: PreTrainedModel, rows: Sequence[TrainingRow], out: Path, *settings: str, stage: str = "sft", **more: Any
) -> TrainingResult:
    config = load_config(stage, None, ["autocast=float32", "num_epochs=1", *settings])
    inputs = make_inputs(model, make_tokenizer(), data=tuple(rows), grade=more.pop("grade", grade_parity), **more)
    return run_recipe(stage, inputs, config, out=out)


@pytest.mark.parametrize("name", ["gpt2", "opt", "llama"])
def test_a_row_that_the_model_cannot_read_is_refused_before_the_first_step(name: str, tmp_path: Path) -> None:
    model = models()[name]
    with pytest.raises(BehaviorError) as refused:
        train(model, [row(16), row(17, 1)], tmp_path)
    assert refused.value.code == "row_too_long"
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "training_log.jsonl").exists()
    assert train(model, [row(16), row(15, 1)], tmp_path).num_steps == 1


@pytest.mark.parametrize(("rule", "dropped", "cut", "tokens"), [("drop", 1, 0, 5), ("cut", 0, 1, 5 + 7)])
def test_longer_rows_are_dropped_or_cut_and_counted(rule: str, dropped: int, cut: int, tokens: int, tmp_path: Path) -> None:
    result = train(tiny_llama(), [row(8), row(20, 1)], tmp_path, "max_length=10", f"too_long={rule}")
    assert (result.num_rows_dropped, result.num_rows_cut, result.trained_tokens) == (dropped, cut, tokens)
    first = json.loads((tmp_path / "training_log.jsonl").read_text().splitlines()[0])
    assert (first.get("rows_dropped", 0), first.get("rows_cut", 0)) == (dropped, cut)
    assert first["rows"] == 2 - dropped


def test_more_than_the_model_reads_is_no_limit(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        train(models()["llama"], [row(8)], tmp_path, "max_length=17")
    assert refused.value.code == "max_length_too_large"


def test_references_are_checked_too(tmp_path: Path) -> None:
    behavior = make_behavior()
    long = tuple(replace(problem, references=(Reference(steps=("12" * 10,)),)) for problem in behavior.problems)
    training_set = TrainingSet([replace(behavior, problems=long)])
    with pytest.raises(BehaviorError) as refused:
        train(models()["llama"], [], tmp_path, training_set=training_set)
    assert refused.value.code == "row_too_long"


@pytest.mark.parametrize("stage", ["grpo", "rft", "dpo", "online_dpo"])
def test_prompts_without_room_for_a_sample_are_refused_or_left_out(stage: str, tmp_path: Path) -> None:
    behavior = make_behavior(num_train=8, max_tokens=10)  # a prompt has 4 tokens
    first, *others = behavior.problems
    training_set = TrainingSet([replace(behavior, problems=(replace(first, prompt="1000+1000"), *others))], dev_share=0)
    settings = ["num_steps=1"]
    with pytest.raises(SettingsError) as refused:
        train(models()["llama"], [], tmp_path / "refused", *settings, stage=stage, training_set=training_set)
    assert refused.value.code == "max_tokens_too_large"
    assert not (tmp_path / "refused" / "training_log.jsonl").exists()
    result = train(models()["llama"], [], tmp_path / "left", *settings, "too_long=drop", stage=stage, training_set=training_set)
    assert result.num_problems_dropped == 1


def test_a_sample_behind_a_longer_prompt_than_usual_ends_where_the_model_does(tmp_path: Path) -> None:
    """A part of a reference stands behind the prompt: 5 + 8 tokens leave less than the 10 that a sample may have."""
    behavior = make_behavior(num_train=4, max_tokens=10)
    reference = (Reference(steps=("01201201",)),)
    problems = tuple(replace(problem, references=reference, answer="no") for problem in behavior.problems)
    training_set = TrainingSet([replace(behavior, problems=problems)], dev_share=0)
    settings = ["num_steps=6", "problems_per_batch=4", "group_size=2", "num_rungs=1", "anneal_after=1.0"]
    model = models()["llama"]
    result = train(
        model,
        [],
        tmp_path,
        *settings,
        stage="guided_grpo",
        training_set=training_set,
        engine=Bounded(model),
        grade=grade_all(0.0),
    )
    assert result.generated_tokens > 0


class Bounded(TinyEngine):
    """Refuses what does not fit into the context, as real engines do."""

    def sample(self, requests: Any, sampling: Any, **more: Any) -> Any:
        assert all(len(request.prompt_ids) + sampling.max_tokens <= 16 for request in requests)
        return super().sample(requests, sampling, **more)


def test_what_is_cut_and_what_is_dropped() -> None:
    weights = np.array([1, 1, 0, 0, 0, 0, 1], dtype=np.float32)
    cut = LengthLimit(limit=7, too_long=TooLong.CUT)
    chat, steps, graded, unlearned, short = cut_rows = [
        row(10, 0, token_weights=weights),
        row(10, 1, role=RowRole.SAMPLE, step_ends=(1, 3, 6), step_scores=(1.0, 0.0, 1.0)),
        row(10, 2, role=RowRole.SAMPLE, reward=1.0),
        row(10, 3, token_weights=1 - np.minimum(1, weights + np.array([0, 0, 1, 1, 0, 0, 0])).astype(np.float32)),
        row(7, 4),
    ]
    kept = cut.fit(cut_rows)
    assert [each.problem_id for each in kept] == ["row0", "row1", "row4"]
    assert kept[0].completion_ids == chat.completion_ids[:4]
    assert kept[0].token_weights.tolist() == [1, 1, 0, 0]
    assert (kept[1].step_ends, kept[1].step_scores) == ((1, 3), (1.0, 0.0))
    assert kept[1].completion_ids == steps.completion_ids[:4]
    assert kept[0].truncated
    assert kept[2] is short
    assert (cut.num_cut, cut.num_dropped) == (2, 2)
    assert len(cut.notes()) == 2
    assert {graded.problem_id, unlearned.problem_id} == {"row2", "row3"}


@pytest.mark.parametrize("rule", [TooLong.DROP, TooLong.CUT])
def test_pairs_stay_whole(rule: TooLong) -> None:
    """Of three pairs one fits, one has a side that is too long, and in one the cut would leave two equal answers."""
    pairs = [
        row(length, number, role=role)
        for number, lengths in enumerate([(6, 5), (5, 9), (9, 12)])
        for role, length in zip((RowRole.CHOSEN, RowRole.REJECTED), lengths, strict=True)
    ]
    limit = LengthLimit(limit=7, too_long=rule)
    kept = limit.fit(pairs)
    numbers = ["row0", "row0"] if rule is TooLong.DROP else ["row0", "row0", "row1", "row1"]
    assert [each.problem_id for each in kept] == numbers
    assert limit.num_dropped == 6 - len(kept)
    assert limit.num_cut == (0 if rule is TooLong.DROP else 1)


def test_nothing_left_is_refused() -> None:
    with pytest.raises(BehaviorError) as refused:
        LengthLimit(limit=5, too_long=TooLong.DROP).fit([row(9)])
    assert refused.value.code == "no_row_left"


@pytest.mark.parametrize(
    ("kind", "settings", "length"),
    [
        ("gpt2", {"n_positions": 64}, 64),
        ("opt", {"max_position_embeddings": 64}, 64),
        ("roberta", {"max_position_embeddings": 64, "pad_token_id": 1}, 62),
        ("camembert", {"max_position_embeddings": 64, "pad_token_id": 5}, 58),
        ("bert", {"max_position_embeddings": 64, "pad_token_id": 5}, 64),
        ("llama", {"max_position_embeddings": 64}, 64),
        ("mistral", {"max_position_embeddings": 64, "sliding_window": 8}, 64),
        ("gemma3_text", {"max_position_embeddings": 64, "sliding_window": 8}, 64),
        (
            "qwen2",
            {
                "max_position_embeddings": 32768,
                "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768, "rope_theta": 1e6},
            },
            131072,
        ),
        ("llama", {"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}, 16384),
        ("llama", {"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, 8192),
        (
            "llama",
            {
                "max_position_embeddings": 131072,
                "rope_parameters": {
                    "rope_type": "llama3",
                    "factor": 8.0,
                    "original_max_position_embeddings": 8192,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "rope_theta": 5e5,
                },
            },
            131072,
        ),
        ("bloom", {}, None),
        ("mpt", {}, None),
        ("mamba", {}, None),
        ("rwkv", {}, None),
        ("xlnet", {}, None),
        ("falcon", {"alibi": True}, None),
    ],
)  # fmt: skip
def test_the_context_of_a_model(kind: str, settings: dict[str, Any], length: int | None) -> None:
    assert context_length(AutoConfig.for_model(kind, **settings)) == length


@pytest.mark.parametrize("rule", list(TooLong))
def test_answers_behind_other_prompts_are_no_longer_than_the_model_reads(rule: TooLong, tmp_path: Path) -> None:
    """KTO puts an answer behind another prompt, where it may be too long though all rows fit."""
    long_prompt = replace(row(16), prompt_ids=tuple(range(1, 14)), completion_ids=(4, 5, 6), role=RowRole.CHOSEN)
    long_answer = row(16, 1, role=RowRole.REJECTED)
    result = train(models()["gpt2"], [long_prompt, long_answer], tmp_path, f"too_long={rule}", stage="kto")
    assert (result.num_steps, result.num_rows_dropped, result.num_rows_cut) == (1, 0, 0)


def test_samples_behind_a_teachers_prompt_are_no_longer_than_the_model_reads(tmp_path: Path) -> None:
    """The student's samples fit behind its own prompt, and not all of them behind the one with the hint."""
    behavior = make_behavior(num_train=4, max_tokens=10)  # a prompt has 4 tokens
    problems = tuple(replace(problem, hint="123") for problem in behavior.problems)
    training_set = TrainingSet([replace(behavior, problems=problems)], dev_share=0)
    settings = ["num_steps=2", "on_policy=1.0", "scaffold=hint", "learning_rate=0.0001"]
    model = models()["gpt2"]
    with torch.no_grad():
        model.transformer.wte.weight[2] = 0.0  # an answer ends now and then
    result = train(model, [], tmp_path, *settings, stage="self_distill", training_set=training_set, grade=grade_all(1.0))
    assert result.num_steps == 2
