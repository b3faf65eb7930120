"""Logs of lm-evaluation-harness: repeats, filters, votes, options, several targets, and what the log does not tell."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers.rollout_files import by_problem, read_rollouts, write_rows

from posttrain.diagnose.errors import SourceError
from posttrain.diagnose.importing.imported import ImportedSamples, Untold
from posttrain.diagnose.types import Message

LOGS = Path(__file__).parents[3] / "fixtures" / "evaluations" / "lm_eval"
REAL, SCRIPTED = LOGS / "RylanSchaeffer__mem_Qwen3-93M", LOGS / "own__scripted"
DATE = "2026-11-29T00-37-10.353799"
TWELVE = "2a62bceddf5d"


def log_of(task: str) -> Path:
    return SCRIPTED / f"samples_{task}_{DATE}.jsonl"


def read(*paths: Path, **options: Any) -> ImportedSamples:
    return read_rollouts("lm-eval", *paths, **options)


def codes(found: ImportedSamples) -> set[str]:
    return {note.code for note in found.source.notes}


def rows_of(task: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log_of(task).read_text(encoding="utf-8").splitlines()]


def write_log(folder: Path, rows: list[dict[str, Any]], name: str = "samples_hard_2026-01-01T00-00-00.jsonl") -> Path:
    return write_rows(folder / name, rows)


def test_a_log_of_a_real_run():
    found = read(REAL)
    assert found.source.model == "RylanSchaeffer/mem_Qwen3-93M_minerva_math_rep_0_sbst_1.0000_epch_1_ot_1"
    assert found.source.version == "0.4.9.2"
    assert by_problem(found) == {"7193b975fe3f": [0.0], "d6f7d0b06a0c": [0.0], "987325b2eb99": [0.0]}
    first = found.samples[0]
    assert first.behavior == "math_perturbed_full"
    assert first.answer == "3"
    assert isinstance(first.prompt, str)
    assert first.prompt.startswith("Problem: How many vertical asymptotes")
    assert first.text is not None
    assert first.text.startswith(" 1. The graph of")
    assert first.metadata["level"] == "Level 3"
    assert found.source.sampling is not None
    assert (found.source.sampling.temperature, found.source.sampling.max_tokens) == (0.0, 512)
    assert found.source.untold == {Untold.LOGPROBS, Untold.STOP_REASONS, Untold.TOKEN_COUNTS}


def test_a_metric_is_of_the_first_response_alone_and_documents_of_one_text_are_one_problem():
    found = read(log_of("two_filters"))
    assert [len(scores) for scores in by_problem(found).values()] == [6, 3, 3]
    assert next(iter(by_problem(found).values())) == [1.0, None, None, 0.0, None, None]
    assert [sample.text for sample in found.samples[:3]] == ["The answer is 12.", "It is 42.", " 25"]
    assert codes(found) == {"repeats_not_graded", "several_filters", "same_documents"}
    assert found.source.sampling is not None
    assert found.source.sampling.samples_the_policy


def test_a_filter_is_chosen_by_its_name():
    strict, flexible = (read(log_of("two_filters"), filter=name) for name in ("strict-match", "flexible-extract"))
    assert by_problem(strict) == by_problem(read(log_of("two_filters")))
    assert len(flexible.samples) == len(strict.samples) == 12
    assert by_problem(read(log_of("two_filters"), score="exact_match,flexible-extract")) == by_problem(flexible)
    with pytest.raises(SourceError) as refused:
        read(log_of("two_filters"), filter="flexible")
    assert refused.value.code == "unknown_filter"
    with pytest.raises(SourceError) as refused:
        read(log_of("two_filters"), score="f1")
    assert refused.value.code == "unknown_score"


def test_a_vote_grades_no_response():
    found = read(log_of("two_filters"), filter="maj@3")
    assert {sample.score for sample in found.samples} == {None}
    assert len(found.samples) == 12
    assert "graded_together" in codes(found)


def test_a_vote_is_not_taken_where_another_filter_stands_behind_it(tmp_path: Path):
    rows = sorted(rows_of("two_filters"), key=lambda row: row["filter"] != "maj@3")
    found = read(write_log(tmp_path, rows))
    assert by_problem(found) == by_problem(read(log_of("two_filters")))


def test_a_share_of_successes_counts_them_without_saying_which():
    found = read(log_of("all_together"))
    successes = [sum(score or 0 for score in scores) for scores in by_problem(found).values()]
    assert successes == [
        sum(round(3 * row["pass_at_1"]) for row in rows_of("all_together") if row["doc_hash"][:12] == one)
        for one in by_problem(found)
    ]
    assert None not in {sample.score for sample in found.samples}
    assert found.samples[0].text == "so 12"  # none of this document's three is right


def test_some_successes_of_several_leave_the_texts_out(tmp_path: Path):
    row = rows_of("all_together")[0]
    found = read(write_log(tmp_path, [{**row, "pass_at_1": 2 / 3}]))
    assert by_problem(found) == {TWELVE: [1.0, 1.0, 0.0]}
    assert {sample.text for sample in found.samples} == {None}
    assert Untold.TEXTS in found.source.untold
    unknown = read(write_log(tmp_path, [{**row, "pass_at_1": 0.5}]))
    assert by_problem(unknown) == {TWELVE: [None, None, None]}
    assert "graded_together" in codes(unknown)


def test_options_are_answers_by_likelihood_and_targets_their_words():
    found = read(log_of("options"))
    assert [(sample.text, sample.answer, sample.score) for sample in found.samples] == [
        ("Rome", "Paris", 0.0),
        ("blue", "cold", 0.0),
        ("five", "four", 0.0),
    ]
    assert found.samples[0].metadata["choices"] == ["Paris", "Rome", "Oslo"]
    assert found.source.sampling is not None
    assert found.source.sampling.greedy
    assert codes(found) >= {"answers_by_likelihood", "several_metrics"}


def test_a_perplexity_is_no_score(tmp_path: Path):
    found = read(log_of("last_word"))
    assert [sample.score for sample in found.samples] == [0.0, 0.0]
    assert [sample.text for sample in found.samples] == [None, None]
    with pytest.raises(SourceError) as refused:
        read(write_log(tmp_path, [{**row, "metrics": ["perplexity"], "perplexity": [-0.5, 4]} for row in rows_of("last_word")]))
    assert refused.value.code == "no_score"


def test_several_targets_are_several_answers():
    found = read(log_of("any_target"))
    assert (found.samples[0].answer, found.samples[0].answers) == ("12", ("12.0",))
    assert found.source.sampling is None
    assert "not_at_temperature_0" in codes(found), "it is what the log tells, and the scripted answers to one document differ"


def test_a_group_of_tasks_becomes_one_behavior():
    folder = read(SCRIPTED)
    assert {sample.behavior for sample in folder.samples} == {"two_filters", "all_together", "any_target", "options", "last_word"}
    assert "tasks_of_group" in codes(folder)
    both = read(SCRIPTED, behavior="both")
    assert {(sample.behavior, sample.group) for sample in both.samples} == {("both", "options"), ("both", "last_word")}
    assert {sample.behavior for sample in read(SCRIPTED, behavior="options").samples} == {"options"}


def test_the_newest_file_of_a_folder_is_taken_and_files_that_are_named_are_all_taken(tmp_path: Path):
    folder = tmp_path / "own__scripted"
    shutil.copytree(SCRIPTED, folder)
    older = folder / "samples_any_target_2026-11-01T00-00-00.000000.jsonl"
    shutil.copy(log_of("any_target"), older)
    found = read(tmp_path, behavior="any_target")
    assert len(found.samples) == 4
    assert "older_files" in codes(found)
    assert len(read(older, folder / log_of("any_target").name).samples) == 8


def test_two_models_are_two_policies(tmp_path: Path):
    found = read(SCRIPTED, REAL)
    assert {sample.policy for sample in found.samples} == {"own/scripted", read(REAL).source.model}


def test_a_log_of_before_the_hashes_keeps_the_same_problems(tmp_path: Path):
    """Such rows hold arguments as lists, and neither hashes nor names of metrics."""
    known = ("doc_hash", "prompt_hash", "target_hash", "metrics", "filter", "arguments")
    old = [
        {key: value for key, value in row.items() if key not in known}
        | {"arguments": [[one["arg_0"], one["arg_1"]] for one in row["arguments"].values()]}
        for row in rows_of("any_target")
    ]
    path = tmp_path / "samples_any_target_2026-01-01T00-00-00.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in old).encode()))
    found = read(path)
    assert by_problem(found) == by_problem(read(log_of("any_target")))
    assert found.samples[0].prompt == "What is 3 times 4?"
    assert found.source.model == "unknown"


def test_a_hard_file(tmp_path: Path):
    """A chat, a NaN, a row written twice, documents without content, nothing graded, an engine that truncates on its own."""
    row = rows_of("any_target")[0]
    chat = json.dumps([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 3 times 4?"}])
    rows = [
        {**row, "arguments": {"gen_args_0": {"arg_0": [chat], "arg_1": {"do_sample": True, "temperature": 1.0}}}},
        {**row, "arguments": {"gen_args_0": {"arg_0": [chat], "arg_1": {"do_sample": True, "temperature": 1.0}}}},
        {**row, "doc_id": 7, "doc": {"q": 7}, "doc_hash": "f" * 64, "exact_match": float("nan")},
        {**row, "doc_id": 8, "doc": {}, "doc_hash": None},
        {**row, "doc_id": 9, "doc": {}, "doc_hash": None},
    ]
    found = read(write_log(tmp_path, rows))
    assert list(by_problem(found).values()) == [[0.0], [None], [0.0, 0.0]]
    assert found.samples[0].prompt == (Message("system", "Be brief."), Message("user", "What is 3 times 4?"))
    assert codes(found) == {"repeated_rows", "same_documents", "sampling_differs"}
    assert Untold.PROBLEM_IDS in found.source.untold
    assert found.source.sampling is None
    ungraded = read(write_log(tmp_path, [{**row, "metrics": ["bypass"], "bypass": 999}]))
    assert by_problem(ungraded) == {TWELVE: [None]}
    assert codes(ungraded) == {"not_graded"}


def test_transformers_truncates_as_the_model_says(tmp_path: Path):
    row = rows_of("any_target")[0]
    row["arguments"]["gen_args_0"]["arg_1"] = {"do_sample": True, "temperature": 1.0}
    path = write_log(tmp_path, [row])
    assert read(path).source.sampling is not None
    (tmp_path / "results_2026-01-01T00-00-00.json").write_text(json.dumps({"config": {"model": "hf"}, "configs": {"hard": {}}}))
    found = read(path)
    assert found.source.sampling is None
    assert codes(found) == {"truncation_untold"}


@pytest.mark.parametrize("row", [{"question": "What is 3 times 4?", "answer": "12"}, {"doc_id": 0, "arguments": {}, "resps": []}])
def test_another_file_is_refused(tmp_path: Path, row: dict[str, Any]):
    with pytest.raises(SourceError) as refused:
        read(write_log(tmp_path, [row]))
    assert refused.value.code in ("not_this_format", "no_score")


def test_a_document_that_was_answered_again_has_further_samples(tmp_path: Path):
    row = rows_of("any_target")[0]
    rows = [row, {**row, "resps": [["another"]], "exact_match": 1.0 - row["exact_match"]}, row]
    found = read(write_log(tmp_path, rows))
    assert sorted(sample.score or 0.0 for sample in found.samples) == [0.0, 1.0]
    assert codes(found) >= {"further_responses", "repeated_rows"}


def test_a_document_without_the_metric_of_others_is_missing(tmp_path: Path):
    row = rows_of("any_target")[0]
    rows = [
        {**row, "doc_id": 1, "doc_hash": "a" * 64, "exact_match": None},
        {**row, "doc_id": 2, "doc_hash": "b" * 64, "exact_match": 1.0, "metrics": ["exact_match"]},
        {**{key: value for key, value in row.items() if key != "exact_match"}, "doc_id": 3, "doc_hash": "c" * 64, "metrics": ["f1"], "f1": 0.5},
    ]  # fmt: skip
    path = write_log(tmp_path, rows)
    assert [sample.score for sample in read(path).samples] == [None, 1.0, None]
    assert [sample.score for sample in read(path, score="f1").samples] == [None, None, 0.5]
    with pytest.raises(SourceError) as refused:
        read(path, score="f2")
    assert refused.value.code == "unknown_score"


@pytest.mark.parametrize(
    ("target", "likelihoods", "acc", "answer"),
    [("1", [-9, -1, -9], 1.0, "2"), ("1", [-1, -9, -9], 0.0, "2"), ("1", [-1, -9, -9], 1.0, "1"), ("3", [-9, -9, -1], 1.0, "3")],
)
def test_a_target_of_digits_is_the_index_of_an_option_unless_the_grade_says_otherwise(
    tmp_path: Path, target: str, likelihoods: list[float], acc: float, answer: str
):
    row = rows_of("options")[0]
    asked = {f"gen_args_{i}": {"arg_0": "Q", "arg_1": f" {i + 1}"} for i in range(3)}
    said = [[[str(value), "False"]] for value in likelihoods]
    row = {**row, "arguments": asked, "resps": said, "filtered_resps": said, "target": target, "acc": acc, "acc_norm": acc}
    (sample,) = read(write_log(tmp_path, [row])).samples
    assert sample.answer == answer
    assert (sample.text == sample.answer) == bool(acc)


def test_a_log_whose_writer_was_stopped_is_read_and_said(tmp_path: Path):
    path = write_log(tmp_path, rows_of("any_target"))
    path.write_text(path.read_text(encoding="utf-8") + '{"doc_id": 7, "do', encoding="utf-8")
    assert by_problem(read(path)) == by_problem(read(log_of("any_target")))
    assert "torn_line" in codes(read(path))


def test_numbers_that_were_written_as_text_are_scores(tmp_path: Path):
    rows = rows_of("any_target")
    path = write_log(tmp_path, [row | {"exact_match": ("True", "0.0", "1.0", "nan")[i]} for i, row in enumerate(rows)])
    assert [sample.score for sample in read(path).samples] == [1.0, 0.0, 1.0, None]
