"""Whatever a row holds, it is read or refused in one line, and what is null is never read as the text "None"."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.evaluation_logs import EVALUATIONS
from helpers.odd_values import odd_rows
from helpers.rollout_files import ROLLOUTS, read_rollouts, write_rows

from posttrain.diagnose.errors import SourceError, UserError
from posttrain.diagnose.importing.finish_import import as_answers, chosen_score
from posttrain.diagnose.importing.sample_columns import group_by_behavior
from posttrain.diagnose.importing.sampler_settings import read_sampling
from posttrain.diagnose.importing.source_rows import read_count, read_number
from posttrain.diagnose.types import Split

INF = float("inf")
LM_EVAL = EVALUATIONS / "lm_eval" / "own__scripted"
FILES = {
    "verl": ROLLOUTS / "verl" / "rollout_data" / "2.jsonl",
    "nemo-rl": ROLLOUTS / "nemo_rl" / "val_data_step2.jsonl",
    "nemo-rl of training": ROLLOUTS / "nemo_rl" / "train_data_step2.jsonl",
    "open-instruct": ROLLOUTS / "open_instruct" / "run_rollouts_000000.jsonl",
    "tinker": ROLLOUTS / "tinker" / "iteration_000001" / "train_rollout_summaries.jsonl",
    "areal": ROLLOUTS / "areal" / "eval-rollout" / "0" / "1.jsonl",
    "verifiers": ROLLOUTS / "verifiers_traces" / "traces.jsonl",
    "verifiers before 1": ROLLOUTS / "verifiers_multi_turn" / "results.jsonl",
    "prime-rl": ROLLOUTS / "prime_rl" / "rollouts" / "step_2" / "train" / "all" / "traces.jsonl",
    "nemo-gym": ROLLOUTS / "nemo_gym" / "mcqa_rollouts.jsonl",
    "every-eval-ever": EVALUATIONS / "every_eval_ever" / "converted" / "lm_eval_samples.jsonl",
    "lm-eval": next(LM_EVAL.glob("samples_last_word_*")),
    "lm-eval of options": next(LM_EVAL.glob("samples_options_*")),
}


def first_row(path: Path) -> dict[str, Any]:
    row: dict[str, Any] = json.loads(path.read_text(encoding="utf-8").splitlines()[0])
    return row


def problem_with(name: str, file: Path) -> str:
    """Return what is wrong with how a file is read or refused; the empty text where nothing is."""
    try:
        found = read_rollouts(name.partition(" ")[0], file, accept_biased=True)
        for one in group_by_behavior(found.samples, success=1.0):
            list(one.shards(Split.EVAL))
    except UserError as refused:
        return "a message of several lines" if "\n" in str(refused) else ""
    except Exception as error:  # whatever it is, a user would see a traceback
        return repr(error)
    read_as_text = any("None" in (one.text, one.policy, one.answer) for one in found.samples)
    return "null is read as a text" if read_as_text else ""


@pytest.mark.parametrize("name", FILES)
def test_a_value_that_the_tool_does_not_write_is_read_or_refused(tmp_path: Path, name: str):
    file = tmp_path / "step_2" / FILES[name].name
    wrong = [
        (place, value, problem)
        for place, value, row in odd_rows(first_row(FILES[name]), depth=4 if "traces" in FILES[name].name else 3)
        if (problem := problem_with(name, write_rows(file, [row])))
    ]
    assert wrong == []


def test_numbers_are_finite_and_may_be_written_as_text():
    assert [read_number(value, "") for value in (1, True, "0.5", None, float("nan"), "nan")] == [1.0, 1.0, 0.5, None, None, None]
    for value in (INF, 10**400, "inf", "yes", [1.0], ""):
        with pytest.raises(SourceError) as refused:
            read_number(value, "a:1")
        assert refused.value.code == "invalid_number"


def test_counts_are_whole_and_fit_their_column():
    assert [read_count(value, "") for value in (0, 7.0, "7", None)] == [0, 7, 7, None]
    for value in (-1, 0.5, 2**31):
        with pytest.raises(SourceError) as refused:
            read_count(value, "a:1")
        assert refused.value.code == "invalid_number"


def test_only_the_score_that_counts_is_read():
    scores = {"reward": 1.0, "note": "late", "kl": INF}
    assert chosen_score(scores, None, "reward", "a:1") == 1.0
    for wanted, code in (("note", "invalid_number"), ("kl", "invalid_number"), ("loss", "unknown_score")):
        with pytest.raises(SourceError) as refused:
            chosen_score(scores, wanted, "reward", "a:1")
        assert refused.value.code == code


@pytest.mark.parametrize(
    ("value", "answers"),
    [
        ("4", ("4",)),
        (4.0, ("4",)),
        (["4"], ("4",)),
        ([4], ("4",)),
        (["4", "four", "4"], ("4", "four")),
        ({"target": ["Paris", "paris"]}, ("Paris", "paris")),
        ([1, 2, 3], ("[1, 2, 3]",)),
        ({"inputs": [1]}, ('{"inputs": [1]}',)),
        (None, ()),
        ("", ()),
        (float("nan"), ()),
    ],
)
def test_a_list_of_texts_is_several_answers(value: Any, answers: tuple[str, ...]):
    assert as_answers(value) == answers


def test_answers_of_a_list_are_no_json_text(tmp_path: Path):
    verl = {"input": "p", "output": "a", "score": "1.0", "step": 7, "gts": {"target": ["4", "four"]}}
    (sample,) = read_rollouts("verl", write_rows(tmp_path / "7.jsonl", [verl])).samples
    assert (sample.answer, sample.answers, sample.score) == ("4", ("four",), 1.0)


def test_metrics_of_an_early_version_of_verifiers_stand_among_the_columns(tmp_path: Path):
    row = {"example_id": 1, "prompt": "p", "completion": "c", "reward": 0.3, "correct_answer": 1.0, "task": "t"}
    file = write_rows(tmp_path / "results.jsonl", [row])
    assert [one.score for one in read_rollouts("verifiers", file, score="correct_answer").samples] == [1.0]
    assert [one.score for one in read_rollouts("verifiers", file).samples] == [0.3]


def test_records_of_every_eval_ever_may_hold_a_text_where_a_list_is_usual(tmp_path: Path):
    row = first_row(FILES["every-eval-ever"])
    row["output"]["raw"], row["input"]["reference"] = "It is 4.", "4"
    (sample,) = read_rollouts("every-eval-ever", write_rows(tmp_path / "a_samples.jsonl", [row])).samples
    assert (sample.text, sample.answer, sample.answers) == ("It is 4.", "4", ())


def test_settings_of_a_sampler_that_are_no_numbers_tell_nothing():
    for value in (10**400, INF, float("nan"), "1"):
        assert read_sampling({"temperature": value}) is None
    found = read_sampling({"temperature": 1.0, "top_k": float("nan"), "max_tokens": 10**400})
    assert found is not None
    assert (found.top_k, found.max_tokens) == (0, 0)
