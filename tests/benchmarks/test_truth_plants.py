"""The truth benchmark: paths are right by an independent computation, checkpoints write behaviors that load, and the true label follows its definition."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from truth.checkpoints import Schedule, make_checkpoint
from truth.families import FAMILIES, HELD_OUT, Family
from truth.labels import Verdict, calls_a_gap, labels_markdown, leans_to_a_gap, reliability
from truth.plants import BROKEN, EVAL_PROBLEMS, PLANTS, SLIPS
from truth.sampler import continuations
from truth.truth import Conditions, Rates, label_of, label_of_rates, load

from posttrain.diagnose.behaviors import load_behavior
from posttrain.diagnose.types import Purpose, Split

EPSILON = 0.0064


def solve(family: str, problem: str) -> str:
    """Return the answer without any step."""
    if family == "words":
        return "".join(str(ord(letter) - ord("a") + 1) for letter in reversed(problem))
    if family == "sums":
        return np.base_repr(sum(int(number, 6) for number in problem.split("+")), 6)
    if family == "sorting":
        return "".join(sorted(problem))
    if family == "runs":
        return "".join(f"{letter}{problem.count(letter)}" for letter in sorted(set(problem), key=problem.index))
    digits = [(ord(letter) - ord("a") + 1) % 8 + 1 for letter in problem]
    return "".join(map(str, digits[1:] + digits[:1]))


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_steps_lead_to_the_answer_and_slips_to_others(family: Family) -> None:
    rng = random.Random(0)
    for _ in range(200):
        problem = family.draw(rng)
        assert family.answer(problem) == solve(family.name, problem)
        steps = family.steps(problem)
        assert steps[-1] == f"answer {family.answer(problem)}"
        assert len(steps) == family.num_lines + 1
        assert 0 <= family.feature(problem) < family.num_features
        for bad in range(family.num_lines):
            for which in range(len(SLIPS)):
                slipped = family.path(problem, bad=bad, which=which)
                assert slipped[:bad] == steps[:bad]
                assert slipped[bad] != steps[bad]
                assert slipped[-1] != steps[-1]


def test_the_label_follows_from_rates() -> None:
    def label(missing: int, poor: int, mastered: int) -> str:
        return label_of_rates(np.array([0.001] * missing + [0.3] * poor + [1.0] * mastered), EPSILON)

    assert label(40, 0, 0) == "missing_support"
    assert label(0, 40, 0) == "poor_choice"
    assert label(0, 3, 37) == "mastered"
    assert label(33, 7, 0) == "missing_support"
    assert label(32, 8, 0) == label(0, 8, 32) == label(20, 0, 20) == "mixed"
    assert label_of_rates(np.full(40, EPSILON), EPSILON) == "poor_choice"


def rates(strict: float, lenient: float | None = None) -> Rates:
    """Return equal rates of all problems."""
    return Rates(strict=np.full(40, strict), lenient=np.full(40, strict if lenient is None else lenient))


def test_format_binds_where_most_failures_are_right_read_leniently() -> None:
    never = rates(0.0)
    assert label_of(Conditions(plain=rates(0.03, 0.88), greedy=never), EPSILON) == "format"
    assert label_of(Conditions(plain=rates(0.03, 0.4), greedy=never), EPSILON) == "poor_choice"


def test_a_cause_replaces_a_label_where_its_condition_is_measured() -> None:
    never, always = rates(0.0), rates(0.95)
    prefixed = {"prefixed": np.full(40, 0.9), "placebo": np.zeros(40)}
    assert label_of(Conditions(plain=never, greedy=never), EPSILON) == "missing_support"
    assert label_of(Conditions(plain=never, greedy=never, **prefixed), EPSILON) == "guided_only"
    assert (
        label_of(Conditions(plain=never, greedy=never, prefixed=np.full(40, 0.9), placebo=np.full(40, 0.9)), EPSILON)
        == "missing_support"
    )
    assert label_of(Conditions(plain=rates(0.3), greedy=never, **prefixed), EPSILON) == "poor_choice"
    assert label_of(Conditions(plain=never, greedy=never, hinted=always, **prefixed), EPSILON) == "scaffold_bound"
    assert label_of(Conditions(plain=rates(0.3), greedy=never, hinted=rates(0.55)), EPSILON) == "poor_choice"
    assert label_of(Conditions(plain=rates(0.3), greedy=never, before=np.full(40, 0.7)), EPSILON) == "attrition"
    assert label_of(Conditions(plain=rates(0.3), greedy=never, before=np.full(40, 0.5)), EPSILON) == "poor_choice"
    assert label_of(Conditions(plain=rates(0.3), greedy=always, before=np.ones(40)), EPSILON) == "decoding"
    assert label_of(Conditions(plain=rates(0.3), greedy=never, cooler={0.3: np.full(40, 0.92)}), EPSILON) == "decoding"
    assert label_of(Conditions(plain=rates(0.0, 0.95), greedy=rates(0.0)), EPSILON) == "format"
    assert label_of(Conditions(plain=always, greedy=always, hinted=always), EPSILON) == "mastered"


def test_a_checkpoint_writes_behaviors_that_load(tmp_path: Path) -> None:
    schedule = Schedule(clean=1, planted=1, lost=1, taught=1)
    checkpoint = make_checkpoint("words", 3, tmp_path / "words-3", schedule=schedule)
    trained_on = {
        problem.prompt[:4] for plant in PLANTS for problem in load_behavior(checkpoint.behavior(plant)).split(Split.TRAIN)
    }
    for plant in PLANTS:
        behavior = load_behavior(checkpoint.behavior(plant, 4))
        train, measured = behavior.split(Split.TRAIN), behavior.split(Split.EVAL)
        assert (len(measured), sum(bool(problem.references) for problem in train)) == (EVAL_PROBLEMS, 4)
        assert not {problem.prompt[:4] for problem in measured} & trained_on
    assert load_behavior(checkpoint.retention).purpose is Purpose.RETENTION
    for kind in BROKEN:
        assert len(load_behavior(checkpoint.broken(kind)[0]).problems) == 200
    weights = [
        (folder / "model.safetensors").read_bytes() for folder in (checkpoint.base, checkpoint.earlier, checkpoint.teacher)
    ]
    assert len(set(weights)) == 3
    changed = (checkpoint.base / "model.safetensors").stat().st_mtime_ns
    make_checkpoint("words", 3, tmp_path / "words-3", schedule=schedule)
    assert (checkpoint.base / "model.safetensors").stat().st_mtime_ns == changed


def test_continuations_have_their_probability(tmp_path: Path) -> None:
    """Each text that is likelier than 1 in N has the probability that the model gives it, token by token; all together have 1."""
    import torch

    checkpoint = make_checkpoint("words", 0, tmp_path / "words-0", teacher=False, schedule=Schedule(clean=2, planted=1, lost=1))
    model = load(checkpoint.base)
    prompt = [4, 5, 6, 7]
    (found,) = continuations(model, [prompt], 3, n=4096)
    assert sum(one.probability for one in found) == pytest.approx(1.0, abs=0.06)
    best = max(found, key=lambda one: one.probability)
    ids = [*prompt, *best.token_ids, *([model.config.eos_token_id] if best.ended else [])]
    with torch.inference_mode():
        logs = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), dim=-1)
    exact = sum(float(logs[place, ids[place + 1]]) for place in range(len(prompt) - 1, len(ids) - 1))
    assert best.probability == pytest.approx(np.exp(exact), rel=1e-4) or best.probability == 1 / 4096
    (greedy,) = continuations(model, [prompt], 3, temperature=0.0)
    assert len(greedy) == 1


def verdict(
    plant: str, truth: str, said: str, *, family: str = "words", leans_to: str | None = None, confidence: float = 0.97
) -> Verdict:
    """Return a verdict at the default budget."""
    stage = "sample_more" if said == "inconclusive" else "sft"
    return Verdict(
        family=family, seed=0, plant=plant, setting="blind", truth=truth, bottleneck=said, confidence=confidence, leans_to=leans_to,
        stage=stage, pass_1=0.1, sentence=f"{plant}: {said}",
    )  # fmt: skip


def test_the_page_counts_what_is_right_open_and_a_wrongly_claimed_gap() -> None:
    verdicts = [
        *(verdict("mastered", "mastered", "mastered") for _ in range(3)),
        verdict("poor_choice", "poor_choice", "missing_support"),
        verdict("mixed", "mixed", "inconclusive", leans_to="mixed", confidence=0.6),
        verdict("guessing", "poor_choice", "poor_choice"),
        verdict("guessing", "poor_choice", "inconclusive", leans_to="poor_choice"),
        verdict("several_paths", "mastered", "missing_support"),
        verdict("mastered", "mastered", "mastered", family=HELD_OUT),
    ]
    page = labels_markdown(verdicts)
    assert "| Tuning families | 0.600 " in page
    assert f"| Held-out family ({HELD_OUT}) | 1.000 " in page
    assert "| guessing | 2 | guessing | 1 | 1 |" in page
    assert "| several_paths | 1 | mastered | 1 | 0 |" in page
    assert [row[2:5] for row in reliability(verdicts[:5])] == [(1, 0.6, 1.0), (4, 0.97, 0.75)]
    open_ = verdict("guessing", "poor_choice", "inconclusive", leans_to="poor_choice")
    assert (calls_a_gap(open_), leans_to_a_gap(open_)) == (False, True)
    assert (calls_a_gap(verdicts[5]), leans_to_a_gap(verdicts[5])) == (True, False)
