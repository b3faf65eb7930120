"""An engine that is stopped while it works."""

from __future__ import annotations

from typing import Any

from posttrain.diagnose.engines.base import Engine


class InterruptedEngine:
    """An engine that is stopped, as by Ctrl-C, after it has sampled a number of batches.

    Args:
        engine: What samples.
        num_batches: Batches that are sampled before the interruption; a shard is one batch.
    """

    def __init__(self, engine: Engine, num_batches: int) -> None:
        self._engine, self._left, self.num_sampled = engine, num_batches, 0

    def __getattr__(self, name: str) -> Any:
        """Leave everything else to the engine."""
        return getattr(self._engine, name)

    def sample(self, *args: Any, **kwargs: Any) -> Any:
        """Sample a batch, or stop."""
        if not self._left:
            raise KeyboardInterrupt
        self._left -= 1
        self.num_sampled += 1
        return self._engine.sample(*args, **kwargs)
