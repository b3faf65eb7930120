"""The words of a report: labels, and each term explained once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from posttrain.diagnose.types import Bottleneck, LimitSource, Outcome, ProblemChange, Role, StopReason, VerifierOrigin
from posttrain.diagnose.verifiers.imported_grades import KIND

BOTTLENECKS: dict[Bottleneck, tuple[str, str]] = {
    Bottleneck.MISSING_SUPPORT: (
        "missing support",
        "right answers practically never come up when sampling, so there is nothing to reinforce",
    ),
    Bottleneck.GUIDED_ONLY: (
        "guided only",
        "right answers come up only when the model is given the beginning of a reference path",
    ),
    Bottleneck.POOR_CHOICE: ("poor choice", "right answers come up, but not reliably: the model can and does not choose to"),
    Bottleneck.ATTRITION: ("attrition", "an earlier checkpoint could do it and this one cannot"),
    Bottleneck.SCAFFOLD_BOUND: (
        "scaffold-bound",
        "it works only with help: examples in the prompt, a hint, best-of-n or a teacher",
    ),
    Bottleneck.FORMAT: ("format", "the answers are right but not written so that the verifier can read them"),
    Bottleneck.DECODING: ("decoding", "the failures vanish under greedy or cooler decoding"),
    Bottleneck.MASTERED: ("mastered", "solved reliably; nothing to train"),
    Bottleneck.MIXED: ("mixed", "part of the problems is in one state and part in another, so that no one stage suits them all"),
    Bottleneck.INVALID: ("invalid", "the measurement is invalid; fix the setup before believing any number"),
    Bottleneck.INCONCLUSIVE: ("inconclusive", "the evidence does not decide yet"),
}
"""Label and meaning of each bottleneck."""

OUTCOMES: dict[Outcome, str] = {Outcome.MET: "met", Outcome.NOT_MET: "not met", Outcome.INCONCLUSIVE: "inconclusive"}

ROLES: dict[Role, tuple[str, str]] = {
    Role.SUPPORT_EXPANSION: ("support expansion", "bring in answers that the model does not yet reach"),
    Role.POLICY_RESHAPING: ("policy reshaping", "move probability among answers that the model already reaches"),
    Role.BEHAVIORAL_CONSOLIDATION: (
        "behavioral consolidation",
        "make an ability permanent that depends on help or is being lost",
    ),
}

STEPS: dict[str, str] = {
    "none": "do nothing",
    "fix_setup": "fix the setup",
    "change_decoding": "decode greedily or cooler instead of training",
}
"""What to do, for stages that train nothing."""

CHANGES: dict[ProblemChange, tuple[str, str]] = {
    ProblemChange.PRESERVED: ("preserved", "in support before and after"),
    ProblemChange.EXPANDED: ("expanded", "out of support before, in support after"),
    ProblemChange.ATTRITED: ("attrited", "in support before, out of support after"),
    ProblemChange.OUT_OF_SUPPORT: ("out of support", "out of support before and after"),
    ProblemChange.UNDETERMINED: ("undetermined", "the samples do not tell which of the others it is"),
}

STOPS: dict[str, str] = {
    StopReason.EOS: "the model ended its turn",
    StopReason.STOP: "a stop text appeared",
    StopReason.LENGTH: "cut off at the token limit",
    StopReason.ERROR: "the engine failed",
    StopReason.UNKNOWN: "why it ended is not told",
}

ORIGINS: dict[VerifierOrigin, str] = {
    VerifierOrigin.CHOSEN: "chosen by the behavior file or by --verifier",
    VerifierOrigin.GENERATOR: "the problems come with it",
    VerifierOrigin.LAYOUT: "it belongs to the published set whose columns the rows have",
    VerifierOrigin.GUESSED: "guessed from the form of the answers; name one in a behavior file or with --verifier if it does not fit",
}
"""Where a verifier comes from."""


def describe_verifier(kind: str, options: Mapping[str, Any], origin: VerifierOrigin) -> str:
    """Return a verifier with its options, and where it comes from, in one line."""
    if kind == KIND:
        return "none of ours: the grades came with the samples"
    given = ", ".join(f"{name}: {json.dumps(value, ensure_ascii=False, default=str)}" for name, value in options.items())
    return f"{kind}{f' ({given})' if given else ''}, {ORIGINS[origin]}"


LIMIT_SOURCES: dict[LimitSource, str] = {
    LimitSource.GIVEN: "given by the behavior file or by --max-tokens",
    LimitSource.REFERENCES: "twice the longest reference path",
    LimitSource.PILOT: "what the first greedy samples needed",
    LimitSource.DEFAULT: "there are neither reference paths nor a pilot",
}
"""Where `max_tokens` comes from."""


def describe_limit(max_tokens: int, source: LimitSource) -> str:
    """Return how long a sample may be, and where that comes from, in one line."""
    return f"{max_tokens:,} tokens, {LIMIT_SOURCES[source]}"


SUPPORT: dict[str, str] = {
    "SRR": "support retention rate: of the problems in support before, the share still in support",
    "NDR": "net discovery rate: of the problems in support after, the share that was not before",
    "SDS": "support dynamic score: harmonic mean of SRR and NDR",
    "NSCR": "net support change rate: (expanded − attrited) / problems in support before or after",
}

GLOSSARY: tuple[tuple[str, str], ...] = (
    ("pass@k", "chance that at least one of k samples of a problem is right, averaged over problems; pass@1 is the success rate"),
    (
        "ε",
        "success rate under which a problem counts as out of support; it belongs to the behavior, not to the number of samples",
    ),
    ("support", "what the model comes up with often enough (at least ε) when its own distribution is sampled"),
    (
        "posterior probability",
        "how probable a statement about these problems is given their samples; a label needs 0.95, with less the verdict leans to it",
    ),
    ("interval", "95 % unless its method says otherwise; problems are the unit, so it applies to new problems of the same kind"),
    (
        "met / not met / inconclusive",
        "the whole interval is on the right side of the threshold / on the wrong side / on both sides",
    ),
    (
        "pseudo-observation",
        "a made-up problem, split between the ends of the range, that keeps an interval from being too narrow where few problems were measured",
    ),
    (
        "extrapolated",
        "not measured with that many samples, but bounded over all distributions of success rates that fit the counts",
    ),
    ("reference path", "a text known to be right; its likelihood says how far the model is from writing it"),
    ("nats", "negative natural logarithm of a probability: 0 is certain, 0.7 is one in two, 4.6 is one in a hundred"),
    ("unparsed", "the verifier found no answer in the text; it counts as wrong and is counted apart"),
    ("truncated", "cut off at the token limit; it counts as wrong and is counted apart"),
    (
        "unfinished thought",
        "the model began to think and never came to an answer; it counts as wrong and is counted apart, beside truncated where it ran into the limit",
    ),
    ("missing", "the verifier or the engine failed; neither right nor wrong"),
    (
        "paired difference",
        "after minus before on the same problems; higher or lower where its whole interval is on one side of 0",
    ),
    (
        "null",
        "what one and the same model gives when it is sampled twice with the same number of samples: only a difference to it is a change",
    ),
    ("q-value", "smallest rate of false findings at which the problem would still count as changed (Benjamini–Hochberg)"),
)
"""Terms in the order in which they are met."""
