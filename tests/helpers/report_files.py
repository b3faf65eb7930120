"""A made-up diagnosis.json with one behavior per kind of verdict, and the compare.json of a loop."""

from __future__ import annotations

from typing import Any

import numpy as np
from helpers.group_outcomes import forecast_of

from posttrain.diagnose.comparison.compare_json import (
    BehaviorChangeEntry,
    CompareFile,
    CrossingEntry,
    CurvesEntry,
    EquivalenceEntry,
    FirstLossEntry,
    NeverSolvedEntry,
    PassAtOneEntry,
    PowerEntry,
    ProblemChangeEntry,
    RoleEntry,
    SideEntry,
    VerdictsEntry,
)
from posttrain.diagnose.storage.diagnosis_json import (
    AlternativeEntry,
    BehaviorEntry,
    CheckEntry,
    CostEntry,
    DiagnosisFile,
    EstimateEntry,
    ExampleEntry,
    ExamplesEntry,
    ExcerptEntry,
    LabelledEstimate,
    PassAtKEntry,
    ProbeCostEntry,
    ProbeEntry,
    ReferencesEntry,
    RunEntry,
    SettlesEntry,
    StageEntry,
    StepEntry,
    TokenLimitEntry,
    ValidityEntry,
    VerdictEntry,
    VerifierEntry,
)
from posttrain.diagnose.storage.problem_json import ProblemEntry
from posttrain.diagnose.types import (
    Bottleneck,
    GradeStatus,
    LimitSource,
    ProblemChange,
    Purpose,
    Role,
    Split,
    StopReason,
    VerifierOrigin,
    decide,
)

HOSTILE = (
    '<script>alert("x")</script> ```\n| a | b | \x00 $\\frac{1}$ '
    "[click](javascript:1) <img src=http://evil.example/x.png onerror=1>"
)
NUM_SAMPLES = 16
EPSILON = 0.00639
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


def estimate(value: float, half: float, method: str = "bootstrap over problems") -> dict[str, Any]:
    return {"estimate": value, "low": max(0.0, value - half), "high": min(1.0, value + half), "method": method}


def check(name: str, op: str, value: float, half: float, threshold: float, n: int, what: str) -> CheckEntry:
    low, high = max(0.0, value - half), value + half if value > 1 else min(1.0, value + half)
    return CheckEntry.model_validate(
        {
            "name": name,
            "op": op,
            "estimate": value,
            "low": low,
            "high": high,
            "threshold": threshold,
            "n": n,
            "method": "Wilson",
            "outcome": decide(op, low, high, threshold),
            "what": what,
            "unit": "problems",
        }
    )


def validity(*, broken: bool = False) -> ValidityEntry:
    share = 1.0 if not broken else 0.06
    return ValidityEntry(
        checks=[
            check("reference accepted", ">=", share, 0.02, 0.95, 32, "share of references that the verifier accepts"),
            check("garbage refused", ">=", 0.99, 0.01, 0.95, 160, "share of wrong texts that the verifier refuses"),
            check("truncated", "<=", 0.03, 0.015, 0.2, 512, "share of samples that ran into the token limit"),
        ],
        notes=["The chat template adds a system prompt of its own: 'You are a helpful AI assistant named SmolLM'."],
        failures=["The verifier refuses 30 of 32 references, such as 'egg → gge' for 'egg'."] if broken else [],
        prompt_example="<|im_start|>user\nWhat is 3 times 4?<|im_end|>\n<|im_start|>assistant\n",
    )


def references(name: str, rng: np.random.Generator, *, improbable: bool) -> ReferencesEntry:
    steps = (
        ("3", " times", " 4", " is", " the", " sum", " of", " three", " fours", ".", "\n"),
        ("4", " +", " 4", " +", " 4", " =", " 12", ".", "\n"),
        ("So", " the", " answer", " is", " 12", ".", "<|im_end|>"),
    )
    owner = np.repeat(np.arange(3), [len(step) for step in steps])
    excerpts = []
    for index, which in ((0, "typical"), (7, "least_likely")):
        logprobs = np.log(rng.beta(2.0, 0.4, len(owner)))
        logprobs[13] -= rng.uniform(3.0, 6.0) if improbable else 1.0
        excerpts.append(
            ExcerptEntry.model_validate(
                {
                    "which": which,
                    "problem_id": f"{name}-{index}",
                    "tokens": [token for step in steps for token in step],
                    "steps": owner.tolist(),
                    "logprobs": logprobs.tolist(),
                    "weakest_step": int(np.argmin(np.bincount(owner, logprobs))),
                }
            )
        )
    middles = [4.0, 9.0 if improbable else 3.0, 1.0]
    rows = [StepEntry(step=index + 1, estimate=nats, low=nats - 0.8, high=nats + 1.5, n=12) for index, nats in enumerate(middles)]
    return ReferencesEntry(num_paths=12, steps=rows, excerpts=excerpts)


def problems(name: str, rates: np.ndarray, counts: np.ndarray) -> list[ProblemEntry]:
    rows = []
    for index, (rate, count) in enumerate(zip(rates.tolist(), counts.tolist(), strict=True)):
        state = Bottleneck.MASTERED if rate > 0.9 else Bottleneck.POOR_CHOICE if rate > 0.0064 else Bottleneck.MISSING_SUPPORT
        rows.append(
            ProblemEntry(
                id=f"{name}-{index}",
                split=Split.EVAL,
                state=state,
                posterior={state.value: 0.6 + 0.39 * abs(2 * rate - 1)},
                num_samples=NUM_SAMPLES,
                num_correct=count,
                num_unparsed=1,
                greedy_correct=count > NUM_SAMPLES / 2,
                p=rate,
                p_low=max(0.0, rate - 0.1),
                p_high=min(1.0, rate + 0.12),
                p_method="fitted zero-inflated mixture",
                reference_nll_per_token=1.2 if index % 3 else float("nan"),
            )
        )
    return rows


def curve(rates: np.ndarray) -> list[PassAtKEntry]:
    return [
        PassAtKEntry(k=k, **estimate(float(np.mean(1 - (1 - rates) ** k)), 0.075), extrapolated=k > NUM_SAMPLES)
        for k in (1, 2, 4, 8, 16, 32, 64, 128)
    ]


def example(name: str, text: str, *, extracted: str | None, success: bool = False, **fields: Any) -> ExampleEntry:
    return ExampleEntry(
        **{
            "problem_id": f"{name}-0",
            "prompt": "What is 3 times 4?",
            "text": text,
            "status": GradeStatus.SCORED,
            "success": success,
            "extracted": extracted,
            "stop": StopReason.EOS,
            "answer": "12",
            **fields,
        }
    )


def behavior(name: str, bottleneck: Bottleneck, rates: np.ndarray, **verdict: Any) -> BehaviorEntry:
    """Return a behavior with 16 samples of each problem; `verdict` holds fields of `BehaviorEntry`."""
    rng = np.random.default_rng(len(name))
    counts = rng.binomial(NUM_SAMPLES, rates)
    checks = validity(broken=bottleneck is Bottleneck.INVALID)
    return BehaviorEntry(
        name=name,
        source=name,
        bottleneck=bottleneck,
        **{"shares": {bottleneck.value: 1.0}, **verdict},
        caveats=["One checkpoint is not a stage: intervals over problems leave out the variance between training seeds."],
        measure={"primary_k": 16, "epsilon": EPSILON, "success": 1.0, "group_size": 8},
        checks=[
            check("pass@1", ">=", float(rates.mean()), 0.08, 0.9, 32, "success rate of one sample"),
            check("pass@16", ">=", float(np.mean(1 - (1 - rates) ** 16)), 0.09, 0.5, 32, "reachable within the primary k"),
            check("reference nats per token", "<=", 1.31, 0.4, 2.2, 12, "mean over references"),
            check("lenient gain", "<=", 0.04, 0.03, 0.05, 512, "pass@1 under a forgiving reading less pass@1"),
            *checks.checks,
        ],
        pass_at_k=curve(rates),
        problems=problems(name, rates, counts),
        group_signal=forecast_of(NUM_SAMPLES, counts, name=f"{name}-", num_truncated=(NUM_SAMPLES - counts) // 3),
        validity=checks,
        examples=ExamplesEntry(
            right=[
                example(
                    name,
                    "3 times 4 is the sum of three fours.\n4 + 4 + 4 = 12.\nSo the answer is 12.",
                    extracted="12",
                    success=True,
                )
            ],
            wrong=[
                example(name, "The answer is 7.", extracted="7"),
                example(
                    name,
                    HOSTILE,
                    extracted=None,
                    status=GradeStatus.UNPARSED,
                    detail="no number found",
                    truncated=True,
                    stop=StopReason.LENGTH,
                ),
            ],
        ),
        references=references(name, rng, improbable=bottleneck is Bottleneck.MISSING_SUPPORT),
        cost=CostEntry(samples=512, generated_tokens=6144, scored_tokens=324, seconds=61.0),
    )


def probes() -> list[ProbeEntry]:
    row = {"n_problems": 9, "n": 36, "c": 18, "rate": 0.5, "low": 0.3, "high": 0.7, "gain": None, "gain_low": None}
    rows = [{**row, "condition": "baseline", "gain_high": None}]
    return [
        ProbeEntry(
            name="scaffold",
            question="Does help in the prompt bring right answers?",
            summary="Worked examples change nothing.",
            contribution="changes nothing",
            numbers={"gain_of_worked_examples": LabelledEstimate(label="gain of worked examples", **estimate(0.04, 0.03))},
            rows=rows,
            notes=["Nine problems have worked examples."],
            cost=ProbeCostEntry(samples=36, generated_tokens=432),
        ),
        ProbeEntry(name="teacher", question="Can a teacher do it?", skipped="no teacher was given"),
    ]


def behaviors() -> list[BehaviorEntry]:
    rng = np.random.default_rng(0)
    spread, none = np.clip(rng.beta(0.9, 1.8, 32), 0.01, 1.0), np.zeros(32)
    none[:2] = 0.03
    grpo = StageEntry(
        name="grpo",
        provenance="on_policy",
        interface="verifier",
        why="Right answers come up within 16 samples on most problems, so a verifier can reinforce them.",
        needs=["verifier"],
        alternatives=[
            AlternativeEntry(name="rft", why="cheaper where few steps are wanted"),
            AlternativeEntry(name="dpo", why="where only pairs can be had"),
        ],
    )
    sft = StageEntry(
        name="sft",
        provenance="off_policy",
        interface="token_targets",
        why="No sample is right on 30 of 32 problems, so nothing can be reinforced; 32 references are there to learn from.",
        needs=["references"],
        alternatives=[AlternativeEntry(name="guided_grpo", why="if a reference prefix makes it reachable; not probed")],
    )
    fix = StageEntry(
        name="fix_setup",
        provenance="none",
        interface="none",
        why="the numbers cannot be believed until prompt, verifier or sampler is fixed",
    )
    return [
        behavior(
            "products",
            Bottleneck.POOR_CHOICE,
            spread,
            confidence=0.97,
            role=Role.POLICY_RESHAPING,
            stage=grpo,
            sentence="The model reaches right products on most problems but writes them in only a third of its samples.",
            shares={"poor_choice": 0.81, "mastered": 0.12, "missing_support": 0.07},
            probes=probes(),
            verifier=VerifierEntry(kind="math", origin=VerifierOrigin.LAYOUT),
            token_limit=TokenLimitEntry(max_tokens=1024, source=LimitSource.PILOT),
            notes=["32 rows read as GSM8K publishes them"],
        ),
        behavior(
            "spell_backward",
            Bottleneck.MISSING_SUPPORT,
            none,
            confidence=0.995,
            role=Role.SUPPORT_EXPANSION,
            stage=sft,
            sentence="The model practically never spells a word backward: out of support on 94 % of problems.",
            shares={"missing_support": 0.94, "poor_choice": 0.06},
        ),
        behavior(
            "plural",
            Bottleneck.INVALID,
            none,
            confidence=1.0,
            stage=fix,
            sentence="No verdict: the verifier refuses its own references, so a zero says nothing about the model.",
        ),
        behavior(
            "sort_words",
            Bottleneck.INCONCLUSIVE,
            np.clip(none + 0.006, 0, 1),
            confidence=0.48,
            leans_to=Bottleneck.MISSING_SUPPORT,
            settles_with=SettlesEntry(samples=4096, tokens=52000, seconds=61.0, chance=0.85),
            sentence="Not decided: success may lie on either side of ε with the samples so far.",
        ),
    ]


def diagnosis_file() -> DiagnosisFile:
    """Return a diagnosis of four behaviors."""
    return DiagnosisFile(
        run=RunEntry(
            path="runs/first",
            created="2026-03-01",
            command=f"posttrain diagnose {MODEL} products spell_backward --out runs/first --seed 0",
            versions={"posttrain": "0.1.0", "torch": "2.13.0", "transformers": "5.16.1"},
        ),
        model={"source": MODEL},
        settings={
            "engine": "transformers",
            "samples": 16,
            "sampling": {"temperature": 1.0, "top_p": 1.0},
            "seed": 0,
            "thresholds": {"mastered": 0.9},
        },
        behaviors=behaviors(),
    )


def change_of(before: float, after: float) -> ProblemChange:
    if before == after == 0:
        return ProblemChange.OUT_OF_SUPPORT
    if min(before, after) > 0.15:
        return ProblemChange.PRESERVED
    if max(before, after) < 0.2 or min(before, after) > 0:
        return ProblemChange.UNDETERMINED
    return ProblemChange.EXPANDED if before == 0 else ProblemChange.ATTRITED


def change_of_products(verdict: VerdictEntry) -> BehaviorChangeEntry:
    rng = np.random.default_rng(1)
    before = np.clip(rng.beta(0.9, 1.8, 32), 0.0, 1.0)
    after = np.clip(before + 0.35 * rng.random(32), 0.0, 1.0)
    before[:5], after[:3], after[30] = 0.0, 0.0, 0.0
    rates = np.round(np.stack([before, after]) * NUM_SAMPLES) / NUM_SAMPLES
    tokens = {"estimate": 31.0, "low": 28.0, "high": 34.0, "method": "mean"}
    null = {"estimate": 0.07, "low": 0.03, "high": 0.12, "method": "the same successes dealt anew between the two sides"}
    paired = "paired bootstrap over problems"
    return BehaviorChangeEntry(
        name="products",
        measure={"primary_k": 16, "epsilon": EPSILON},
        trained=True,
        stage="grpo",
        role_observed="policy_reshaping",
        role=RoleEntry(words="policy reshaping", k=1),
        num_problems=32,
        pass_at_1=PassAtOneEntry(
            before=EstimateEntry(**estimate(0.31, 0.075)),
            after=EstimateEntry(**estimate(0.56, 0.08)),
            delta=EstimateEntry(estimate=0.25, low=0.19, high=0.31, method=paired),
        ),
        pass_at_k=CurvesEntry(before=curve(before), after=curve(after)),
        pass_at_k_delta=[
            PassAtKEntry(k=k, estimate=gain, low=gain - 0.07, high=gain + 0.07, method="paired", extrapolated=k > 16)
            for k, gain in ((1, 0.25), (4, 0.17), (16, 0.06), (64, 0.01))
        ],
        crossing=CrossingEntry(k=EstimateEntry(estimate=40.0, low=20.0, high=64.0), probability=0.97),
        first_loss=FirstLossEntry(low=18, high=None, largest_k=64),
        never_solved=NeverSolvedEntry(
            num_problems=5.0, naive_gain=0.2, gain=EstimateEntry(estimate=0.11, low=0.02, high=0.21, method=paired)
        ),
        detectable_rise=PowerEntry(num_samples=16, rate=0.42),
        support={
            "SRR": {**estimate(0.96, 0.03), "null": {**null, "estimate": 0.93, "low": 0.88, "high": 0.97}},
            "NDR": {**estimate(0.08, 0.05), "null": null},
        },
        drift={
            "nats_per_generated_token": {"label": "nats per generated token", "before": tokens, "after": tokens},
            "forward_kl_per_token": {"label": "forward KL per token", **estimate(0.02, 0.01)},
        },
        beside={
            "tokens_per_sample": {
                "label": "tokens per sample",
                "before": tokens,
                "after": {**tokens, "estimate": 36.5, "low": 33.0, "high": 40.0},
            },
            "share_truncated": {"label": "share truncated", "before": estimate(0.03, 0.015), "after": estimate(0.04, 0.02)},
        },
        problems=[
            ProblemChangeEntry(
                id=f"products-{index}",
                before=x,
                after=y,
                state=change_of(x, y),
                q_value=0.04 + 0.01 * index,
                num_samples=NUM_SAMPLES,
            )
            for index, (x, y) in enumerate(rates.T.tolist())
        ],
        notes=["A gain at k = 1 may be sharpening: at k = 64 no difference is shown."],
        verdicts=VerdictsEntry(after=verdict),
    )


def change_of_spelling(verdict: VerdictEntry) -> BehaviorChangeEntry:
    return BehaviorChangeEntry(
        name="spell_backward",
        purpose=Purpose.RETENTION,
        num_problems=32,
        pass_at_1=PassAtOneEntry(
            before=EstimateEntry(**estimate(0.71, 0.06)),
            after=EstimateEntry(**estimate(0.69, 0.07)),
            delta=EstimateEntry(estimate=-0.02, low=-0.06, high=0.02, method="paired bootstrap over problems"),
        ),
        equivalence=EquivalenceEntry(estimate=-0.02, low=-0.05, high=0.015, margin=0.05, verdict="undecided"),
        verdicts=VerdictsEntry(after=verdict),
    )


def compare_file() -> CompareFile:
    """Return the comparison that a loop makes at its end."""
    first = diagnosis_file()
    verdicts = [VerdictEntry.model_validate(entry) for entry in first.behaviors]
    return CompareFile(
        run=first.run.model_copy(update={"path": "runs/loop", "command": f"posttrain loop {MODEL} products --out runs/loop"}),
        settings=first.settings,
        before=SideEntry(run="runs/loop/diagnosis-0", model=first.model),
        after=SideEntry(run="runs/loop/diagnosis-1", model={"source": "runs/loop/stage-1"}),
        null="dealt",
        behaviors=[change_of_products(verdicts[0]), change_of_spelling(verdicts[1])],
    )
