"""What several verbs print, and what they hand on about the command that was typed."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from posttrain.diagnose.progress import Reporter


def typed_command() -> str:
    """Return the command line as typed, for the record of a run."""
    return "posttrain " + shlex.join(sys.argv[1:])


def open_reporter(quiet: bool) -> Reporter:
    """Return the reporter that writes progress to stderr."""
    from posttrain.diagnose.progress import Reporter

    return Reporter(quiet=quiet)


def print_diagnosis(result: Any, as_json: bool) -> None:
    """Print the verdict of every behavior, or diagnosis.json; then refuse a run of which a setup check or the pilot stopped a behavior.

    Raises:
        SettingsError: Code `setup_failed` or `pilot_stopped`.
    """
    from posttrain.diagnose.pipeline.pilot import refuse_stopped

    if as_json:
        print((result.path / "diagnosis.json").read_text(), end="")
    else:
        for diagnosis in result.diagnoses:
            print(diagnosis.sentence)
        print(f"report: {result.report_html}")
    refuse_stopped(result)


def interval(value: Any, *, signed: bool = False) -> str:
    """Return an estimate and its interval as text."""
    from posttrain.analysis.number_format import format_interval

    return format_interval(value.estimate, value.low, value.high, signed=signed)
