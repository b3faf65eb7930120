"""A small model that is trained within seconds to answer questions in chat formats of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from helpers.character_engine import END, CharacterEngine
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

Chat = tuple[str, str]
"""A text that the model reads, and how it goes on."""

KNOWN, MOST_STEPS = 0.02, 1000
"""Nats of the least likely token at which texts are known, and the steps on all of them until then, at most."""


def train_chat_model(folder: Path, chats: Sequence[Chat]) -> Path:
    """Train a model on texts until it knows them, and write it with a tokenizer that has a token for each character.

    Args:
        folder: Where to.
        chats: Prompts as the model reads them, each with what it is to write.
    """
    tokenizer = character_tokenizer(None)
    rows = [(tokenizer(prompt + text)["input_ids"], len(tokenizer(prompt)["input_ids"])) for prompt, text in chats]
    longest = max(len(ids) for ids, _ in rows)
    inputs, labels = torch.zeros(len(rows), longest, dtype=torch.long), torch.full((len(rows), longest), -100)
    for row, (ids, start) in enumerate(rows):
        inputs[row, : len(ids)] = torch.tensor(ids)
        labels[row, start : len(ids)] = torch.tensor(ids[start:])
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=512,
            eos_token_id=tokenizer.convert_tokens_to_ids(END),
            bos_token_id=1,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(MOST_STEPS):
        optimizer.zero_grad()
        logits = model(input_ids=inputs).logits[:, :-1].flatten(0, 1)
        losses = torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), reduction="none")
        if losses.max() < KNOWN:  # a number of steps would leave more or less, as the processor rounds
            break
        (losses.sum() / (labels[:, 1:] >= 0).sum()).backward()
        optimizer.step()
    else:
        raise RuntimeError(f"the model does not know its texts after {MOST_STEPS} steps: {losses.max():.3f} nats")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def character_tokenizer(template: str | None) -> PreTrainedTokenizerFast:
    """Return a tokenizer with a token for each character, and a chat template."""
    return CharacterEngine(template).tokenizer


def with_template(model: Path, folder: Path, template: str | None) -> Path:
    """Write a model again with another chat template, its weights linked.

    Args:
        model: What `train_chat_model` wrote.
        folder: Where to.
        template: The chat template; None for none.
    """
    folder.mkdir()
    for file in model.iterdir():
        if file.suffix == ".safetensors" or file.name in ("config.json", "generation_config.json"):
            (folder / file.name).symlink_to(file)
    character_tokenizer(template).save_pretrained(folder)
    return folder
