"""Entries of diagnosis.json as they are written: many are made by hand, and must be what pydantic writes."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from helpers.report_files import diagnosis_file
from pydantic import ValidationError

from posttrain.diagnose.storage.diagnosis_json import BehaviorEntry, DiagnosisFile
from posttrain.diagnose.storage.json_model import FileModel
from posttrain.diagnose.storage.problem_json import PrefixEntry, ProblemEntry
from posttrain.diagnose.types import Bottleneck, Split


def problem(**given: Any) -> ProblemEntry:
    counts = {"num_samples": 4, "num_correct": 1}
    return ProblemEntry.model_validate({"id": "p", "split": Split.EVAL, "state": Bottleneck.POOR_CHOICE, **counts, **given})


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"group": "g", "greedy_correct": True, "p": 0.25, "p_low": 0, "p_high": 1.0, "posterior": {"mastered": 0.5}},
        {"p": math.nan, "p_low": -math.inf, "p_high": math.inf, "reference_nll_per_token": math.nan},
        {
            "posterior": {"mastered": math.nan, "poor_choice": None},
            "prefix_needed": PrefixEntry(status="found", fraction=math.nan),
        },
        {"steps": (1, 2), "rates": {"a": 0.5, "b": math.nan}, "split_of_steps": Split.TRAIN, "text": "é"},
    ],
)
def test_an_entry_of_a_problem_is_written_as_pydantic_writes_it(given: dict[str, Any]) -> None:
    entry = problem(**given)
    written = json.loads(json.dumps(entry.to_json()))
    assert written == FileModel.to_json(entry)
    assert list(written) == list(FileModel.to_json(entry))


def test_a_whole_file_is_written_as_pydantic_writes_it() -> None:
    file = diagnosis_file()
    assert json.dumps(file.to_json()) == json.dumps(FileModel.to_json(file))
    assert DiagnosisFile.model_validate(file.to_json()).to_json() == file.to_json()


def test_more_successes_than_samples_are_refused() -> None:
    known = diagnosis_file().behaviors[0].to_json()
    for wrong in (5, -1):
        with pytest.raises(ValidationError, match="problem p: got"):
            BehaviorEntry.model_validate({**known, "problems": [problem(num_correct=wrong).to_json()]})


def test_numbers_of_numpy_are_read() -> None:
    assert problem(p=np.float64(0.5), num_tokens=np.int64(3)).to_json()["p"] == 0.5
