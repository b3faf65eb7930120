"""Changes a model: one loop, and a stage is source × credit × terms × reduction.

    from posttrain import trainers

    trainers.train("grpo", "demo", ["products"], out="runs/products-grpo")
    trainers.loop("demo", ["products"], out="runs/loop")

A new stage is one file in `recipes/` and its row in `diagnose.stage_catalogue`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from posttrain.trainers.diagnose_and_train import LoopResult, loop
    from posttrain.trainers.train_stage import train

__all__ = ["LoopResult", "loop", "train"]


def __getattr__(name: str) -> Any:
    """Import torch only when something is trained."""
    if name in __all__:
        from posttrain.trainers import diagnose_and_train, train_stage

        return getattr(train_stage if name == "train" else diagnose_and_train, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
