"""Files of rows as they come: compressed, cut off, written twice."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from helpers.evaluation_logs import EVALUATIONS, codes
from helpers.rollout_files import ROLLOUTS, by_problem, read_rollouts, write_rows

from posttrain.diagnose.errors import SourceError
from posttrain.diagnose.importing.detect_format import detect_format
from posttrain.diagnose.importing.source_rows import RowReader

LM_EVAL = EVALUATIONS / "lm_eval" / "own__scripted"
TOLD_APART = {
    "verifiers": ROLLOUTS / "verifiers_traces" / "traces.jsonl",
    "verifiers before 1": ROLLOUTS / "verifiers_v0" / "results.jsonl",
    "prime-rl": ROLLOUTS / "prime_rl" / "rollouts" / "step_2" / "train" / "all" / "traces.jsonl",
    "nemo-gym": ROLLOUTS / "nemo_gym" / "blackjack_rollouts.jsonl",
    "nemo-gym of before": ROLLOUTS / "nemo_gym" / "mcqa_rollouts.jsonl",
    "nemo-rl": ROLLOUTS / "nemo_rl" / "val_data_step2.jsonl",
    "open-instruct": ROLLOUTS / "open_instruct" / "run_rollouts_000000.jsonl",
    "tinker": ROLLOUTS / "tinker" / "iteration_000001" / "train_rollout_summaries.jsonl",
    "areal": ROLLOUTS / "areal" / "eval-rollout" / "0" / "1.jsonl",
    "every-eval-ever": EVALUATIONS / "every_eval_ever" / "converted" / "lm_eval_samples.jsonl",
    "openai-evals": EVALUATIONS / "openai_evals" / "record.jsonl",
    "lm-eval": next(LM_EVAL.glob("samples_last_word_*")),
}
"""Format → a file whose rows tell each sample from all others."""


@pytest.mark.parametrize("name", TOLD_APART)
def test_rows_that_stand_in_a_file_twice_count_once(tmp_path: Path, name: str):
    format, whole = name.partition(" ")[0], TOLD_APART[name].read_text(encoding="utf-8")
    once, twice = (tmp_path / place / "step_2" / TOLD_APART[name].name for place in ("once", "twice"))
    for path, text in ((once, whole), (twice, whole + whole)):
        path.parent.mkdir(parents=True)
        path.write_text(text, encoding="utf-8")
    expected, found = (read_rollouts(format, path, accept_biased=True) for path in (once, twice))
    assert by_problem(found) == by_problem(expected)
    assert codes(found) - codes(expected) == {"repeated_rows"}


def test_equal_rows_that_nothing_tells_apart_are_samples_that_came_out_alike(tmp_path: Path):
    rows = [{"step": 1, "input": "2+2?", "output": "4", "gts": "4", "score": 1.0}] * 2
    assert len(read_rollouts("verl", write_rows(tmp_path / "1.jsonl", rows)).samples) == 2
    result = {"example_id": 0, "prompt": "2+2?", "completion": "4", "reward": 1.0, "timing": {"generation_ms": 0.0}}
    assert len(read_rollouts("verifiers", write_rows(tmp_path / "results.jsonl", [result] * 2)).samples) == 2


def test_equal_numbers_of_two_runs_are_two_samples(tmp_path: Path):
    summaries = TOLD_APART["tinker"].read_text(encoding="utf-8")
    for run in ("a", "b"):
        path = tmp_path / run / "iteration_000001" / TOLD_APART["tinker"].name
        path.parent.mkdir(parents=True)
        path.write_text(summaries, encoding="utf-8")
    both = read_rollouts("tinker", tmp_path)
    assert len(both.samples) == 2 * len(read_rollouts("tinker", tmp_path / "a").samples)
    assert "repeated_rows" not in codes(both)


def lines(number: int) -> bytes:
    """Return rows whose compressed form is about as long as they are."""
    rng = random.Random(0)
    return b"".join(json.dumps({"id": i, "noise": rng.randbytes(50).hex()}).encode() + b"\n" for i in range(number))


PACKERS: dict[str, Any] = {
    ".gz": gzip.compress,
    ".zst": lambda content: pa.compress(content, codec="zstd", asbytes=True),
}


@pytest.mark.parametrize("end", PACKERS)
def test_a_compressed_file_is_read_whatever_its_name_says(tmp_path: Path, end: str):
    for name in (f"rows.jsonl{end}", "rows.jsonl"):
        path = tmp_path / name
        path.write_bytes(PACKERS[end](lines(3)))
        reader = RowReader()
        assert [row.get("id") for row in reader.json_lines(path)] == [0, 1, 2]
        assert reader.notes == []


@pytest.mark.parametrize("end", PACKERS)
def test_a_compressed_file_that_was_cut_off_is_read_to_its_last_whole_line(tmp_path: Path, end: str):
    path = tmp_path / f"rows.jsonl{end}"
    packed = PACKERS[end](lines(20_000))
    path.write_bytes(packed[: len(packed) // 2])
    reader = RowReader()
    ids = [row.get("id") for row in reader.json_lines(path)]
    assert 0 < len(ids) < 20_000
    assert ids == list(range(len(ids)))
    assert [note.code for note in reader.notes] == ["torn_file"]


@pytest.mark.parametrize("end", PACKERS)
def test_a_compressed_file_without_a_whole_line_or_with_other_bytes_is_refused(tmp_path: Path, end: str):
    packed = bytearray(PACKERS[end](lines(20_000)))
    path = tmp_path / f"rows.jsonl{end}"
    path.write_bytes(packed[:12])
    with pytest.raises(SourceError) as refused:
        list(RowReader().json_lines(path))
    assert refused.value.code == "unreadable_file"
    middle = len(packed) // 2
    packed[middle : middle + 2000] = bytes(2000)
    path.write_bytes(packed)
    with pytest.raises(SourceError):
        list(RowReader().json_lines(path))


def test_a_sample_of_inspect_that_stands_in_two_logs_counts_once(tmp_path: Path):
    log = EVALUATIONS / "inspect" / "made" / "sums.eval"
    again = tmp_path / "again.eval"
    again.write_bytes(log.read_bytes())
    found = read_rollouts("inspect", log, again)
    assert by_problem(found) == by_problem(read_rollouts("inspect", log))
    assert "repeated_rows" in codes(found)


def test_a_table_may_be_compressed_with_zstandard(tmp_path: Path):
    content = b'{"qid": 1, "output": "a", "correct": true}\n{"qid": 1, "output": "b", "correct": false}\n'
    path = tmp_path / "mine.jsonl.zst"
    path.write_bytes(PACKERS[".zst"](content))
    for given in (path, tmp_path):
        found = read_rollouts("table", given)
        assert by_problem(found) == {"1": [1.0, 0.0]}
        assert {sample.behavior for sample in found.samples} == {"mine"}
    assert detect_format([tmp_path]) == "table"
    with pytest.raises(SourceError) as refused:
        read_rollouts("table", path.rename(tmp_path / "mine.csv.zst"))
    assert refused.value.code == "unsupported_file"
