"""Where the steps of a sample end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from helpers.training import TinyEngine, make_behavior, random_rows
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from posttrain.diagnose.engines.base import SampleRequest
from posttrain.diagnose.types import Grade, GradeStatus, Sampling, StopReason
from posttrain.trainers.sources.policy import RolloutSampler
from posttrain.trainers.sources.step_scores import by_rollouts, score_steps, step_ends, token_texts
from posttrain.trainers.training_types import TrainingRow, TrainingSet

END = "</s>"


def tokenizer_of(tokens: Sequence[str], decoder: Any = None) -> PreTrainedTokenizerFast:
    """Return a tokenizer that knows these tokens, and whose decoder joins them unless another one is given."""
    distinct = list(dict.fromkeys([END, "<unk>", *tokens]))
    made = Tokenizer(models.WordLevel({token: number for number, token in enumerate(distinct)}, unk_token="<unk>"))
    made.decoder = decoder or decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token=END, unk_token="<unk>")


def ends_of(tokens: Sequence[str], separator: str = "\n", decoder: Any = None) -> tuple[int, ...]:
    tokenizer = tokenizer_of(tokens, decoder)
    return step_ends(tokenizer, tokenizer.convert_tokens_to_ids(list(tokens)), separator)


@pytest.mark.parametrize(
    ("tokens", "ends"),
    [
        (["a", "\n", "b", "\n", "c"], (1, 3, 4)),
        (["a", "\n", "b", "\n"], (1, 3)),
        (["a", "b", "c"], (2,)),  # no separator
        (["a", "b", END], (1,)),  # the end token is no part of the step
        (["a", "\n", "b", END], (1, 2)),
        (["a", "\n", END], (1,)),  # nothing follows the separator
        ([END], (0,)),
        (["a", "\n", "\n", "\n", "b"], (1, 4)),  # empty steps are none
        (["\n", "\n", "a", "\n", "b"], (3, 4)),
        (["\n", "\n"], (1,)),
        ([" ", "\n", "a"], (2,)),
        (["a", "\nb", "\n", "c"], (1, 2, 3)),  # a token that completes one step and begins the next
        (["a", "\nb"], (1,)),
        (["a", "b\nc\nd", "e"], (1, 2)),  # two steps end within one token
    ],
)
def test_steps_end_where_the_separator_is_complete(tokens: list[str], ends: tuple[int, ...]) -> None:
    assert ends_of(tokens) == ends


def test_a_separator_of_several_tokens_ends_a_step_with_its_last_one() -> None:
    assert ends_of(["a", "\n", "\n", "b", "\n", "c"], "\n\n") == (2, 5)
    assert ends_of(["a.", "\n", "Step", " 2:", "b"], "\nStep ") == (3, 4)
    assert ends_of(["a.", "\n", "Step", " ", "2:", "b"], "\nStep ") == (3, 5)


def test_separators_that_are_no_blanks_end_steps_only_behind_something_else() -> None:
    assert ends_of(["a", "x", "a", "a", "y"], "a") == (2, 4)


def test_a_decoder_that_drops_the_first_blank_still_shows_the_blanks_between() -> None:
    tokens = ["▁a", "▁then", "▁b"]
    tokenizer = tokenizer_of(tokens, decoders.Metaspace())
    ids = tokenizer.convert_tokens_to_ids(tokens)
    assert list(token_texts(tokenizer, ids)) == ["a", " then", " b"]
    assert step_ends(tokenizer, ids, " then") == (1, 2)


def test_a_character_of_several_tokens_comes_with_its_last() -> None:
    tokens = ["a", "Ã", "©", "Ċ", "b"]  # é is two bytes, written as byte-level vocabularies write them
    tokenizer = tokenizer_of(tokens, decoders.ByteLevel())
    ids = tokenizer.convert_tokens_to_ids(tokens)
    assert list(token_texts(tokenizer, ids)) == ["a", "", "é", "\n", "b"]
    assert step_ends(tokenizer, ids, "é") == (2, 4)
    assert step_ends(tokenizer, ids, "\n") == (3, 4)


def test_pieces_join_to_the_text_and_are_decoded_a_few_tokens_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = [f"w{i}" for i in range(300)]
    tokenizer = tokenizer_of(tokens)
    ids = tokenizer.convert_tokens_to_ids(tokens)
    decoded = []
    whole = type(tokenizer).decode

    def decode(self: Any, token_ids: list[int], **settings: Any) -> str:
        decoded.append(len(token_ids))
        return str(whole(self, token_ids, **settings))

    monkeypatch.setattr(type(tokenizer), "decode", decode)
    assert "".join(token_texts(tokenizer, ids)) == "".join(tokens)
    assert max(decoded) <= 2


# -------------------------------------------------------------------------------------------------------------------- scoring


def sampled(reward: float | None) -> TrainingRow:
    (row,) = random_rows(num_groups=1, group_size=1)
    return replace(
        row,
        behavior="sums",
        problem_id="p0",
        completion_ids=(3, 4, 5),
        sampler_logprobs=None,
        reward=reward,
        step_ends=(0, 2),
        step_scores=(0.0, 0.0),
    )


def test_a_step_is_as_right_as_the_graded_continuations_behind_it(model: Any, tokenizer: Any) -> None:
    training_set = TrainingSet([make_behavior()], dev_share=0)

    def every_other(problem: Any, texts: Sequence[str]) -> list[Grade]:
        """Right, missing, right, missing, ..."""
        missing = Grade(status=GradeStatus.ERROR, score=None)
        return [missing if i % 2 else Grade(status=GradeStatus.SCORED, score=1.0) for i in range(len(texts))]

    engine = TinyEngine(model)
    rows = [sampled(1.0), sampled(None)]
    score = by_rollouts(
        RolloutSampler(engine=engine, graders={"sums": every_other}), training_set, tokenizer, num_rollouts=16, seed=0
    )
    drawn = engine.sample(
        [SampleRequest(key="0/0", prompt_ids=(*rows[0].prompt_ids, 3), num_samples=16)],
        Sampling(temperature=1.0, max_tokens=4),
        seed="steps|0|0",
    )[0]
    ended = [one.stop is StopReason.EOS for one in drawn[::2]]
    first, second = score(rows, 0)
    assert first == [sum(ended) / len(ended), 1.0]
    assert math.isnan(second[1])


def test_a_row_with_a_step_of_which_nothing_is_known_stays_undivided(model: Any, tokenizer: Any) -> None:
    training_set = TrainingSet([make_behavior()], dev_share=0)

    def broken(problem: Any, texts: Sequence[str]) -> list[Grade]:
        return [Grade(status=GradeStatus.ERROR, score=None) for _ in texts]

    score = by_rollouts(
        RolloutSampler(engine=TinyEngine(model), graders={"sums": broken}), training_set, tokenizer, num_rollouts=4, seed=0
    )
    divided, whole = score_steps(tokenizer, "t4", score)([], [sampled(1.0), replace(sampled(1.0), completion_ids=(3,))], 0)
    assert (divided.step_ends, divided.step_scores) == ((), ())
    assert (whole.step_ends, whole.step_scores) == ((0,), (1.0,))  # a single step is as right as the answer
