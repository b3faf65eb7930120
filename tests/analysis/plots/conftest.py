"""Runs of a scripted model to draw from: measured before and after, and compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.checkpoint_files import checkpoints_file
from helpers.figures import PROBE_ROWS
from helpers.loop_files import loop_file

from posttrain import diagnose
from posttrain.diagnose.storage.files import write_json


def write_behavior(folder: Path, name: str, purpose: str, num: int) -> Path:
    rows = [
        {"id": f"{name}{i}", "prompt": f"{name} {i} + {i + 3} =", "answer": str(2 * i + 3), "references": [[f"{i} + {i + 3}", f" = {2 * i + 3}"]]}
        for i in range(num)
    ]  # fmt: skip
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / f"{name}.yaml"
    path.write_text(
        f"problems: {name}.jsonl\nverifier: {{kind: number}}\nprompt: {{format: completion}}\nsampling: {{max_tokens: 20}}\n"
        f"measure: {{primary_k: 4}}\npurpose: {purpose}\n"
    )
    return path


TURN_LIMITS = [
    {"turns": turns, "pass_at_k": [{"k": k, "estimate": 0.2 * turns, "low": 0.1, "high": 0.9} for k in (1, 4)]}
    for turns in (1, 2, 3)
]


def _add_findings(path: Path) -> None:
    """Give every behavior turns, and the rows of every probe that has a picture, as if they had been run."""
    data = json.loads(path.read_text())
    for entry in data["behaviors"]:
        entry["probes"] = [{"name": probe, "rows": rows} for probe, rows in PROBE_ROWS.items()]
        entry["turn_limits"] = TURN_LIMITS
    write_json(path, data)


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of runs: `before`, `after` (better target, worse retention), `compared`, `looped`, `along`, and the same without references or retention."""
    folder = tmp_path_factory.mktemp("runs")
    behaviors = [write_behavior(folder, "sums", "target", 24), write_behavior(folder, "kept", "retention", 16)]
    for name, sums, kept in (("before", 0.3, 0.95), ("after", 0.8, 0.2)):
        success = {f"sums{i}": sums * (i % 3) / 2 for i in range(24)} | {f"kept{i}": kept for i in range(16)}
        (folder / f"{name}.yaml").write_text(json.dumps({"success": success}))
        diagnose.run(str(folder / f"{name}.yaml"), behaviors, out=folder / name, engine="scripted", samples=16, probes=["none"])
    diagnose.compare(folder / "before", folder / "after", out=folder / "compared")
    for name in ("before", "after"):
        _add_findings(folder / name / "diagnosis.json")
    (folder / "no-references").mkdir()
    data = json.loads((folder / "before" / "diagnosis.json").read_text())
    for entry in data["behaviors"]:
        entry["references"] = {"num_paths": 0, "steps": [], "excerpts": []}
        entry["probes"] = []
    write_json(folder / "no-references" / "diagnosis.json", data)
    compared = json.loads((folder / "compared" / "compare.json").read_text())
    (folder / "targets-compared").mkdir()
    compared["behaviors"] = [entry for entry in compared["behaviors"] if entry["purpose"] == "target"]
    write_json(folder / "targets-compared" / "compare.json", compared)
    looped = json.dumps(loop_file().to_json()).replace("products", "sums").replace("spell_backward", "kept")
    (folder / "looped").mkdir()
    write_json(folder / "looped" / "loop.json", json.loads(looped))
    along = json.dumps(checkpoints_file().to_json()).replace("products", "sums").replace("spell_backward", "kept")
    (folder / "along").mkdir()
    write_json(folder / "along" / "checkpoints.json", json.loads(along))
    return folder
