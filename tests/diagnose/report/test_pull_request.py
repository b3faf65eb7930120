"""Markdown for pull requests: outcomes in tables that nothing in a name can break."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers.checkpoint_files import checkpoints_file
from helpers.gated_runs import write_gated_run
from helpers.report_files import HOSTILE, compare_file

from posttrain.diagnose import gate
from posttrain.diagnose.report.pull_request import checkpoints_markdown, comparison_markdown, gate_markdown
from posttrain.diagnose.types import Outcome

NAMES = [HOSTILE, "@everyone closes #12", "https://evil.example ![x](y)", "`a` ``b`` |c|", "line\nbreak\r\n| x |", "​"]


def outside_code(markdown: str) -> str:
    """Return what GitHub reads as Markdown, with NAME for every code span."""
    return re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "NAME", markdown)


def rows(markdown: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in markdown.splitlines() if line.startswith("| ")]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_shown_and_never_followed(name: str, tmp_path: Path) -> None:
    folder = write_gated_run(tmp_path / "run", {name: [8] * 8 + [4, 12] * 6, "sums": [16] * 20})
    text = gate_markdown(gate(folder, ["*:pass@1>=0.5", "pass@4>=0.9"]), name)
    plain = outside_code(text)
    for word in ("http", "<", "](", "@everyone", "#12", "evil", "script"):
        assert word not in plain
    assert {len(row) for row in rows(plain)} == {5}
    assert text.count("\n**") == 0
    assert "\r" not in text


def test_outcomes_stand_in_words(tmp_path: Path) -> None:
    folder = write_gated_run(tmp_path / "run", {"sums": [8] * 8 + [4, 12] * 6})
    result = gate(folder, ["pass@1>=0.2", "pass@1>=0.9", "pass@1>=0.48"])
    assert [one.check.outcome for one in result.conditions] == [Outcome.MET, Outcome.NOT_MET, Outcome.INCONCLUSIVE]
    text = gate_markdown(result)
    assert text.startswith("**Gate: ❌ proven not met**\n")
    assert [row[-1] for row in rows(text)[2:]] == ["✅ met", "❌ proven not met", "❔ not decided"]
    assert "0.50 [" in text
    assert "- `sums` pass@1: expected to decide it" in text


def test_comparisons_are_tables_with_a_row_per_behavior_or_checkpoint() -> None:
    compared = comparison_markdown(compare_file())
    assert [row[0] for row in rows(compared)[2:]] == [f"`{entry.name}`" for entry in compare_file().behaviors]
    assert {len(row) for row in rows(outside_code(compared))} == {7}
    along = checkpoints_markdown(checkpoints_file())
    assert along.startswith("**Keep `step 200`**: pass@1 on the targets 0.58 [0.50, 0.66]")
    assert len(rows(along)) == 2 * (2 + 4)
    assert {len(row) for row in rows(outside_code(along))} == {6}
    assert "script" not in outside_code(along)
