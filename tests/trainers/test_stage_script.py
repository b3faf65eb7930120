"""The named stage as a script of another trainer: TRL runs it, verl's options are those of its configuration, and what cannot be is refused."""

from __future__ import annotations

import ast
import json
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from helpers.exported_runs import exported_run
from helpers.refusals import refused

from posttrain import diagnose
from posttrain.diagnose.errors import RunError, SettingsError
from posttrain.diagnose.exporting.export_rows import ExportOptions
from posttrain.diagnose.storage.diagnosed_run import DiagnosedRun
from posttrain.diagnose.types import Split
from posttrain.trainers.learning_rate import RateKind, default_learning_rate
from posttrain.trainers.stage_script import TRL, VERL, export_stage

TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture(scope="module")
def model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the tiny model with a chat template."""
    import shutil

    from transformers import AutoTokenizer

    path = tmp_path_factory.mktemp("models") / "chat"
    shutil.copytree(tiny_model, path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def run(model: Path, tmp_path_factory: pytest.TempPathFactory) -> DiagnosedRun:
    """Return a run of the train split, whose verdict is that the model chooses poorly."""
    folder = tmp_path_factory.mktemp("runs")
    rows = [{"id": f"p{i}", "prompt": f"{i} + {i} =", "answer": str(2 * i), "references": [f"{2 * i}"]} for i in range(24)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "sums.yaml").write_text(
        "problems: rows.jsonl\nverifier: {kind: number}\nsampling: {max_tokens: 12}\nmeasure: {primary_k: 4, group_size: 4}\nsplit: {train: 0.5, final: 0}\n"
    )
    (folder / "model.yaml").write_text("success: 0.5\n")
    found = diagnose.run(
        folder / "model.yaml", [folder / "sums.yaml"], out=folder / "run", engine="scripted", samples=8, split=Split.TRAIN, probes=["none"], pilot=False
    )  # fmt: skip
    return replace(found, model={**found.model, "source": str(model)})


def test_the_script_says_why_and_takes_its_numbers_from_the_run(run: DiagnosedRun, tmp_path: Path) -> None:
    files = export_stage(run, "trl-config", tmp_path / "out")
    assert [path.name for path in files] == ["train.py", "reward.py", "data.jsonl"]
    text = files[0].read_text()
    stage = run.diagnoses[0].stage
    assert stage is not None
    assert stage.name == "grpo"
    assert text.startswith(f"# {stage.name} on sums")
    assert f"# why: {stage.why}" in text
    for line in (
        "num_generations=4",
        "max_completion_length=12",
        f"learning_rate={default_learning_rate(RateKind.POLICY_GRADIENT, 32)!r}",
        "loss_type='grpo'",
    ):
        assert f"{line}," in text
    assert len(files[2].read_text().splitlines()) == 12


def test_the_width_of_the_demo_model_is_known(run: DiagnosedRun, tmp_path: Path) -> None:
    demo = replace(run, model={**run.model, "source": "demo"})
    text = export_stage(demo, "trl-config", tmp_path / "out")[0].read_text()
    assert f"learning_rate={default_learning_rate(RateKind.POLICY_GRADIENT, 576)!r}," in text


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["grpo", "sft", "dpo"])
def test_trl_runs_the_script(stage: str, run: DiagnosedRun, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    script, *_ = export_stage(run, "trl-config", tmp_path / "out", stage=stage)
    script.write_text(script.read_text().replace("max_steps=100", "max_steps=1"))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "out" / "trained" / "model.safetensors").is_file()


@pytest.mark.parametrize("stage", list(TRL))
def test_every_setting_is_one_of_trl(stage: str, run: DiagnosedRun, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    script, *_ = export_stage(run, "trl-config", tmp_path / "out", stage=stage)
    (call,) = [
        node for node in ast.walk(ast.parse(script.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("Config")
    ]  # fmt: skip
    assert isinstance(call.func, ast.Name)
    settings: dict[str, Any] = {}
    for keyword in call.keywords:
        try:
            settings[str(keyword.arg)] = ast.literal_eval(keyword.value)
        except ValueError:
            assert keyword.arg in ("output_dir", "bf16", "use_cpu")
    getattr(trl, call.func.id)(**settings, output_dir=str(tmp_path / "x"), bf16=False, use_cpu=True)


@pytest.mark.parametrize("stage", list(VERL))
def test_verl_gets_a_script_its_rows_and_a_reward(stage: str, run: DiagnosedRun, tmp_path: Path) -> None:
    script, reward, train, validation = export_stage(run, "verl-config", tmp_path / "out", stage=stage)
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    text = script.read_text()
    assert "actor_rollout_ref.rollout.n=4" in text
    assert "data.max_response_length=12" in text
    train_ids, eval_ids = (
        {row["extra_info"]["problem_id"] for row in pq.read_table(path).to_pylist()} for path in (train, validation)
    )
    assert len(train_ids) == 12
    assert not train_ids & eval_ids
    names: dict[str, Any] = {}
    exec(compile(reward.read_text(), str(reward), "exec"), names)
    problem = min(train_ids)
    right = str(2 * int(problem[1:]))
    assert [
        names["compute_score"]("sums", text, right, {"problem_id": problem}) for text in (f"It is {right}.", "It is 999.")
    ] == [1.0, 0.0]
    names["behavior_of"]("sums")[0].close()


def test_a_name_or_a_reason_stays_a_comment_or_a_literal(run: DiagnosedRun, tmp_path: Path) -> None:
    stage = run.diagnoses[0].stage
    assert stage is not None
    hostile = "x\nimport os; os.system('false')\r\x0c\u2028raise SystemExit"
    diagnosis = replace(run["sums"].diagnosis, stage=replace(stage, why=hostile))
    odd = replace(
        run, model={**run.model, "source": "m'\n\"$(touch ran)`x`"}, behaviors=(replace(run["sums"], diagnosis=diagnosis),)
    )
    train = export_stage(odd, "trl-config", tmp_path / "trl")[0].read_text()
    assert not [node for node in ast.walk(ast.parse(train)) if isinstance(node, ast.Raise)]
    assert "system" not in {node.attr for node in ast.walk(ast.parse(train)) if isinstance(node, ast.Attribute)}
    script = export_stage(odd, "verl-config", tmp_path / "verl")[0]
    (tmp_path / "python").write_text("#!/bin/sh\nprintf '%s\\n' \"$@\" > args\n")
    (tmp_path / "python").chmod(0o755)
    subprocess.run(["bash", str(script)], cwd=tmp_path, check=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    assert not (tmp_path / "ran").exists()
    assert "touch ran" in (tmp_path / "args").read_text()


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(run: DiagnosedRun, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with refused(SettingsError, "unknown_format"):
        export_stage(run, "trl-confg", out)
    with refused(SettingsError, "stage_elsewhere"):
        export_stage(run, "trl-config", out, stage="luffy")
    with refused(SettingsError, "stage_elsewhere"):
        export_stage(run, "verl-config", out, stage="dpo")
    with refused(SettingsError, "unknown_behavior"):
        export_stage(run, "trl-config", out, options=ExportOptions(behaviors=["other"]))
    undecided = replace(run, behaviors=(replace(run["sums"], diagnosis=replace(run["sums"].diagnosis, stage=None)),))
    with refused(SettingsError, "no_stage"):
        export_stage(undecided, "trl-config", out)
    with refused(RunError, "run_measured_split"):
        export_stage(replace(run, settings={**run.settings, "split": "eval"}), "trl-config", out, stage="rft")
    with refused(RunError, "other_behavior"):
        export_stage(replace(run, settings={**run.settings, "behaviors": {"sums": "x"}}), "trl-config", out)
    with refused(RunError, "no_verifier"):
        export_stage(exported_run(tmp_path / "imported"), "trl-config", out, stage="grpo")
    assert [path.name for path in tmp_path.iterdir()] == ["imported"]
    out.mkdir()
    with refused(RunError, "file_exists"):
        export_stage(run, "trl-config", out)


def test_imported_samples_to_train_on_become_a_script_once_they_are_regraded(tmp_path: Path) -> None:
    """No problem of such a run is measured, and its reward reads the behavior all the same."""
    imported = exported_run(tmp_path / "imported")
    with refused(RunError, "no_verifier"):
        export_stage(imported, "trl-config", tmp_path / "out", stage="grpo")
    diagnose.regrade(imported, out=tmp_path / "regraded", verifier={"kind": "number"})
    _, reward, data = export_stage(diagnose.assemble(tmp_path / "regraded"), "trl-config", tmp_path / "out", stage="grpo")
    row = json.loads(data.read_text().splitlines()[0])
    grade = runpy.run_path(str(reward))["grade"]
    assert [grade(row["behavior"], row["problem_id"], text) for text in ("It is 4.", "It is 5.")] == [1.0, 0.0]
