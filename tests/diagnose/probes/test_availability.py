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

from posttrain.diagnose.behaviors import load_behavior
from posttrain.diagnose.engines.base import Engine, TokenScores
from posttrain.diagnose.engines.scripted import ScriptedEngine
from posttrain.diagnose.measure import reference_likelihood
from posttrain.diagnose.measure.label_posterior import posterior_of
from posttrain.diagnose.probes.availability import Availability, bind, removed_by, with_answer
from posttrain.diagnose.probes.base import AvailableInputs, ProbeContext, finding_from_json, finding_to_json
from posttrain.diagnose.progress import Reporter
from posttrain.diagnose.sampling import shards
from posttrain.diagnose.storage.rollout_table import RolloutTable
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Cost, Finding, Reference, Split
from posttrain.diagnose.verifiers.grader import Grader

Row = dict[str, Any]
Scripts = dict[str, list[tuple[str, float]]]
MakeContext = Callable[..., ProbeContext]


def word(i: int) -> str:
    """A word of four letters for each number."""
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

        def make(rows: Sequence[Row], engine: Engine, *, samples: int = 48) -> ProbeContext:
            (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            file = tmp_path / "planted.yaml"
            file.write_text(
                "problems: rows.jsonl\nverifier: {kind: number}\nprompt: {format: completion}\nsampling: {max_tokens: 60}\n"
            )
            behavior = load_behavior(str(file))
            grader = stack.enter_context(Grader(behavior))
            directory = RunDirectory(tmp_path / "run")
            problems, names = behavior.split(Split.EVAL), []
            extra = np.full(len(problems), samples)
            for shard in shards.plan_round(behavior, Split.EVAL, np.zeros(len(problems), np.int64), extra, 0):
                ((_, rollouts),) = shards.draw(engine, grader.grade, behavior, [shard], seed="s", on_tokens=lambda num: None)
                directory.write_rollouts(shard.name, rollouts, Cost(seconds=0))
                names.append(shard.name)
            table = RolloutTable.read(directory.shard("rollouts", name) for name in names)
            counts = shards.measure(behavior, problems, table)
            thresholds = Thresholds()
            return ProbeContext(
                probe="availability",
                behavior=behavior,
                split=Split.EVAL,
                problems=problems,
                engine=engine,
                grade=grader.grade,
                sampling=counts,
                known=posterior_of(counts, epsilon=behavior.measure.epsilon, thresholds=thresholds),
                rollouts=table,
                paths=reference_likelihood.measure(
                    behavior, reference_likelihood.draw(engine, behavior, problems, on_tokens=lambda num: None)
                ),
                thresholds=thresholds,
                seed="s",
                directory=directory,
                reporter=Reporter(quiet=True),
                budget=0,
            )

        yield make


def classes(found: Finding) -> list[tuple[str, int]]:
    return [(one["availability"]["class"], one["availability"]["step"]) for one in found.problems.values()]


def test_a_suppressed_second_step_binds(make_context: MakeContext) -> None:
    rows = rows_in_steps()
    context = make_context(rows, ScriptedEngine(scripts_of(rows, (0.5, 0.004, 1.0))))
    assert Availability().worth(context) == ""
    found = Availability().run(context)
    assert classes(found) == [("step", 2)] * 12
    one = found.problems["p0"]["availability"]
    assert one["tries_of_step_alone"] == pytest.approx(250, rel=0.01)
    assert one["tries_to_pass_step"] == pytest.approx(500, rel=0.01)
    assert "Step 2 of 3 binds in 12 of 12 reference paths: its prefix is reached in 1 of 2 tries" in found.summary
    assert "taken in 1 of 250" in found.summary
    share = found.numbers["reference paths: step"]
    assert share.estimate == 1
    assert share.low > 0.7
    second = [row for row in found.rows if row["path"] == "reference" and row["step"] == 2]
    assert all(row["binds"] and row["removed_by"] == "top-p .95, top-p .9, min-p .05" for row in second)
    assert all(row["log_reach"] == pytest.approx(np.log(0.5), abs=1e-3) and row["worst_rank"] == 1 for row in second)
    assert found.numbers["reference paths that top-p .9 removes"].estimate == 1
    assert found.numbers["reference paths that top-k 20 removes"].estimate == 0
    assert not found.evidence
    assert context.scored_tokens > 0
    assert context.generated_tokens == 0
    assert Availability().run(context) == found
    assert finding_from_json(json.loads(json.dumps(finding_to_json(found)))) == found


def test_known_steps_in_too_rare_a_chain(make_context: MakeContext) -> None:
    rows = rows_in_steps()
    found = Availability().run(make_context(rows, ScriptedEngine(scripts_of(rows, (0.02, 0.3, 0.9)))))
    assert classes(found) == [("chain", 1)] * 12
    assert "The chain binds in 12 of 12 reference paths" in found.summary
    assert "only in 1 of 190 tries" in found.summary


def test_the_first_step_and_no_step(make_context: MakeContext) -> None:
    rows = rows_in_steps()
    first = Availability().run(make_context(rows, ScriptedEngine(scripts_of(rows, (0.001, 0.9, 0.9)))))
    assert classes(first) == [("first_step", 1)] * 12
    assert "nothing but the prompt stands before it" in first.summary
    reachable = Availability().run(make_context(rows, ScriptedEngine(scripts_of(rows, (0.5, 0.5, 0.5)))))
    assert {kind for kind, _ in classes(reachable)} == {"reachable"}
    assert (
        reachable.summary == "Nothing binds: all 12 reference paths are likely enough to be sampled, typically in 1 of 8 tries."
    )
    assert {row["path"] for row in reachable.rows} == {"reference", "own"}
    assert not any(row["binds"] for row in reachable.rows)


def test_a_mixed_behavior_has_shares(make_context: MakeContext) -> None:
    rows = rows_in_steps()
    scripts = scripts_of(rows[:8], (0.5, 0.004, 1.0)) | scripts_of(rows[8:], (0.05, 0.3, 0.3))
    found = Availability().run(make_context(rows, ScriptedEngine(scripts)))
    assert found.numbers["reference paths: step"].estimate == pytest.approx(8 / 12)
    assert found.numbers["reference paths: chain"].estimate == pytest.approx(4 / 12)
    assert "a later step 8, the chain 4" in found.summary


def test_many_right_paths_are_told(make_context: MakeContext) -> None:
    rows = rows_in_steps()
    scripts = {row["prompt"]: [(whole(row), 0.002), (f" I know it: {row['answer']}.", 0.6), ("It is 7.", 0.398)] for row in rows}
    found = Availability().run(make_context(rows, ScriptedEngine(scripts)))
    assert any(note.startswith("Many right paths: 12 of 12") for note in found.notes)
    assert any("it goes other ways" in note for note in found.notes)
    one_way = Availability().run(make_context(rows, ScriptedEngine(scripts_of(rows, (0.7, 0.8, 0.9)))))
    assert not any("right paths" in note or "other ways" in note for note in one_way.notes)


def test_a_wrong_answer_that_is_liked_as_much_shows_style(make_context: MakeContext) -> None:
    rows = rows_in_steps()
    knows = Availability().run(make_context(rows, ScriptedEngine(scripts_of(rows, (0.5, 0.5, 0.6)))))
    margin = knows.numbers["margin of the right answer, nats"]
    assert margin.low > 0
    assert knows.numbers["right answer likelier than a wrong one"].estimate == 1
    assert not any(note.startswith("Style") for note in knows.notes)
    scripts: Scripts = {}
    for row in rows:
        start = "".join(row["references"][0]["steps"][:2])
        scripts[row["prompt"]] = [(f"{start}So it is {100 + i}.", 1 / 12) for i in range(12)]
    style = Availability().run(make_context(rows, ScriptedEngine(scripts)))
    assert abs(style.numbers["margin of the right answer, nats"].estimate) < 1e-3
    assert any(note.startswith("Style, not knowledge") for note in style.notes)


def test_paths_without_steps_and_without_references(make_context: MakeContext) -> None:
    rows = rows_in_steps()
    engine = ScriptedEngine({row["prompt"]: [(whole(row), 0.3), ("It is 7.", 0.7)] for row in rows})
    for row in rows:
        row["references"] = [whole(row)]
    context = make_context(rows, engine)
    found = Availability().run(context)
    assert {row["steps"] for row in found.rows if row["path"] == "reference"} == {8}
    assert any("cut into 8 parts" in note for note in found.notes)
    own = Availability().run(replace(context, paths=None))
    assert {row["path"] for row in own.rows} == {"own"}
    assert "own right samples" in own.summary
    nothing = replace(context, paths=None, sampling=replace(context.sampling, num_correct=np.zeros(12, np.int64)))
    assert "neither" in Availability().worth(nothing)
    planned = Availability().plan(context.behavior, Split.EVAL, AvailableInputs())
    assert planned.scored_tokens >= context.scored_tokens > 0
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
