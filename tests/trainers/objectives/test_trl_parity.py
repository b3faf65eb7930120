"""Imitation, preferences, teachers and reward models against TRL; see `helpers.trl_parity`."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.training import (
    random_pairs,
    tiny_llama,
)
from helpers.trl_parity import (
    PAD,
    RELATIVE,
    Models,
    build,
    compare,
    demonstrations,
    first_batch,
    sides,
    their_models,
    trainer,
    trl,
    whole,
    without,
)
from torch import Tensor

from posttrain.trainers.training_types import RowRole, TrainingRow

theirs = pytest.fixture(their_models)


# Imitation.


@pytest.mark.parametrize(("name", "loss_type"), [("sft", "nll"), ("dft", "dft")])
def test_sft_and_dft(theirs: Models, name: str, loss_type: str) -> None:
    stage, stepper, model = build(name, data=demonstrations())
    rows = first_batch(stage, stepper)
    args = SimpleNamespace(loss_type=loss_type, average_tokens_across_devices=False)
    peer = trainer("trainer.sft_trainer.SFTTrainer", model=theirs.policy, args=args, compute_loss_func=None, label_smoother=None)
    loss = peer.compute_loss(theirs.policy, without(whole(rows), "completion_mask"))
    compare(stepper, model, rows, loss, theirs.policy)


# Preferences.


def dpo_loss(models: Models, rows: Sequence[TrainingRow], losses: Mapping[str, float], beta: float) -> Tensor:
    peer = trainer(
        "trainer.dpo_trainer.DPOTrainer",
        model=models.policy, ref_model=models.start, args=SimpleNamespace(gradient_checkpointing_kwargs=None), ld_alpha=None,
        precompute_ref_logps=False, f_divergence_type="reverse_kl", use_weighting=False, beta=beta, loss_types=list(losses),
        loss_weights=list(losses.values()), label_smoothing=0.0,
    )  # fmt: skip
    return peer._compute_loss(models.policy, without(whole(sides(rows)), "labels"), return_outputs=False)


@pytest.mark.parametrize(
    ("name", "settings", "losses"),
    [
        ("dpo", {"beta": 0.3, "nll_weight": 0.0}, {"sigmoid": 1.0}),
        ("dpo", {"beta": 0.1, "nll_weight": 0.7}, {"sigmoid": 1.0, "sft": 0.7}),
        ("ipo", {"beta": 0.2}, {"ipo": 1.0}),
    ],
)
def test_dpo_and_ipo(theirs: Models, name: str, settings: Mapping[str, float], losses: Mapping[str, float]) -> None:
    stage, stepper, model = build(name, data=random_pairs(), **settings)
    rows = first_batch(stage, stepper)
    compare(stepper, model, rows, dpo_loss(theirs, rows, losses, settings["beta"]), theirs.policy)


def kto_loss(models: Models, rows: Sequence[TrainingRow], mismatched: Sequence[TrainingRow], config: Any) -> tuple[Tensor, float]:
    peer = trainer(
        "trainer.kto_trainer.KTOTrainer",
        model=models.policy, ref_model=models.start, args=SimpleNamespace(gradient_checkpointing_kwargs=None), calculate_KL=True,
        precompute_ref_logps=False, loss_type="kto", beta=config.beta, desirable_weight=config.good_weight, undesirable_weight=config.bad_weight,
    )  # fmt: skip
    batch = without(whole(rows), "labels") | {f"KL_{name}": value for name, value in without(whole(mismatched), "labels").items()}
    batch["label"] = torch.tensor([row.role is RowRole.CHOSEN for row in rows])
    loss = peer._compute_loss(models.policy, batch, return_outputs=False)
    return loss, peer._metrics["train"]["kl"][0]


def test_kto(theirs: Models) -> None:
    """Which completion stands beside which prompt in the reference point is a choice: the next one here, the one before in TRL."""
    data = random_pairs(6, seed=0)
    stage, stepper, model = build("kto", data=data, beta=0.5, good_weight=1.2, bad_weight=0.8)
    stage.source.prepare()
    given = stage.source.batch(0).rows
    rows, metrics = stage.credit.assign(given, stepper.scorer.score_rows)
    term = stage.components[0].term
    mismatched = [row for row in given if row.role is RowRole.MISMATCHED]
    assert len(rows) == len(mismatched) == len(data)
    loss, point = kto_loss(theirs, rows, mismatched, term)
    assert point > 0.1  # the reference point is not the 0 at which it is cut off
    assert metrics["reference_kl"] == pytest.approx(point, rel=RELATIVE)
    compare(stepper, model, list(rows), loss, theirs.policy)


def cpo_batch(rows: Sequence[TrainingRow]) -> dict[str, Tensor]:
    batch = {}
    for name, role in (("chosen", RowRole.CHOSEN), ("rejected", RowRole.REJECTED)):
        side = whole([row for row in rows if row.role is role])
        batch |= {f"{name}_{key}": side[key] for key in ("input_ids", "attention_mask", "labels")}
    return batch


def cpo_loss(models: Models, rows: Sequence[TrainingRow], **settings: Any) -> Tensor:
    peer = trainer(
        "experimental.cpo.cpo_trainer.CPOTrainer",
        is_encoder_decoder=False, pad_token_id=PAD, alpha=0.0, label_smoothing=0.0, **settings,
    )  # fmt: skip
    loss, _ = peer.get_batch_loss_metrics(models.policy, cpo_batch(rows))
    return loss


def test_simpo(theirs: Models) -> None:
    """TRL takes γ itself, ours its ratio to β, as the paper's tables do."""
    stage, stepper, model = build("simpo", data=random_pairs(), beta=2.0, gamma_ratio=0.4)
    rows = first_batch(stage, stepper)
    loss = cpo_loss(theirs, rows, loss_type="simpo", beta=2.0, simpo_gamma=0.8, cpo_alpha=0.0)
    compare(stepper, model, rows, loss, theirs.policy)


@pytest.mark.parametrize("nll_weight", [0.0, 1.0])
def test_cpo(theirs: Models, nll_weight: float) -> None:
    stage, stepper, model = build("cpo", data=random_pairs(), beta=0.1, nll_weight=nll_weight)
    rows = first_batch(stage, stepper)
    loss = cpo_loss(theirs, rows, loss_type="sigmoid", beta=0.1, cpo_alpha=nll_weight)
    compare(stepper, model, rows, loss, theirs.policy)


def orpo_trainer(beta: float) -> Any:
    return trainer(
        "experimental.orpo.orpo_trainer.ORPOTrainer", is_encoder_decoder=False, pad_token_id=PAD, padding_value=PAD, beta=beta
    )


def test_orpo_on_prompts_of_one_token(theirs: Models) -> None:
    """TRL's NLL runs over prompt and completion, ours over the completion: the same where the prompt is one token, which nothing predicts."""
    stage, stepper, model = build("orpo", data=random_pairs(prompt_length=1), odds_weight=0.4)
    rows = first_batch(stage, stepper)
    loss, _ = orpo_trainer(0.4).get_batch_loss_metrics(theirs.policy, cpo_batch(rows))
    compare(stepper, model, rows, loss, theirs.policy)


def test_orpo_on_longer_prompts(theirs: Models) -> None:
    """TRL's odds ratio beside the NLL of the completion alone, which is that of its CPO."""
    stage, stepper, model = build("orpo", data=random_pairs(), odds_weight=0.4)
    rows = first_batch(stage, stepper)
    peer = orpo_trainer(0.4)
    chosen, rejected, _, _, their_nll = peer.concatenated_forward(theirs.policy, cpo_batch(rows))
    losses, *_ = peer.odds_ratio_loss(chosen, rejected)
    imitator = trainer(
        "experimental.cpo.cpo_trainer.CPOTrainer", is_encoder_decoder=False, pad_token_id=PAD, cpo_alpha=1.0, loss_type="sigmoid"
    )
    nll = imitator.concatenated_forward(theirs.policy, cpo_batch(rows))[4]
    assert abs(float(nll.detach()) - float(their_nll.detach())) > 0.01
    compare(stepper, model, rows, nll - losses.mean(), theirs.policy)


# A teacher.


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 1.0])
def test_gkd(theirs: Models, beta: float) -> None:
    """TRL's mixture is β·teacher + (1 − β)·student, as ours."""
    teacher = tiny_llama(seed=7)
    rows = demonstrations()
    _, stepper, model = build("gkd", teacher=copy.deepcopy(teacher), beta=beta, on_policy=1.0)
    peer = trainer("experimental.gkd.gkd_trainer.GKDTrainer", teacher_model=teacher, beta=beta)
    loss = peer.compute_loss(theirs.policy, without(whole(rows), "completion_mask"))
    compare(stepper, model, rows, loss, theirs.policy)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_logit_kd_at_a_temperature(theirs: Models, beta: float) -> None:
    """GKD's `compute_loss` leaves the temperature out, so its divergence is called by itself."""
    teacher = tiny_llama(seed=7)
    stage, stepper, model = build("logit_kd", data=demonstrations(), teacher=copy.deepcopy(teacher), beta=beta, temperature=1.7)
    rows = first_batch(stage, stepper)
    batch = whole(rows)
    inputs = without(batch, "completion_mask", "labels")
    with torch.no_grad():
        wanted = teacher(**inputs).logits[:, :-1]
    loss = trl("experimental.gkd.gkd_trainer.GKDTrainer").generalized_jsd_loss(
        theirs.policy(**inputs).logits[:, :-1], wanted, labels=batch["labels"][:, 1:], beta=beta, temperature=1.7
    )
    compare(stepper, model, rows, loss, theirs.policy)


# Reward models.


@pytest.mark.parametrize("margins", [(0.0,) * 5, (0.5, 0.0, -0.25, 3.0, 1.0)])
@pytest.mark.parametrize("centering", [0.0, 0.05])
def test_reward_model(theirs: Models, centering: float, margins: Sequence[float]) -> None:
    from transformers import LlamaForSequenceClassification

    data = [replace(row, margin=margins[number // 2]) for number, row in enumerate(random_pairs(5))]
    stage, stepper, model = build("reward_model", data=data, centering=centering)
    torch.nn.init.normal_(stage.scalar_head.weight, generator=torch.Generator().manual_seed(2))
    rows = first_batch(stage, stepper)
    config = copy.deepcopy(model.config)
    config.num_labels, config.pad_token_id = 1, PAD
    judge = LlamaForSequenceClassification(config).eval()
    judge.model.load_state_dict(model.model.state_dict())
    judge.score.load_state_dict(stage.scalar_head.state_dict())
    args = SimpleNamespace(center_rewards_coefficient=centering or None)
    peer = trainer("trainer.reward_trainer.RewardTrainer", model=judge, args=args)
    # Ours has one more token, which is never read; TRL's rows are the plain ones.
    by_group = {row.group_id: row.margin for row in data}
    batch = without(whole(sides(data)), "completion_mask", "labels")
    batch["margin"] = torch.tensor([by_group[row.group_id] for row in data if row.role is RowRole.CHOSEN])
    loss = peer.compute_loss(judge, batch)
    compare(stepper, model, rows, loss, judge)
    torch.testing.assert_close(stage.scalar_head.weight.grad, judge.score.weight.grad, rtol=1e-4, atol=1e-6)


# Credit: here TRL's trainers are really made, for their advantages come out of sampling and grading.
