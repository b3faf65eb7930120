"""The availability probe on scripted models whose truth is planted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.probes import note_codes, planted_context, restarted, with_counts, with_measured

from posttrain.diagnose.engines.base import Engine, TokenScores
from posttrain.diagnose.engines.scripted import ScriptedEngine
from posttrain.diagnose.probes.availability import Availability, AvailabilityOutcome
from posttrain.diagnose.probes.availability.scoring import with_answer
from posttrain.diagnose.probes.availability.steps import bind, removed_by
from posttrain.diagnose.probes.base import AvailableInputs, ProbeContext
from posttrain.diagnose.probes.finding_json import finding_from_json, finding_to_json
from posttrain.diagnose.types import Finding, Reference, SkipReason, Split

Row = dict[str, Any]
Scripts = dict[str, list[tuple[str, float]]]
MakeContext = Callable[..., ProbeContext]


def word(i: int) -> str:
    """Return a word of four letters for each number."""
    return "".join("abcdefghijklmnop"[i // base % 16] for base in (1, 16)) * 2


def rows_in_steps(num: int = 12) -> list[Row]:
    """Problems with three steps, in which no number stands before the answer."""
    return [
        {
            "id": f"p{i}",
            "prompt": f"question {word(i)}:",
            "answer": str(100 + i),
            "references": [{"steps": [f" Take {word(i)}.\n", f"Turn {word(i)}.\n", f"So it is {100 + i}."], "joiner": ""}],
            "split": "eval",
        }
        for i in range(num)
    ]


def whole(row: Row) -> str:
    return "".join(row["references"][0]["steps"])


def scripts_of(rows: Sequence[Row], local: Sequence[float]) -> Scripts:
    """Each step is taken with this probability, else the answer is wrong."""
    scripts = {}
    for row in rows:
        reach, answers, text = 1.0, [], ""
        for step, p in zip(row["references"][0]["steps"], local, strict=True):
            answers.append((f"{text} No, it is 7.", reach * (1 - p)))
            reach *= p
            text += step
        scripts[row["prompt"]] = [*answers, (text, reach)]
    return scripts


@pytest.fixture
def make_context(tmp_path: Path) -> Iterator[MakeContext]:
    """Measure rows with an engine, and give the context of a probe."""
    with ExitStack() as stack:

        def make(rows: Sequence[Row], engine: Engine, **more: Any) -> ProbeContext:
            return stack.enter_context(planted_context(tmp_path, rows, engine, "availability", **more))

        yield make


def classes(found: Finding) -> list[tuple[str, int]]:
    return [(one["availability"]["class"], one["availability"]["step"]) for one in found.problems.values()]


def test_a_suppressed_second_step_binds(make_context: MakeContext) -> None:
    rows = rows_in_steps()
    context = make_context(rows, ScriptedEngine(scripts_of(rows, (0.5, 0.004, 1.0))))
    assert Availability().worth(context) is None
    found = Availability().run(context)
    assert classes(found) == [("step", 2)] * 12
    one = found.problems["p0"]["availability"]
    assert one["tries_of_step_alone"] == pytest.approx(250, rel=0.01)
    assert one["tries_to_pass_step"] == pytest.approx(500, rel=0.01)
    assert found.outcome is AvailabilityOutcome.STEP
    share = found.numbers["reference paths: step"]
    assert share.estimate == 1
    assert share.low > 0.7
    second = [row for row in found.rows if row["path"] == "reference" and row["step"] == 2]
    assert all(row["binds"] and row["removed_by"] == "top-p .95, top-p .9, min-p .05" for row in second)
    assert all(row["log_reach"] == pytest.approx(np.log(0.5), abs=1e-3) and row["worst_rank"] == 1 for row in second)
    assert found.numbers["reference paths that top-p .9 removes"].estimate == 1
    assert found.numbers["reference paths that top-k 20 removes"].estimate == 0
    assert not found.evidence
    assert context.sampler.scored_tokens > 0
    assert context.sampler.generated_tokens == 0
    assert Availability().run(context) == found
    assert finding_from_json(json.loads(json.dumps(finding_to_json(found)))) == found


def test_known_steps_in_too_rare_a_chain(make_context: MakeContext) -> None:
    rows = rows_in_steps()
    found = Availability().run(make_context(rows, ScriptedEngine(scripts_of(rows, (0.02, 0.3, 0.9)))))
    assert classes(found) == [("chain", 1)] * 12
    assert found.outcome is AvailabilityOutcome.CHAIN
    assert found.problems["p0"]["availability"]["tries_of_path"] == pytest.approx(1 / (0.02 * 0.3 * 0.9), rel=0.01)


def test_the_first_step_and_no_step(make_context: MakeContext) -> None:
    rows = rows_in_steps()
    first = Availability().run(make_context(rows, ScriptedEngine(scripts_of(rows, (0.001, 0.9, 0.9)))))
    assert classes(first) == [("first_step", 1)] * 12
    assert first.outcome is AvailabilityOutcome.FIRST_STEP
    reachable = Availability().run(make_context(rows, ScriptedEngine(scripts_of(rows, (0.5, 0.5, 0.5)))))
    assert {kind for kind, _ in classes(reachable)} == {"reachable"}
    assert reachable.outcome is AvailabilityOutcome.REACHABLE
    assert reachable.problems["p0"]["availability"]["tries_of_path"] == pytest.approx(8, rel=0.01)
    assert {row["path"] for row in reachable.rows} == {"reference", "own"}
    assert not any(row["binds"] for row in reachable.rows)


def test_a_mixed_behavior_has_shares(make_context: MakeContext) -> None:
    rows = rows_in_steps()
    scripts = scripts_of(rows[:8], (0.5, 0.004, 1.0)) | scripts_of(rows[8:], (0.05, 0.3, 0.3))
    found = Availability().run(make_context(rows, ScriptedEngine(scripts)))
    assert found.numbers["reference paths: step"].estimate == pytest.approx(8 / 12)
    assert found.numbers["reference paths: chain"].estimate == pytest.approx(4 / 12)
    assert found.outcome is AvailabilityOutcome.STEP


def test_many_right_paths_are_told(make_context: MakeContext) -> None:
    rows = rows_in_steps()
    scripts = {row["prompt"]: [(whole(row), 0.002), (f" I know it: {row['answer']}.", 0.6), ("It is 7.", 0.398)] for row in rows}
    found = Availability().run(make_context(rows, ScriptedEngine(scripts)))
    assert {"many_right_paths", "goes_other_ways"} <= note_codes(found)
    one_way = Availability().run(make_context(rows, ScriptedEngine(scripts_of(rows, (0.7, 0.8, 0.9)))))
    assert not {"many_right_paths", "goes_other_ways"} & note_codes(one_way)


def test_a_wrong_answer_that_is_liked_as_much_shows_style(make_context: MakeContext) -> None:
    rows = rows_in_steps()
    knows = Availability().run(make_context(rows, ScriptedEngine(scripts_of(rows, (0.5, 0.5, 0.6)))))
    margin = knows.numbers["margin of the right answer, nats"]
    assert margin.low > 0
    assert knows.numbers["right answer likelier than a wrong one"].estimate == 1
    assert "style_not_knowledge" not in note_codes(knows)
    scripts: Scripts = {}
    for row in rows:
        start = "".join(row["references"][0]["steps"][:2])
        scripts[row["prompt"]] = [(f"{start}So it is {100 + i}.", 1 / 12) for i in range(12)]
    style = Availability().run(make_context(rows, ScriptedEngine(scripts)))
    assert abs(style.numbers["margin of the right answer, nats"].estimate) < 1e-3
    assert "style_not_knowledge" in note_codes(style)


def test_paths_without_steps_and_without_references(make_context: MakeContext) -> None:
    rows = rows_in_steps()
    engine = ScriptedEngine({row["prompt"]: [(whole(row), 0.3), ("It is 7.", 0.7)] for row in rows})
    for row in rows:
        row["references"] = [{"steps": [whole(row)]}]
    context = make_context(rows, engine)
    found = Availability().run(context)
    assert {row["steps"] for row in found.rows if row["path"] == "reference"} == {8}
    assert "references_without_steps" in note_codes(found)
    own = Availability().run(with_measured(restarted(context), paths=None))
    assert {row["path"] for row in own.rows} == {"own"}
    nothing = with_counts(with_measured(context, paths=None), num_correct=np.zeros(12, np.int64))
    assert Availability().worth(nothing) is SkipReason.NO_RIGHT_PATHS
    planned = Availability().plan(context.behavior, Split.EVAL, AvailableInputs())
    assert planned.scored_tokens >= context.sampler.scored_tokens > 0
    assert planned.generated_tokens == 0


def test_what_truncation_removes_follows_the_sampler() -> None:
    scores = TokenScores(
        logprobs=np.log(np.array([0.5, 0.04, 0.02, 0.06], np.float32)),
        ranks=np.array([0, 19, 20, 1], np.int32),
        mass_above=np.array([0.0, 0.9, 0.96, 0.94], np.float32),
        top_logprobs=np.log(np.array([0.5, 0.7, 0.5, 0.94], np.float32)),
    )
    removed = {name: which.tolist() for name, which in removed_by(scores).items()}
    assert removed["top-p .95"] == [False, False, True, False]
    assert removed["top-p .9"] == [False, True, True, True]
    assert removed["top-k 20"] == [False, False, True, False]
    assert removed["min-p .05"] == [False, False, True, False]
    assert set(removed_by(replace(scores, mass_above=None, top_logprobs=None))) == {"top-k 50", "top-k 20"}


def test_binding_walks_from_the_start() -> None:
    log = np.log
    assert bind(log([0.5, 0.001, 0.001]), 0.006).step == 1
    chain = bind(log([0.05, 0.01, 0.001]), 0.006)
    assert (chain.kind, chain.step) == ("chain", 1), "the chain breaks before the improbable step is reached"
    assert bind(log([0.001, 0.5]), 0.006).kind == "first_step"
    assert bind(log([0.9]), 0.006).kind == "reachable"


def test_another_answer_replaces_whole_words_only() -> None:
    reference = Reference(steps=("12 and 112.\n", "So 12."))
    changed = with_answer(reference, "12", "15")
    assert changed is not None
    assert changed.steps == ("15 and 112.\n", "So 15.")
    assert with_answer(reference, "99", "15") is None
    assert with_answer(reference, "12", "12") is None
