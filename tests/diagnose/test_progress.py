"""Progress where stderr is no terminal: lines now and then, and none with `quiet`."""

from __future__ import annotations

import pytest

from posttrain.diagnose.progress import Reporter


def test_a_long_task_says_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter(line_every=0.0).task("sampling sums", 40) as task:
        task.advance(10)
        task.tokens(500)
        task.advance(30)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("sampling sums: 10 of 40 (25%), ")
    assert "10 of 40 (25%), 500 tokens" in lines[1]
    assert "40 of 40 (100%), 500 tokens" in lines[2]


def test_a_task_of_unknown_length_counts_what_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter(line_every=0.0).task("training grpo", None) as task:
        task.note("loss 0.5")
        task.expect(8)
        task.advance()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("training grpo: loss 0.5, ")
    assert lines[1].startswith("training grpo: 1 of 8 (12%), loss 0.5, ")


@pytest.mark.parametrize("reporter", [Reporter(), Reporter(quiet=True, line_every=0.0)], ids=["soon", "quiet"])
def test_nothing_is_said_of_short_tasks_or_quietly(reporter: Reporter, capsys: pytest.CaptureFixture[str]) -> None:
    with reporter.task("sampling sums", 40) as task:
        for _ in range(40):
            task.advance()
            task.tokens(9)
    assert capsys.readouterr().err == ""
