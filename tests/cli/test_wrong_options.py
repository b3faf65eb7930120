"""Wrong options are refused before the first token: one line, exit code 2, and nothing in the run directory."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.token_counter import TokenCounter

from posttrain import diagnose
from posttrain.cli import main
from posttrain.diagnose.engines import ENGINES

CONTEXT = 100
ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
)
"""A hundred million values in nine lines."""
GOOD = "name: good\nproblems: good.jsonl\nverifier: {kind: number}\nprompt: {format: completion}\nsampling: {max_tokens: 8}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write what the options name, and open a counting engine as `scripted`."""
    rows = [{"id": f"p{i}", "prompt": f"{i} + 1 =", "answer": str(i + 1), "references": [str(i + 1)]} for i in range(8)]
    (tmp_path / "good.jsonl").write_text("".join(json.dumps(row | {"split": "eval"}) + "\n" for row in rows))
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "model.yaml").write_text("success: 0.5\n")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "deep.yaml").write_text("[" * 3_000)
    (tmp_path / "aliases.yaml").write_text(ALIASES)
    os.mkfifo(tmp_path / "pipe.yaml")

    def behavior(name: str, old: str = "", new: str = "", **row: Any) -> None:
        text = GOOD.replace("name: good", f"name: {name}").replace(old, new)
        if row:
            text = text.replace("good.jsonl", f"{name}.jsonl")
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(one | row) + "\n" for one in rows))
        (tmp_path / f"{name}.yaml").write_text(text)

    behavior("top_p", "max_tokens: 8", "max_tokens: 8, top_p: 0.9")
    behavior("long_samples", "max_tokens: 8", f"max_tokens: {CONTEXT}")
    behavior("long_prompt", prompt="9" * CONTEXT, split="eval", key="k")
    behavior("long_path", references=["so it is " * 20 + "1"], split="eval")
    behavior("judged", "kind: number", "kind: judge, url: 'http://127.0.0.1:9/v1', model: m, retries: 0")
    behavior("rewarded", "kind: number", "kind: reward_model, model: ./nowhere")
    behavior("verified", "kind: number", "kind: numbr")
    behavior("tolerant", "kind: number", "kind: number, tolerance: -1")
    behavior("patterned", "kind: number", "kind: regex, pattern: '('")
    behavior("stopped", "max_tokens: 8", "max_tokens: 8, stop: ['']")
    behavior("unmeasured", split="train")
    behavior("easy", "sampling:", "measure: {epsilon: 0.95}\nsampling:")
    behavior("templated", "format: completion", "format: completion, template: 'no question'")
    (tmp_path / "rows.jsonl").write_text('{"nothing": 1}\n')
    monkeypatch.setitem(ENGINES, "scripted", lambda _, model, behaviors: _open(model, behaviors))
    monkeypatch.chdir(tmp_path)
    TokenCounter.tokens = 0
    return tmp_path


def _open(model: str, behaviors: Any) -> TokenCounter:
    TokenCounter.open(model, behaviors)  # refuses a model that is not there
    return TokenCounter.with_context(behaviors, CONTEXT)


Refuses = Callable[[str, str], None]


@pytest.fixture
def refuses(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refuses:
    """Run a command in this process; expect one line, exit code 2 and an error with a code."""

    def run(command: str, code: str) -> None:
        monkeypatch.setattr(sys, "argv", ["posttrain", *command.split()])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        said = capsys.readouterr()
        assert stop.value.code == 2, said.err
        assert len([line for line in said.err.splitlines() if line.startswith("posttrain: ")]) == 1
        error = stop.value.__context__
        assert getattr(error, "code", type(error).__name__) == code, error

    return run


MODEL = "diagnose model.yaml good.yaml --engine scripted --out out"
WRONG = {
    "--before nowhere": "no_run",
    "--before empty": "no_run",
    "--before out": "before_is_out",
    "--before interrupted": "before_unreadable",
    "--before nested": "before_unreadable",
    "--before renamed": "before_unreadable",
    "--before other_names": "before_without_behavior",
    "--before other_problems": "before_other_behavior",
    "--data nowhere.jsonl": "no_such_file",
    "--data rows.jsonl": "unknown_columns",
    "--data file": "unsupported_file",
    "--teacher nowhere.yaml": "model_not_found",
    "--earlier nowhere.yaml": "model_not_found",
    "--out file/run": "not_writable",
    "--out file": "other_files",
    "--before loop": "no_run",
    "--samples 0": "samples",
    "--samples 99999999999999999999": "samples",
    "--max-tokens-total 99999999999999999999": "max_tokens_total",
    "--precision 0.7": "precision",
    "--max-tokens-total 0": "max_tokens_total",
    "--samples 4 --precision 0.1": "samples_and_rounds",
    "--precision 1e-300": "precision",
    "--max-tokens-total 3": "budget_too_small",
    "--probes prefixladder": "unknown_probe",
    "--probes none,decoding": "none_with_probes",
    "--probes ,": "empty_name",
    "--probes decoding,,drift": "empty_name",
    "--probes decoding,decoding": "probe_twice",
    "--temperature 1e-300": "behavior_option",
    "--split-eval 2": "behavior_option",
    "--split-eval some": "behavior_option",
    "--map prompt": "behavior_option",
    "--map prompt=a prompt=b": "behavior_option",
    "--map prompt=nothing": "unknown_column",
    "--temperature 1e300": "behavior_option",
    "--dry-run --out file": "other_files",
    "--dry-run --before nowhere": "no_run",
    "--split final": "settings",
    "--engine scriptd": "unknown_engine",
    "--engine scripted:x": "engine_address",
    "--engine openai:ftp://x": "engine_address",
    "--workers 0": "too_few_workers",
    "--workers 1000000": "too_many_workers",
    "--engine openai:http://a\x01b/v1": "engine_address",
    "--out \udc80": "broken_text",
    "--seed -1": "negative_seed",
    "--seed 99999999999999999999": "seed_too_large",
    "deep.yaml": "invalid_yaml",
    "aliases.yaml": "invalid_yaml",
    "good.yaml": "duplicate_name",
    "nowhere.yaml": "no_such_file",
    "top_p.yaml": "truncation_unsupported",
    "long_samples.yaml": "max_tokens_too_large",
    "long_prompt.yaml": "prompt_too_long",
    "long_path.yaml": "path_too_long",
    "judged.yaml": "judge_unreachable",
    "rewarded.yaml": "model_not_found",
    "verified.yaml": "unknown_verifier",
    "tolerant.yaml": "invalid_setting",
    "patterned.yaml": "invalid_setting",
    "stopped.yaml": "invalid_setting",
    "unmeasured.yaml": "empty_eval_split",
    "easy.yaml": "epsilon",
    "templated.yaml": "invalid_setting",
}


def _write_earlier_runs(folder: Path) -> None:
    """Write run directories that are no earlier run of `good`."""
    for name, settings in (
        ("interrupted", {}),
        ("other_names", {"other": "f"}),
        ("other_problems", {"good": "another"}),
        ("nested", {"good": "f"}),
        ("renamed", {"good": "f"}),
    ):
        (folder / name).mkdir()
        shared = {"behaviors": settings, "seed": 0, "split": "eval", "thresholds": {}}
        record = {"created": "", "command": "", "model": {"source": "m"}, "versions": {}, "sources": dict.fromkeys(settings, "s")}
        (folder / name / "run.json").write_text(
            json.dumps({"schema": 1, "kind": "diagnose", "settings": shared, "state": "done", **record})
        )
        if settings:
            entries = [{"name": each, "bottleneck": "mastered", "confidence": 1} for each in settings]
            (folder / name / "diagnosis.json").write_text(json.dumps({"schema": 1, "behaviors": entries}))
    (folder / "nested" / "diagnosis.json").write_text("[" * 100_000)
    (folder / "renamed" / "diagnosis.json").write_text('{"schema": 1, "behaviors": [{"name": "good"}]}')


@pytest.mark.parametrize(("option", "code"), WRONG.items())
def test_a_wrong_option_of_diagnose_costs_no_token(folder: Path, refuses: Refuses, option: str, code: str) -> None:
    _write_earlier_runs(folder)
    refuses(f"{MODEL} {option}", code)
    assert TokenCounter.tokens == 0
    assert not (folder / "out").exists()


def test_samples_outlive_a_wrong_option(folder: Path, refuses: Refuses) -> None:
    arguments: dict[str, Any] = {"engine": "scripted", "samples": 4, "probes": ["none"], "out": folder / "out"}
    diagnose.run("model.yaml", ["good.yaml"], **arguments)
    spent, record = TokenCounter.tokens, (folder / "out" / "run.json").read_bytes()
    assert spent > 0
    refuses(f"{MODEL} --samples 4 --probes none --before nowhere", "other_settings")
    refuses(f"{MODEL} --samples 4 --probes none --teacher nowhere.yaml", "other_settings")
    assert (folder / "out" / "run.json").read_bytes() == record
    diagnose.run("model.yaml", ["good.yaml"], **arguments)
    assert TokenCounter.tokens == spent


@pytest.mark.parametrize(
    ("command", "code"),
    {
        "gate empty pass@4>=0.5": "no_run",
        "gate nowhere pass@4>=0.5": "no_run",
        "gate empty pass@4=0.5": "malformed_condition",
        "gate empty pass@4>=5": "threshold_out_of_range",
        "gate empty pass@0>=0.5": "malformed_condition",
        "gate empty pass@99999999999999999999>=0.5": "malformed_condition",
        "stages --json --markdown": "two_formats",
        "export nowhere --to trl-sft --out a.jsonl": "no_run",
        "export empty --to trl-sfd --out a.jsonl": "unknown_format",
        "export empty --to trl-sft --out a.jsonl --stage grpo": "stage_of_data",
        "export empty --to trl-config --out new": "no_run",
        "export empty --to trl-sft --out a.jsonl --rates 0.2": "malformed_rates",
        "export empty --to trl-sft --out a.jsonl --split test": "unknown_split",
        "gate empty pass@4>=0.5 --json --markdown -": "two_formats",
        "gate empty pass@4>=0.5 --markdown empty": "no_file_name",
        "gate empty pass@4>=0.5 --markdown file/table.md": "not_writable",
        "compare empty empty --out out --json --markdown -": "two_formats",
        "compare empty empty --out file/run": "not_writable",
        "compare empty empty --out out --margin nan": "margin_out_of_range",
        "compare nowhere empty --out out": "no_run",
        "compare empty --out out": "number_of_runs",
        "compare empty empty empty --out out": "no_run",
        "compare empty empty empty --out out --null empty": "null_of_several",
        "compare empty empty empty --out out --label a --label b": "number_of_labels",
        "compare empty empty --out out --label a --label b": "label_of_two",
        "compare empty empty --out out": "no_run",
    }.items(),
)
def test_a_wrong_condition_or_run_is_one_line(folder: Path, refuses: Refuses, command: str, code: str) -> None:
    refuses(command, code)
    assert not (folder / "out").exists()


TRAINED = {
    "train grop {model} {rows} --out out": "unknown_stage",
    "train sft {model} {rows} --out out --set learning_rat=1": "unknown_setting",
    "train sft {model} {rows} --out out --set seed=-1": "setting_out_of_range",
    "train sft {model} {rows} --out out --set seed=99999999999999999999": "setting_out_of_range",
    "train sft {model} {rows} --out out --set num_steps=99999999999999999999": "setting_out_of_range",
    "train sft {model} {rows} --out out --set lora_rank=99999999": "setting_out_of_range",
    "train sft {model} {rows} --out out --set learning_rate=1e300": "setting_out_of_range",
    "train rft {model} {rows} --out out --set temperature=1e-300": "setting_out_of_range",
    "train sft {model} {rows} --out out --config pipe.yaml": "config_unreadable",
    "train sft {model} {rows} --out out --config deep.yaml": "config_unreadable",
    "train sft {model} {rows} --out out --config aliases.yaml": "config_unreadable",
    "train sft {model} {rows} --out out --set target=0.5": "missing_eval_every",
    "train reward_model {model} {rows} --out out --set eval_every=1": "nothing_to_evaluate",
    "train sft {model} {rows} --out file/out": "not_writable",
    "train sft {model} {rows} --out out --data nowhere.jsonl": "no_such_file",
    "train sft {model} {rows} --out out --from nowhere": "no_run",
    "train sft {model} {rows} --out out --from nowhere --data nowhere.jsonl": "two_origins_of_rows",
    "train opd {model} {rows} --out out --teacher ./nowhere": "model_not_found",
    "train opd {model} {rows} --out out": "missing_input",
    "train grpo {model} {rows} --out out --engine scripted": "engine_not_trainable",
    "train grpo {model} judged_train.yaml --out out": "judge_unreachable",
    "train grpo {model} long_train.yaml --out out": "max_tokens_too_large",
    "train sft {model} {rows} --out out --retain {rows}": "retained_is_trained",
    "train sft {model} {rows} --out out --retain kept.yaml renamed_sums.yaml": "retained_is_trained",
    "train sft {model} {rows} --out out --retain good.yaml": "retained_without_train_problems",
    "train sft {model} {rows} --out out --retain no_behavior": "unknown_behavior",
    "train sft {model} {rows} --out out --retain none {rows}": "none_among_names",
    "train reward_model {model} {rows} --out out --retain kept.yaml": "stage_cannot_retain",
    "train merge {model} {rows} --out out --earlier {model} --retain kept.yaml": "stage_cannot_retain",
    "train sft {model} {rows} --out out --retain judged_kept.yaml": "judge_unreachable",
    "train sft {model} {rows} --out out --retain kept.yaml --set retain_share=1": "setting_out_of_range",
    "train sft {model} {rows} --out out --data asked.jsonl --retain kept.yaml": "measured_problem",
    "loop {model} {rows} --out out --retain {rows}": "retained_is_trained",
    "loop {model} {rows} --out out --retain good.yaml": "retained_without_train_problems",
    "loop {model} {rows} --out out --retain kept.yaml none": "none_among_names",
    "loop {model} {rows} --out out --rounds 0": "too_few_rounds",
    "loop {model} {rows} --out out --rounds 99999999": "too_many_rounds",
    "loop {model} {rows} --out out --stages ,": "empty_name",
    "loop {model} {rows} --out out --stages sft,": "empty_name",
    "loop {model} {rows} --out out --max-tokens-total 3": "budget_too_small",
    "loop {model} {rows} --out out --stages grop": "unknown_stage",
    "loop {model} {rows} --out out --stages sft --set learning_rat=1": "unknown_setting",
    "loop {model} {rows} --out out --stages sft --set target=0.5": "missing_eval_every",
    "loop {model} {rows} --out out --set target=0.5": "missing_eval_every",
    "loop {model} {rows} --out out --config file": "config_without_stages",
    "loop {model} {rows} --out out --probes prefixladder": "unknown_probe",
    "loop {model} {rows} --out out --seed -1": "setting_out_of_range",
    "loop {model} {rows} --out file/out": "not_writable",
    "loop {model} good.yaml --out out": "no_train_problems",
    "loop {model} good.yaml --out out --stages grpo": "missing_input",
    "loop ./nowhere {rows} --out out": "model_not_found",
}


@pytest.mark.parametrize(("command", "code"), TRAINED.items())
def test_a_wrong_option_of_train_and_loop_is_refused_before_anything_is_sampled(
    folder: Path, refuses: Refuses, tiny_model: Path, sums_file: Path, command: str, code: str
) -> None:
    judged = sums_file.read_text().replace("kind: number", "kind: judge, url: 'http://127.0.0.1:9/v1', model: m, retries: 0")
    (folder / "judged_train.yaml").write_text(judged)
    (folder / "renamed_sums.yaml").write_text(f"name: renamed\n{sums_file.read_text()}")
    kept = [{"id": f"k{i}", "prompt": f"kept {i}", "answer": str(i), "split": "eval" if i < 4 else "train"} for i in range(8)]
    (folder / "kept.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    (folder / "kept.yaml").write_text(GOOD.replace("good", "kept"))
    (folder / "judged_kept.yaml").write_text(
        judged.replace("rows.jsonl", "kept.jsonl").replace("split: {train: 0.5, final: 0.2}", "")
    )
    (folder / "asked.jsonl").write_text(json.dumps({"prompt": "kept 0", "completion": "0"}) + "\n")
    (folder / "long_train.yaml").write_text(sums_file.read_text().replace("max_tokens: 20", "max_tokens: 512"))
    refuses(command.format(model=tiny_model, rows=sums_file), code)
    assert not (folder / "out").exists()
    assert not (folder / ".out.work").exists()
