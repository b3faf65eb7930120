"""The default learning rate: a power of the model's width, with two constants for each kind of stage.

Adam's best rate falls about as one over the width (Tensor Programs V, arXiv 2203.03466). What is used for fine-tuning falls a little faster, since
large models start nearer to where they are wanted. Each formula goes through two points, one measured here and one from papers:

    kind             at width 128   at width 4096   there used
    imitation        1e-3           1.6e-5          1e-5 to 2e-5: InstructGPT (2203.02155), most of practice
    policy gradient  3e-4           9.9e-7          1e-6: DeepSeekMath (2402.03300), DAPO (2503.14476)
    mixed            1e-3           3.3e-6          between the two above; LUFFY 1e-6 (2504.14945)
    pairs            1e-4           6.6e-7          5e-7 to 1e-6: DPO (2305.18290), SimPO (2405.14734)
    student          5e-4           7.8e-6          5e-6: MiniLLM (2306.08543)
    judge            5e-4           7.8e-6          9e-6: InstructGPT's reward model

The first point, and widths between, are measured in `benchmarks/stages.py` and `benchmarks/learning_rates.py`. LoRA weights take ten times as much
(QLoRA, 2305.14314, and most of practice).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

ANCHOR_WIDTH = 128
"""Width at which the formulas state their first constant."""
LORA_FACTOR = 10.0
"""Rate of LoRA weights over that of all weights."""
LEAST_WIDTH, MOST_WIDTH = 64, 16_384
"""The formulas are not followed beyond: narrower models take the rate of the one, wider ones that of the other."""
MOST_RATE = 3e-3
"""No default is above this: LoRA weights of a model of width 128 learn less at 1e-2 than at 3e-3 and nothing at 3e-2 (measured)."""


class RateKind(StrEnum):
    """Kinds of stages that take one learning rate."""

    IMITATION = "imitation"
    """Given texts are imitated."""
    POLICY_GRADIENT = "policy gradient"
    """The policy's own samples are reinforced: the gradient is noisy."""
    MIXED = "mixed"
    """Own samples are reinforced, and reference paths are imitated or begin the samples."""
    PAIRS = "pairs"
    """One answer is preferred to another, and little but that margin holds its likelihood up."""
    STUDENT = "student"
    """A teacher corrects the student's own samples."""
    JUDGE = "judge"
    """A reward model is made."""


@dataclass(frozen=True, slots=True)
class RateFormula:
    """rate = at_anchor · (width / 128) ^ −exponent."""

    at_anchor: float
    exponent: float


FORMULAS: Mapping[RateKind, RateFormula] = {
    RateKind.IMITATION: RateFormula(1e-3, 1.2),
    RateKind.POLICY_GRADIENT: RateFormula(3e-4, 1.65),
    RateKind.MIXED: RateFormula(1e-3, 1.65),
    RateKind.PAIRS: RateFormula(1e-4, 1.45),
    RateKind.STUDENT: RateFormula(5e-4, 1.2),
    RateKind.JUDGE: RateFormula(5e-4, 1.2),
}


def default_learning_rate(kind: RateKind, width: int, *, lora: bool = False) -> float:
    """Return the peak learning rate of AdamW for a kind of stage, to two digits.

    Args:
        kind: Of the stage.
        width: Hidden size of the model.
        lora: Whether LoRA weights are trained instead of all.
    """
    formula = FORMULAS[kind]
    width = min(max(width, LEAST_WIDTH), MOST_WIDTH)
    rate = formula.at_anchor * (width / ANCHOR_WIDTH) ** -formula.exponent * (LORA_FACTOR if lora else 1.0)
    return float(f"{min(rate, MOST_RATE):.1e}")
