"""Policy gradients and group credit against TRL; see `helpers.trl_parity`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.training import (
    EOS,
    VOCAB,
    move_weights,
    plain_logprobs,
    random_rows,
    tiny_llama,
)
from helpers.trl_parity import PAD, RELATIVE, Models, build, compare, pad, their_models, trainer, trl
from torch import Tensor

from posttrain.trainers.credit.group import GroupCredit
from posttrain.trainers.training_types import TrainingRow

theirs = pytest.fixture(their_models)


# Policy gradients.


def sampled(*, spread: float, shift: float = 0.0, seed: int = 1) -> tuple[list[TrainingRow], dict[int, Tensor]]:
    """Rows with advantages, and the policy's log-probabilities before the batch's first step.

    The policy itself is what `build` leaves; `spread` moves each token's old log-probability away from its own, `shift` those of a row.
    The engine's log-probabilities are a little off the old ones.
    """
    model = tiny_llama()
    move_weights(model)
    rng = np.random.default_rng(seed)
    rows, old = [], {}
    for index, row in enumerate(random_rows(num_groups=3, group_size=4, seed=seed, longest=9)):
        length = len(row.completion_ids)
        now = plain_logprobs(model, row).detach()
        noise = rng.normal(scale=spread, size=length) + rng.normal(scale=shift)
        old[index] = now + torch.tensor(noise, dtype=now.dtype)
        rows.append(
            replace(
                row,
                advantages=np.full(length, rng.normal(), dtype=np.float32),
                sampler_logprobs=(old[index].numpy() + rng.normal(scale=0.4, size=length)).astype(np.float32),
            )
        )
    return rows, old


def policy_batch(rows: Sequence[TrainingRow], old: Mapping[int, Tensor]) -> dict[str, Tensor]:
    """Prompts padded on the left, completions on the right."""
    prompts, completions = [row.prompt_ids for row in rows], [row.completion_ids for row in rows]
    mask = pad([[1] * len(ids) for ids in completions], 0)
    batch = {
        "prompt_ids": pad(prompts, PAD, left=True), "prompt_mask": pad([[1] * len(ids) for ids in prompts], 0, left=True),
        "completion_ids": pad(completions, PAD), "completion_mask": mask, "num_items_in_batch": mask.sum(),
        "advantages": torch.tensor([float(row.advantages[0]) for row in rows]),
    }  # fmt: skip
    if old:
        batch["old_per_token_logps"] = pad([old[index].tolist() for index in range(len(rows))], 0.0)
        batch["old_logps"] = torch.stack([old[index].sum() for index in range(len(rows))])
    return batch


def grpo_loss(
    models: Models, rows: Sequence[TrainingRow], old: Mapping[int, Tensor], *, cap: float | None = None, **settings: Any
) -> tuple[Tensor, Mapping]:
    """TRL's GRPO loss, with whatever `loss_type` and level."""
    known = {
        "model": models.policy, "top_entropy_quantile": 1.0, "off_policy_mask_threshold": None, "importance_sampling_level": "token", "beta": 0.0,
        "args": SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1), "epsilon_low": 0.2, "epsilon_high": 0.2,
        "use_vllm": cap is not None, "vllm_importance_sampling_correction": True, "current_gradient_accumulation_steps": 1,
        "max_completion_length": 9, "_entropy_bonus_enabled": False,
    }  # fmt: skip
    peer = trainer("trainer.grpo_trainer.GRPOTrainer", **{**known, **settings})
    batch = policy_batch(rows, old)
    keep = batch["completion_ids"].shape[1]
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    if peer.beta:
        with torch.no_grad():
            batch["ref_per_token_logps"] = peer._get_per_token_logps_and_entropies(models.start, ids, attention, keep)[0]
    if cap is not None:  # TRL makes this weight while it samples, with `token_truncate`
        drawn = pad([row.sampler_logprobs.tolist() for row in rows], 0.0)
        batch["importance_sampling_ratio"] = (batch["old_per_token_logps"] - drawn).exp().clamp(max=cap)
    return peer._compute_loss(models.policy, batch), peer._metrics["train"]


# name of the recipe, its settings, TRL's settings
ON_TOKENS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("grpo", {}, {"loss_type": "grpo"}),
    ("grpo", {"kl_weight": 0.3}, {"loss_type": "grpo", "beta": 0.3}),
    ("grpo", {"eps_low": 0.1, "eps_high": 0.3}, {"loss_type": "grpo", "epsilon_low": 0.1, "epsilon_high": 0.3}),
    ("dr_grpo", {}, {"loss_type": "dr_grpo"}),
    ("dr_grpo", {"kl_weight": 0.1}, {"loss_type": "dr_grpo", "beta": 0.1}),
    ("dapo", {}, {"loss_type": "dapo", "epsilon_high": 0.28}),
    ("dapo", {"kl_weight": 0.1}, {"loss_type": "dapo", "epsilon_high": 0.28, "beta": 0.1}),
    # CISPO: TRL's epsilon_high is the largest weight itself, ours how far it may lie above 1.
    ("cispo", {"eps_high": 0.2}, {"loss_type": "cispo", "epsilon_high": 1.2}),
    ("cispo", {"eps_high": 0.2, "kl_weight": 0.2}, {"loss_type": "cispo", "epsilon_high": 1.2, "beta": 0.2}),
]


@pytest.mark.parametrize(("name", "settings", "peer"), ON_TOKENS)
@pytest.mark.parametrize("cap", [None, 1.3])
def test_policy_gradients_off_policy(
    theirs: Models, name: str, settings: dict[str, Any], peer: dict[str, Any], cap: float | None
) -> None:
    """Later updates on a batch: the ratio differs from 1 and clips; with and without the correction for the sampler's precision."""
    rows, old = sampled(spread=0.4)
    _, stepper, model = build(name, importance_cap=cap, **settings)
    loss, metrics = grpo_loss(theirs, rows, old, cap=cap, **peer)
    outcome = compare(stepper, model, rows, loss, theirs.policy, old)
    assert 0.1 < outcome.metrics["clipped"] < 0.9
    clipped = metrics["cispo_clip_ratio" if name == "cispo" else "clip_ratio/region_mean"][0]
    assert outcome.metrics["clipped"] == pytest.approx(clipped)
    assert outcome.metrics["entropy"] == pytest.approx(metrics["entropy"][0], rel=1e-4)
    if "beta" in peer:
        assert outcome.metrics["kl"] == pytest.approx(metrics["kl"][0], rel=1e-4)


@pytest.mark.parametrize(("name", "settings", "peer"), ON_TOKENS)
def test_policy_gradients_on_policy(theirs: Models, name: str, settings: dict[str, Any], peer: dict[str, Any]) -> None:
    """The first update on a batch: there are no old log-probabilities, and the ratio is 1."""
    rows, _ = sampled(spread=0.0)
    _, stepper, model = build(name, importance_cap=None, **settings)
    loss, _ = grpo_loss(theirs, rows, {}, **peer)
    outcome = compare(stepper, model, rows, loss, theirs.policy)
    assert outcome.metrics["clipped"] == 0.0


@pytest.mark.parametrize("kl_weight", [0.0, 0.2])
@pytest.mark.parametrize("off_policy", [False, True])
def test_gspo(theirs: Models, kl_weight: float, off_policy: bool) -> None:
    rows, old = sampled(spread=0.2, shift=0.2)
    old = old if off_policy else {}
    _, stepper, model = build("gspo", importance_cap=None, eps_low=0.1, eps_high=0.15, kl_weight=kl_weight)
    peer = {
        "importance_sampling_level": "sequence",
        "loss_type": "grpo",
        "epsilon_low": 0.1,
        "epsilon_high": 0.15,
        "beta": kl_weight,
    }
    loss, metrics = grpo_loss(theirs, rows, old, **peer)
    outcome = compare(stepper, model, rows, loss, theirs.policy, old)
    low, high = metrics["clip_ratio/low_mean"][0], metrics["clip_ratio/high_mean"][0]
    assert (low > 0 and high > 0) is off_policy
    # TRL counts clipped rows, we the tokens of clipped rows.
    assert (outcome.metrics["clipped"] > 0) is off_policy


@pytest.mark.parametrize("off_policy", [False, True])
def test_rloo(theirs: Models, off_policy: bool) -> None:
    """TRL's divergence to the start is subtracted from the reward, ours a term of the loss: compared without one."""
    rows, old = sampled(spread=0.1, shift=0.2) if off_policy else sampled(spread=0.0)
    peer = trainer("trainer.rloo_trainer.RLOOTrainer", model=theirs.policy, epsilon_low=0.2, epsilon_high=0.2)
    _, stepper, model = build("rloo", importance_cap=None)
    loss = peer._compute_loss(theirs.policy, policy_batch(rows, old))
    outcome = compare(stepper, model, rows, loss, theirs.policy, old if off_policy else {})
    low, high = (peer._metrics["train"][f"clip_ratio/{side}_mean"][0] for side in ("low", "high"))
    assert (low > 0 and high > 0) is off_policy
    assert (outcome.metrics["clipped"] > 0) is off_policy


def their_advantages(folder: Any, name: str, rewards: Sequence[float | None], **settings: Any) -> list[float]:
    """Advantages of three groups of four samples with these rewards."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"t{number}": number for number in range(VOCAB)}, unk_token="t0"))
    words.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="t0", pad_token="t0", bos_token="t1", eos_token=f"t{EOS}"
    )
    config = trl(f"trainer.{name.lower()}_config.{name}Config")(
        output_dir=str(folder), num_generations=4, per_device_train_batch_size=12, max_completion_length=2, use_cpu=True, bf16=False,
        report_to=[], beta=0.0, **settings,
    )  # fmt: skip
    prompts = ["t3 t4", "t5", "t6 t7 t8"]
    made = trl(f"trainer.{name.lower()}_trainer.{name}Trainer")(
        model=tiny_llama(),
        reward_funcs=lambda completions, **_: list(rewards),
        args=config,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
        processing_class=tokenizer,
    )
    samples = made._generate_and_score_completions([{"prompt": prompt} for prompt in prompts for _ in range(4)])
    return samples["advantages"].tolist()


GRADES: list[list[float | None]] = [
    [1.0, 0.0, 0.25, 1.0, 0.5, 0.5, 0.5, 0.5, 0.0, 0.0, 0.0, 1.0],
    [1.0, 0.0, None, 1.0, 0.5, None, None, None, 1.0, 0.0, 0.5, 0.75],
]


@pytest.mark.parametrize("rewards", GRADES, ids=["graded", "some ungraded"])
@pytest.mark.parametrize(
    ("recipe", "peer", "settings"),
    [
        ("grpo", "GRPO", {"scale_rewards": "group"}),
        ("dapo", "GRPO", {"scale_rewards": "group"}),
        ("gspo", "GRPO", {"scale_rewards": "group"}),
        ("cispo", "GRPO", {"scale_rewards": "group"}),
        ("dr_grpo", "GRPO", {"scale_rewards": "none"}),
        ("rloo", "RLOO", {}),
    ],
)
def test_group_credit(tmp_path, recipe: str, peer: str, settings: dict[str, Any], rewards: list[float | None]) -> None:
    """The standard deviation is the sample's and stands beside the same 1e-4; ungraded rows take no part on either side."""
    stage, stepper, _ = build(recipe)
    rows = random_rows(num_groups=3, group_size=4)
    rows = [replace(row, reward=reward) for row, reward in zip(rows, rewards, strict=True)]
    filled, _ = stage.credit.assign(rows, stepper.scorer.score_rows)
    assert isinstance(stage.credit, GroupCredit)
    ours = [float(row.advantages[0]) for row in filled]
    assert ours == pytest.approx(their_advantages(tmp_path, peer, rewards, **settings), rel=RELATIVE, abs=1e-6)
    assert max(ours) > 0.1
