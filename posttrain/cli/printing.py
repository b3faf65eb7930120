"""What several verbs print, and what they hand on about the command that was typed."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from posttrain.diagnose.progress import Reporter


def typed_command() -> str:
    """Return the command line as typed, for the record of a run."""
    return "posttrain " + shlex.join(sys.argv[1:])


def open_reporter(quiet: bool, track: Sequence[str] | None = None) -> Reporter:
    """Return the reporter that writes progress to stderr, and numbers to trackers; of several processes the first one has trackers.

    Raises:
        SettingsError: As `open_tracker`.
    """
    from posttrain.diagnose.progress import Reporter

    reporter = Reporter(quiet=quiet)
    if track and os.environ.get("RANK", "0") == "0":
        from posttrain.diagnose.tracking import open_tracker

        reporter.tracker = open_tracker(track, {"command": typed_command()}, say=reporter.say)
    return reporter


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


def check_markdown(target: str | None, *, as_json: bool) -> None:
    """Refuse a file for Markdown that cannot be written, before anything is computed.

    Args:
        target: What `--markdown` names; `-` is stdout.
        as_json: Whether JSON is asked for too.

    Raises:
        SettingsError: JSON and Markdown on stdout (`two_formats`), or a folder or nothing in place of a file (`no_file_name`).
        RunError: It may not be written (`not_writable`).
    """
    from posttrain.diagnose.errors import SettingsError
    from posttrain.diagnose.storage.writable import check_writable

    if target == "-":
        if as_json:
            raise SettingsError("--markdown -: got --json too; give a file for one of them", code="two_formats")
    elif target is not None:
        if not target or Path(target).is_dir():
            raise SettingsError(f"--markdown: got {target!r}; give a file, or - for stdout", code="no_file_name")
        check_writable(Path(target).parent, "--markdown")


def write_markdown(target: str, text: str) -> None:
    """Write Markdown to a file, or to stdout for `-`."""
    from posttrain.diagnose.storage.files import write_text

    if target == "-":
        print(text, end="")
    else:
        write_text(Path(target), text)


def interval(value: Any, *, signed: bool = False) -> str:
    """Return an estimate and its interval as text."""
    from posttrain.analysis.number_format import format_interval

    return format_interval(value.estimate, value.low, value.high, signed=signed)
