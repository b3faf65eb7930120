"""Small wordings that both pages share, and the cleaning of model text."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable
from pathlib import Path

from posttrain.analysis.plots.tables import format_interval, format_number
from posttrain.diagnose.report.content import BehaviorReport, ReportContent
from posttrain.diagnose.types import Check, Estimate, StageAdvice

_CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: 0x2421}
_LONGEST_TEXT = 6000
_TRAINING = frozenset({"off_policy", "on_policy", "mixed"})


def visible(text: str) -> str:
    """Model text that can stand in a page: control characters as pictures, broken characters replaced, very long texts cut."""
    clean = text.replace("\r\n", "\n").translate(_CONTROLS).encode("utf-8", "replace").decode("utf-8")
    if len(clean) <= _LONGEST_TEXT:
        return clean
    return f"{clean[:_LONGEST_TEXT]}\n[{len(clean) - _LONGEST_TEXT} more characters, see the rollouts]"


def write_estimate(value: Estimate, *, signed: bool = False) -> str:
    """An estimate with its interval, `.56 [.48, .64]`."""
    return format_interval(value.estimate, value.low, value.high, signed=signed)


def write_setting(value: object) -> str:
    """A setting on one line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def unique_slugs(names: Iterable[str]) -> list[str]:
    """A name for files and anchors per name: letters, digits, dash and underscore, none twice."""
    slugs: list[str] = []
    for name in names:
        base = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:60] or "behavior"
        slug, count = base, 1
        while slug in slugs:
            count += 1
            slug = f"{base}-{count}"
        slugs.append(slug)
    return slugs


def next_command(report: BehaviorReport, content: ReportContent, run_dir: Path) -> str | None:
    """The command of the next step.

    Returns:
        The caller's command; else the one that trains the named stage; None where no stage trains, and on the page of a loop that
        does not say which model and which run the verdict is about.
    """
    if report.next_command is not None:
        return report.next_command
    stage = report.diagnosis.stage
    known = not content.comparisons or (content.checkpoint is not None and content.measured_in is not None)
    if stage is None or not trains(stage) or not known:
        return None
    run = content.measured_in or str(run_dir)
    words = ["posttrain", "train", stage.name, content.checkpoint or content.model, report.source or report.diagnosis.name]
    return shlex.join([*words, "--out", f"{run}-{stage.name}"])


def trains(stage: StageAdvice) -> bool:
    """Whether a stage changes weights; collecting, repairing and doing nothing are stages too."""
    return stage.provenance.replace("-", "_") in _TRAINING


def counted(check: Check) -> str:
    """Say how many of what stand behind a check; the bare number where nothing says of what."""
    return format_number(check.n) + (f" {check.unit}" if check.unit else "")
