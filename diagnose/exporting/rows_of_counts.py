"""Samples and successes of each problem, `{"id", "c", "n"}`, as passk-inference and others read them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from posttrain.diagnose.errors import RunError, SettingsError
from posttrain.diagnose.exporting.export_rows import ExportOptions, chosen_behaviors
from posttrain.diagnose.importing.source_facts import KEY
from posttrain.diagnose.storage.diagnosed_run import DiagnosedRun


def counts_rows(run: DiagnosedRun, options: ExportOptions) -> Iterator[dict[str, Any]]:
    """Yield the counts of one behavior; samples without a known outcome are left out, and problems without another.

    Raises:
        SettingsError: Several behaviors, whose problems a file of counts cannot tell apart (`several_behaviors`).
        RunError: No sample has a known outcome (`no_counts`).
    """
    chosen = chosen_behaviors(run, options)
    if len(chosen) > 1:
        raise SettingsError(
            f"export {run.path}: a file of counts is of one behavior, and the run measured {', '.join(one.behavior.name for one in chosen)}; name one with "
            "--behavior",
            code="several_behaviors",
        )
    counts = chosen[0].sampling
    rows = [
        {"id": name, "c": int(c), "n": int(n)}
        for name, n, c in zip(counts.problem_ids, counts.num_samples, counts.num_correct, strict=True)
        if n
    ]
    if not rows:
        raise RunError(
            f"export {run.path}: no sample has a known outcome; see the validity checks in its report", code="no_counts"
        )
    yield from rows


def left_out_of_counts(run: DiagnosedRun, options: ExportOptions) -> str | None:
    """Return one line about the samples that a file of counts leaves out, None where there are none.

    Raises:
        SettingsError: As `chosen_behaviors`.
    """
    counts = chosen_behaviors(run, options)[0].sampling
    if not (missing := int(counts.num_missing.sum())):
        return None
    bare = [name for name, n in zip(counts.problem_ids, counts.num_samples, strict=True) if not n]
    why = "their source tells no grade" if KEY in run.settings else "the verifier or the engine failed"
    row = f"; no row: {len(bare)} of {len(counts.problem_ids)} problems, which have no other ({', '.join(bare[:3])}{', ...' if bare[3:] else ''})"
    return f"left out: {missing} of {int(counts.num_sampled.sum())} samples, neither right nor wrong ({why}){row if bare else ''}"
