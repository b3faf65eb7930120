"""Logs of Inspect: epochs, scorers, errors, limits, tools, archives of every compression, with inspect-ai and without."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from helpers.evaluation_logs import EVALUATIONS, codes
from helpers.odd_values import odd_rows
from helpers.rollout_files import by_problem, read_rollouts

from posttrain.diagnose.errors import SourceError
from posttrain.diagnose.importing.formats.inspect_log import inspect_is_installed, read_header
from posttrain.diagnose.importing.imported import ImportedSamples, Untold
from posttrain.diagnose.types import Message, StopReason

MADE, PUBLIC = EVALUATIONS / "inspect" / "made", EVALUATIONS / "inspect" / "public"
LOGS = sorted((*MADE.iterdir(), *PUBLIC.iterdir()))
SPEC = {
    "task": "sums",
    "model": "openai/gpt",
    "created": "2026-01-01T00:00:00+00:00",
    "dataset": {"samples": 9, "sample_ids": [1]},
}


def read(*paths: Path, **options: Any) -> ImportedSamples:
    return read_rollouts("inspect", *paths, **options)


def sample(**values: Any) -> dict[str, Any]:
    """Return a sample as a log holds it."""
    said = {"role": "assistant", "content": "12", "source": "generate"}
    return {
        "id": 1,
        "epoch": 1,
        "input": "What is 3 times 4?",
        "target": "12",
        "messages": [{"role": "user", "content": "What is 3 times 4?", "source": "input"}, said],
        "output": {"choices": [{"message": said, "stop_reason": "stop"}], "usage": {"output_tokens": 2}},
        "scores": {"match": {"value": "C"}},
        **values,
    }


def write_log(path: Path, *samples: dict[str, Any], compression: int = zipfile.ZIP_DEFLATED, **header: Any) -> Path:
    """Write an archive as Inspect lays it out, and return its path."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for one in samples:
            archive.writestr(f"samples/{one['id']}_epoch_{one['epoch']}.json", json.dumps(one))
        archive.writestr("header.json", json.dumps({"version": 2, "status": "success", "eval": SPEC, **header}))
    return path


def test_epochs_are_samples_in_their_order():
    """As stored: sample 2 before sample 1, epoch 2 before epoch 1."""
    found = read(PUBLIC / "log_streaming.eval")
    assert by_problem(found) == {"1": [0.0, 1.0], "2": [1.0, 1.0]}
    first = found.samples[0]
    assert (first.text, first.answer, first.stop, first.num_tokens) == ("No", " Yes", StopReason.EOS, 1)
    assert isinstance(first.prompt, tuple)
    assert [message.role for message in first.prompt] == ["system", "user"]
    assert first.metadata == {"label_confidence": 0.8860552919198255}
    assert found.source.model == "azureai/Meta-Llama-3-1-405B-Instruct-jqf"
    assert found.source.version == "0.3.42.dev228+g349eca8e.d20241022"
    assert found.source.untold == {Untold.LOGPROBS, Untold.SAMPLING}
    assert codes(found) == {"limited"}


def test_a_log_with_zstandard_members_two_scorers_an_error_and_a_truncation():
    found = read(MADE / "sums.eval")
    assert by_problem(found) == {"first": [1.0, 1.0, 0.0], "last": [1.0, None, 0.0], "3": [1.0, 0.0, 0.0]}
    assert codes(found) == {"several_scores", "failed_samples"}
    last = [one for one in found.samples if one.problem == "last"]
    assert (last[0].answer, last[0].answers) == ("42", ("42.0",))
    assert last[0].stop is StopReason.LENGTH
    assert last[1].stop is StopReason.ERROR
    assert found.source.sampling is not None
    assert (found.source.sampling.temperature, found.source.sampling.max_tokens) == (0.7, 16)
    length = read(MADE / "sums.eval", score="length")
    assert codes(length) == {"several_scores", "failed_samples", "unscored_samples"}
    assert sum(one.score is None for one in length.samples) == 2  # one failed, one NaN
    with pytest.raises(SourceError) as refused:
        read(MADE / "sums.eval", score="mach")
    assert refused.value.code == "unknown_score"


def test_an_agent_keeps_its_turns_and_a_limit_truncates_it():
    found = read(MADE / "agent.eval")
    solved, stopped = found.samples
    assert (solved.score, solved.num_turns, solved.stop) == (1.0, 2, StopReason.EOS)
    assert [turn.role for turn in solved.turns] == ["assistant", "tool", "assistant"]
    assert solved.turns[0].as_turn()["tool_calls"][0]["function"] == {"name": "add", "arguments": {"a": 3, "b": 4}}
    assert solved.prompt == (Message("user", "Use the tool to add 3 and 4."),)
    assert (stopped.score, stopped.stop) == (0.0, StopReason.LENGTH)
    assert "limits_reached" in codes(found)


def test_logs_as_one_json_file():
    failed = read(PUBLIC / "data_cvebench_empty_choices.json")
    assert by_problem(failed) == {"CVE-2024-36858-one_day": [None]}
    assert failed.samples[0].stop is StopReason.ERROR
    limited = read(PUBLIC / "data_intercode_ctf_local_path.json")
    assert (limited.samples[0].score, limited.samples[0].stop) == (0.0, StopReason.LENGTH)
    choice = read(PUBLIC / "mmlu-summary-choices.eval").samples[0]
    assert (choice.answer, choice.text, choice.metadata["choices"][2]) == ("A", "ANSWER: C", "12.2 eV")


def test_of_a_folder_the_newest_log_of_each_task_and_model_is_taken():
    found = read(PUBLIC)
    popularity = [one for one in found.samples if one.behavior == "popularity" and one.policy == "openai/gpt-4o-mini"]
    assert [one.score for one in popularity] == [1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0]
    assert "older_files" in codes(found)
    assert {one.behavior for one in found.samples} >= {"cvebench", "popularity", "inspect_evals/mmlu_0_shot"}
    named = read(*sorted(PUBLIC.glob("2025*")))
    assert by_problem(named)["3"] == [None, 0.0]
    assert {one.behavior for one in read(PUBLIC, behavior="cvebench").samples} == {"cvebench"}


@pytest.mark.parametrize(
    ("value", "score"),
    [
        ("C", 1.0),
        ("I", 0.0),
        ("P", 0.5),
        ("N", 0.0),
        (True, 1.0),
        (0.25, 0.25),
        (float("nan"), None),
        ("0.5", 0.5),
        ("yes", 1.0),
        (None, None),
    ],
)
def test_values_of_scores(tmp_path: Path, value: Any, score: float | None):
    found = read(write_log(tmp_path / "log.eval", sample(scores={"match": {"value": value}})))
    assert by_problem(found) == {"1": [score]}


def test_scores_of_a_scorer_that_returns_several(tmp_path: Path):
    path = write_log(
        tmp_path / "log.eval", sample(scores={"judge": {"value": {"style": 0, "right": "C"}}, "words": {"value": "a word"}})
    )
    assert by_problem(read(path)) == {"1": [0.0]}
    assert by_problem(read(path, score="judge.right")) == {"1": [1.0]}


def test_what_ended_a_sample(tmp_path: Path):
    said = sample()["output"]["choices"][0]
    cases: dict[str, tuple[dict[str, Any], StopReason, float | None]] = {
        "person": ({"limit": {"type": "operator", "limit": 1}}, StopReason.ERROR, None),
        "tokens": ({"limit": {"type": "token", "limit": 100}}, StopReason.LENGTH, 1.0),
        "invalid": ({"invalidation": {"reason": "wrong key"}}, StopReason.ERROR, None),
        "context": ({"output": {"choices": [{**said, "stop_reason": "model_length"}]}}, StopReason.LENGTH, 1.0),
        "filtered": ({"output": {"choices": [{**said, "stop_reason": "content_filter"}]}}, StopReason.UNKNOWN, 1.0),
    }
    path = write_log(tmp_path / "log.eval", *[sample(id=name, **values) for name, (values, _, _) in cases.items()])
    found = {one.problem: (one.stop, one.score) for one in read(path).samples}
    assert found == {name: (stop, score) for name, (_, stop, score) in cases.items()}


def test_long_texts_stand_in_attachments(tmp_path: Path):
    said = {
        "role": "assistant",
        "content": [{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": "attachment://a1"}],
    }
    path = write_log(
        tmp_path / "log.eval",
        sample(output={"choices": [{"message": said, "stop_reason": "stop"}]}, attachments={"a1": "a long text"}),
    )
    assert read(path).samples[0].text == "a long text"


def test_a_run_that_did_not_finish_may_lack_the_slow_samples(tmp_path: Path):
    path = tmp_path / "log.eval"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("_journal/start.json", json.dumps({"version": 2, "eval": SPEC, "plan": {}}))
        archive.writestr("samples/1_epoch_1.json", json.dumps(sample()))
    found = read(path)
    assert by_problem(found) == {"1": [1.0]}
    assert Untold.COMPLETENESS in found.source.untold
    assert "unfinished_log" in codes(found)


@pytest.mark.parametrize(("model", "known"), [("openai/gpt", True), ("ollama/llama3.1", False), ("vllm/qwen", False)])
def test_truncation_that_a_server_chooses_is_not_known(tmp_path: Path, model: str, known: bool):
    header = {"eval": {**SPEC, "model": model}, "plan": {"config": {"temperature": 1.0}}}
    found = read(write_log(tmp_path / "log.eval", sample(), **header))
    assert (found.source.sampling is not None) == known
    assert ("truncation_untold" in codes(found)) != known
    header["plan"] = {"config": {"temperature": 1.0, "top_p": 1.0, "top_k": -1}}
    found = read(write_log(tmp_path / "log.eval", sample(), **header))
    assert found.source.sampling is not None
    assert found.source.sampling.samples_the_policy


def test_damaged_and_other_files_are_refused(tmp_path: Path):
    cut = tmp_path / "cut.eval"
    cut.write_bytes((MADE / "sums.eval").read_bytes()[:20_000])
    other = tmp_path / "other.json"
    other.write_text('{"results": {}}', encoding="utf-8")
    empty = tmp_path / "empty.eval"
    with zipfile.ZipFile(empty, "w") as archive:
        archive.writestr("a.txt", "b")
    damaged = tmp_path / "damaged.eval"
    content = bytearray((MADE / "sums.eval").read_bytes())
    content[3_000:3_400] = bytes(400)
    damaged.write_bytes(content)
    for path, code in (
        (cut, "unreadable_file"),
        (other, "not_this_format"),
        (empty, "not_this_format"),
        (damaged, "unreadable_file"),
    ):
        with pytest.raises(SourceError) as refused:
            read(path)
        assert refused.value.code == code
    method = write_log(tmp_path / "log.eval", sample(), compression=zipfile.ZIP_LZMA)
    bytes_of = bytearray(method.read_bytes())
    for place in range(len(bytes_of) - 4):
        if bytes_of[place : place + 4] == b"PK\x01\x02":
            bytes_of[place + 10 : place + 12] = (97).to_bytes(2, "little")
    method.write_bytes(bytes_of)
    with pytest.raises(SourceError) as refused:
        read_header(method)
    assert refused.value.code == "needs_inspect"
    with pytest.raises(SourceError) as refused:
        read_header(write_log(tmp_path / "later.eval", sample(), version=9))
    assert refused.value.code == "needs_inspect"


@pytest.mark.skipif(not inspect_is_installed(), reason="inspect-ai is not installed: pip install 'posttrain[inspect]'")
@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.name)
def test_inspect_ai_reads_the_same(path: Path):
    without, with_inspect = (
        {(row.get("id"), row.get("epoch")): row.values for row in read_header(path, with_inspect=found).samples()}
        for found in (False, True)
    )
    keys = ("target", "scores", "error", "limit")
    assert without.keys() == with_inspect.keys()
    for place, values in without.items():
        for key in keys:
            if key == "scores":
                assert {name: one["value"] for name, one in (values.get(key) or {}).items()} == pytest.approx(
                    {name: one["value"] for name, one in (with_inspect[place].get(key) or {}).items()}, nan_ok=True
                )
            else:
                assert bool(values.get(key)) == bool(with_inspect[place].get(key))


def test_grades_of_another_kind_are_no_scores(tmp_path: Path):
    """Of grades from A to F, C is not right and F is not wrong."""
    grades = [sample(id=i, scores={"grade": {"value": value}}) for i, value in enumerate("ABCDF")]
    with pytest.raises(SourceError) as refused:
        read(write_log(tmp_path / "log.eval", *grades))
    assert refused.value.code == "no_score"
    both = [{**one, "scores": {**one["scores"], "match": {"value": "I"}}} for one in grades]
    found = read(write_log(tmp_path / "both.eval", *both))
    assert [one.score for one in found.samples] == [0.0] * 5
    assert "values_no_scores" in codes(found)
    with pytest.raises(SourceError) as refused:
        read(tmp_path / "both.eval", score="grade")
    assert refused.value.code == "unknown_score"


def test_a_value_that_is_no_score_now_and_then_is_a_missing_one(tmp_path: Path):
    said = [sample(id=i, scores={"match": {"value": "C" if i else [1, 2]}}) for i in range(20)]
    found = read(write_log(tmp_path / "log.eval", *said))
    assert by_problem(found) == {str(i): [1.0 if i else None] for i in range(20)}


def test_one_id_with_other_inputs_in_two_logs_is_two_problems(tmp_path: Path):
    first = write_log(tmp_path / "a.eval", sample(), sample(epoch=2))
    second = write_log(tmp_path / "b.eval", sample(input="What is 5 times 5?", target="25", scores={"match": {"value": "I"}}))
    found = read(first, second)
    assert list(by_problem(found).values()) == [[1.0, 1.0], [0.0]]
    assert "ids_not_unique" in codes(found)


def test_a_list_of_the_logs_of_a_folder_is_no_log(tmp_path: Path):
    write_log(tmp_path / "a.eval", sample())
    (tmp_path / "listing.json").write_text(json.dumps({"a.eval": {"version": 2, "status": "success", "eval": SPEC}}))
    assert by_problem(read(tmp_path)) == {"1": [1.0]}


@pytest.mark.parametrize("part", ["sample", "header"])
def test_a_value_that_inspect_does_not_write_is_read_or_refused(tmp_path: Path, part: str):
    header = {"eval": SPEC, "plan": {"config": {"temperature": 1.0, "max_tokens": 5}}, "results": {"scores": [{"name": "match"}]}}
    wrong = []
    for place, value, row in odd_rows(sample() if part == "sample" else header, depth=3):
        path = write_log(
            tmp_path / "log.eval",
            {"id": 1, "epoch": 1, **row} if part == "sample" else sample(),
            **({} if part == "sample" else row),
        )
        try:
            found = read(path)
        except SourceError:
            continue
        except Exception as error:  # whatever it is, a user would see a traceback
            wrong.append((place, value, repr(error)))
            continue
        if any("None" in (one.text, one.answer, one.problem) for one in found.samples):
            wrong.append((place, value, "null is read as a text"))
    assert wrong == []
