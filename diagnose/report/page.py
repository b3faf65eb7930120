"""What a page says, as text: the HTML and the Markdown report set the same words and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from posttrain.diagnose.comparison.checkpoints_json import CheckpointsFile
from posttrain.diagnose.comparison.compare_json import CompareFile
from posttrain.diagnose.comparison.loop_json import LoopFile
from posttrain.diagnose.importing.source_facts import KEY
from posttrain.diagnose.report.behavior_view import behavior_view
from posttrain.diagnose.report.checkpoints_view import checkpoints_view
from posttrain.diagnose.report.comparison_view import comparison_view
from posttrain.diagnose.report.loop_view import loop_view
from posttrain.diagnose.report.source_words import source_view
from posttrain.diagnose.report.text import MethodNotes, unique_slugs, write_setting
from posttrain.diagnose.report.verdict_view import NextStart, verdict_view
from posttrain.diagnose.report.words import BOTTLENECKS, GLOSSARY
from posttrain.diagnose.storage.diagnosis_json import DiagnosisFile, RunEntry


def diagnosis_page(file: DiagnosisFile) -> dict[str, Any]:
    """Return everything that the page of a diagnosis says, as nested dicts and lists of strings."""
    methods = MethodNotes()
    model = str(file.model.get("source", ""))
    weight = file.settings.get("thresholds", {}).get("retention_weight", 1.0)
    start = replace(
        NextStart.of(model, file.run.path, file.behaviors),
        imported=file.source is not None,
        retention_weight=weight,
        teacher=file.settings.get("teacher"),
        earlier=file.settings.get("earlier"),
    )
    slugs = unique_slugs(behavior.name for behavior in file.behaviors)
    behaviors = [
        behavior_view(behavior, slug, start, file.settings, methods) for behavior, slug in zip(file.behaviors, slugs, strict=True)
    ]
    return {
        "title": "Diagnosis report",
        "model": model,
        "source": source_view(file.source),
        "verdicts": behaviors,
        "behaviors": behaviors,
        "comparisons": [],
        "loop": None,
        "checkpoints": None,
        **_foot(file.run, file.settings, methods),
    }


def comparison_page(files: Sequence[CompareFile], loop: LoopFile | None = None) -> dict[str, Any]:
    """Return everything that the page of a comparison says.

    Args:
        files: The comparison, and where there is one that of the final split.
        loop: The rounds in between, where a loop made them.
    """
    methods, first = MethodNotes(), files[0]
    entries = [(file.split, behavior) for file in files for behavior in file.behaviors]
    slugs = unique_slugs(f"change-{behavior.name}" for _, behavior in entries)
    after = [behavior.verdicts.after for behavior in first.behaviors if behavior.verdicts.after is not None]
    start = replace(
        NextStart.of(str(first.after.model.get("source", "")), first.after.run, after), imported=KEY in first.settings
    )
    return {
        "title": "Training report" if any(behavior.trained for behavior in first.behaviors) else "Comparison report",
        "model": f"{first.before.model.get('source', '')} → {start.model}",
        "verdicts": [
            verdict_view(behavior.verdicts.after, slug, start)
            for behavior, slug in zip(first.behaviors, slugs, strict=False)
            if behavior.verdicts.after is not None
        ],
        "behaviors": [],
        "comparisons": [
            comparison_view(behavior, split, slug, methods) for (split, behavior), slug in zip(entries, slugs, strict=True)
        ],
        "loop": loop_view(loop),
        "checkpoints": None,
        "source": None,
        "measured_in": [first.before.run, first.after.run],
        **_foot(first.run, first.settings, methods),
    }


def checkpoints_page(file: CheckpointsFile) -> dict[str, Any]:
    """Return everything that the page of several checkpoints says."""
    methods = MethodNotes()
    sources = list(dict.fromkeys(str(one.model.get("source", "")) for one in file.checkpoints))
    return {
        "title": "Checkpoint report",
        "model": sources[0] if len(sources) == 1 else f"{sources[0]} → {sources[-1]}",
        "verdicts": [],
        "behaviors": [],
        "comparisons": [],
        "loop": None,
        "checkpoints": checkpoints_view(file, methods),
        "source": None,
        **_foot(file.run, file.settings, methods),
    }


def _foot(run: RunEntry, settings: Mapping[str, Any], methods: MethodNotes) -> dict[str, Any]:
    """Return what stands at the end of every page."""
    fingerprints = settings.get("behaviors") or {}
    return {
        "date": run.created,
        "command": run.command,
        "settings": [(key, write_setting(value)) for key, value in settings.items() if key not in ("behaviors", KEY)]
        + [(f"behavior {name}", f"fingerprint {str(fingerprint)[:12]}") for name, fingerprint in fingerprints.items()],
        "versions": list(run.versions.items()),
        "methods": methods.notes,
        "glossary": GLOSSARY,
        "labels": list(BOTTLENECKS.values()),
    }
