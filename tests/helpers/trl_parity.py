"""Loss and gradient of our stages against those of TRL's own code, on the same weights and rows, in float32.

TRL's trainers are not run: their loss methods are called on an object of the trainer's class that holds what the method reads, and on real
model outputs. Ours go through the recipe, its source, its credit and the stepper. Where a method differs by choice, the test says how.
"""

from __future__ import annotations

import copy
import importlib
import math
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.training import (
    build_stage,
    gradient,
    move_weights,
    random_rows,
    tiny_llama,
)
from torch import Tensor

from posttrain.trainers.stage import Stage
from posttrain.trainers.step.optimizer_step import Stepper
from posttrain.trainers.training_types import RowRole, TrainingRow

pytest.importorskip("trl", reason="TRL is the oracle here and a dependency of the tests alone: pip install -e '.[dev]'")

RELATIVE = 1e-5
PAD = 0


def trl(path: str) -> Any:
    """Import a name inside TRL, such as `trainer.dpo_trainer.DPOTrainer`."""
    module, name = path.rsplit(".", 1)
    with warnings.catch_warnings():
        # Some trainers stand in TRL's experimental part, which says so at import. The version is pinned.
        warnings.filterwarnings("ignore", message="You are importing from 'trl.experimental'")
        return getattr(importlib.import_module(f"trl.{module}"), name)


# The same model, twice, moved away from its start in the same way.


@dataclass(frozen=True)
class Models:
    """A policy and the model it was before; ours share no tensor with theirs."""

    start: Any
    policy: Any


def their_models() -> Models:
    """Return both with TRL's fused head, which its trainers put on a model."""
    fuse = trl("trainer.utils.add_fused_lm_head")
    start = tiny_llama()
    policy = copy.deepcopy(start)
    move_weights(policy)
    fuse(start)
    fuse(policy, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
    return Models(start=start, policy=policy.train())


# Ours: a recipe, built on its rows.


def build(name: str, **settings: Any) -> tuple[Stage, Stepper, Any]:
    """Return a stage, its stepper and the policy; the reference is the policy before it moved."""
    model = tiny_llama()
    stage, stepper = build_stage(name, model, **settings)
    move_weights(model)
    return stage, stepper, model


def first_batch(stage: Stage, stepper: Stepper) -> list[TrainingRow]:
    """Return what the loop would hand to the stepper."""
    stage.source.prepare()
    rows, _ = stage.credit.assign(stage.source.batch(0).rows, stepper.scorer.score_rows)
    return list(rows)


def compare(stepper: Stepper, model: Any, rows: Sequence[TrainingRow], loss: Tensor, other: Any, old: Mapping = {}) -> Any:
    """Compare loss, gradient norm and every gradient of a batch with TRL's loss and its model."""
    loss.backward()
    outcome = stepper.accumulate(rows, dict(old))
    wanted = gradient(other)
    norm = math.sqrt(sum(float(value.double().square().sum()) for value in wanted.values()))
    assert outcome.loss == pytest.approx(float(loss.detach()), rel=RELATIVE)
    assert norm > 1e-3
    assert outcome.grad_norm == pytest.approx(norm, rel=RELATIVE)
    got = gradient(model)
    for name, value in wanted.items():
        if name in got:  # the heads are named differently
            assert float((got[name] - value).norm()) < RELATIVE * norm, name
    assert len(set(wanted) - set(got)) <= 1
    return outcome


# Theirs: what a trainer's loss reads.

ACCELERATOR = SimpleNamespace(
    gather=lambda values: values,
    gather_for_metrics=lambda values: values,
    reduce=lambda values, reduction: values,
    autocast=nullcontext,
    is_main_process=False,
    num_processes=1,
    process_index=0,
    device=torch.device("cpu"),
    parallelism_config=None,
)


def trainer(path: str, **attributes: Any) -> Any:
    """Return an object of a trainer's class that never trains."""
    kind = trl(path)
    made = object.__new__(kind)
    made.__dict__.update(
        accelerator=ACCELERATOR, aux_loss_enabled=False, _metrics=defaultdict(lambda: defaultdict(list)), _total_train_tokens=0, _tp_size=1,
        **attributes,
    )  # fmt: skip
    return made


def pad(rows: Sequence[Sequence[int]], value: int, *, left: bool = False) -> Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor(
        [[value] * (width - len(row)) + [*row] if left else [*row] + [value] * (width - len(row)) for row in rows]
    )


def whole(rows: Sequence[TrainingRow]) -> dict[str, Tensor]:
    """Return prompts and completions in one piece, padded on the right."""
    texts = [row.prompt_ids + row.completion_ids for row in rows]
    masks = [[0] * len(row.prompt_ids) + [1] * len(row.completion_ids) for row in rows]
    ids, attention = pad(texts, PAD), pad([[1] * len(text) for text in texts], 0)
    completion = pad(masks, 0)
    labels = torch.where(completion == 1, ids, -100)
    return {"input_ids": ids, "attention_mask": attention, "completion_mask": completion, "labels": labels}


def without(values: Mapping[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {name: value for name, value in values.items() if name not in names}


def demonstrations() -> list[TrainingRow]:
    return [replace(row, role=RowRole.DEMONSTRATION, sampler_logprobs=None) for row in random_rows(seed=3)]


def sides(rows: Sequence[TrainingRow]) -> list[TrainingRow]:
    """Return all chosen rows, then all rejected ones, as TRL has them."""
    return [row for role in (RowRole.CHOSEN, RowRole.REJECTED) for row in rows if row.role is role]
