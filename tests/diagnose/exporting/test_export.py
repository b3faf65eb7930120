"""Exports: what each file holds, how other tools read it, and that measured problems stay out of training files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.exported_runs import PROBLEMS, exported_run
from helpers.refusals import refused

from posttrain.diagnose import export, import_samples
from posttrain.diagnose.errors import RunError, SettingsError, UserError
from posttrain.diagnose.exporting.export_formats import EXPORTS
from posttrain.diagnose.storage.count_files import read_counts
from posttrain.diagnose.storage.diagnosed_run import DiagnosedRun
from posttrain.diagnose.types import Split

SCHEMA = Path(__file__).parents[2] / "fixtures" / "every_eval_ever" / "instance_level_eval.schema.json"
TRAINING = sorted(name for name, one in EXPORTS.items() if one.trains)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> DiagnosedRun:
    return exported_run(tmp_path_factory.mktemp("runs") / "train")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> DiagnosedRun:
    """Return a run of the same problems, which measured them."""
    return exported_run(tmp_path_factory.mktemp("runs") / "eval", split=Split.EVAL)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_prompts_carry_answers_and_pass_rates(run: DiagnosedRun, tmp_path: Path) -> None:
    assert export(run, "trl-prompts", tmp_path / "a.jsonl") == len(PROBLEMS)
    found = {row["problem_id"]: row for row in rows(tmp_path / "a.jsonl")}
    assert {name: (row["pass_rate"], row["num_samples"]) for name, row in found.items()} == {
        "even": (0.6, 5), "hard": (0.0, 4), "easy": (1.0, 3), "cut": (0.5, 2),
    }  # fmt: skip
    assert found["even"]["prompt"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "even of sums?"},
    ]
    assert found["even"]["answer"] == "4"


def test_only_right_samples_are_learned_each_text_once(run: DiagnosedRun, tmp_path: Path) -> None:
    export(run, "trl-sft", tmp_path / "a.jsonl")
    found = [(row["problem_id"], row["completion"][0]["content"]) for row in rows(tmp_path / "a.jsonl")]
    assert found == [
        ("even", "4"), ("even", "four: 4"), ("easy", "1"), ("easy", "one"), ("easy", "\ufffd 1"), ("cut", "2"),
    ]  # fmt: skip
    export(run, "trl-sft", tmp_path / "b.jsonl", per_problem=1)
    assert [row["problem_id"] for row in rows(tmp_path / "b.jsonl")] == ["even", "easy", "cut"]


def test_pairs_are_of_one_problem_and_a_text_that_was_cut_off_is_no_rejected_one(run: DiagnosedRun, tmp_path: Path) -> None:
    export(run, "trl-pairs", tmp_path / "a.jsonl")
    found = [
        (row["problem_id"], row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in rows(tmp_path / "a.jsonl")
    ]
    assert found == [("even", "4", "5"), ("even", "four: 4", "6")]


def test_problems_are_chosen_by_their_pass_rate(run: DiagnosedRun, tmp_path: Path) -> None:
    export(run, "verl", tmp_path / "a.parquet", least_rate=0.1, most_rate=0.9)
    import pyarrow.parquet as pq

    found = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert [row["extra_info"]["problem_id"] for row in found] == ["even", "cut"]
    with refused(RunError, "no_problems_with_rate"):
        export(run, "verl", tmp_path / "b.parquet", least_rate=0.7, most_rate=0.9)
    with refused(SettingsError, "rate_out_of_range"):
        export(run, "verl", tmp_path / "b.parquet", least_rate=0.9, most_rate=0.1)


@pytest.mark.parametrize("name", TRAINING)
def test_measured_problems_are_exported_for_training_only_where_that_is_said(
    name: str, measured: DiagnosedRun, tmp_path: Path
) -> None:
    out = tmp_path / f"a{EXPORTS[name].suffixes[0]}"
    with pytest.raises(RunError) as error:
        export(measured, name, out)
    assert error.value.code in ("no_train_problems", "run_measured_split")
    assert "--split train" in str(error.value)
    assert "diagnose" not in str(error.value)  # no import can be sampled
    assert not out.exists()
    if name != "trl-references":
        assert export(measured, name, out, split=Split.EVAL) > 0


def test_an_export_for_training_leaves_rows_of_other_splits_out(tmp_path: Path, measured: DiagnosedRun) -> None:
    """A run that measured the eval split gives its train problems as prompts, without pass rates."""
    from dataclasses import replace

    behavior = measured["sums"].behavior
    problems = tuple(replace(one, split=Split.TRAIN) if one.id in ("even", "hard") else one for one in behavior.problems)
    mixed = replace(measured, behaviors=(replace(measured["sums"], behavior=replace(behavior, problems=problems)),))
    export(mixed, "trl-prompts", tmp_path / "a.jsonl")
    assert [(row["problem_id"], row["pass_rate"]) for row in rows(tmp_path / "a.jsonl")] == [("even", None), ("hard", None)]
    with refused(RunError, "no_rates"):
        export(mixed, "trl-prompts", tmp_path / "b.jsonl", least_rate=0.1)
    with refused(RunError, "run_measured_split"):
        export(mixed, "trl-sft", tmp_path / "b.jsonl")


def test_counts_are_read_by_passk_inference_and_by_us(measured: DiagnosedRun, tmp_path: Path) -> None:
    passk = pytest.importorskip("passk_inference")
    export(measured, "counts", tmp_path / "counts.jsonl")
    wanted = {"even": (3, 5), "hard": (0, 4), "easy": (3, 3), "cut": (1, 2)}
    assert {one.id: (one.num_correct, one.num_samples) for one in read_counts(tmp_path / "counts.jsonl")} == wanted
    assert set(passk.load_counts(tmp_path / "counts.jsonl")) == set(wanted)


def test_records_of_every_eval_ever_meet_its_schema_and_tell_what_was_not_graded(measured: DiagnosedRun, tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    num = export(measured, "every-eval-ever", tmp_path / "a.jsonl")
    found = rows(tmp_path / "a.jsonl")
    assert num == len(found) == sum(map(len, PROBLEMS.values()))
    check = jsonschema.Draft7Validator(json.loads(SCHEMA.read_text()))
    assert [error.message for row in found for error in check.iter_errors(row)] == []
    assert sum(row["evaluation"]["is_correct"] for row in found) == 7
    assert [row["sample_id"] for row in found if "error" in row] == ["easy"]
    even = [row for row in found if row["sample_id"] == "even"]
    assert [row["metadata"]["sample_index"] for row in even] == ["0", "1", "2", "3", "4"]
    assert len({row["sample_hash"] for row in even}) == 1
    assert len({row["sample_hash"] for row in found}) == len(PROBLEMS)
    assert not any("output_tokens" in row["metadata"] for row in found)  # these samples do not tell how long they are


def test_rows_for_verl_and_verifiers_have_their_columns(run: DiagnosedRun, tmp_path: Path) -> None:
    export(run, "verl", tmp_path / "a.jsonl")
    first = rows(tmp_path / "a.jsonl")[0]
    assert set(first) == {"data_source", "prompt", "ability", "reward_model", "extra_info"}
    assert first["reward_model"] == {"style": "rule", "ground_truth": "4"}
    assert (first["extra_info"]["split"], first["extra_info"]["index"]) == ("train", 0)
    assert json.loads(first["extra_info"]["metadata"]) == {"level": 4}
    assert all(set(turn) >= {"role", "content"} for turn in first["prompt"])
    export(run, "verifiers", tmp_path / "b.jsonl")
    first = rows(tmp_path / "b.jsonl")[0]
    assert set(first) == {"prompt", "answer", "info", "task"}
    assert json.loads(first["info"])["pass_rate"] == 0.6


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("trl", "a.jsonl"), "unknown_format"),
        (("trl-sft", "a.csv"), "other_suffix"),
        (("counts", "a.parquet"), "other_suffix"),
        (("trl-sft", "there.jsonl"), "file_exists"),
        (("trl-sft", "there.jsonl/a.jsonl"), "not_writable"),
    ],
)
def test_a_file_that_cannot_be_is_refused_before_the_run_is_read(arguments: tuple[str, str], code: str, tmp_path: Path) -> None:
    (tmp_path / "there.jsonl").write_text("mine")
    with pytest.raises(UserError) as error:
        export(tmp_path / "nowhere", arguments[0], tmp_path / arguments[1])
    assert error.value.code == code
    assert (code == "unknown_format") == ("trl-config" in str(error.value))
    assert (tmp_path / "there.jsonl").read_text() == "mine"


def test_what_a_run_does_not_have_is_refused(run: DiagnosedRun, tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    with refused(SettingsError, "unknown_behavior"):
        export(run, "trl-sft", out, behaviors=["nothing"])
    with refused(SettingsError, "per_problem_out_of_range"):
        export(run, "trl-sft", out, per_problem=0)
    with refused(RunError, "no_references"):
        export(run, "trl-references", out)
    two = exported_run(tmp_path / "two", names=("sums", "products"))
    with refused(SettingsError, "several_behaviors"):
        export(two, "counts", out)
    assert export(two, "counts", out, behaviors=["products"]) == len(PROBLEMS)
    bare = exported_run(tmp_path / "bare", texts=False)
    for name in ("trl-sft", "trl-pairs", "every-eval-ever"):
        with refused(RunError, "no_texts"):
            export(bare, name, tmp_path / "b.jsonl")
    assert export(bare, "counts", tmp_path / "b.jsonl") == len(PROBLEMS)


@pytest.mark.parametrize("name", ["trl-prompts", "verl", "verifiers"])
def test_rows_that_would_be_graded_by_answers_need_answers(name: str, tmp_path: Path) -> None:
    table = tmp_path / "samples.csv"
    table.write_text("problem,prompt,text,correct\n" + "".join(f"p{i},what is {i}?,it is {i},yes\n" for i in range(6)))
    imported = import_samples("table", table, out=tmp_path / "run", split=Split.TRAIN)
    with refused(RunError, "no_answers"):
        export(imported, name, tmp_path / "rows.jsonl")
    assert not (tmp_path / "rows.jsonl").exists()
    assert export(imported, "trl-sft", tmp_path / "sft.jsonl") == 6
