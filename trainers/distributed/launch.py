"""What `torchrun` tells a process that it started, read without torch."""

from __future__ import annotations

import os


def num_launched() -> int:
    """Return how many processes `torchrun` started; 1 where this process was started alone."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def is_rank_zero() -> bool:
    """Return whether this process prints and writes for all that `torchrun` started."""
    return num_launched() == 1 or os.environ["RANK"] == "0"
