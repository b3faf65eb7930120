"""A synthetic report: one behavior per kind of verdict, and a loop's comparison."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from posttrain.diagnose.report import (
    BehaviorReport,
    ComparisonReport,
    Example,
    ProblemChangeRow,
    ReportContent,
    SideBySide,
    SupportRow,
)
from posttrain.diagnose.types import (
    Bottleneck,
    Check,
    Cost,
    Diagnosis,
    Estimate,
    PassAtK,
    PathLikelihoodMeasurement,
    PathScore,
    ProblemChange,
    ProblemDiagnosis,
    Purpose,
    Role,
    SamplingMeasurement,
    SettlesWith,
    Split,
    StageAdvice,
    ValidityMeasurement,
    decide,
)

HOSTILE = (
    '<script>alert("x")</script> ```\n| a | b | \x00 $\\frac{1}$ '
    "[click](javascript:1) <img src=http://evil.example/x.png onerror=1>"
)


def estimate(value: float, half: float, method: str = "bootstrap over problems") -> Estimate:
    return Estimate(estimate=value, low=max(0.0, value - half), high=min(1.0, value + half), method=method)


def check(name: str, op: str, value: float, half: float, threshold: float, n: int, what: str) -> Check:
    low, high = max(0.0, value - half), value + half if value > 1 else min(1.0, value + half)
    outcome = decide(op, low, high, threshold)
    return Check(
        name=name,
        op=op,
        estimate=value,
        low=low,
        high=high,
        threshold=threshold,
        n=n,
        method="Wilson",
        outcome=outcome,
        what=what,
        unit="problems",
    )


def validity(name: str, *, broken: bool = False) -> ValidityMeasurement:
    checks = (
        check(
            "reference accepted",
            ">=",
            1.0 if not broken else 0.06,
            0.02,
            0.95,
            32,
            "share of references that the verifier accepts",
        ),
        check("garbage refused", ">=", 0.99, 0.01, 0.95, 160, "share of wrong texts that the verifier refuses"),
        check("truncated", "<=", 0.03, 0.015, 0.2, 512, "share of samples that ran into the token limit"),
    )
    return ValidityMeasurement(
        behavior=name,
        checks=checks,
        notes=("The chat template adds a system prompt of its own: 'You are a helpful AI assistant named SmolLM'.",),
        failures=("The verifier refuses 30 of 32 references, such as 'egg → gge' for 'egg'.",) if broken else (),
        prompt_example="<|im_start|>user\nWhat is 3 times 4?<|im_end|>\n<|im_start|>assistant\n",
    )


def sampling(name: str, counts: np.ndarray, num_samples: int) -> SamplingMeasurement:
    size = len(counts)
    zeros = np.zeros(size, dtype=np.int64)
    ids = tuple(f"{name}-{index}" for index in range(size))
    return SamplingMeasurement(
        behavior=name,
        problem_ids=ids,
        groups=ids,
        num_samples=np.full(size, num_samples),
        num_correct=counts,
        num_missing=zeros,
        num_unparsed=zeros + 1,
        num_truncated=zeros,
        num_lenient_correct=counts,
        greedy_correct=(counts > num_samples / 2).astype(float),
        num_tokens=np.full(size, num_samples * 12),
    )


def paths(name: str, rng: np.random.Generator, *, improbable: bool) -> PathLikelihoodMeasurement:
    steps = (
        ("3", " times", " 4", " is", " the", " sum", " of", " three", " fours", ".", "\n"),
        ("4", " +", " 4", " +", " 4", " =", " 12", ".", "\n"),
        ("So", " the", " answer", " is", " 12", ".", "<|im_end|>"),
    )
    owner = np.repeat(np.arange(3), [len(step) for step in steps]).astype(np.int32)
    scores = []
    for index in range(12):
        logprobs = np.log(rng.beta(2.0, 0.4, len(owner))).astype(np.float32)
        logprobs[13] -= rng.uniform(3.0, 6.0) if improbable else 1.0
        scores.append(
            PathScore(
                behavior=name,
                problem_id=f"{name}-{index}",
                split=Split.EVAL,
                reference_index=0,
                token_ids=tuple(range(len(owner))),
                token_texts=tuple(token for step in steps for token in step),
                token_steps=owner,
                policy_logprobs=logprobs,
                ranks=np.zeros(len(owner), dtype=np.int32),
                engine="scripted",
            )
        )
    total = np.array([-float(score.policy_logprobs.sum()) for score in scores])
    return PathLikelihoodMeasurement(
        behavior=name,
        paths=tuple(scores),
        nll_per_token=total / len(owner),
        nll_per_path=total,
        weakest_step=np.array([np.argmin(np.bincount(owner, score.policy_logprobs)) for score in scores]),
        first_improbable_step=np.full(12, 1 if improbable else -1),
    )


def problems(name: str, rates: np.ndarray, counts: np.ndarray, num_samples: int) -> tuple[ProblemDiagnosis, ...]:
    rows = []
    for index, (rate, count) in enumerate(zip(rates, counts, strict=True)):
        state = Bottleneck.MASTERED if rate > 0.9 else Bottleneck.POOR_CHOICE if rate > 0.0064 else Bottleneck.MISSING_SUPPORT
        rows.append(
            ProblemDiagnosis(
                id=f"{name}-{index}",
                split=Split.EVAL,
                state=state,
                posterior={state.value: 0.6 + 0.39 * abs(2 * rate - 1)},
                num_samples=num_samples,
                num_correct=int(count),
                num_missing=0,
                num_unparsed=1,
                num_truncated=0,
                p=float(rate),
                p_low=float(max(0, rate - 0.1)),
                p_high=float(min(1, rate + 0.12)),
                p_method="fitted zero-inflated mixture",
                reference_nll_per_token=1.2 if index % 3 else None,
            )
        )
    return tuple(rows)


def curve(rates: np.ndarray, num_samples: int) -> tuple[PassAtK, ...]:
    points = []
    for k in (1, 2, 4, 8, 16, 32, 64, 128):
        value = float(np.mean(1 - (1 - rates) ** k))
        points.append(PassAtK(k=k, value=estimate(value, 0.075), extrapolated=k > num_samples))
    return tuple(points)


def example(name: str, text: str, grade: str, extracted: str | None, stop: str = "eos") -> Example:
    prompt = "What is 3 times 4?"
    return Example(problem_id=f"{name}-0", prompt=prompt, text=text, grade=grade, extracted=extracted, stop=stop, answer="12")


def behavior(
    name: str,
    bottleneck: Bottleneck,
    *,
    confidence: float,
    sentence: str,
    stage: StageAdvice | None,
    rates: np.ndarray,
    role: Role | None = None,
    settles_with: SettlesWith | None = None,
    shares: dict[str, float] | None = None,
    broken: bool = False,
) -> BehaviorReport:
    rng = np.random.default_rng(len(name))
    num_samples = 16
    counts = rng.binomial(num_samples, rates)
    pass_1 = float(rates.mean())
    diagnosis = Diagnosis(
        name=name,
        purpose=Purpose.TARGET,
        bottleneck=bottleneck,
        confidence=confidence,
        role=role,
        shares=shares or {bottleneck.value: 1.0},
        stage=stage,
        checks=(
            check("pass@1", ">=", pass_1, 0.08, 0.9, 32, "success rate of one sample"),
            check("pass@16", ">=", float(np.mean(1 - (1 - rates) ** 16)), 0.09, 0.5, 32, "reachable within the primary k"),
            check("reference nats per token", "<=", 1.31, 0.4, 2.2, 12, "mean over references"),
            check("lenient gain", "<=", 0.04, 0.03, 0.05, 512, "pass@1 under a forgiving reading less pass@1"),
        ),
        pass_at_k=curve(rates, num_samples),
        problems=problems(name, rates, counts, num_samples),
        settles_with=settles_with,
        cost=Cost(samples=512, generated_tokens=6144, scored_tokens=324, seconds=61.0),
        caveats=("One checkpoint is not a stage: intervals over problems leave out the variance between training seeds.",),
        sentence=sentence,
    )
    return BehaviorReport(
        diagnosis=diagnosis,
        validity=validity(name, broken=broken),
        path=paths(name, rng, improbable=bottleneck is Bottleneck.MISSING_SUPPORT),
        sampling=sampling(name, counts, num_samples),
        examples_right=(
            example(name, "3 times 4 is the sum of three fours.\n4 + 4 + 4 = 12.\nSo the answer is 12.", "right", "12"),
        ),
        examples_wrong=(
            example(name, "The answer is 7.", "wrong", "7"),
            example(name, HOSTILE, "unparsed: no number found", None, "length"),
        ),
        epsilon=0.00639,
        mastered_threshold=0.9,
        primary_k=16,
    )


def make_behaviors() -> tuple[BehaviorReport, ...]:
    rng = np.random.default_rng(0)
    spread, none = np.clip(rng.beta(0.9, 1.8, 32), 0.01, 1.0), np.zeros(32)
    none[:2] = 0.03
    grpo = StageAdvice(
        name="grpo",
        provenance="on_policy",
        interface="verifier",
        why="Right answers come up within 16 samples on most problems, so a verifier can reinforce them.",
        needs=("verifier",),
        predicted_gain=Estimate(estimate=0.35, low=0.2, high=0.5, method="pass@16 less pass@1, discounted"),
        alternatives=(("rft", "cheaper where few steps are wanted"), ("dpo", "where only pairs can be had")),
    )
    sft = StageAdvice(
        name="sft",
        provenance="off_policy",
        interface="token_targets",
        why="No sample is right on 30 of 32 problems, so nothing can be reinforced; 32 references are there to learn from.",
        needs=("references",),
        predicted_gain=None,
        alternatives=(("guided_grpo", "if a reference prefix makes it reachable; not probed"),),
    )
    repair = replace(
        grpo,
        name="fix_setup",
        provenance="none",
        interface="none",
        needs=(),
        predicted_gain=None,
        alternatives=(),
        why="the numbers cannot be believed until prompt, verifier or sampler is repaired",
    )
    return (
        behavior(
            "products",
            Bottleneck.POOR_CHOICE,
            confidence=0.97,
            role=Role.POLICY_RESHAPING,
            stage=grpo,
            rates=spread,
            sentence="The model reaches right products on most problems but writes them in only a third of its samples.",
            shares={"poor_choice": 0.81, "mastered": 0.12, "missing_support": 0.07},
        ),
        behavior(
            "spell_backward",
            Bottleneck.MISSING_SUPPORT,
            confidence=0.995,
            role=Role.SUPPORT_EXPANSION,
            stage=sft,
            rates=none,
            sentence="The model practically never spells a word backward: out of support on 94 % of problems.",
            shares={"missing_support": 0.94, "poor_choice": 0.06},
        ),
        behavior(
            "plural",
            Bottleneck.INVALID,
            confidence=1.0,
            stage=repair,
            rates=none,
            broken=True,
            sentence="No verdict: the verifier refuses its own references, so a zero says nothing about the model.",
        ),
        behavior(
            "sort_words",
            Bottleneck.INCONCLUSIVE,
            confidence=0.48,
            stage=None,
            rates=np.clip(none + 0.006, 0, 1),
            settles_with=SettlesWith(samples=4096, tokens=52000, seconds=61.0, chance=0.85),
            sentence="Not decided: success may lie on either side of ε = .0064 with the samples drawn so far.",
        ),
    )


def change_of(before: float, after: float) -> ProblemChange:
    if before == after == 0:
        return ProblemChange.OUT_OF_SUPPORT
    if min(before, after) > 0.15:
        return ProblemChange.PRESERVED
    if max(before, after) < 0.2 or min(before, after) > 0:
        return ProblemChange.UNDETERMINED
    return ProblemChange.EXPANDED if before == 0 else ProblemChange.ATTRITED


def make_comparisons() -> tuple[ComparisonReport, ...]:
    rng = np.random.default_rng(1)
    before = np.clip(rng.beta(0.9, 1.8, 32), 0.0, 1.0)
    after = np.clip(before + 0.35 * rng.random(32), 0.0, 1.0)
    before[:5], after[:3], after[30] = 0.0, 0.0, 0.0
    rows = []
    for index, (c, d) in enumerate(zip(*np.round([before * 16, after * 16]).tolist(), strict=True)):
        x, y = c / 16, d / 16
        state = change_of(x, y)
        rows.append(
            ProblemChangeRow(id=f"products-{index}", before=x, after=y, state=state, q_value=0.04 + 0.01 * index, num_samples=16)
        )
    tokens = Estimate(estimate=31.0, low=28.0, high=34.0, method="mean")
    null = Estimate(estimate=0.07, low=0.03, high=0.12, method="two draws from the fitted model")
    products = ComparisonReport(
        name="products",
        trained=True,
        stage="grpo",
        num_problems=32,
        pass_at_1_before=estimate(0.31, 0.075),
        pass_at_1_after=estimate(0.56, 0.08),
        delta=Estimate(estimate=0.25, low=0.19, high=0.31, method="paired bootstrap over problems"),
        pass_at_k_delta=tuple(
            PassAtK(k=k, value=Estimate(estimate=gain, low=gain - 0.07, high=gain + 0.07, method="paired"), extrapolated=k > 16)
            for k, gain in ((1, 0.25), (4, 0.17), (16, 0.06), (64, 0.01))
        ),
        pass_at_k_before=curve(before, 16),
        pass_at_k_after=curve(after, 16),
        changes=tuple(rows),
        support=(
            SupportRow(name="SRR", value=estimate(0.96, 0.03), null=replace(null, estimate=0.93, low=0.88, high=0.97)),
            SupportRow(name="NDR", value=estimate(0.08, 0.05), null=null),
        ),
        side_by_side=(
            SideBySide(name="tokens per sample", before=tokens, after=replace(tokens, estimate=36.5, low=33.0, high=40.0)),
            SideBySide(name="share truncated", before=estimate(0.03, 0.015), after=estimate(0.04, 0.02)),
        ),
        notes=("A gain at k = 1 may be sharpening: at k = 64 no difference is shown.",),
    )
    spell = replace(
        products,
        name="spell_backward",
        trained=False,
        stage=None,
        pass_at_1_before=estimate(0.71, 0.06),
        pass_at_1_after=estimate(0.69, 0.07),
        delta=Estimate(estimate=-0.02, low=-0.06, high=0.02, method="paired bootstrap over problems"),
        changes=(),
        support=(),
        notes=(),
        pass_at_k_before=(),
        pass_at_k_after=(),
        pass_at_k_delta=(),
    )
    return products, spell


@pytest.fixture(scope="session")
def diagnosis_content() -> ReportContent:
    return ReportContent(
        title="What binds SmolLM2-135M-Instruct",
        model="HuggingFaceTB/SmolLM2-135M-Instruct",
        date="2026-03-01",
        command="posttrain diagnose HuggingFaceTB/SmolLM2-135M-Instruct products spell_backward --out runs/first --seed 0",
        settings={"engine": "transformers", "samples": 16, "sampling": {"temperature": 1.0, "top_p": 1.0}, "seed": 0},
        versions={"posttrain": "0.1.0", "torch": "2.13.0", "transformers": "5.16.1"},
        behaviors=make_behaviors(),
    )


@pytest.fixture(scope="session")
def loop_content(diagnosis_content: ReportContent) -> ReportContent:
    return replace(
        diagnosis_content,
        title="One round of posttrain loop",
        behaviors=diagnosis_content.behaviors[:1],
        comparisons=make_comparisons(),
    )
