"""The diversity probe on scripted policies whose paths and answers are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.probes import context_over, note_codes, one_shard, store_samples, with_counts

from posttrain.diagnose.engines.scripted import ScriptedEngine
from posttrain.diagnose.probes.base import AvailableInputs, ProbeContext
from posttrain.diagnose.probes.diversity import (
    ALONG,
    Diversity,
    DiversityOutcome,
    common_size,
    effective_number,
    goes_along,
    guessing_chances,
    rarefied,
)
from posttrain.diagnose.probes.finding_json import finding_to_json
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

Script = Sequence[tuple[str, float]]


def make_context(folder: Path, scripts: Sequence[Script], answers: Sequence[str], *, num: int = 64) -> ProbeContext:
    problems = tuple(
        Problem(id=f"p{i}", prompt=f"{i}?", answer=answer, key=f"{i}", split=Split.EVAL) for i, answer in enumerate(answers)
    )
    behavior = Behavior(
        name="b",
        problems=problems,
        verifier=VerifierSpec(kind="exact"),
        sampling=Sampling(max_tokens=24),
        measure=MeasureSettings(epsilon=0.01, primary_k=8),
    )
    engine = ScriptedEngine({f"{i}?": script for i, script in enumerate(scripts)})
    directory = RunDirectory(folder)
    store_samples(directory, engine, behavior, one_shard(behavior, num), seed="s")
    return context_over(directory, "diversity", behavior, engine, seed="s", budget=0, thresholds=Thresholds(num_draws=256))


ONE_PATH: Script = (("it is 4", 0.7), ("it is 5", 0.3))
FOUR_PATHS: Script = tuple((f"{word} 4", 0.25) for word in "abcd")


def test_paths_are_counted_at_a_common_number_of_right_samples(tmp_path: Path) -> None:
    found = Diversity().run(make_context(tmp_path, [ONE_PATH] * 6 + [FOUR_PATHS] * 6, ["4"] * 12))
    one, four = ([row["paths"] for row in found.rows[part]] for part in (slice(0, 6), slice(6, 12)))
    assert one == [1.0] * 6
    assert np.mean(four) == pytest.approx(4 * (1 - 0.75**16), abs=0.05)
    assert found.numbers["share of problems with a single right path"].estimate == 0.5
    assert found.numbers["right paths"].estimate == pytest.approx(np.mean([*one, *four]))


def test_spelling_and_spaces_make_no_path(tmp_path: Path) -> None:
    script: Script = (("it is 4", 0.5), ("It  IS 4\n", 0.5))
    found = Diversity().run(make_context(tmp_path, [script] * 4, ["4"] * 4))
    assert found.numbers["share of problems with a single right path"].estimate == 1


def test_answers_in_effect(tmp_path: Path) -> None:
    even: Script = tuple((f"so {i}", 0.125) for i in range(8))
    found = Diversity().run(make_context(tmp_path, [ONE_PATH] * 4 + [even] * 4, ["4"] * 8, num=256))
    expected = float(np.exp(-0.7 * np.log(0.7) - 0.3 * np.log(0.3)))
    assert np.mean([row["answers"] for row in found.rows[:4]]) == pytest.approx(expected, abs=0.07)
    assert np.mean([row["answers"] for row in found.rows[4:]]) == pytest.approx(8, abs=0.15)


def test_a_small_answer_space_is_explained_by_guessing(tmp_path: Path) -> None:
    coin: Script = (("yes", 0.5), ("no", 0.5))
    found = Diversity().run(make_context(tmp_path, [coin] * 12, ["yes", "no"] * 6))
    assert found.numbers["pass@1 of guessing"].estimate == pytest.approx(0.5, abs=0.05)
    assert found.numbers["pass@8 of guessing"].estimate == pytest.approx(1 - 0.5**8, abs=0.01)
    assert found.outcome is DiversityOutcome.GUESSING_EXPLAINS
    (evidence,) = found.evidence
    assert evidence.label is Bottleneck.INCONCLUSIVE
    assert evidence.confidence > 0.95
    assert "guessing_explains" in note_codes(found)


def test_a_large_answer_space_is_not(tmp_path: Path) -> None:
    scripts = [((f"so {10 + i}", 0.6), ("so 7", 0.4)) for i in range(12)]
    found = Diversity().run(make_context(tmp_path, scripts, [f"{10 + i}" for i in range(12)]))
    assert found.numbers["pass@8 of guessing"].estimate == 0
    assert found.outcome is DiversityOutcome.GUESSING_DOES_NOT_EXPLAIN
    assert "guessing_explains" not in note_codes(found)


def test_nothing_solved_and_nothing_read(tmp_path: Path) -> None:
    found = Diversity().run(make_context(tmp_path, [(("", 1.0),)] * 3, ["4"] * 3))
    assert found.outcome is DiversityOutcome.UNKNOWN
    assert "no_answers_read" in note_codes(found)
    assert found.numbers["pass@1"].estimate == 0
    assert np.isnan(found.numbers["effective answers"].estimate)


def test_it_costs_nothing_and_is_the_same_again(tmp_path: Path) -> None:
    context = make_context(tmp_path, [ONE_PATH] * 4, ["4"] * 4)
    first = Diversity().run(context)
    assert finding_to_json(first) == finding_to_json(Diversity().run(context))
    assert (context.sampler.generated_tokens, context.sampler.scored_tokens, context.sampler.samples) == (0, 0, 0)
    planned = Diversity().plan(context.behavior, Split.EVAL, AvailableInputs())
    assert (planned.generated_tokens, planned.scored_tokens, planned.impossible) == (0, 0, None)
    assert Diversity().worth(context) is None
    empty = with_counts(context, num_samples=context.counts.num_samples * 0)
    assert Diversity().worth(empty) is SkipReason.NO_SAMPLES


def test_problems_drawn_unequally_are_read_by_likelihood(tmp_path: Path) -> None:
    context = make_context(tmp_path, [ONE_PATH] * 8, ["4"] * 8)
    num = context.counts.num_samples.copy()
    num[0] += 1
    found = Diversity().run(with_counts(context, num_samples=num))
    assert "likelihood" in found.numbers["pass@1"].method


def test_right_answers_that_leave_the_reference_path_are_told(tmp_path: Path) -> None:
    """Of the right answers to each problem a quarter writes the steps of the reference; an unknown share of the others does it another way."""
    scripts = [((f"two {i} so {2 * i}", 0.25), (f"it is {2 * i}", 0.75)) for i in range(20)]
    context = make_context(tmp_path, scripts, [str(2 * i) for i in range(20)])
    stepped = tuple(
        replace(one, references=(Reference(steps=(f"Two {i} ", f"so {2 * i}")),)) for i, one in enumerate(context.problems)
    )
    found = Diversity().run(replace(context, behavior=replace(context.behavior, problems=stepped)))
    assert found.numbers[ALONG].low < 0.25 < found.numbers[ALONG].high < 0.4
    assert "off_reference_paths" in {note.code for note in found.notes}
    assert "of the right answers go through the steps" in found.of_stages["process"]
    plain = Diversity().run(context)
    assert ALONG not in plain.numbers
    assert not plain.of_stages


def test_steps_are_found_in_order() -> None:
    assert goes_along("a b c d", ["a", "c d"])
    assert not goes_along("c d a b", ["a b", "c d"])
    assert not goes_along("a b", ["a b", "b"])


def test_rarefied_is_the_mean_over_draws_without_putting_back() -> None:
    rng = np.random.default_rng(0)
    counts = [5, 3, 1, 1]
    kinds = np.repeat(np.arange(4), counts)
    drawn = [len(set(rng.permutation(kinds)[:4])) for _ in range(4000)]
    assert rarefied(counts, 4) == pytest.approx(np.mean(drawn), abs=0.05)
    assert rarefied([7], 4) == 1
    assert np.isnan(rarefied([1, 1], 4))


def test_the_common_size_is_what_half_of_the_solved_have() -> None:
    assert common_size([16, 16, 1, 0, 0, 0]) == 16
    assert common_size([16, 3, 2]) == 2
    assert common_size([1, 1, 0]) == 0
    assert common_size([]) == 0


def test_the_corrected_entropy_is_nearer_the_truth() -> None:
    rng = np.random.default_rng(0)
    shares = np.array([0.4, 0.3, 0.2, 0.1])
    truth = float(np.exp(-(shares * np.log(shares)).sum()))
    counts = rng.multinomial(12, shares, size=2000)
    corrected = [effective_number(row[row > 0].tolist()) for row in counts]
    assert np.mean(corrected) == pytest.approx(truth, abs=0.15)
    assert effective_number([9]) == 1
    assert np.isnan(effective_number([]))


def test_guessing_takes_the_answers_of_others() -> None:
    chances = guessing_chances([{"a": 3, "b": 1}, {"a": 1}, {}], [{"a"}, {"b"}, {"a", "b"}])
    assert chances == pytest.approx([1.0, 0.25, 1.0])
    assert np.isnan(guessing_chances([{"a": 1}], [{"a"}])).all()


def test_a_policy_that_knows_more_than_a_guesser_is_not_explained(tmp_path: Path) -> None:
    right: Script = (("yes", 0.8), ("no", 0.2))
    wrong: Script = (("no", 0.8), ("yes", 0.2))
    found = Diversity().run(make_context(tmp_path, [right, wrong] * 8, ["yes", "no"] * 8))
    assert found.numbers["pass@1 of guessing"].estimate == pytest.approx(0.5, abs=0.05)
    assert found.evidence == ()
