"""The formats that a run can be exported as, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from posttrain.diagnose.exporting.export_rows import ExportOptions
from posttrain.diagnose.exporting.instance_records import every_eval_ever_rows
from posttrain.diagnose.exporting.rows_for_trl import pair_rows, prompt_rows, reference_rows, sft_rows
from posttrain.diagnose.exporting.rows_for_verifiers import verifiers_rows
from posttrain.diagnose.exporting.rows_for_verl import verl_rows
from posttrain.diagnose.exporting.rows_of_counts import counts_rows, left_out_of_counts
from posttrain.diagnose.storage.diagnosed_run import DiagnosedRun

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportFormat:
    """A format that a run can be exported as."""

    title: str
    """What it holds, in a few words."""
    suffixes: tuple[str, ...]
    """Of the files that the other tool reads; the first is the usual one."""
    rows: Callable[[DiagnosedRun, ExportOptions], Iterable[Row]]
    left_out: Callable[[DiagnosedRun, ExportOptions], str | None] = lambda _run, _options: None
    """What the rows leave out of what was asked for, as one line; None where that is nothing."""
    trains: bool = True
    """Whether a model is trained on it, so that it holds train problems alone."""


EXPORTS: dict[str, ExportFormat] = {
    "trl-prompts": ExportFormat(title="prompts with answers and pass rates, for TRL's GRPO and RLOO", suffixes=(".jsonl", ".parquet"), rows=prompt_rows),
    "trl-sft": ExportFormat(title="right samples, for TRL's SFT", suffixes=(".jsonl", ".parquet"), rows=sft_rows),
    "trl-references": ExportFormat(title="reference paths, for TRL's SFT", suffixes=(".jsonl", ".parquet"), rows=reference_rows),
    "trl-pairs": ExportFormat(title="a right and a wrong sample of one problem, for TRL's DPO", suffixes=(".jsonl", ".parquet"), rows=pair_rows),
    "verl": ExportFormat(title="prompts with ground truth, for verl", suffixes=(".parquet", ".jsonl"), rows=verl_rows),
    "verifiers": ExportFormat(title="prompts with answers, for verifiers and prime-rl", suffixes=(".jsonl", ".parquet"), rows=verifiers_rows),
    "counts": ExportFormat(
        title="samples and successes of each problem, as passk-inference reads them", suffixes=(".jsonl",), rows=counts_rows, left_out=left_out_of_counts,
        trains=False,
    ),
    "every-eval-ever": ExportFormat(
        title="instance records of Every Eval Ever, one per sample", suffixes=(".jsonl",), rows=every_eval_ever_rows, trains=False
    ),
}  # fmt: skip
"""Every format by name."""
CONFIGURATIONS = ("trl-config", "verl-config")
"""Names, beside these, of what writes a folder with a script: the stage that a verdict names."""
