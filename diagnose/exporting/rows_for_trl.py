"""Rows for TRL: prompts for GRPO and RLOO, prompt and completion for SFT, pairs for DPO (https://huggingface.co/docs/trl/dataset_formats).

Prompts are conversational unless the behavior is in completion format. Further columns reach TRL's reward functions by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, zip_longest
from typing import Any

from posttrain.diagnose.errors import RunError
from posttrain.diagnose.exporting.export_rows import (
    ExportedProblem,
    ExportedSamples,
    ExportOptions,
    Turns,
    graded_problems,
    training_problems,
    training_samples,
)
from posttrain.diagnose.storage.diagnosed_run import DiagnosedRun


def prompt_rows(run: DiagnosedRun, options: ExportOptions) -> Iterator[dict[str, Any]]:
    """Yield `{"prompt", "answer", "behavior", "problem_id", "pass_rate", "num_samples"}`; errors as `graded_problems`."""
    for row in graded_problems(run, options):
        yield {
            "prompt": row.prompt,
            "answer": row.problem.answer,
            **_names(row),
            "pass_rate": row.pass_rate,
            "num_samples": row.num_samples,
        }


def sft_rows(run: DiagnosedRun, options: ExportOptions) -> Iterator[dict[str, Any]]:
    """Yield `{"prompt", "completion", "behavior", "problem_id"}` of right samples; errors as `training_samples`.

    Raises:
        RunError: There is no right sample (`no_right_samples`).
    """
    found = False
    for samples in training_samples(run, options):
        for rollout in samples.right[: options.per_problem]:
            found = True
            yield {"prompt": samples.of.prompt, "completion": _completion(samples, rollout.text), **_names(samples.of)}
    if not found:
        raise RunError(
            f"export {run.path}: no sample of these problems is right; sample more, or export trl-prompts",
            code="no_right_samples",
        )


def reference_rows(run: DiagnosedRun, options: ExportOptions) -> Iterator[dict[str, Any]]:
    """Yield `{"prompt", "completion", "behavior", "problem_id"}` of reference paths; errors as `training_problems`.

    Raises:
        RunError: No problem has a reference (`no_references`).
    """
    found = False
    for row in training_problems(run, options):
        for reference in row.problem.references[: options.per_problem]:
            found = True
            text = reference.text
            completion = text if isinstance(row.prompt, str) else [{"role": "assistant", "content": text}]
            yield {"prompt": row.prompt, "completion": completion, **_names(row)}
    if not found:
        raise RunError(
            f"export {run.path}: these problems have no references; export trl-sft for right samples", code="no_references"
        )


def pair_rows(run: DiagnosedRun, options: ExportOptions) -> Iterator[dict[str, Any]]:
    """Yield `{"prompt", "chosen", "rejected", "behavior", "problem_id"}`: a right and a wrong sample of one problem, each used once while there are others.

    Raises:
        RunError: No problem has both (`no_pairs`); and as `training_samples`.
    """
    found = False
    for samples in training_samples(run, options):
        if not samples.right or not samples.wrong:
            continue
        found = True
        for chosen, rejected in islice(_pairs(samples), options.per_problem):
            yield {
                "prompt": samples.of.prompt,
                "chosen": _completion(samples, chosen),
                "rejected": _completion(samples, rejected),
                **_names(samples.of),
            }
    if not found:
        raise RunError(
            f"export {run.path}: no problem has both a right and a wrong sample; sample more, or export trl-sft", code="no_pairs"
        )


def _pairs(samples: ExportedSamples) -> Iterator[tuple[str, str]]:
    """Yield texts of a right and a wrong sample, no sample twice."""
    for right, wrong in zip_longest(samples.right, samples.wrong):
        if right is None or wrong is None:
            return
        yield right.text, wrong.text


def _completion(samples: ExportedSamples, text: str) -> Turns | str:
    return text if isinstance(samples.of.prompt, str) else [{"role": "assistant", "content": text}]


def _names(row: ExportedProblem) -> dict[str, str]:
    return {"behavior": row.behavior.name, "problem_id": row.problem.id}
