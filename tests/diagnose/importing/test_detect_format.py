"""Which tool wrote a file, told without its name."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from helpers.evaluation_logs import EVALUATIONS
from helpers.rollout_files import ROLLOUTS, write_rows

from posttrain.diagnose.errors import SourceError
from posttrain.diagnose.importing.detect_format import detect_format
from posttrain.diagnose.importing.formats import FORMATS
from posttrain.diagnose.pipeline.read_and_import import read_samples

KNOWN = {
    "lm-eval": EVALUATIONS / "lm_eval",
    "inspect": EVALUATIONS / "inspect",
    "every-eval-ever": EVALUATIONS / "every_eval_ever" / "converted",
    "openai-evals": EVALUATIONS / "openai_evals",
    "lighteval": EVALUATIONS / "lighteval",
    "verifiers": ROLLOUTS / "verifiers_traces",
    "prime-rl": ROLLOUTS / "prime_rl",
    "nemo-gym": ROLLOUTS / "nemo_gym",
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_folder_is_told_by_its_files(name: str):
    assert detect_format([KNOWN[name]]) == name
    assert name in FORMATS


def test_files_that_are_named_by_another_name(tmp_path: Path):
    log = next((EVALUATIONS / "lm_eval" / "own__scripted").glob("samples_options*"))
    (tmp_path / "log.jsonl.gz").write_bytes(gzip.compress(log.read_bytes()))
    assert detect_format([tmp_path / "log.jsonl.gz"]) == "lm-eval"
    counts = write_rows(tmp_path / "a.jsonl", [{"id": 1, "c": 1, "n": 2}])
    table = write_rows(tmp_path / "b.jsonl", [{"question": "1", "correct": True}])
    assert [detect_format([path]) for path in (counts, table)] == ["counts", "table"]
    with pytest.raises(SourceError) as refused:
        detect_format([counts, tmp_path / "log.jsonl.gz"])
    assert refused.value.code == "several_formats"
    (tmp_path / "note.txt").write_text("nothing", encoding="utf-8")
    with pytest.raises(SourceError) as refused:
        detect_format([tmp_path / "note.txt"])
    assert refused.value.code == "unknown_format"
    with pytest.raises(SourceError) as refused:
        detect_format([tmp_path / "not there"])
    assert refused.value.code == "no_such_file"


def test_auto_reads_what_it_finds_and_another_format_is_named():
    assert read_samples("auto", KNOWN["openai-evals"]).source.format == "openai-evals"
    for given, name in (("lm-eval", "openai-evals"), ("verifiers", "inspect"), ("lighteval", "lm-eval"), ("inspect", "lm-eval")):
        with pytest.raises(SourceError, match=f"posttrain import {name}"):
            read_samples(given, KNOWN[name])


def test_files_given_one_by_one_to_another_format_are_told_too():
    record, log = KNOWN["openai-evals"] / "record.jsonl", KNOWN["inspect"] / "made" / "sums.eval"
    for given, path, name in (("counts", record, "openai-evals"), ("counts", log, "inspect"), ("lm-eval", log, "inspect")):
        with pytest.raises(SourceError, match=f"use posttrain import {name}$"):
            read_samples(given, path)


@pytest.mark.parametrize(
    ("given", "path"),
    [("verifiers", "areal/rollout/0/0.jsonl"), ("prime-rl", "areal/rollout/0/0.jsonl"), ("verl", "nemo_rl/val_data_step2.jsonl")],
)
def test_rows_with_the_columns_of_another_tool_are_refused(given: str, path: str):
    with pytest.raises(SourceError, match=f"posttrain import {detect_format([ROLLOUTS / path])}") as refused:
        read_samples(given, ROLLOUTS / path)
    assert refused.value.code == "not_this_format"
    assert str(refused.value).count("posttrain import") == 1


def test_rows_that_two_tools_share_are_read_as_either():
    path = ROLLOUTS / "prime_rl_old" / "step_0" / "train_rollouts.jsonl"
    assert len(read_samples("verifiers", path).samples) == len(read_samples("prime-rl", path).samples) > 0


@pytest.mark.parametrize("given", ["inspect", "lm-eval", "verl", "trl"])
def test_a_table_that_is_given_as_another_format_is_sent_to_table(given: str, tmp_path: Path):
    (tmp_path / "s.csv").write_text("id,correct\na,1\n", encoding="utf-8")
    with pytest.raises(SourceError, match="posttrain import table"):
        read_samples(given, tmp_path / "s.csv")


@pytest.mark.parametrize("given", ["table", "prime-rl", "inspect"])
def test_a_folder_without_files_of_the_format_is_told_by_what_it_holds(given: str, tmp_path: Path):
    for name in ("a.md", "b.md", "c.txt", "d.toml", "e.rst.gz"):
        (tmp_path / name).write_text("nothing", encoding="utf-8")
    with pytest.raises(SourceError, match=r"2 \.md files, .* and others") as refused:
        read_samples(given, tmp_path)
    assert refused.value.code == "no_source_files"
    assert "*" not in str(refused.value)
