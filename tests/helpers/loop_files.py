"""A made-up loop.json: a round that helped and cost, one that brings back what fell, and one that hardly moved the model."""

from __future__ import annotations

from collections.abc import Sequence

from posttrain.diagnose.comparison.loop_json import (
    KeepEntry,
    LabelChangeEntry,
    LoopBehaviorEntry,
    LoopEnd,
    LoopFile,
    LoopRoundEntry,
    RoundAdviceEntry,
    RoundChangeEntry,
    RoundCostEntry,
    RoundRateEntry,
    RoundRetentionEntry,
    RoundVerdict,
    StageOrigin,
)
from posttrain.diagnose.storage.diagnosis_json import EstimateEntry
from posttrain.diagnose.types import Bottleneck, Purpose

TARGET, KEPT = "products", "spell_backward"


def known(value: float, half: float = 0.05) -> EstimateEntry:
    return EstimateEntry(estimate=value, low=value - half, high=value + half, method="known")


def changes(target: float, kept: float, since: tuple[float, float], trained: str = TARGET) -> list[RoundChangeEntry]:
    return [
        RoundChangeEntry(
            behavior=name, purpose=purpose, trained=name == trained, delta=known(change), since_start=known(since_start)
        )
        for name, purpose, change, since_start in (
            (TARGET, Purpose.TARGET, target, since[0]),
            (KEPT, Purpose.RETENTION, kept, since[1]),
        )
    ]


def rates(values: Sequence[float]) -> list[RoundRateEntry]:
    return [RoundRateEntry(round=number, **known(value).model_dump()) for number, value in enumerate(values)]


def loop_file() -> LoopFile:
    """Return the file of a loop of three rounds."""
    cost = RoundCostEntry(generated_tokens=12_000, trained_tokens=3_000, seconds=42.0)
    return LoopFile(
        ended=LoopEnd.NO_GAIN,
        words="Two rounds in a row brought no gain.",
        keep=KeepEntry(round=2, checkpoint="runs/loop/stage-2"),
        budget_tokens=100_000,
        cost=RoundCostEntry(generated_tokens=48_000, trained_tokens=9_000, seconds=160.0),
        rounds=[
            LoopRoundEntry(
                number=1, stage="sft", trained=[TARGET], checkpoint="runs/loop/stage-1", cost=cost, verdict=RoundVerdict.HELPED,
                advice=[
                    RoundAdviceEntry(
                        behavior=TARGET, bottleneck=Bottleneck.MISSING_SUPPORT, confidence=0.98, stage="sft", predicted_gain=known(0.3)
                    )
                ],
                changes=changes(0.4, -0.2, (0.4, -0.2)), utility=known(0.2),
                retention=RoundRetentionEntry(behaviors=[KEPT], share=0.25, rows=1_200, tokens=9_600),
            ),
            LoopRoundEntry(
                number=2, stage="replay", trained=[KEPT], started_from=1, checkpoint="runs/loop/stage-2", cost=cost,
                reason=StageOrigin.CONSOLIDATION, earlier="demo", verdict=RoundVerdict.BROUGHT_NOTHING,
                advice=[RoundAdviceEntry(behavior=KEPT, bottleneck=Bottleneck.POOR_CHOICE, confidence=0.97, stage="grpo")],
                changes=changes(-0.01, 0.04, (0.39, -0.16), KEPT), utility=known(0.23),
            ),
            LoopRoundEntry(
                number=3, stage="rft", trained=[TARGET], started_from=2, checkpoint="runs/loop/stage-3", cost=cost,
                reason=StageOrigin.ALTERNATIVE, instead_of=["grpo"], moved=False, verdict=RoundVerdict.HARDLY_MOVED,
                advice=[RoundAdviceEntry(behavior=TARGET, bottleneck=Bottleneck.POOR_CHOICE, confidence=0.99, stage="grpo")],
                changes=changes(0.01, 0.0, (0.4, -0.18)), utility=known(0.22),
            ),
        ],
        behaviors=[
            LoopBehaviorEntry(name=TARGET, purpose=Purpose.TARGET, pass_at_1=rates([0.1, 0.5, 0.49, 0.5])),
            LoopBehaviorEntry(name=KEPT, purpose=Purpose.RETENTION, pass_at_1=rates([0.9, 0.7, 0.74, 0.74])),
        ],
        bottlenecks={TARGET: LabelChangeEntry(before=Bottleneck.MISSING_SUPPORT, after=Bottleneck.POOR_CHOICE)},
    )  # fmt: skip
