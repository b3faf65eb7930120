"""Counts of two runs on the same problems."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from posttrain.diagnose.comparison.paired_samples import PairedCounts


def paired(
    n_before: npt.ArrayLike,
    c_before: npt.ArrayLike,
    n_after: npt.ArrayLike,
    c_after: npt.ArrayLike,
    *,
    missing_before: npt.ArrayLike = 0,
    missing_after: npt.ArrayLike = 0,
    groups: Sequence[str] | None = None,
    adaptive: bool = False,
) -> PairedCounts:
    """Return counts of problems p0, p1, ...; unrelated ones where no groups are given."""
    ids = tuple(f"p{i}" for i in range(np.size(c_before)))
    n0, c0, n1, c1, missing0, missing1 = (
        np.broadcast_to(np.asarray(values, dtype=np.int64), len(ids)).copy()
        for values in (n_before, c_before, n_after, c_after, missing_before, missing_after)
    )
    return PairedCounts(
        ids=ids, groups=ids if groups is None else tuple(groups), n_before=n0, c_before=c0, n_after=n1, c_after=c1,
        missing_before=missing0, missing_after=missing1, adaptive=adaptive,
    )  # fmt: skip


def until_third_success(rng: np.random.Generator, rates: npt.NDArray[np.float64], most: int) -> npt.NDArray[np.int64]:
    """[2, P] samples and successes of problems that are sampled until they succeed for the third time, or `most` times."""
    outcomes = rng.random((rates.size, most)) < rates[:, None]
    reached = np.cumsum(outcomes, axis=1) >= 3
    n = np.where(reached.any(axis=1), reached.argmax(axis=1) + 1, most)
    return np.stack([n, (outcomes & (np.arange(most) < n[:, None])).sum(axis=1)])
