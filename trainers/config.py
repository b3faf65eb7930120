"""Settings that several recipes share. Defaults suit a small model on a processor; the papers' values stand in the docstrings."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, ValidationInfo, field_validator

from posttrain.diagnose.sampling.plan import MOST_SEED
from posttrain.diagnose.strict_settings import StrictModel
from posttrain.diagnose.types import LEAST_TEMPERATURE, MOST_TEMPERATURE
from posttrain.trainers.learning_rate import RateKind, default_learning_rate
from posttrain.trainers.row_lengths import TooLong

Decay = Annotated[float, Field(ge=0, lt=1)]
_MOST = {"learning_rate": 100.0, "num_steps": 10**8, "lora_rank": 65_536, "seed": MOST_SEED}
"""Numbers above these come from a slip of the keyboard, and are refused before they take hours or all memory."""


class TrainingConfig(StrictModel):
    """Settings that every recipe has."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    rate_kind: ClassVar[RateKind] = RateKind.IMITATION
    """What the default of `learning_rate` follows from, beside the model."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Peak learning rate of AdamW. None, or auto: what fits the kind of stage, the model's width and LoRA (`learning_rate.py`): for sft 1e-3 at
    width 128, 5e-5 at 576, 1.6e-5 at 4096; for grpo 3e-4, 2.5e-5, 9.9e-7; for dpo 1e-4, 1.1e-5, 6.6e-7; ten times that with lora_rank."""
    sweep_steps: int | None = Field(default=None, ge=1)
    """Steps of three short runs from the same start, at the learning rate, at a quarter of it and at four times it; training then takes the rate that
    the dev slice chooses. None: no such runs."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """What the learning rate does after the warm-up: stay, or fall to 0 linearly or in half a cosine."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the learning rate rises linearly from 0."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled decay of matrices (norms and biases are left alone)."""
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    """Decay of AdamW's first and second moment."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """The gradient is scaled down to this Euclidean norm."""
    num_steps: int | None = Field(default=None, ge=1)
    """Optimizer batches; None lets the epochs decide."""
    num_epochs: float = Field(default=3.0, gt=0, le=1e6)
    """Passes over the rows, where num_steps is None."""
    micro_batch_tokens: int = Field(default=4096, ge=1)
    """Padded input tokens of one forward pass; memory grows with it. A longer row goes alone."""
    max_length: int | None = Field(default=None, ge=2)
    """Most tokens of a row, prompt and answer together; None: as many as the model reads."""
    too_long: TooLong = TooLong.REFUSE
    """What becomes of longer rows: refuse trains nothing; drop leaves them out; cut leaves out the end of their answer. Problems whose prompt
    leaves no room for max_tokens are left out by both."""
    share_prefixes: bool = True
    """Run a prompt once for all its completions, where the model allows it (exact)."""
    autocast: Literal["auto", "bfloat16", "float32"] = "auto"
    """Precision of the forward pass; weights and optimizer stay float32. auto: bfloat16 on GPUs, and on processors
    with units for matrices in it (AMX); else float32."""
    engine: str = "transformers"
    """What samples the model in training: transformers (on the very weights) or vllm (on a copy, renewed before sampling)."""
    engine_memory: float = Field(default=0.3, gt=0, lt=1)
    """Share of the device's memory that vllm takes for its copy and cache; VLLM_CPU_KVCACHE_SPACE wins over it on a processor."""
    seed: int = Field(default=0, ge=0)
    """Random seed of the order of rows and of sampling."""
    dev_share: float = Field(default=0.1, ge=0, le=0.5)
    """Share of the train problems kept for early stopping."""
    eval_every: int | None = Field(default=None, ge=1)
    """Steps between evaluations on the dev slice; None never evaluates."""
    eval_samples: int = Field(default=4, ge=1)
    """Samples of each dev problem in an evaluation, with the same seeds every time."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after this many dev evaluations without a better one; None never stops."""
    target: float | None = Field(default=None, gt=0, le=1)
    """Stop at the first dev evaluation with a pass@1 of at least this; needs eval_every."""
    max_dev_loss: float | None = Field(default=None, ge=0, lt=1)
    """Stop when dev pass@1 has fallen by more than this below the evaluation before the first step; needs eval_every."""
    retain_share: float = Field(default=0.25, ge=0, le=0.9)
    """Share of the rows of every batch, and of its loss, that are the model's own right answers on the retained behaviors (--retain); 0: none."""
    retain_samples: int = Field(default=4, ge=1)
    """Samples per problem of a retained behavior, taken once from the model before training; the right ones are imitated."""
    retain_problems: int = Field(default=256, ge=1)
    """Train problems of each retained behavior that are sampled at most."""
    retain_weight: float | None = Field(default=1.0, ge=0)
    """λ: what a fall of pass@1 on retained behaviors weighs against the gain when the saved weights are chosen between those before training and
    those after it, by dev slices (2109.01903); null: the last weights. Where eval_every or ema_decay is set, these decide."""
    save_every: int | None = Field(default=None, ge=1)
    """Steps between checkpoints on the way, each with a state from which the run goes on if it is stopped; None: the last checkpoint only, and a
    state when anything but a kill ends the run."""
    lora_rank: int | None = Field(default=None, ge=1)
    """Train LoRA weights of this rank (2106.09685) on linear layers and nothing else; None: all weights."""
    lora_alpha: float = Field(default=32.0, gt=0)
    """LoRA weights are scaled by lora_alpha / lora_rank. 32 lets one learning rate fit most ranks."""
    lora_targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Which linear layers get LoRA weights: all but the head, or names like [q_proj, v_proj]."""
    gradient_checkpointing: bool = False
    """Compute activations again in backward: memory of one layer, about a third more time, the same gradient."""
    ema_decay: float | None = Field(default=None, ge=0, lt=1)
    """Keep decay · average + (1 − decay) · weights after each step, and evaluate and save that average; None: the last weights. It spans about 1
    / (1 − decay) steps and begins at the start's weights: .9 for a hundred steps, .999 for many thousand."""
    checkpoint_dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the stored weights. bfloat16 halves the file and rounds small updates away."""

    @field_validator("learning_rate", mode="before")
    @classmethod
    def _read_auto(cls, value: Any) -> Any:
        return None if value == "auto" else value

    @field_validator(*_MOST)
    @classmethod
    def _refuse_too_much(cls, value: float | None, info: ValidationInfo) -> float | None:
        most = _MOST[str(info.field_name)]
        if value is not None and value > most:
            raise ValueError(f"should be at most {most:,}")
        return value

    def learning_rate_for(self, width: int) -> float:
        """Return the peak learning rate on a model of this hidden size: as it is set, else the default of this kind of stage."""
        if self.learning_rate is not None:
            return self.learning_rate
        return default_learning_rate(self.rate_kind, width, lora=self.lora_rank is not None)


class EpochConfig(TrainingConfig):
    """Settings of stages that deal prepared rows out in epochs."""

    rows_per_batch: int = Field(default=16, ge=1)
    """Rows (pairs, where a stage learns from pairs) in one optimizer batch."""


class RolloutConfig(TrainingConfig):
    """Settings of stages that sample the model in training."""

    rate_kind: ClassVar[RateKind] = RateKind.POLICY_GRADIENT
    num_steps: int = Field(default=100, ge=1)
    """Batches that are sampled; papers run hundreds to thousands."""
    problems_per_batch: int = Field(default=8, ge=1)
    """Prompts per batch. DeepSeekMath: 16 (of 1024 samples)."""
    group_size: int = Field(default=8, ge=2)
    """Samples per prompt, G. Practice: 8..16; DeepSeekMath (2402.03300): 64."""
    updates_per_batch: int = Field(default=1, ge=1)
    """Optimizer steps per batch. 1 is on-policy: the ratio to the sampler's policy is 1."""
    importance_cap: float | None = Field(default=2.0, gt=0)
    """Cap of the weight trainer/sampler probability that corrects differences between sampler and trainer; None: no weight."""
    kl_weight: float = Field(default=0.0, ge=0)
    """Weight of the k3 divergence to the model before training. DeepSeekMath: .04; now mostly 0."""
    signal_scaled: bool = True
    """Multiply the learning rate by the share of groups with signal: Adam would make a full-size step of one rare success."""


class ClippedConfig(RolloutConfig):
    """Settings of policy gradients with a clipped ratio."""

    eps_low: float = Field(default=0.2, gt=0, lt=1)
    """Lower clip of the ratio. PPO and GRPO: 0.2."""
    eps_high: float = Field(default=0.2, gt=0)
    """Upper clip of the ratio. PPO and GRPO: 0.2; DAPO (2503.14476): 0.28."""


class GroupConfig(ClippedConfig):
    """Settings of GRPO's advantage and reduction."""

    normalize_std: bool = True
    """Divide by the group's standard deviation; Dr. GRPO (2503.20783) does not."""
    reduction: str = Field(default="sequence_mean", pattern="^(sequence_mean|token_mean)$")
    """What is averaged: tokens per sample, then samples (GRPO); or all tokens alike (DAPO)."""


class ReferenceConfig(EpochConfig):
    """Settings of stages that learn from reference paths."""

    max_references: int | None = Field(default=None, ge=1)
    """Reference paths used per problem; None uses all."""


class PairConfig(EpochConfig):
    """Settings of stages that learn from pairs."""

    rate_kind: ClassVar[RateKind] = RateKind.PAIRS
    rows_per_batch: int = Field(default=8, ge=1)
    """Pairs in one optimizer batch. Papers: 32..128."""
    num_samples: int = Field(default=8, ge=2)
    """Samples per problem, where no pairs are given."""
    max_per_problem: int = Field(default=4, ge=1)
    """Pairs kept per problem, where no pairs are given."""
    use_references: bool = True
    """Whether a reference path may be the chosen answer where no sample is right; only for sampled pairs."""


class TracesConfig(EpochConfig):
    """Settings of stages that imitate verified samples of another model."""

    num_samples: int = Field(default=4, ge=1)
    """Samples of the teacher per problem."""
    max_per_problem: int = Field(default=4, ge=1)
    """Distinct verified samples kept per problem."""
    temperature: float = Field(default=1.0, ge=LEAST_TEMPERATURE, le=MOST_TEMPERATURE)
    """Sampling temperature of the teacher."""


class StudentConfig(TracesConfig):
    """Settings of stages in which a teacher corrects the student's own samples."""

    rate_kind: ClassVar[RateKind] = RateKind.STUDENT
    num_steps: int = Field(default=100, ge=1)
    """Batches."""
    problems_per_batch: int = Field(default=16, ge=1)
    """Prompts per batch of the student's own samples."""
    group_size: int = Field(default=1, ge=1)
    """Samples of the student per prompt."""
    on_policy: float = Field(default=1.0, ge=0, le=1)
    """λ, share of the batches that the student samples itself."""
    beta: float = Field(default=1.0, ge=0, le=1)
    """0: KL(teacher‖π), 1: KL(π‖teacher), between: Jensen–Shannon."""
