"""Where the steps of a sample end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from posttrain.trainers.sources.steps import step_ends, token_texts

END = "</s>"


def tokenizer_of(tokens: Sequence[str], decoder: Any = None) -> PreTrainedTokenizerFast:
    """A tokenizer that knows these tokens, and whose decoder joins them unless another one is given."""
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
