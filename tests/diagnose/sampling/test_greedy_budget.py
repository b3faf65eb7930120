"""A limit of tokens holds for the greedy samples too: they are refused where they would exceed it, at the latest after the first eight."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.refusals import refused
from helpers.token_counter import TokenCounter

from posttrain import diagnose
from posttrain.diagnose.errors import SettingsError
from posttrain.diagnose.pipeline.request import DiagnoseRequest

NUM_PROBLEMS, MAX_TOKENS = 60, 20
AT_FIRST = 8 * MAX_TOKENS + NUM_PROBLEMS - 8
"""Tokens that the first eight samples may take, with one for each other."""


@pytest.fixture
def behavior(tmp_path: Path) -> Path:
    """Write a behavior whose answers have ten tokens and an end."""
    rows = [
        {"id": f"p{i}", "prompt": f"repeat {i} =", "answer": f"{10**9 + i}", "references": [f"{10**9 + i}"], "split": "eval"}
        for i in range(NUM_PROBLEMS)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "digits.yaml"
    path.write_text(
        f"problems: rows.jsonl\nverifier: {{kind: number}}\nprompt: {{format: completion}}\nsampling: {{max_tokens: {MAX_TOKENS}}}\n"
    )
    return path


@pytest.mark.parametrize("budget", [1, 3, AT_FIRST - 1])
def test_a_limit_below_the_first_samples_is_refused_without_a_model(behavior: Path, budget: int) -> None:
    with refused(SettingsError, "budget_too_small"):
        DiagnoseRequest(model="nowhere", behaviors=[behavior], out="out", max_tokens_total=budget)
    DiagnoseRequest(model="nowhere", behaviors=[behavior], out="out", max_tokens_total=AT_FIRST)


@pytest.mark.parametrize("pilot", [True, False])
def test_greedy_samples_that_would_exceed_a_limit_end_after_the_first_eight(behavior: Path, tmp_path: Path, pilot: bool) -> None:
    engine = TokenCounter.with_context(diagnose.load_behaviors([behavior]))
    TokenCounter.tokens = 0
    with refused(SettingsError, "budget_too_small"):
        diagnose.run("m", [behavior], out=tmp_path / "run", engine=engine, max_tokens_total=400, probes=["none"], pilot=pilot)
    assert 0 < TokenCounter.tokens <= 8 * MAX_TOKENS


@pytest.mark.parametrize("pilot", [True, False])
def test_looking_for_max_tokens_is_held_to_the_limit_too(behavior: Path, tmp_path: Path, pilot: bool) -> None:
    behavior.write_text(behavior.read_text().replace(f"max_tokens: {MAX_TOKENS}", "max_tokens: auto"))
    engine = TokenCounter.with_context(diagnose.load_behaviors([behavior]))
    TokenCounter.tokens = 0
    with refused(SettingsError, "budget_too_small"):
        diagnose.run("m", [behavior], out=tmp_path / "run", engine=engine, max_tokens_total=100, probes=["none"], pilot=pilot)
    assert TokenCounter.tokens <= 100


def test_a_limit_that_holds_them_is_kept(behavior: Path, tmp_path: Path) -> None:
    engine = TokenCounter.with_context(diagnose.load_behaviors([behavior]))
    TokenCounter.tokens = 0
    run = diagnose.run("m", [behavior], out=tmp_path / "run", engine=engine, max_tokens_total=900, probes=["none"], pilot=False)
    assert TokenCounter.tokens <= 900
    assert run.diagnoses[0].problems[0].num_samples > 0
