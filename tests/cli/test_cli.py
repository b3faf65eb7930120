"""The command line, run as a user runs it: in a process of its own."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str
    error: BaseException | None = None
    """What the command line turned into a line and an exit code."""


class CommandLine:
    """Runs commands in this process: the same entry point as the console script, without paying for imports every time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *arguments: object) -> Done:
        from posttrain.cli import main

        self._monkeypatch.setattr(sys, "argv", ["posttrain", *map(str, arguments)])
        self._capsys.readouterr()
        code, error = 0, None
        try:
            main()
        except SystemExit as stop:
            code, error = int(stop.code or 0), stop.__context__
        captured = self._capsys.readouterr()
        return Done(code, captured.out, captured.err, error)

    def refuses(self, *arguments: object, code: str, names: str = "") -> None:
        """One line on stderr that names what was given, exit code 2, and a code for programs."""
        result = self(*arguments)
        assert result.returncode == 2, result.stderr
        assert result.stdout == ""
        lines = [line for line in result.stderr.splitlines() if line.startswith("posttrain: ")]
        assert len(lines) == 1, result.stderr
        assert getattr(result.error, "code", type(result.error).__name__) == code
        assert names in lines[0]


@pytest.fixture
def posttrain(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(monkeypatch, capsys)


def test_the_installed_command_and_the_module_work_in_a_process_of_their_own(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("posttrain")
    for command in ([str(script)], [sys.executable, "-m", "posttrain"]):
        shown = subprocess.run([*command, "--version"], capture_output=True, text=True, cwd=tmp_path)
        assert shown.stdout.startswith("posttrain ")
    wrong = subprocess.run(
        [str(script), "diagnose", "demo", "prodcts", "--out", "run"], capture_output=True, text=True, cwd=tmp_path
    )
    assert wrong.returncode == 2
    assert wrong.stdout == ""
    assert len(wrong.stderr.splitlines()) == 1
    assert "products" in wrong.stderr


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.yaml"
    path.write_text("success: 0.3\n")
    return path


def test_help_ends_with_examples_that_the_verb_accepts(posttrain: CommandLine) -> None:
    from typer.main import get_command

    from posttrain.cli.entry_point import VERBS, app

    top = posttrain("--help").stdout
    commands: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
    assert set(commands) == set(VERBS)
    for verb, (_, examples) in VERBS.items():
        assert re.search(rf"^  {verb} +[A-Z].*[^.]\.$", top, re.MULTILINE), f"{verb}: no whole sentence in the list of verbs"
        lines = [line.strip() for line in posttrain(verb, "--help").stdout.rstrip().splitlines()]
        assert lines[-len(examples) - 1 :] == ["Examples:", *examples]
        for example in examples:
            program, named, *arguments = shlex.split(example)
            assert (program, named) == ("posttrain", verb)
            commands[verb].make_context(verb, arguments)  # a usage error raises


def test_lists_need_nothing(posttrain: CommandLine) -> None:
    stages = posttrain("stages")
    assert stages.returncode == 0
    assert re.search(r"grpo +arXiv 2402.03300", stages.stdout)
    assert "no learning signal when every sample of a group earns the same reward" in stages.stdout
    behaviors = posttrain("behaviors")
    assert behaviors.returncode == 0
    assert "products" in behaviors.stdout
    environment = posttrain("env")
    assert environment.returncode == 0
    assert "isolation" in environment.stdout
    assert posttrain("--version").stdout.startswith("posttrain ")


@pytest.mark.slow
def test_diagnose_compare_and_report(posttrain: CommandLine, sums_file: Path, model: Path, tmp_path: Path) -> None:
    better = tmp_path / "better.yaml"
    better.write_text("success: 0.8\n")
    for source, out in ((model, "before"), (better, "after")):
        result = posttrain("diagnose", source, sums_file, "--engine", "scripted", "--samples", 24, "--out", tmp_path / out)
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith("sums: ")
        assert f"report: {tmp_path / out / 'report.html'}" in result.stdout
    result = posttrain("compare", tmp_path / "before", tmp_path / "after", "--out", tmp_path / "compared")
    assert result.returncode == 0, result.stderr
    assert "policy reshaping" in result.stdout
    compared = json.loads((tmp_path / "compared" / "compare.json").read_text())["behaviors"][0]
    delta = compared["pass_at_1"]["delta"]
    assert delta["low"] > 0
    assert delta["estimate"] == pytest.approx(0.5, abs=0.15)
    assert set(compared["support"]) == {"SRR", "NDR", "SDS", "NSCR"}
    assert all("null" in row for row in compared["support"].values())
    assert {"id", "before", "after", "state", "q_value"} <= set(compared["problems"][0])
    again = posttrain("report", tmp_path / "before", "--json")
    assert json.loads(again.stdout)["schema"] == 1


def test_dry_run_writes_nothing(posttrain: CommandLine, sums_file: Path, tmp_path: Path) -> None:
    result = posttrain("diagnose", "no-model-needed", sums_file, "--out", tmp_path / "run", "--dry-run")
    assert result.returncode == 0
    assert re.search(r"in all at most [\d,]+ samples and [\d,]+ tokens", result.stdout)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_draws_of_one_model_are_a_null_and_one_draw_is_not(
    posttrain: CommandLine, sums_file: Path, model: Path, tmp_path: Path
) -> None:
    for seed in (0, 1):
        posttrain("diagnose", model, sums_file, "--engine", "scripted", "--out", tmp_path / f"{seed}", "--seed", seed)
    result = posttrain("compare", tmp_path / "0", tmp_path / "1", "--out", tmp_path / "null")
    assert result.returncode == 0, result.stderr
    assert "not distinguishable" in result.stdout
    posttrain.refuses("compare", tmp_path / "0", tmp_path / "0", "--out", tmp_path / "same", code="same_samples", names="--seed")


@pytest.mark.slow
def test_gates_exit_by_what_is_proven(posttrain: CommandLine, sums_file: Path, model: Path, tmp_path: Path) -> None:
    better = tmp_path / "better.yaml"
    better.write_text("success: 0.8\n")
    for source, out in ((model, "before"), (better, "after")):
        posttrain("diagnose", source, sums_file, "--engine", "scripted", "--samples", 24, "--out", tmp_path / out, "--quiet")
    run = tmp_path / "before"
    met = posttrain("gate", run, "pass@16>=0.5", "sums:greedy<=0.9")
    assert (met.returncode, met.stderr) == (0, "")
    lines = met.stdout.splitlines()
    assert re.fullmatch(r"sums: pass@16 [\d.]+ \[[\d.]+, [\d.]+\] >= 0.5: met", lines[0])
    assert re.fullmatch(r"sums: greedy 0.000 \[0.000, [\d.]+\] <= 0.9: met", lines[1])
    proven = posttrain("gate", run, "pass@1>=0.7")
    assert proven.returncode == 1
    assert "proven not met" in proven.stdout
    estimate = json.loads((run / "diagnosis.json").read_text())["behaviors"][0]["checks"][0]["estimate"]
    still_open = posttrain("gate", run, f"pass@1>={estimate - 0.01:.4f}", "--json")
    assert still_open.returncode == 3
    answer = json.loads(still_open.stdout)
    assert answer["outcome"] == "inconclusive"
    assert answer["conditions"][0]["settles_with"]["problems"] > 15
    problems = answer["conditions"][0]["settles_with"]["problems"]
    assert f"{problems:,} problems" in posttrain("gate", run, f"pass@1>={estimate - 0.01:.4f}").stdout
    posttrain.refuses("gate", run, "pass@1>0.5", code="malformed_condition", names="'pass@1>0.5'")
    posttrain.refuses("gate", run, "products:pass@1>=0.5", code="unknown_behavior", names="'products:pass@1>=0.5'")
    posttrain.refuses("gate", tmp_path / "nothing", "pass@1>=0.5", code="no_run", names="diagnosis.json")
    compared = tmp_path / "compared"
    assert posttrain("compare", run, tmp_path / "after", "--out", compared).returncode == 0
    assert posttrain("gate", compared, "delta pass@1>=-0.02").returncode == 0
    assert posttrain("gate", compared, "delta pass@1<=0").returncode == 1
    posttrain.refuses(
        "compare",
        run,
        tmp_path / "after",
        "--out",
        compared,
        "--null",
        tmp_path / "after",
        code="null_of_other_model",
        names=str(tmp_path / "after"),
    )
    posttrain.refuses(
        "compare", run, tmp_path / "after", "--out", compared, "--margin", 2, code="margin_out_of_range", names="--margin"
    )


# ------------------------------------------------------------------------------------------------------------ wrong input


def test_no_such_model(posttrain: CommandLine, sums_file: Path, tmp_path: Path) -> None:
    for source in (tmp_path / "nothing", "no/such/model", "missing-owner/nothing"):
        posttrain.refuses("diagnose", source, sums_file, "--out", tmp_path / "run", code="model_not_found", names=str(source))
    assert not (tmp_path / "run").exists()


def test_a_broken_checkpoint(posttrain: CommandLine, sums_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(tiny_model, tmp_path / "broken")
    weights = tmp_path / "broken" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    posttrain.refuses(
        "diagnose",
        tmp_path / "broken",
        sums_file,
        "--out",
        tmp_path / "run",
        code="model_not_loadable",
        names=str(tmp_path / "broken"),
    )
    posttrain.refuses(
        "loop",
        tmp_path / "broken",
        sums_file,
        "--out",
        tmp_path / "loop",
        code="model_not_loadable",
        names=str(tmp_path / "broken"),
    )
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "loop").exists()


@pytest.mark.parametrize(
    ("name", "content", "code", "said"),
    [
        ("empty.jsonl", "", "empty_file", "empty"),
        ("no-answer.jsonl", '{"id": "a", "prompt": "1 + 1"}\n', "missing_key", "answer"),
        (
            "twice.jsonl",
            '{"id": "a", "prompt": "1 + 1", "answer": "2"}\n{"id": "a", "prompt": "1 + 2", "answer": "3"}\n',
            "duplicate_id",
            "a",
        ),
        ("verifier.yaml", "problems: rows.jsonl\nverifier: {kind: numbr}\n", "unknown_verifier", "number"),
        ("key.yaml", "problems: rows.jsonl\nverifier: {kind: number}\nsamplng: {}\n", "invalid_setting", "sampling"),
        (
            "setting.yaml",
            "problems: rows.jsonl\nverifier: {kind: number}\nsampling: {temprature: 1}\n",
            "invalid_setting",
            "temperature",
        ),
        (
            "overlap.yaml",
            "problems: rows.jsonl\nverifier: {kind: number}\nsplit: {train: train.jsonl}\n",
            "overlapping_splits",
            "train",
        ),
        ("nothing.yaml", "problems: not-there.jsonl\nverifier: {kind: number}\n", "no_such_file", "not-there"),
    ],
)
def test_wrong_behaviors(
    posttrain: CommandLine,
    name: str,
    content: str,
    code: str,
    said: str,
    model: Path,
    tmp_path: Path,
    write_rows: Callable[..., Path],
) -> None:
    from_rows: list[dict[str, object]] = [{"id": f"r{i}", "prompt": f"{i} + 1", "answer": str(i + 1)} for i in range(8)]
    write_rows(from_rows, "rows.jsonl")
    write_rows([{"id": "t", "prompt": " 3  + 1 ", "answer": "4"}], "train.jsonl")
    (tmp_path / name).write_text(content)
    posttrain.refuses(
        "diagnose", model, tmp_path / name, "--engine", "scripted", "--out", tmp_path / "run", code=code, names=said
    )
    assert not (tmp_path / "run").exists()


def test_wrong_settings(posttrain: CommandLine, sums_file: Path, model: Path, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    posttrain.refuses(
        "diagnose", model, sums_file, "--engine", "scripted", "--out", out, "--samples", 0, code="samples", names="--samples"
    )
    posttrain.refuses("diagnose", model, sums_file, "--engine", "vlm", "--out", out, code="unknown_engine", names="'vlm'")
    posttrain.refuses("diagnose", "demo", "prodcts", "--out", out, code="unknown_behavior", names="products")
    posttrain.refuses("diagnose", model, sums_file, "--out", out, "--nope", code="NoSuchOption", names="--nope")
    posttrain.refuses("train", "dpoo", tiny_model, sums_file, "--out", out, code="unknown_stage", names="'dpoo'")
    posttrain.refuses(
        "train",
        "sft",
        tiny_model,
        sums_file,
        "--out",
        out,
        "--set",
        "learning_rat=1",
        code="unknown_setting",
        names="learning_rate",
    )
    posttrain.refuses(
        "train",
        "sft",
        tiny_model,
        sums_file,
        "--out",
        out,
        "--set",
        "learning_rate=-1",
        code="setting_out_of_range",
        names="learning_rate=-1",
    )
    posttrain.refuses("report", tmp_path / "no-run", code="nothing_to_report", names="diagnosis.json")
    posttrain.refuses("loop", tiny_model, sums_file, "--out", out, "--rounds", 0, code="too_few_rounds", names="--rounds")
    posttrain.refuses("loop", tiny_model, sums_file, "--out", out, "--stages", "sft,grop", code="unknown_stage", names="'grop'")
    assert not out.exists()


def test_no_arguments_show_the_help(posttrain: CommandLine) -> None:
    result = posttrain()
    assert result.returncode == 2
    assert "Commands:" in result.stderr
    assert len(result.stderr.splitlines()) > 10


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("success: [", "script_unreadable"),
        ("success: {p1: often}", "script_unreadable"),
        ("chance: 0.3", "script_unreadable"),
        ("success: 0.3\nwron: 4", "script_unreadable"),
        ("success: 1.5", "script_probabilities"),
    ],
)
def test_a_script_that_cannot_be_read(posttrain: CommandLine, content: str, code: str, sums_file: Path, tmp_path: Path) -> None:
    (tmp_path / "script.yaml").write_text(content)
    posttrain.refuses(
        "diagnose",
        tmp_path / "script.yaml",
        sums_file,
        "--engine",
        "scripted",
        "--out",
        tmp_path / "run",
        code=code,
        names="scripted",
    )


def test_a_path_that_cannot_be_written(posttrain: CommandLine, sums_file: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "run"
    posttrain.refuses("diagnose", model, sums_file, "--engine", "scripted", "--out", out, code="not_writable", names=str(out))


def test_an_epsilon_above_mastery(posttrain: CommandLine, sums_file: Path, model: Path, tmp_path: Path) -> None:
    sums_file.write_text(sums_file.read_text().replace("primary_k: 4", "epsilon: 0.95"))
    posttrain.refuses(
        "diagnose", model, sums_file, "--engine", "scripted", "--out", tmp_path / "run", code="epsilon", names="measure.epsilon"
    )
    assert not (tmp_path / "run").exists()


def test_an_output_folder_of_another_run(
    posttrain: CommandLine, sums_file: Path, model: Path, tiny_model: Path, tmp_path: Path
) -> None:
    arguments = ("diagnose", model, sums_file, "--engine", "scripted", "--out", tmp_path / "run")
    assert posttrain(*arguments, "--samples", 4).returncode == 0
    posttrain.refuses(*arguments, "--samples", 5, code="other_settings", names="samples: there 4, here 5")
    posttrain.refuses(
        "train", "sft", tiny_model, sums_file, "--out", tmp_path / "run", code="out_exists", names=str(tmp_path / "run")
    )


def test_a_command_that_is_not_there_is_refused_in_one_sentence(posttrain: CommandLine) -> None:
    result = posttrain("measure", "runs/a")
    assert result.returncode == 2
    assert "'measure'; see `posttrain --help`" in result.stderr
    assert "'WHAT'; see `posttrain check --help`" in posttrain("check").stderr
