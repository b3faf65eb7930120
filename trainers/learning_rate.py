"""The default learning rate: for each kind of stage a line through rates at five widths, in logarithms of both.

Adam's best rate falls about as one over the width (Tensor Programs V, arXiv 2203.03466). What is used for fine-tuning falls faster between the small
models that are trained here from nothing and pretrained ones, which start nearer to where they are wanted:

    kind             at width 128   576      4096     used at 4096
    imitation        1e-3           5e-5     1.6e-5   1e-5 to 2e-5: InstructGPT (2203.02155), most of practice
    policy gradient  3e-4           2.5e-5   9.9e-7   1e-6: DeepSeekMath (2402.03300), DAPO (2503.14476)
    mixed            1e-3           3.5e-5   3.3e-6   between the two above; LUFFY 1e-6 (2504.14945)
    pairs            1e-4           1.1e-5   6.6e-7   5e-7 to 1e-6: DPO (2305.18290), SimPO (2405.14734)
    student          5e-4           2.5e-5   7.8e-6   5e-6: MiniLLM (2306.08543)
    judge            5e-4           2.5e-5   7.8e-6   9e-6: InstructGPT's reward model

Rates at 128, and widths between, are measured in `benchmarks/stages.py` and `benchmarks/learning_rates.py`; imitation at 576 on SmolLM2-135M, where
1.6e-4 unlearns in a few steps what the model could do (`reports/LOG.md`). LoRA weights take ten times as much (QLoRA, 2305.14314, and most of
practice).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum

import numpy as np

LORA_FACTOR = 10.0
"""Rate of LoRA weights over that of all weights."""
WIDTHS = (64, 128, 576, 4096, 16_384)
"""Those at which rates are given; narrower models take the rate of the first, wider ones that of the last."""
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


RATES: Mapping[RateKind, tuple[float, ...]] = {
    RateKind.IMITATION: (2.3e-3, 1e-3, 5e-5, 1.6e-5, 3e-6),
    RateKind.POLICY_GRADIENT: (9.4e-4, 3e-4, 2.5e-5, 9.9e-7, 1e-7),
    RateKind.MIXED: (3.1e-3, 1e-3, 3.5e-5, 3.3e-6, 3.4e-7),
    RateKind.PAIRS: (2.7e-4, 1e-4, 1.1e-5, 6.6e-7, 8.8e-8),
    RateKind.STUDENT: (1.149e-3, 5e-4, 2.5e-5, 7.8e-6, 1.5e-6),
    RateKind.JUDGE: (1.149e-3, 5e-4, 2.5e-5, 7.8e-6, 1.5e-6),
}
"""The rate at each of `WIDTHS`."""


def default_learning_rate(kind: RateKind, width: int, *, lora: bool = False) -> float:
    """Return the peak learning rate of AdamW for a kind of stage, to two digits.

    Args:
        kind: Of the stage.
        width: Hidden size of the model.
        lora: Whether LoRA weights are trained instead of all.
    """
    rate = math.exp(np.interp(math.log(width), np.log(WIDTHS), np.log(RATES[kind]))) * (LORA_FACTOR if lora else 1.0)
    return float(f"{min(rate, MOST_RATE):.1e}")
