"""Token-weighted means of the numbers that a step logs."""

from __future__ import annotations

from torch import Tensor


class MetricMeans:
    """Weighted means over the micro-batches of a step."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, float] = {}

    def add(self, name: str, values: Tensor) -> None:
        """Take the numbers of some tokens in."""
        self._sums[name] = self._sums.get(name, 0.0) + float(values.detach().double().sum())
        self._counts[name] = self._counts.get(name, 0.0) + values.numel()

    def include(self, other: MetricMeans) -> None:
        """Take the numbers of others in."""
        for name, total in other._sums.items():
            self._sums[name] = self._sums.get(name, 0.0) + total
            self._counts[name] = self._counts.get(name, 0.0) + other._counts[name]

    def result(self) -> dict[str, float]:
        """Name → mean."""
        return {name: total / self._counts[name] for name, total in self._sums.items() if self._counts[name] > 0}
