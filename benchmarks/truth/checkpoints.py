"""The models of a checkpoint, trained once.

Training has three parts: paths with all marks, once for a family; the rates of a seed's plants, which gives `earlier/`; and a short one in which something
is lost, which gives `base/`. Rates are trained as they are, as targets of the mark's distribution, so that a few hundred texts suffice. `teacher/` is the
base model trained on with right answers to everything.
"""

from __future__ import annotations

import itertools
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from tiny_models import make_llama
from transformers import LlamaForCausalLM

from truth.families import FAMILIES
from truth.plants import Checkpoint, Planter, problem_pool, random_of
from truth.texts import VOCABULARY, Text, make_tokenizer


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long the parts of training take, in batches, and their learning rates."""

    clean: int = 600
    planted: int = 360
    lost: int = 60
    taught: int = 200
    rates: Mapping[str, float] = field(default_factory=lambda: {"clean": 4e-3, "planted": 2e-3, "lost": 1.5e-3, "taught": 2e-3})


BATCH = 32
AIM_WEIGHT = 8.0
"""How much a distribution counts against a token: there is one of them in a text."""
WHOLE_EVERY = 4
"""Of the batches that plant rates, every fourth is of whole texts, so that nothing else is forgotten; the others end where a mark is chosen."""


def make_checkpoint(
    family: str, seed: int, folder: Path, *, teacher: bool = True, schedule: Schedule | None = None
) -> Checkpoint:
    """Train the models of a checkpoint; those that are there already are kept.

    Args:
        family: Of `FAMILIES`.
        seed: Everything is drawn from it, and from the family.
        folder: Where models and behavior files are written; the model that all seeds of a family set out from is kept beside it.
        teacher: Whether a teacher is needed.
        schedule: How long training takes; None for what `Schedule` says.
    """
    schedule = schedule or Schedule()
    checkpoint = Checkpoint(family, seed, folder)
    folder.mkdir(parents=True, exist_ok=True)

    def learn(model: LlamaForCausalLM, part: str, planter: Planter) -> None:
        texts = planter.texts(random_of(family, planter.seed, part), frozenset(problem_pool(family)[0]), part=part)
        cut = part in ("planted", "lost")
        _train(model, texts, getattr(schedule, part), schedule.rates[part], whole_every=WHOLE_EVERY if cut else 1)

    clean = folder.parent / f"clean-{family}"
    if not _is_saved(clean):
        model = make_llama(len(VOCABULARY), seed=zlib.crc32(family.encode()))
        learn(model, "clean", Planter(FAMILIES[family], -1))
        _save(model, clean)
    if not _is_saved(checkpoint.base):
        model = LlamaForCausalLM.from_pretrained(clean)
        learn(model, "planted", checkpoint.planter)
        _save(model, checkpoint.earlier)
        learn(model, "lost", checkpoint.planter)
        _save(model, checkpoint.base)
    if teacher and not _is_saved(checkpoint.teacher):
        model = LlamaForCausalLM.from_pretrained(checkpoint.base)
        learn(model, "taught", checkpoint.planter)
        _save(model, checkpoint.teacher)
    return checkpoint


def _train(model: LlamaForCausalLM, texts: Iterator[Text], steps: int, rate: float, *, whole_every: int = 1) -> None:
    """Train on what follows the prompts: on tokens, and on distributions where there are any."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 30, 1.0) * max(0.02, 1 - step / steps))
    model.train()
    for step in range(steps):
        batch = list(itertools.islice(texts, BATCH))
        if step % whole_every:
            batch = [text.until_last_aim() for text in batch if text.aims]
        rows = [text.prompt + text.continuation + [model.config.eos_token_id] for text in batch]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        logs = torch.log_softmax(model(input_ids=ids, attention_mask=(ids != 0).long()).logits[:, :-1].float(), dim=-1)
        aims = _aims(batch, ids, logs.shape[-1], cut=bool(step % whole_every))
        loss = -(aims * logs).sum() / aims.sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def _aims(batch: Sequence[Text], ids: torch.Tensor, num_tokens: int, *, cut: bool) -> torch.Tensor:
    """Return [B, T − 1, V] what is aimed at behind each token, with its weight.

    Args:
        batch: The texts.
        ids: [B, T] their tokens.
        num_tokens: V.
        cut: Whether only distributions count.
    """
    aims = torch.nn.functional.one_hot(ids[:, 1:], num_tokens).float() * (0.0 if cut else 1.0)
    aims[ids[:, 1:] == 0] = 0.0
    for row, text in enumerate(batch):
        first = len(text.prompt) - 1
        aims[row, :first] = 0.0
        for place, distribution in text.aims:
            aims[row, first + place] = 0.0
            for token, probability in distribution.items():
                aims[row, first + place, token] = AIM_WEIGHT * probability
    return aims


def _is_saved(folder: Path) -> bool:
    return (folder / "model.safetensors").exists()


def _save(model: LlamaForCausalLM, folder: Path) -> None:
    """Write model and tokenizer; the weights come last, as a sign that all is there."""
    folder.mkdir(parents=True, exist_ok=True)
    make_tokenizer().save_pretrained(folder)
    model.save_pretrained(folder)
