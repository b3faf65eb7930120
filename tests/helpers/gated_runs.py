"""A made-up diagnosis.json of behaviors with given success counts, as gates read it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NUM_SAMPLES = 16


def gated_behavior(name: str, correct: Sequence[int]) -> dict[str, Any]:
    """Return a behavior with these numbers of right samples of 16."""
    problems = [
        {"id": f"p{i}", "split": "eval", "state": "poor_choice", "num_samples": NUM_SAMPLES, "num_correct": c}
        for i, c in enumerate(correct)
    ]
    return {
        "name": name, "purpose": "target", "bottleneck": "poor_choice", "confidence": 1.0,
        "measure": {"epsilon": 0.0064, "primary_k": 4, "success": 1.0}, "problems": problems,
        "cost": {"samples": NUM_SAMPLES * len(correct), "generated_tokens": 10},
    }  # fmt: skip


def write_gated_run(folder: Path, behaviors: Mapping[str, Sequence[int]]) -> Path:
    """Write a folder that holds diagnosis.json alone."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = [gated_behavior(name, correct) for name, correct in behaviors.items()]
    data = {"schema": 1, "settings": {"thresholds": {"mastered": 0.9}}, "behaviors": entries}
    (folder / "diagnosis.json").write_text(json.dumps(data))
    return folder
