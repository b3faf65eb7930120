"""The report of a run is made from its diagnosis.json alone, wherever that lies; samples are only needed to decide again."""

from __future__ import annotations

import shutil
from pathlib import Path

from posttrain import diagnose
from posttrain.diagnose.storage.diagnosis_json import DiagnosisFile
from posttrain.diagnose.storage.json_model import read_model


def test_a_run_is_decided_and_rendered_again_from_what_lies_on_disk(sums_file: Path, tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text("success: 0.3\n")
    run = tmp_path / "run"
    finished = diagnose.run(str(tmp_path / "model.yaml"), [sums_file], out=run, engine="scripted", samples=8, probes=["none"])
    names = ("diagnosis.json", "report.html", "report.md")
    written = {name: (run / name).read_bytes() for name in names}

    before = diagnose.assemble(run)
    assert before.diagnoses == finished.diagnoses
    assert {name: (run / name).read_bytes() for name in names} == written

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(run / "diagnosis.json", elsewhere)
    assert diagnose.rewrite_report(elsewhere) == elsewhere / "report.html"
    assert {name: (elsewhere / name).read_bytes() for name in names} == written

    for name in names:
        (run / name).unlink()
    assert diagnose.rewrite_report(run) == run / "report.html"
    assert {name: (run / name).read_bytes() for name in names} == written


def test_the_file_holds_what_the_page_shows(sums_file: Path, tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text("success: 0.3\n")
    diagnose.run(str(tmp_path / "model.yaml"), [sums_file], out=tmp_path / "run", engine="scripted", samples=8, probes=["none"])
    file = read_model(tmp_path / "run" / "diagnosis.json", DiagnosisFile)
    (behavior,) = file.behaviors
    assert file.run.path == str(tmp_path / "run")
    assert [len(behavior.examples.right) > 0, len(behavior.examples.wrong) > 0] == [True, True]
    assert all(example.success for example in behavior.examples.right)
    assert not any(example.success for example in behavior.examples.wrong)
    assert behavior.validity.prompt_example
    assert {check.name for check in behavior.validity.checks} <= {check.name for check in behavior.checks}
    assert behavior.references.num_paths == len(behavior.problems)
    assert behavior.references.excerpts[0].which == "typical"
    assert sum(problem.greedy_correct is not None for problem in behavior.problems) == len(behavior.problems)
