"""Small wordings that both pages share, and the cleaning of model text."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable
from pathlib import Path

from posttrain.analysis.tables import format_interval, format_number
from posttrain.diagnose.report.content import BehaviorReport
from posttrain.diagnose.types import Check, Estimate

_CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: 0x2421}
_LONGEST_TEXT = 6000
_TRAINING = frozenset({"off_policy", "on_policy", "mixed"})


def visible(text: str) -> str:
    """Model text that can stand in a page: control characters as pictures, halves of surrogate pairs replaced, very long texts cut."""
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


def next_command(report: BehaviorReport, model: str, run_dir: Path) -> str | None:
    """The command of the next step: the caller's, or the one that trains the named stage; None where no stage trains."""
    if report.next_command is not None:
        return report.next_command
    stage = report.diagnosis.stage
    if stage is None or stage.provenance.replace("-", "_") not in _TRAINING:
        return None
    words = ["posttrain", "train", stage.name, model, report.source or report.diagnosis.name]
    return shlex.join([*words, "--from", str(run_dir), "--out", f"{run_dir}-{stage.name}"])


def counted(check: Check, report: BehaviorReport) -> str:
    """How many of what stand behind a check; the unit only where it is given or the counts leave no doubt."""
    number = format_number(check.n)
    if unit := report.units.get(check.name):
        return f"{number} {unit}"
    sizes = {"problems": {len(report.diagnosis.problems)}, "samples": set[int](), "paths": set[int]()}
    sizes["problems"].add(sum(problem.split.value == "eval" for problem in report.diagnosis.problems))
    if report.sampling is not None:
        sizes["problems"].add(len(report.sampling.problem_ids))
        sizes["samples"].add(int(report.sampling.num_samples.sum()))
    if report.path is not None:
        sizes["paths"].add(len(report.path.paths))
    fitting = [unit for unit, counts in sizes.items() if check.n > 0 and check.n in counts]
    return f"{number} {fitting[0]}" if len(fitting) == 1 else number
