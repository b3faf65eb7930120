"""What is written when the last round is over: comparisons, loop.json, the report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from posttrain.diagnose.engines.models.loading import fingerprint_model
from posttrain.diagnose.pipeline.compare_files import compare_folders, write_comparison
from posttrain.diagnose.report.report_files import write_report
from posttrain.diagnose.storage.diagnosed_run import DiagnosedRun
from posttrain.diagnose.storage.diagnosis_json import RunEntry
from posttrain.diagnose.storage.files import write_json
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.types import Split
from posttrain.trainers.diagnose_and_train.loop_request import LoopRequest
from posttrain.trainers.diagnose_and_train.loop_result import LoopResult, LoopRound


def finish(
    directory: RunDirectory,
    request: LoopRequest,
    before: DiagnosedRun,
    done: list[LoopRound],
    measure: Callable[..., DiagnosedRun],
) -> LoopResult:
    """Compare start and end, sample the final split once with `measure`, write the report."""
    if not done:
        return LoopResult(path=directory.path, before=before, rounds=(), transition=None, final=None)
    trained = tuple(dict.fromkeys(name for round_ in done for name in round_.trained))
    label = " → ".join(round_.stage for round_ in done)
    record, last = directory.read_json(), done[-1].after
    transition = compare_folders(before, last, trained=trained, stage=label)
    entry = RunEntry(
        path=str(directory.path),
        created=record["created"],
        command=record["command"] or "see run.json",
        versions=last.run.versions,
    )
    stages = ", ".join(f"{round_.stage} on {', '.join(round_.trained)}" for round_ in done)
    write_comparison(directory.path, transition, entry, record["settings"] | {"stage": stages})
    final = None
    held_out = [b for b in request.loaded if b.name in trained and b.split(Split.FINAL)]
    if held_out:
        sides = [
            measure(source, held_out, out=directory.path / folder, split=Split.FINAL)
            for source, folder in ((request.model, "final-0"), (done[-1].checkpoint, "final-1"))
        ]
        final = compare_folders(sides[0], sides[1], trained=trained, stage=label)
        write_comparison(
            directory.path / "final", final, entry.model_copy(update={"path": str(directory.path / "final")}), sides[1].settings
        )
    result = LoopResult(path=directory.path, before=before, rounds=tuple(done), transition=transition, final=final)
    write_json(directory.path / "loop.json", _summary(result))
    write_report(directory.path)
    return result


def _summary(result: LoopResult) -> dict[str, Any]:
    return {
        "schema": 1,
        "rounds": [
            {
                "stage": r.stage,
                "trained": list(r.trained),
                "checkpoint": str(r.checkpoint),
                "fingerprint": fingerprint_model(r.checkpoint),
            }
            for r in result.rounds
        ],
        "bottlenecks": {
            d.name: {"before": d.bottleneck.value, "after": result.rounds[-1].after[d.name].diagnosis.bottleneck.value}
            for d in result.before.diagnoses
        },
    }
