"""The drift probe on scripted policies whose distance and losses are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.probes import context_over, note_codes, store_samples

from posttrain.analysis.stats import t_interval
from posttrain.diagnose.engines.base import (
    BaseEngine,
    Completion,
    EncodedPath,
    EncodedPrompt,
    Engine,
    SampleRequest,
    ScoreRequest,
    TokenScores,
)
from posttrain.diagnose.engines.scripted import ScriptedCodec, ScriptedEngine
from posttrain.diagnose.probes.base import AvailableInputs, Finding, ProbeContext
from posttrain.diagnose.probes.drift import Drift, DriftOutcome
from posttrain.diagnose.probes.finding_json import finding_to_json
from posttrain.diagnose.sampling.shards import Portion, Shard
from posttrain.diagnose.storage.rollout_table import SAMPLED, RolloutTable
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import (
    Behavior,
    Bottleneck,
    MeasureSettings,
    Problem,
    Reference,
    Sampling,
    SkipReason,
    Split,
    VerifierSpec,
)

Scripts = Mapping[str, Sequence[tuple[str, float]]]


def behavior_of(num: int) -> Behavior:
    problems = tuple(Problem(id=f"p{i}", prompt=f"{i}?", answer=f"{i}", key=f"{i}", split=Split.EVAL) for i in range(num))
    return Behavior(
        name="b",
        problems=problems,
        verifier=VerifierSpec(kind="exact"),
        sampling=Sampling(max_tokens=12),
        measure=MeasureSettings(epsilon=0.01, primary_k=4),
    )


def scripts(rates: Sequence[float]) -> Scripts:
    return {f"{i}?": (("so " + str(i), p), ("no x", 0.75 * (1 - p)), ("no y", 0.25 * (1 - p))) for i, p in enumerate(rates)}


def measured(folder: Path, engine: Engine, behavior: Behavior, num: int) -> RunDirectory:
    directory = RunDirectory(folder)
    planned = [
        Shard(name=f"b.eval-sampled.{number:05d}", decoding=SAMPLED, portions=(Portion(problem, 0, num),))
        for number, problem in enumerate(behavior.problems)
    ]
    store_samples(directory, engine, behavior, planned, seed=folder.name)
    return directory


def make_context(folder: Path, engine: Engine, behavior: Behavior, *, num: int = 32, **changes: Any) -> ProbeContext:
    directory = RunDirectory(folder) if folder.exists() else measured(folder, engine, behavior, num)
    settings = {"seed": "s", "budget": 100_000, "thresholds": Thresholds(num_draws=512), **changes}
    return context_over(directory, "drift", behavior, engine, **settings)


class OtherTokens(ScriptedCodec):
    """Cuts the end of a path as another tokenizer would."""

    def encode_path(self, prompt: EncodedPrompt, reference: Reference) -> EncodedPath:
        path = super().encode_path(prompt, reference)
        return replace(path, token_ids=(*path.token_ids[:-1], 10, 256))


class Counting(BaseEngine):
    """An engine that counts what it samples, and may have another tokenizer."""

    def __init__(self, engine: ScriptedEngine, *, other_tokens: bool = False):
        self.engine, self.info, self.samples = engine, engine.info, 0
        self.codec = OtherTokens() if other_tokens else engine.codec

    def sample(self, requests: Sequence[SampleRequest], sampling: Sampling, **rest: Any) -> list[list[Completion]]:
        self.samples += sum(request.num_samples for request in requests)
        return self.engine.sample(requests, sampling, **rest)

    def score(self, requests: Sequence[ScoreRequest], **rest: Any) -> list[TokenScores]:
        return self.engine.score(requests, **rest)


def exact_kl(first: Scripts, second: Scripts, behavior: Behavior) -> list[float]:
    """KL(first‖second) per sample of each problem, from the scripts."""
    engines = ScriptedEngine(first), ScriptedEngine(second)
    distances = []
    for problem in behavior.problems:
        prompt = engines[0].codec.encode_prompt(problem.prompt, behavior.prompt)
        total = 0.0
        for text, chance in first[str(problem.prompt)]:
            path = engines[0].codec.encode_path(prompt, Reference(steps=(text,)))
            request = ScoreRequest(prompt_ids=prompt.token_ids, path_ids=path.token_ids)
            before, after = (float(engine.score([request])[0].logprobs.sum()) for engine in engines)
            total += chance * (before - after) if chance else 0.0
        distances.append(total)
    return distances


def lost_half(folder: Path, **changes: Any) -> tuple[ProbeContext, Behavior]:
    """Before, every problem was solved in .8 of draws; now half of them never are."""
    behavior = behavior_of(16)
    now = ScriptedEngine(scripts([0.0 if i < 8 else 0.95 for i in range(16)]))
    return make_context(folder, now, behavior, **{"earlier": ScriptedEngine(scripts([0.8] * 16)), **changes}), behavior


def test_what_was_lost_is_called_attrition(tmp_path: Path) -> None:
    context, _ = lost_half(tmp_path / "run")
    found = Drift().run(context)
    (one,) = found.evidence
    assert one.label is Bottleneck.ATTRITION
    assert Bottleneck.MISSING_SUPPORT in one.instead_of
    assert one.confidence > 0.95
    assert found.numbers["problems lost"].estimate == 8
    assert {row["id"] for row in found.rows if row["lost"]} == {f"p{i}" for i in range(8)}
    assert {found.problems[f"p{i}"]["support_change"] for i in range(8)} == {"attrited"}
    assert found.numbers["share of earlier right answers still likely"].estimate == pytest.approx(0.5)
    assert all(row["change"] < -15 for row in found.rows[:8])
    assert all(abs(row["change"]) < 1 for row in found.rows[8:])
    assert found.outcome is DriftOutcome.LOST


def test_kl_is_exact_within_its_interval(tmp_path: Path) -> None:
    behavior = behavior_of(24)
    rates = np.linspace(0.2, 0.8, 24)
    before, now = scripts(list(rates)), scripts(list(rates[::-1]))
    context = make_context(tmp_path / "run", ScriptedEngine(now), behavior, num=64, earlier=ScriptedEngine(before))
    found = Drift(num_samples=64, num_own=64).run(context)
    for name, truth in (("forward", exact_kl(before, now, behavior)), ("reverse", exact_kl(now, before, behavior))):
        value = found.numbers[f"{name} KL per sample"]
        assert value.low < np.mean(truth) < value.high
        assert value.high - value.low < 0.4
        # Answers have five or six tokens, the end included.
        assert value.estimate / 6 < found.numbers[f"{name} KL per token"].estimate < value.estimate / 5


def test_a_model_is_at_no_distance_from_itself(tmp_path: Path) -> None:
    behavior = behavior_of(12)
    engine = ScriptedEngine(scripts([0.0, 0.02, 0.05, 0.3] * 3))
    context = make_context(tmp_path / "run", engine, behavior, earlier=engine)
    assert Drift().worth(context) is SkipReason.SAME_MODEL
    found = Drift().run(context)
    for name in ("forward", "reverse"):
        assert found.numbers[f"{name} KL per sample"].estimate == 0
        assert found.numbers[f"{name} KL per token"].estimate == 0
    assert not [one for one in found.evidence if one.confidence > 0.5]


def test_two_draws_of_one_model_seldom_look_like_a_loss(tmp_path: Path) -> None:
    behavior = behavior_of(12)
    engine = ScriptedEngine(scripts([0.0, 0.02, 0.05, 0.3] * 3))
    falls = 0
    for draw_number in range(8):
        context = make_context(tmp_path / f"run{draw_number}", engine, behavior, earlier=engine, seed=str(draw_number))
        found = Drift().run(context)
        assert found.evidence == ()
        falls += found.numbers["problems lost"].estimate > 0
    assert falls <= 1


def test_what_was_never_there_is_not_lost(tmp_path: Path) -> None:
    behavior = behavior_of(16)
    # Two problems fell from .9; the other fourteen were never solved, and hold the policy back.
    now, before = scripts([0.0] * 16), scripts([0.9, 0.9, *[0.0] * 14])
    context = make_context(tmp_path / "run", ScriptedEngine(now), behavior, earlier=ScriptedEngine(before))
    found = Drift().run(context)
    assert found.numbers["problems lost"].estimate == 2
    assert found.evidence == ()


def test_an_earlier_run_alone_tells_what_was_lost(tmp_path: Path) -> None:
    context, behavior = lost_half(tmp_path / "run", earlier=None)
    first = measured(tmp_path / "first", ScriptedEngine(scripts([0.8] * 16)), behavior, 32)
    context = replace(context, earlier_rollouts=first.rollout_table("b"))
    found = Drift().run(context)
    assert [one.label for one in found.evidence] == [Bottleneck.ATTRITION]
    assert found.numbers["share of earlier right answers still likely"].estimate == pytest.approx(0.5)
    assert not any("KL" in name for name in found.numbers)
    assert context.sampler.generated_tokens == 0
    assert context.sampler.scored_tokens > 0
    assert all(row["forward_kl"] is None for row in found.rows)


def test_other_tokens_leave_numbers_of_whole_texts(tmp_path: Path) -> None:
    context, _ = lost_half(tmp_path / "run", earlier=Counting(ScriptedEngine(scripts([0.8] * 16)), other_tokens=True))
    found = Drift().run(context)
    assert "forward KL per sample" in found.numbers
    assert "forward KL per token" not in found.numbers
    assert "tokenizers_differ" in note_codes(found)


def test_a_cooled_sampler_gives_no_kl_and_no_argument(tmp_path: Path) -> None:
    behavior = replace(behavior_of(16), sampling=Sampling(temperature=0.5, max_tokens=12))
    earlier = ScriptedEngine(scripts([0.8] * 16))
    context = make_context(tmp_path / "run", ScriptedEngine(scripts([0.0] * 16)), behavior, earlier=earlier)
    found = Drift().run(context)
    assert found.evidence == ()
    assert not any("KL" in name for name in found.numbers)
    assert found.numbers["problems lost"].estimate == 16


def test_resumed_it_draws_nothing_twice_and_says_the_same(tmp_path: Path) -> None:
    earlier = Counting(ScriptedEngine(scripts([0.8] * 16)))
    context, _ = lost_half(tmp_path / "run", earlier=earlier)
    first = Drift().run(context)
    drawn, tokens = earlier.samples, context.sampler.generated_tokens
    assert drawn == 256
    again, _ = lost_half(tmp_path / "run", earlier=earlier)
    assert finding_to_json(Drift().run(again)) == finding_to_json(first)
    assert earlier.samples == drawn
    assert again.sampler.generated_tokens == tokens
    fresh, _ = lost_half(tmp_path / "other" / "run", earlier=earlier)
    assert finding_to_json(Drift().run(fresh)) == finding_to_json(first)


@pytest.mark.parametrize("budget", [12, 100, 12 * 16, 1000, 5000])
def test_it_keeps_to_its_budget(budget: int, tmp_path: Path) -> None:
    earlier = Counting(ScriptedEngine(scripts([0.8] * 16)))
    context, _ = lost_half(tmp_path / "run", earlier=earlier, budget=budget)
    found: Finding = Drift().run(context)
    assert 0 < context.sampler.generated_tokens <= budget
    assert len(found.rows) == 16
    # Answers have five tokens of the twelve that they may have, and what they left is drawn from too.
    assert earlier.samples >= min(256, budget // 12)
    if budget == 1000:
        assert earlier.samples > 1.5 * 1000 / 12


def test_plan_and_worth(tmp_path: Path) -> None:
    behavior = behavior_of(10)
    probe = Drift(num_samples=8, num_own=2)
    planned = probe.plan(behavior, Split.EVAL, AvailableInputs(earlier=True))
    assert planned.generated_tokens == 10 * 8 * 12
    assert planned.scored_tokens == 2 * 10 * 10 * 12
    assert probe.plan(behavior, Split.EVAL, AvailableInputs(before=True)).generated_tokens == 0
    assert probe.plan(behavior, Split.EVAL, AvailableInputs()).impossible is SkipReason.NO_EARLIER_POLICY
    context = make_context(tmp_path / "a", ScriptedEngine(scripts([1.0] * 10)), behavior, num=64)
    assert probe.worth(context) is SkipReason.MASTERED
    context, _ = lost_half(tmp_path / "b")
    assert probe.worth(context) is None


def test_t_interval_covers_and_bears_little_data() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        groups = [str(i // 3) for i in range(60)]
        values = np.repeat(rng.normal(2.0, 1.0, 20), 3) + rng.normal(0.0, 0.3, 60)
        found = t_interval(values, groups, level=0.95, method="m")
        hits += found.low < 2.0 < found.high
    assert 0.92 <= hits / 400 <= 0.98
    assert np.isnan(t_interval([1.0, 2.0], ["a", "a"], level=0.95, method="m").low)
    assert np.isnan(t_interval([np.nan], ["a"], level=0.95, method="m").estimate)


def test_an_earlier_run_without_these_problems_says_so(tmp_path: Path) -> None:
    context, _ = lost_half(tmp_path / "run", earlier=None)
    context = replace(context, earlier_rollouts=RolloutTable.read(()))
    found = Drift().run(context)
    assert found.outcome is DriftOutcome.UNKNOWN
    assert found.evidence == ()
    assert all(row["p_before"] is None for row in found.rows)
