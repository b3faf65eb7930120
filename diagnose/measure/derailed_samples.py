"""Samples that derail: at temperature 1 a model may lose its thread, write text that it finds unlikely itself, and never end.

They are failures of the policy like others, and no sign of a limit that is too low: what runs into the limit then is noise. Text that is only
long has tokens about as likely as those of samples that end.
"""

from __future__ import annotations

import math

import numpy as np

from posttrain.diagnose.storage.rollout_table import Bools, RolloutTable

MOST_LIKELY = -3.0
"""Nats per token of derailed text at most: each token is one of 20 that are as likely. Coherent text is sampled at −0.5 to −2."""
_BELOW_ENDED = math.log(2.0)
"""By how many nats per token it is less likely than samples that end, in the median, at least."""
_MOSTLY = 0.5
"""Share of samples that end, from which on the limit is long enough for most."""


def derailed_samples(rollouts: RolloutTable) -> Bools:
    """Return [R] the samples that were cut off in text which the model itself finds unlikely, where most samples end; greedy ones never are."""
    sampled = ~rollouts.greedy & ~rollouts.missing
    ended = sampled & ~rollouts.truncated & (rollouts.num_tokens > 0)
    if not ended.any() or ended.sum() < _MOSTLY * sampled.sum():
        return np.zeros(len(rollouts), dtype=np.bool_)
    means = rollouts.mean_policy_logprob
    derailed: Bools = sampled & rollouts.truncated & (means <= min(MOST_LIKELY, float(np.median(means[ended])) - _BELOW_ENDED))
    return derailed


def describe_derailed(share: float, max_tokens: int) -> str:
    """Say that samples derail, and what helps.

    Args:
        share: Of all samples.
        max_tokens: The limit that cut them off.
    """
    return (
        f"{share:.0%} of samples derail: the model goes on to max_tokens={max_tokens} with text that it finds unlikely itself (below {MOST_LIKELY:g} nats per "
        "token), while most others end. They count as failures, and a higher limit would end few of them; a lower temperature or top_p may."
    )
