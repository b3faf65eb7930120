"""The prefix ladder on scripted models whose truth is planted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.probes import note_codes, planted_context, restarted

from posttrain.analysis.stats.noisy_bisection import rung_posterior
from posttrain.diagnose.engines.base import BaseEngine, Completion, Engine, SampleRequest
from posttrain.diagnose.engines.scripted import ScriptedEngine
from posttrain.diagnose.probes.base import AvailableInputs, ProbeContext
from posttrain.diagnose.probes.finding_json import finding_from_json, finding_to_json
from posttrain.diagnose.probes.prefix_ladder import PrefixLadder, PrefixLadderOutcome
from posttrain.diagnose.probes.prefix_ladder.finding import share_reachable
from posttrain.diagnose.probes.prefix_ladder.search import BATCH, MOST_SAMPLES
from posttrain.diagnose.probes.sampler import ProbeSampler
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.thresholds import PrefixLadderThresholds
from posttrain.diagnose.types import Bottleneck, Sampling, SkipReason, Split

Row = dict[str, Any]
Scripts = dict[str, list[tuple[str, float]]]
MakeContext = Callable[..., ProbeContext]
LADDER = PrefixLadderThresholds()


def word(i: int) -> str:
    """Return a word of four letters for each number."""
    return "".join("abcdefghijklmnop"[i // base % 16] for base in (1, 16)) * 2


def rows_in_steps(num: int = 12) -> list[Row]:
    """Problems with three steps of one length each, in which no number stands before the answer."""
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


def scripts_of(rows: Sequence[Row], local: Sequence[float]) -> Scripts:
    """Each step is taken with this probability, else the answer is wrong."""
    scripts = {}
    for row in rows:
        steps, reach, answers, text = row["references"][0]["steps"], 1.0, [], ""
        for step, p in zip(steps, local, strict=True):
            answers.append((f"{text} No, it is 7.", reach * (1 - p)))
            reach *= p
            text += step
        scripts[row["prompt"]] = [*answers, (text, reach)]
    return scripts


class Counting(BaseEngine):
    """An engine that counts what it is asked for."""

    def __init__(self, engine: Engine):
        self.inner, self.info, self.calls = engine, engine.info, 0
        self.requests: list[SampleRequest] = []
        self.codec, self.score = engine.codec, engine.score

    def sample(self, requests: Sequence[SampleRequest], sampling: Sampling, **more: Any) -> list[list[Completion]]:
        self.calls += 1
        self.requests += requests
        return self.inner.sample(requests, sampling, **more)


@pytest.fixture
def make_context(tmp_path: Path) -> Iterator[MakeContext]:
    """Measure rows with an engine, and give the context of a probe."""
    with ExitStack() as stack:

        def make(rows: Sequence[Row], engine: Engine, **more: Any) -> ProbeContext:
            return stack.enter_context(planted_context(tmp_path, rows, engine, "prefix_ladder", **more))

        yield make


def needed(problems: Any) -> list[tuple[str, int | None]]:
    return [(one["prefix_needed"]["status"], one["prefix_needed"]["step"]) for one in problems.values()]


def test_a_suppressed_second_step_is_found_and_is_evidence_for_guidance(make_context: MakeContext) -> None:
    rows = rows_in_steps()
    context = make_context(rows, ScriptedEngine(scripts_of(rows, (0.5, 0.004, 1.0))))
    assert PrefixLadder().worth(context) is None
    found = PrefixLadder().run(context)
    assert needed(found.problems) == [("found", 2)] * 12
    one = found.problems["p3"]["prefix_needed"]
    assert one["tokens"] == len(" Take dada.\nTurn dada.\n")
    assert one["fraction"] == pytest.approx(one["tokens"] / len("".join(rows[3]["references"][0]["steps"])))
    (one,) = found.evidence
    assert one.label is Bottleneck.GUIDED_ONLY
    assert one.instead_of == (Bottleneck.MISSING_SUPPORT,)
    assert one.confidence >= 0.95
    assert found.outcome is PrefixLadderOutcome.REACHABLE
    share = found.numbers["share reachable with a prefix"]
    assert share.low > 0.5
    assert share.estimate <= 1
    conditions = {row["condition"] for row in found.rows}
    assert conditions >= {"reference", "other problem's prefix", "wrong step"}
    curve = [row["rate"] for row in found.rows if row["condition"] == "reference"]
    assert curve == sorted(curve)
    assert curve[0] < 0.1 < 0.9 < curve[-1]
    placebo = next(row for row in found.rows if row["condition"] == "other problem's prefix")
    assert placebo["rate"] < 0.1
    assert finding_from_json(json.loads(json.dumps(finding_to_json(found)))) == found


def test_a_rare_chain_needs_an_early_prefix_only(make_context: MakeContext) -> None:
    rows = rows_in_steps()
    found = PrefixLadder().run(make_context(rows, ScriptedEngine(scripts_of(rows, (0.006, 0.9, 0.9)))))
    states = needed(found.problems)
    assert states.count(("found", 1)) >= 11
    assert {status for status, _ in states} <= {"found", "inconclusive"}


def test_hopeless_problems_have_no_prefix_and_no_argument(make_context: MakeContext) -> None:
    rows = rows_in_steps()
    found = PrefixLadder().run(make_context(rows, ScriptedEngine(scripts_of(rows, (0.5, 0.5, 0.0)))))
    assert {status for status, _ in needed(found.problems)} == {"not_found"}
    assert not found.evidence
    assert found.numbers["share reachable with a prefix"].high < 0.5
    assert found.outcome is PrefixLadderOutcome.UNREACHABLE


def test_the_answer_is_never_given(make_context: MakeContext) -> None:
    rows = rows_in_steps()
    for i, row in enumerate(rows):
        steps, answer = row["references"][0]["steps"], row["answer"]
        if i % 3 == 0:
            steps[1] = f"That makes {answer} apples.\n"
        elif i % 3 == 1:
            steps[:] = [f" Take the two words and join them to get {answer}, as is well known."]
        else:
            steps[:] = [f" {answer} it is, because.\n", "It always was."]
    context = make_context(
        rows, ScriptedEngine({row["prompt"]: [("".join(row["references"][0]["steps"]), 0.001), ("7", 0.999)] for row in rows})
    )
    prompt_requests = []

    class Watching(ProbeSampler):
        def sample(self, entries: Any, **more: Any) -> Any:
            prompt_requests.extend(entries)
            return super().sample(entries, **more)

    settings = {one.name: getattr(context.sampler, one.name) for one in fields(ProbeSampler)}
    found = PrefixLadder().run(replace(context, sampler=Watching(**settings)))
    given = [one for one in prompt_requests if one.given_ids]
    assert given
    for one in given:
        assert one.problem.answer not in one.given_text
        # No part of the answer either: its first digit would say which hundred it is.
        assert not any(sign.isdigit() for sign in one.given_text)
        assert bytes(one.given_ids).decode() == one.given_text
    by_kind = [[needed(found.problems)[i][0] for i in range(kind, 12, 3)] for kind in range(3)]
    assert by_kind[0] == ["found"] * 4
    assert by_kind[1] == ["found"] * 4
    assert by_kind[2] == ["not_probed"] * 4
    assert "answer_at_the_start" in note_codes(found)
    assert found.problems["p1"]["prefix_needed"]["step"] is None


def test_where_every_path_begins_with_its_answer_no_prefix_can_help(make_context: MakeContext) -> None:
    rows = [row | {"references": [row["answer"]]} for row in rows_in_steps()]
    wrong = {row["prompt"]: [("No, it is 7.", 1.0)] for row in rows}
    found = PrefixLadder().run(make_context(rows, ScriptedEngine(wrong)))
    assert found.outcome is PrefixLadderOutcome.NO_PREFIX
    assert "Not applicable" in found.summary
    assert "guided_grpo" in found.rules_out, "it would learn behind a prefix"


def test_a_placebo_that_helps_as_much_withholds_the_argument(make_context: MakeContext) -> None:
    rows = rows_in_steps()
    scripts = scripts_of(rows, (0.006, 0.9, 0.9))
    for row in rows:
        for other in rows:
            if other is not row:
                start = other["references"][0]["steps"][0]
                scripts[row["prompt"] + start] = [(f"So it is {row['answer']}.", 0.85), ("It is 7.", 0.15)]
    found = PrefixLadder().run(make_context(rows, ScriptedEngine(scripts)))
    assert sum(status == "found" for status, _ in needed(found.problems)) >= 11
    assert not found.evidence
    assert found.outcome is PrefixLadderOutcome.PLACEBO_HELPS
    assert [note.code for note in found.notes].count("placebo_helps") == 2


def test_resuming_draws_nothing_new_and_finds_the_same(make_context: MakeContext) -> None:
    rows = rows_in_steps()
    engine = Counting(ScriptedEngine(scripts_of(rows, (0.5, 0.004, 0.6))))
    context = make_context(rows, engine)
    fresh = restarted(context)
    first = PrefixLadder().run(context)
    calls, requests = engine.calls, engine.requests[:]
    assert calls > 5
    assert PrefixLadder().run(fresh) == first
    assert engine.calls == calls
    assert fresh.sampler.generated_tokens == context.sampler.generated_tokens > 0
    keys = [(request.key, request.first_sample + i) for request in requests for i in range(request.num_samples)]
    assert len(set(keys)) == len(keys), "no two samples share a generator"


def test_what_is_spent_stays_within_the_budget(make_context: MakeContext) -> None:
    rows = rows_in_steps()
    engine = ScriptedEngine(scripts_of(rows, (0.5, 0.004, 0.6)))
    for budget in (60, 3000):
        context = make_context(rows, engine, seed=str(budget), budget=budget)
        found = PrefixLadder().run(context)
        assert context.sampler.generated_tokens <= budget
        assert len(found.problems) == 12
        assert note_codes(found) & {"budget_ended", "not_all_probed"}
    tiny = restarted(context, budget=0, directory=RunDirectory(context.sampler.directory.path / "other"))
    assert PrefixLadder().run(tiny).outcome is PrefixLadderOutcome.NOT_MEASURED


def test_plan_and_worth(make_context: MakeContext) -> None:
    rows = rows_in_steps()
    poor = make_context(rows, ScriptedEngine(scripts_of(rows, (0.9, 0.9, 0.5))))
    assert PrefixLadder().worth(poor) is SkipReason.WITHIN_SUPPORT
    planned = PrefixLadder().plan(poor.behavior, Split.EVAL, AvailableInputs())
    assert planned.generated_tokens == (12 * (4 + MOST_SAMPLES) + 3 * 6 * 8) * 60
    without = replace(poor.behavior, problems=tuple(replace(problem, references=()) for problem in poor.behavior.problems))
    assert PrefixLadder().plan(without, Split.EVAL, AvailableInputs()).impossible is SkipReason.NO_REFERENCES


def test_cuts_are_of_token_ids(make_context: MakeContext, tiny_model: Path) -> None:
    from posttrain.diagnose.engines.hf.transformers_engine import TransformersEngine

    rows = [
        {"id": f"p{i}", "prompt": f"{i} and {i + 1}:", "answer": str(700 + i), "references": [["take one", "and two", f"so {700 + i}"]], "split": "eval"}
        for i in range(6)
    ]  # fmt: skip
    engine = Counting(TransformersEngine.open(str(tiny_model)))
    context = make_context(rows, engine, samples=64, max_tokens=6)
    engine.requests.clear()
    found = PrefixLadder().run(context)
    assert {status for status, _ in needed(found.problems)} <= {"not_found", "inconclusive"}
    given = 0
    for problem in context.problems:
        prompt = engine.codec.encode_prompt(problem.prompt, context.behavior.prompt)
        whole = engine.codec.encode_path(prompt, problem.references[0]).token_ids
        for request in engine.requests:
            if request.key.startswith(f"planted/{problem.id}/prefix_ladder: reference"):
                assert request.prompt_ids[: len(prompt.token_ids)] == prompt.token_ids
                part = request.prompt_ids[len(prompt.token_ids) :]
                assert part == whole[: len(part)]
                given += 1
    assert given


# ------------------------------------------------------------------------------------------------------------ the bisection


def climb(rates: np.ndarray[Any, np.dtype[np.float64]], rng: np.random.Generator) -> tuple[int | None, int]:
    """Return what is found on a ladder with these rates, and the samples it took."""
    num, right = np.zeros(len(rates), np.int64), np.zeros(len(rates), np.int64)
    while num.sum() < MOST_SAMPLES:
        rung = rung_posterior(num, right, sufficient=LADDER.sufficient).next_rung(num, LADDER.rung_confidence)
        if rung is None:
            break
        num[rung] += BATCH
        right[rung] += rng.binomial(BATCH, rates[rung])
    return rung_posterior(num, right, sufficient=LADDER.sufficient).smallest(LADDER.rung_confidence), int(num.sum())


def ladders(rng: np.random.Generator, num: int = 150) -> list[np.ndarray[Any, np.dtype[np.float64]]]:
    """Rates of problems of four kinds: a step decides, help is gradual, nothing helps, all lie below the threshold."""
    found = []
    for i in range(num):
        place = rng.integers(8)
        found.append(
            [
                np.where(np.arange(8) >= place, rng.uniform(0.3, 1), rng.uniform(0, 0.1)),
                1 / (1 + np.exp(place - np.arange(8.0))),
                np.zeros(8),
                np.full(8, 0.1),
            ][i % 4]
        )
    return found


def test_found_rungs_suffice_and_bisection_is_cheaper_than_equal_sampling() -> None:
    rng = np.random.default_rng(1)
    truth = ladders(rng)
    found = [climb(rates, rng) for rates in truth]
    rates = [rates[rung] for rates, (rung, _) in zip(truth, found, strict=True) if rung is not None]
    assert len(rates) >= 60
    assert np.mean([rate >= LADDER.sufficient / 2 for rate in rates]) >= 0.9
    assert np.mean([rung is None for rates, (rung, _) in zip(truth, found, strict=True) if rates.max() <= 0.1]) >= 0.95
    # Equal sampling: as many at every rung as it takes to find as many of the ladders that have a sufficient rung.
    wanted = np.mean([rung is not None for rates, (rung, _) in zip(truth, found, strict=True) if rates.max() >= 0.3])
    for each in (2, 3, 4, 6, 8, 12):
        hits = []
        for one in truth:
            if one.max() >= 0.3:
                right = rng.binomial(each, one)
                hits.append(
                    rung_posterior(np.full(8, each), right, sufficient=LADDER.sufficient).next_rung(
                        np.full(8, each), LADDER.rung_confidence
                    )
                    is None
                )
        if np.mean(hits) >= wanted:
            break
    used = float(np.mean([num for _, num in found]))
    assert used < 8 * each, f"bisection took {used:.0f} samples, equal sampling {8 * each}"
    assert used < 32


def test_the_share_weighs_what_is_known() -> None:
    assert share_reachable([])[1] == 0.0
    yes, no = share_reachable([1e3] * 12), share_reachable([1e-3] * 12)
    assert yes[1] > 0.999
    assert no[1] < 0.001
    assert yes[0].low > 0.8
    assert no[0].high < 0.2
    half, more = share_reachable([1e3, 1e-3] * 6), share_reachable([1e3, 1e-3] * 24)
    assert half[1] == pytest.approx(0.5, abs=0.01)
    assert more[0].high - more[0].low < half[0].high - half[0].low
    # Ladders that stay open say nothing; three that were settled are not enough.
    assert share_reachable([1e3] * 3 + [1.0] * 20)[1] == pytest.approx(share_reachable([1e3] * 3)[1], abs=1e-6)
    assert 0.9 < share_reachable([1e3] * 3)[1] < 0.98


def test_posteriors_are_probabilities_and_refuse_nonsense() -> None:
    posterior = rung_posterior([0, 0, 0, 0], [0, 0, 0, 0], sufficient=0.25)
    assert (np.diff(posterior.at) > 0).all()
    assert 0.7 < posterior.anywhere < 0.85
    assert rung_posterior([8], [8], sufficient=0.25).at[0] > 0.99
    for counts in (([1], [2]), ([], [])):
        with pytest.raises(ValueError):
            rung_posterior(*counts, sufficient=0.25)
    with pytest.raises(ValueError):
        rung_posterior([1], [1], sufficient=1.0)
