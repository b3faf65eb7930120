"""`posttrain regrade`: stored texts get new grades in a new run, and everything else stays what it was."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.refusals import refused
from helpers.stored_runs import rewrite_shard

from posttrain import diagnose
from posttrain.diagnose.errors import RunError, SettingsError
from posttrain.diagnose.importing.imported import ReadOptions
from posttrain.diagnose.pipeline.assemble import assemble
from posttrain.diagnose.pipeline.regrade_run import store_regraded
from posttrain.diagnose.pipeline.second_decision import decide_again
from posttrain.diagnose.storage.files import read_json
from posttrain.diagnose.storage.regrade_json import GradeOutcome
from posttrain.diagnose.storage.run_directory import RunDirectory

SAYS = "I think it is 12."
NUMBER = {"kind": "number"}


def write_behavior(folder: Path, verifier: str) -> Path:
    """Write eight problems; the answer of four is 12, and those of the others are like no text of the model."""
    rows = [{"id": f"p{i}", "prompt": f"{i} is", "answer": "12" if i % 2 else str(1000 + i), "split": "eval"} for i in range(8)]
    (folder / "ones.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / "ones.yaml"
    path.write_text(f"problems: ones.jsonl\nverifier: {verifier}\nprompt: {{format: completion}}\nsampling: {{max_tokens: 32}}\n")
    return path


def measure(folder: Path, verifier: str = "{kind: exact}") -> Path:
    """Return a run in which half of the samples are the answer, and the others say 12 in words that `exact` does not read."""
    behavior = write_behavior(folder, verifier)
    (folder / "model.yaml").write_text(f'success: 0.5\nwrong: "{SAYS}"\n')
    options = {"engine": "scripted", "samples": 8, "probes": ["none"], "pilot": False}
    diagnose.run(str(folder / "model.yaml"), [behavior], out=folder / "run", **options)
    return folder / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return measure(tmp_path_factory.mktemp("regrade"))


def digest(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_other_grades_and_nothing_else_in_a_new_run(run: Path, tmp_path: Path) -> None:
    before = digest(run)
    found = store_regraded(run, out=tmp_path / "new", verifier=NUMBER)["ones"]
    assert digest(run) == before
    old, new = (RunDirectory(path).rollout_table("ones") for path in (run, tmp_path / "new"))
    said = [one.text == SAYS for one in old.all_rows()]
    wanted = [int(one.problem_id[1:]) % 2 == 1 for one in old.all_rows()]
    turned = int(np.sum(np.array(said) & np.array(wanted)))
    assert turned > 0
    assert found.changes["wrong_to_right"] == found.num_changed == turned
    for first, second in zip(old.all_rows(), new.all_rows(), strict=True):
        assert (first.problem_id, first.sample_index, first.decoding, first.text, first.stop, first.token_ids) == (
            (second.problem_id, second.sample_index, second.decoding, second.text, second.stop, second.token_ids)
        )
        assert np.array_equal(first.policy_logprobs, second.policy_logprobs)
    assert (found.verifier_before.kind, found.verifier_after.kind) == ("exact", "number")
    assert found.after.pass_at_1.estimate == pytest.approx(found.before.pass_at_1.estimate + found.pass_at_1_delta.estimate)
    assert {one.id for one in found.problems} == {"p1", "p3", "p5", "p7"}
    for one in found.examples:
        assert (one.before.outcome, one.after.outcome) == (GradeOutcome.WRONG, GradeOutcome.RIGHT)
        assert (one.text, one.answer, one.after.extracted) == (SAYS, "12", "12")


def test_the_new_run_is_a_run(run: Path, tmp_path: Path) -> None:
    found = diagnose.regrade(run, out=tmp_path / "new", verifier=NUMBER)["ones"]
    assembled = diagnose.assemble(tmp_path / "new")
    assert assembled["ones"].behavior.verifier.kind == "number"
    assert assembled["ones"].diagnosis.sentence == found.after.sentence
    assert "regraded" in {note.code for note in assembled["ones"].diagnosis.caveats}
    assert (tmp_path / "new" / "report.html").exists()
    assert diagnose.forecast(tmp_path / "new").behaviors
    again = store_regraded(tmp_path / "new", out=tmp_path / "back", verifier={"kind": "exact"})["ones"]
    assert again.changes["right_to_wrong"] == found.changes["wrong_to_right"]


def test_checks_that_rest_on_grades_are_made_anew(run: Path, tmp_path: Path) -> None:
    """A verifier that accepts everything makes a run invalid; graded again by another it is not."""
    (tmp_path / "scorers.py").write_text("def judge(text, problem):\n    return True\n")
    verifier = {"kind": "python", "function": "scorers:judge", "folder": str(tmp_path)}
    found = store_regraded(run, out=tmp_path / "new", verifier=verifier)["ones"]
    assert found.after.bottleneck == "invalid"
    (known,) = diagnose.assemble(tmp_path / "new").behaviors
    assert known.validity.failure_codes == ("accepts_anything",)
    before, after = ([check.name for check in one.validity.checks] for one in (diagnose.assemble(run)["ones"], known))
    assert sorted(before) == sorted(after)


def test_without_a_verifier_it_is_that_of_the_file_as_it_is_now(tmp_path: Path) -> None:
    (tmp_path / "scorers.py").write_text("def judge(text, problem):\n    return text == problem['answer']\n")
    run = measure(tmp_path, "{kind: python, function: 'scorers:judge'}")
    (tmp_path / "scorers.py").write_text("def judge(text, problem):\n    return problem['answer'] in text\n")
    found = store_regraded(run, out=tmp_path / "new")["ones"]
    assert found.changes["wrong_to_right"] == found.num_changed > 0


def test_what_was_interrupted_goes_on(run: Path, tmp_path: Path) -> None:
    whole = store_regraded(run, out=tmp_path / "new", verifier=NUMBER)
    (tmp_path / "new" / "done" / "ones.json").unlink()
    last = sorted((tmp_path / "new" / "rollouts").glob("*.parquet"))[-1]
    kept = [path for path in (tmp_path / "new" / "rollouts").glob("*.parquet") if path != last]
    times = {path: path.stat().st_mtime_ns for path in kept}
    last.unlink()
    assert store_regraded(run, out=tmp_path / "new", verifier=NUMBER) == whole
    assert {path: path.stat().st_mtime_ns for path in kept} == times
    with refused(RunError, "other_settings"):
        store_regraded(run, out=tmp_path / "new", verifier={"kind": "exact"})


def test_a_thought_that_only_the_template_knew_is_no_answer(run: Path, tmp_path: Path) -> None:
    """Where the grade of before says that an answer began behind a thought between unknown marks, it begins there still."""
    text = "«12» so: 7"
    shutil.copytree(run, tmp_path / "run")
    for shard in (tmp_path / "run" / "rollouts").glob("*.parquet"):
        rewrite_shard(shard, lambda rows: {"text": [text] * len(rows["text"]), "answer_start": [5] * len(rows["text"])})
    found = store_regraded(
        tmp_path / "run", out=tmp_path / "new", verifier={"kind": "regex", "pattern": "([0-9]+)", "select": "first"}
    )
    assert all(one.after.extracted == "7" for one in found["ones"].examples)
    assert all(row.grade.answer_start == 5 for row in RunDirectory(tmp_path / "new").rollout_table("ones").all_rows())


def test_samples_that_their_engine_failed_on_keep_their_grade(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    for shard in (tmp_path / "run" / "rollouts").glob("*.parquet"):
        rewrite_shard(
            shard,
            lambda rows: {
                "stop": ["error", *rows["stop"][1:]],
                "status": ["error", *rows["status"][1:]],
                "score": [None, *rows["score"][1:]],
            },
        )
    found = store_regraded(tmp_path / "run", out=tmp_path / "new", verifier=NUMBER)["ones"]
    assert found.changes["missing_to_missing"] == len(list((run / "rollouts").glob("*.parquet")))


def test_imported_texts_are_graded(tmp_path: Path) -> None:
    rows = [{"problem": "a", "prompt": "6+6", "answer": "12", "text": SAYS, "score": None if i else 0.0} for i in range(4)]
    rows += [{"problem": "b", "prompt": "3+4", "answer": "7", "text": "7", "score": 1.0}] * 4
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    diagnose.import_samples(
        "table", tmp_path / "samples.jsonl", out=tmp_path / "run", read=ReadOptions(columns={"correct": "score"})
    )
    (name,) = read_json(tmp_path / "run" / "run.json")["settings"]["behaviors"]
    with refused(SettingsError, "imported_verifier"):
        store_regraded(tmp_path / "run", out=tmp_path / "none")
    assert not (tmp_path / "none").exists()
    found = store_regraded(tmp_path / "run", out=tmp_path / "new", verifier=NUMBER)[name]
    assert found.changes == {"missing_to_right": 3, "right_to_right": 4, "wrong_to_right": 1}
    shutil.move(tmp_path / "run", tmp_path / "elsewhere")  # the new run holds its own behavior files
    assert diagnose.assemble(tmp_path / "new")[name].behavior.verifier.kind == "number"


def test_what_cannot_be_graded_is_refused_before_anything_is_written(run: Path, tmp_path: Path) -> None:
    (tmp_path / "counts.jsonl").write_text('{"id": "a", "c": 1, "n": 4}\n{"id": "b", "c": 0, "n": 4}\n')
    diagnose.import_samples("counts", tmp_path / "counts.jsonl", out=tmp_path / "counts")
    with refused(RunError, "no_texts"):
        store_regraded(tmp_path / "counts", out=tmp_path / "new", verifier={"kind": "exact"})
    with refused(RunError, "in_place"):
        store_regraded(run, out=run, verifier=NUMBER)
    with refused(SettingsError, "unknown_behavior"):
        store_regraded(run, out=tmp_path / "new", verifier=NUMBER, behaviors=["twos"])
    rows = [json.loads(line) for line in (run.parent / "ones.jsonl").read_text().splitlines()]
    record = read_json(run / "run.json")
    source = Path(record["sources"]["ones"])
    assert source.exists()
    (source.parent / "ones.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[1:]))
    try:
        with refused(RunError, "changed_problems"):
            store_regraded(run, out=tmp_path / "new", verifier=NUMBER)
    finally:
        (source.parent / "ones.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert not (tmp_path / "new").exists()


def test_what_an_earlier_run_showed_does_not_outlive_its_grades(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "now")
    (tmp_path / "worse.yaml").write_text("success: 0.1\n")
    behavior = RunDirectory(run).read_json()["sources"]["ones"]
    options = {"engine": "scripted", "samples": 8, "probes": ["none"], "pilot": False}
    diagnose.run(str(tmp_path / "worse.yaml"), [behavior], out=tmp_path / "earlier", **options)
    decide_again(tmp_path / "now", before=tmp_path / "earlier", epsilon=0.02)
    store_regraded(tmp_path / "now", out=tmp_path / "new", verifier=NUMBER)
    assert assemble(tmp_path / "new")["ones"].answers == ()
    assert RunDirectory(tmp_path / "new").read_json()["decision"] == {"epsilon": 0.02}


def test_both_pages_list_whose_grade_changed(run: Path, tmp_path: Path) -> None:
    found = diagnose.regrade(run, out=tmp_path / "new", verifier=NUMBER)["ones"]
    assert found.problems
    pages = [(tmp_path / "new" / name).read_text() for name in ("report.html", "report.md")]
    for page in pages:
        assert "Whose grade changed" in page
        for one in found.problems:
            assert f"{one.num_correct_before} of {one.num_samples_before}" in page
            assert f"{one.num_correct_after} of {one.num_samples_after}" in page
        assert page.count(SAYS) >= len(found.examples) > 0
    assert "Whose grade changed" not in (run / "report.md").read_text()
