"""Check a run: are its files whole, and can what was measured be believed? No model is needed, and nothing is written."""

from __future__ import annotations

from posttrain.diagnose.pipeline.run_files import Run, read_run
from posttrain.diagnose.storage.diagnosed_run import DiagnosedBehavior
from posttrain.diagnose.storage.run_check_json import CheckedBehavior, RunCheckFile


def check_run(run: Run) -> RunCheckFile:
    """Return the validity checks and caveats of every behavior of a run.

    Args:
        run: A run directory, or a run.

    Raises:
        RunError: It is not finished, or a file is missing or damaged.
    """
    found = read_run(run)
    return RunCheckFile(
        run=str(found.path), split=found.settings["split"], behaviors=[_checked(measured) for measured in found.behaviors]
    )


def _checked(measured: DiagnosedBehavior) -> CheckedBehavior:
    validity, counts = measured.validity, measured.sampling
    caveats = (*(note.text for note in measured.diagnosis.caveats), *validity.notes)
    return CheckedBehavior.model_validate(
        {
            "name": measured.behavior.name,
            "num_problems": len(counts.problem_ids),
            "num_samples": int(counts.num_sampled.sum()),
            "num_missing": int(counts.num_missing.sum()),
            "checks": validity.checks,
            "failures": validity.failures,
            "failure_codes": validity.failure_codes,
            "caveats": tuple(dict.fromkeys(caveats)),
        }
    )
