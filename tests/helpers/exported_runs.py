"""Runs with known samples, to export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from posttrain.diagnose.importing.imported import ImportedSample, ImportedSamples, SampleSource
from posttrain.diagnose.pipeline.import_run import ImportSettings, store_run
from posttrain.diagnose.storage.diagnosed_run import DiagnosedRun
from posttrain.diagnose.types import Message, Split, StopReason

PROBLEMS = {
    "even": [("4", 1.0), ("4", 1.0), ("four: 4", 1.0), ("5", 0.0), ("6", 0.0)],
    "hard": [("7", 0.0), ("8", 0.0), ("9", 0.0), ("9", 0.0)],
    "easy": [("1", 1.0), ("one", 1.0), ("\ud800 1", 1.0), ("uno", None)],
    "cut": [("2", 1.0), ("a long wrong te", 0.0)],
}
"""Texts and scores of each problem; the last text of `cut` is truncated, the last of `easy` was not graded."""


def exported_run(out: Path, *, split: Split = Split.TRAIN, names: Sequence[str] = ("sums",), texts: bool = True) -> DiagnosedRun:
    """Return an imported run of behaviors with the same problems."""
    samples = [
        ImportedSample(
            behavior=behavior,
            problem=name,
            score=score,
            text=text if texts else None,
            prompt=(Message("system", "Be brief."), Message("user", f"{name} of {behavior}?")) if texts else None,
            answer="4",
            stop=StopReason.LENGTH if text.startswith("a long") else StopReason.EOS,
            metadata={"level": len(name)},
        )
        for behavior in names
        for name, found in PROBLEMS.items()
        for text, score in found
    ]
    source = SampleSource(format="table", model="org/model")
    return store_run(ImportedSamples(source=source, samples=samples), ImportSettings(out=out, split=split))
