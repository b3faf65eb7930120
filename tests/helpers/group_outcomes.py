"""Outcomes of samples, as a forecast of groups takes them."""

from __future__ import annotations

from typing import Any

import numpy as np

from posttrain.analysis.stats import GroupOutcomes
from posttrain.diagnose.decide.signal_forecast import forecast_group_signal
from posttrain.diagnose.storage.group_signal_json import GroupSignalEntry


def outcomes(num_samples: Any, num_correct: Any, **more: Any) -> GroupOutcomes:
    """Return outcomes of unrelated problems, sampled equally often if their samples are, read and wrong where they are not right."""
    n, c = np.array(num_samples), np.array(num_correct)
    zeros = np.zeros_like(n)
    fields = {
        "num_lenient": c,
        "num_truncated": zeros,
        "num_unread": zeros,
        "num_missing": zeros,
        "equally": len(set(n.tolist())) == 1,
    }
    given = {name: np.array(value) if isinstance(value, list) else value for name, value in more.items()}
    return GroupOutcomes(num_samples=n, num_correct=c, groups=tuple(map(str, range(len(n)))), **{**fields, **given})


def forecast_of(num_samples: int, correct: Any, *, name: str = "p", group_size: int = 8, **more: Any) -> GroupSignalEntry:
    """Return the forecast for problems p0, p1, ... with as many samples each; `more` holds prompts per step, and fields of outcomes."""
    c = np.array(correct)
    known = outcomes(np.full(len(c), num_samples), c, **{key: more[key] for key in more if key.startswith("num_")})
    names = [f"{name}{index}" for index in range(len(c))]
    settings = {key: more[key] for key in more if not key.startswith("num_")}
    entry = forecast_group_signal(known, names, group_size=group_size, **settings)
    assert entry is not None
    return entry
