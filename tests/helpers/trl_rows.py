"""Rows of data sets as TRL's own trainers prepare them: token ids, and which of them are learned."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset, IterableDataset
from datasets.utils.logging import disable_progress_bar
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, SFTConfig, SFTTrainer
from trl.chat_template_utils import has_generation_markers
from trl.data_utils import maybe_apply_chat_template

Row = dict[str, Any]


class TokenRow(NamedTuple):
    """A row as tokens."""

    ids: tuple[int, ...]
    learned: tuple[bool, ...] | None
    """One for each id; None where it is not known."""


def sft_rows(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], folder: Path) -> list[TokenRow]:
    """Return what `SFTTrainer` learns from rows of one shape.

    Of chats that is what the assistant says, where the tokenizer's template marks it; else all of it.
    """
    assistant_only = "messages" in rows[0] and has_generation_markers(tokenizer.chat_template)
    config = SFTConfig(**_common(folder), assistant_only_loss=assistant_only)
    trainer = SFTTrainer(_model(), args=config, train_dataset=_stream(rows), processing_class=tokenizer)
    return [
        TokenRow(tuple(row["input_ids"]), tuple(label != -100 for label in row["labels"])) for row in list(trainer.train_dataset)
    ]


def dpo_rows(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], folder: Path) -> list[TokenRow]:
    """Return what `DPOTrainer` compares: the chosen and the rejected row of each pair, one after the other."""
    trainer = DPOTrainer(
        _model(),
        ref_model=_reference(),
        args=DPOConfig(**_common(folder)),
        train_dataset=_stream(rows),
        processing_class=tokenizer,
    )
    return [
        _behind(row["prompt_ids"], row[side]) for row in list(trainer.train_dataset) for side in ("chosen_ids", "rejected_ids")
    ]


def kto_rows(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], folder: Path) -> list[TokenRow]:
    """Return the labelled answers of `KTOTrainer`; all rows hold the same columns."""
    config = KTOConfig(**_common(folder), per_device_train_batch_size=2, desirable_weight=1.0)
    trainer = KTOTrainer(
        _model(),
        ref_model=_reference(),
        args=config,
        train_dataset=Dataset.from_list(list(rows)),
        processing_class=tokenizer,
    )
    return [_behind(row["prompt_ids"], row["completion_ids"]) for row in list(trainer.train_dataset)]


def prompt_rows(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], folder: Path) -> list[TokenRow]:
    """Return prompts alone as `GRPOTrainer` shows them to the model: nothing of them is learned."""
    found = []
    for row in rows:
        chat = isinstance(row["prompt"], list)
        tools = json.loads(row["tools"]) if isinstance(row.get("tools"), str) else row.get("tools")
        arguments = row.get("chat_template_kwargs") or {}
        prompt = maybe_apply_chat_template({"prompt": row["prompt"]}, tokenizer, tools=tools, **arguments)["prompt"]
        ids = tokenizer(prompt, add_special_tokens=not chat)["input_ids"]
        found.append(TokenRow(tuple(ids), (False,) * len(ids)))
    return found


def _behind(prompt: Sequence[int], answer: Sequence[int]) -> TokenRow:
    return TokenRow((*prompt, *answer), (False,) * len(prompt) + (True,) * len(answer))


def _common(folder: Path) -> dict[str, Any]:
    disable_progress_bar()
    return {
        "output_dir": str(folder),
        "report_to": [],
        "max_length": None,
        "use_cpu": True,
        "bf16": False,
        "max_steps": 1,
        "gradient_checkpointing": False,
    }


def _stream(rows: Sequence[Row]) -> IterableDataset:
    """Return rows as they are: a table would give every row the keys of all others."""

    def each() -> Iterator[Row]:
        yield from rows

    return IterableDataset.from_generator(each)


def _make_model() -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=1024, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    )


@cache
def _model() -> LlamaForCausalLM:
    return _make_model()


@cache
def _reference() -> LlamaForCausalLM:
    return _make_model()
