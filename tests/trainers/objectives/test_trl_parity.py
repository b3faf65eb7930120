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

import numpy as np
import pytest
import torch
from helpers.training import (
    EOS,
    VOCAB,
    build_stage,
    gradient,
    move_weights,
    plain_logprobs,
    random_pairs,
    random_rows,
    tiny_llama,
)
from torch import Tensor

from posttrain.trainers.credit.group import GroupCredit
from posttrain.trainers.stage import Stage
from posttrain.trainers.step.optimizer_step import Stepper
from posttrain.trainers.training_types import RowRole, TrainingRow

pytest.importorskip("trl", reason="TRL is the oracle here and a dependency of the tests alone: pip install -e '.[dev]'")

RELATIVE = 1e-5
PAD = 0


def trl(path: str) -> Any:
    """Return a name inside TRL, such as `trainer.dpo_trainer.DPOTrainer`."""
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


@pytest.fixture
def theirs() -> Models:
    """Both with TRL's fused head, which its trainers put on a model."""
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
    """Loss, gradient norm and every gradient of a batch against TRL's loss and its model."""
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
    """Prompts and completions in one piece, padded on the right."""
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
    """All chosen rows, then all rejected ones, as TRL has them."""
    return [row for role in (RowRole.CHOSEN, RowRole.REJECTED) for row in rows if row.role is role]


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
    """The first update on a batch: nobody gives old log-probabilities, and the ratio is 1."""
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


@pytest.mark.parametrize("centering", [0.0, 0.05])
def test_reward_model(theirs: Models, centering: float) -> None:
    from transformers import LlamaForSequenceClassification

    data = random_pairs()
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
    loss = peer.compute_loss(judge, without(whole(sides(data)), "completion_mask", "labels"))
    compare(stepper, model, rows, loss, judge)
    torch.testing.assert_close(stage.scalar_head.weight.grad, judge.score.weight.grad, rtol=1e-4, atol=1e-6)


# Credit: here TRL's trainers are really made, for their advantages come out of sampling and grading.


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
