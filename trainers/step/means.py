"""Token-weighted means of the numbers that a step logs."""

from __future__ import annotations

from collections import defaultdict

from torch import Tensor


class MetricMeans:
    """Weighted means over the micro-batches of a step."""

    def __init__(self) -> None:
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._counts: defaultdict[str, float] = defaultdict(float)

    def add(self, name: str, values: Tensor) -> None:
        """Take the numbers of some tokens in."""
        self._sums[name] += float(values.detach().double().sum())
        self._counts[name] += values.numel()

    def include(self, other: MetricMeans) -> None:
        """Take the numbers of others in."""
        for name, total in other._sums.items():
            self._sums[name] += total
            self._counts[name] += other._counts[name]

    def result(self) -> dict[str, float]:
        """Name → mean."""
        return {name: total / self._counts[name] for name, total in self._sums.items() if self._counts[name] > 0}
