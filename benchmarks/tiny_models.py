"""Small Llamas over characters, trained in a minute on one core, in which benchmarks plant what they want to find again."""

from __future__ import annotations

import string
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHARACTERS = string.ascii_lowercase + "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 :.\n"
BATCH = 64


def make_tokenizer(folder: Path, characters: str = CHARACTERS) -> PreTrainedTokenizerFast:
    """One token per character."""
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    fast.save_pretrained(folder)
    return fast


def make_llama(vocab_size: int, *, hidden_size: int = 96, intermediate_size: int = 256, seed: int = 0) -> LlamaForCausalLM:
    """Four layers with random weights."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            intermediate_size=intermediate_size,
            num_hidden_layers=4,
            num_attention_heads=hidden_size // 16,
            num_key_value_heads=2,
            max_position_embeddings=256,
            bos_token_id=None,
            eos_token_id=2,
            pad_token_id=0,
            tie_word_embeddings=True,
        )
    )


def train(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, source: Iterator[tuple[str, str]], steps: int, rate: float
) -> None:
    """Plain supervised training on what follows the prompts."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 50, 1.0) * max(0.02, 1 - step / steps))
    model.train()
    for step in range(steps):
        batch = [next(source) for _ in range(BATCH)]
        rows = [tokenizer(prompt + text)["input_ids"] + [tokenizer.eos_token_id] for prompt, text in batch]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        labels = torch.tensor(
            [[-100] * len(p) + row[len(p) :] + [-100] * (longest - len(row)) for row, (p, _) in zip(rows, batch, strict=True)]
        )
        loss = model(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step}: loss {loss.item():.3f}", file=sys.stderr)
