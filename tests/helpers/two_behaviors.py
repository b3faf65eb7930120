"""A run on two behaviors with probes, measured with the scripted engine: small enough to be made again and again."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posttrain import diagnose
from posttrain.diagnose.engines.scripted import ScriptedEngine
from posttrain.diagnose.pipeline.measure_behaviors import MeasurementRun
from posttrain.diagnose.probes.runner import ProbeInputs, ProbeRun
from posttrain.diagnose.progress import Reporter
from posttrain.diagnose.sampling.behavior_sampler import SamplingSettings
from posttrain.diagnose.sampling.plan import Goal
from posttrain.diagnose.storage.files import read_json, read_parquet
from posttrain.diagnose.storage.output_folder import locked_folder
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Split

NAMES = ("sums", "kept")
PROBES = ("decoding", "diversity")
KINDS = ("rollouts", "paths", "agreement", "probes", "done", "validity")


def write_behaviors(folder: Path) -> None:
    """Write a target and a retention behavior."""
    for name, purpose in (("sums", "target"), ("kept", "retention")):
        rows = [
            {"id": f"p{i}", "prompt": f"{name} {i} =", "answer": str(2 * i), "references": [f"{2 * i}"], "split": "eval"}
            for i in range(8)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / f"{name}.yaml").write_text(
            f"problems: {name}.jsonl\nverifier: {{kind: number}}\nprompt: {{format: completion}}\nsampling: {{max_tokens: 20}}\n"
            f"measure: {{primary_k: 4}}\npurpose: {purpose}\n"
        )


def measure(folder: Path, run: Path, *, pilot: bool = True, goal: Goal | None = None, names: Sequence[str] = NAMES) -> None:
    """Measure what is not measured yet, without a report; where there is no run yet, begin one.

    Args:
        folder: Where the behaviors are.
        run: The run directory.
        pilot: Whether there is one.
        goal: Of the samples; 40 of every problem where None.
        names: Behaviors to measure.
    """
    behaviors = diagnose.load_behaviors([folder / f"{name}.yaml" for name in names])
    engine = ScriptedEngine.for_behaviors(behaviors, 0.4)
    directory, goal = RunDirectory(run), goal or Goal(samples=40)
    settings = {
        "behaviors": {one.name: one.fingerprint for one in behaviors},
        "seed": 0,
        "split": "eval",
        "thresholds": {},
        "samples": goal.samples,
        "max_tokens_total": goal.max_tokens,
    }
    sources = {one.name: one.source for one in behaviors}
    details = {"model": {"source": "m"}, "versions": {}, "sources": sources, "command": "", "created": ""}
    sampling = SamplingSettings(
        directory=directory, engine=engine, goal=goal, split=Split.EVAL, seed=0, thresholds=Thresholds(), reporter=Reporter(quiet=True),
        rows_per_shard=64,
    )  # fmt: skip
    probes = ProbeRun(names=PROBES, inputs=ProbeInputs(), settings=sampling)
    with locked_folder(run):
        directory.open("diagnose", settings, details)
        measurement = MeasurementRun(settings=sampling, probe_run=probes, pilot=pilot)
        with measurement.open_verifiers(behaviors) as verifier_of:
            measurement.measure(behaviors, verifier_of)


def contents(run: Path) -> dict[str, Any]:
    """Return all rows of all shards, and what stands in the other parts, apart from times."""
    found: dict[str, Any] = {}
    for path in sorted(path for kind in KINDS if (run / kind).is_dir() for path in (run / kind).iterdir()):
        if path.suffix == ".parquet":
            found[f"{path.parent.name}/{path.name}"] = read_parquet(path).table().to_pylist()
        else:
            content = read_json(path)
            found[f"{path.parent.name}/{path.name}"] = {**content, "finding": {**content.get("finding", {}), "seconds": 0}}
    return found


def measure_in_own_group(folder: Path, run: Path, goal: Goal) -> None:
    """Measure one behavior in a process that leads a group, so that it can be killed with all that it started."""
    os.setpgid(0, 0)
    measure(folder, run, goal=goal, names=["sums"])
