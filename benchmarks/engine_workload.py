"""The requests of `engines.py`: token ids of prompts and reference paths."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any


def workload(model: str) -> dict[str, Any]:
    """Make the token ids of all prompts and paths. Paths are random tokens: no engine's time depends on their content."""
    from posttrain.diagnose.engines.models.loading import load_tokenizer

    tokenizer = load_tokenizer(model)
    rng = random.Random(0)
    words = ["apple", "river", "seven", "green", "stone", "table", "light", "market", "winter", "letter", "garden", "twelve"]

    def prompt(num_messages: int, num_words: int) -> list[int]:
        chat = []
        for message in range(num_messages):
            question = f"Question {rng.randrange(10**6)}: " + " ".join(rng.choices(words, k=num_words)) + "?"
            chat.append({"role": "user", "content": question})
            if message + 1 < num_messages:
                chat.append({"role": "assistant", "content": " ".join(rng.choices(words, k=num_words))})
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    def path() -> list[int]:
        return [rng.randrange(1000, 40000) for _ in range(rng.randint(20, 200))]

    def with_common_prefix(first: list[int]) -> list[int]:
        other = path()
        share = int(rng.random() * 0.5 * min(len(first), len(other)))
        return first[:share] + other[share:]

    template = "Write a short story about {} and {}, then say how many words it has."
    sampled = []
    for _ in range(16):
        chat = [
            {"role": "user", "content": template.format(rng.choice(words), rng.choice(words) + f" number {rng.randrange(100)}")}
        ]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        sampled.append(list(tokenizer(text, add_special_tokens=False)["input_ids"]))
    distinct = [(prompt(1, rng.randint(3, 20)), path()) for _ in range(256)]
    families = []
    for _ in range(32):
        first = path()
        families.append([first, *(with_common_prefix(first) for _ in range(7))])
    shared, examples = [], []
    for family in families:
        short, long = prompt(1, rng.randint(3, 20)), prompt(3, 20)
        shared += [(short, one) for one in family]
        examples += [(long, one) for one in family]
    return {
        "prompts": sampled,
        "pad": tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        "eos": [tokenizer.eos_token_id],
        "distinct": distinct,
        "shared": shared,
        "examples": examples,
    }


def scoring_pairs(work: dict[str, Any], part: str) -> list[tuple[list[int], list[int]]]:
    """Return the prompts and paths of a part; `PART:16` means its first 16."""
    name, _, first = part.partition(":")
    return list(work[name.split(",")[0]])[: int(first) if first else None]


def describe(part: str, work: dict[str, Any]) -> list[str]:
    """Describe the lengths of the sequences and how much they share."""
    if part == "sampling":
        lengths = [len(ids) for ids in work["prompts"]]
        return [f"Prompts of {min(lengths)} to {max(lengths)} tokens."]
    pairs = scoring_pairs(work, part)
    prompts = sorted({tuple(prompt) for prompt, _ in pairs})
    header = _common(prompts[0], prompts[-1])
    total = sum(len(prompt) + len(path) - 1 for prompt, path in pairs)
    new, previous = 0, tuple[int, ...]()
    for sequence in sorted((*prompt, *path[:-1]) for prompt, path in pairs):
        new += len(sequence) - _common(previous, sequence)
        previous = sequence
    lengths = f"Prompts of {min(map(len, prompts))} to {max(map(len, prompts))} tokens, of which all begin with the same {header} of the chat template."
    return [
        f"{lengths} Of {total:,} tokens in all, {new:,} remain when common prefixes are counted once: sharing can save a factor of {total / new:.2f}."
    ]


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the length of the common prefix of two sequences, tokens."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
