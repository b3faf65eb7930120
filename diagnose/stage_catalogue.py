"""The stages that a diagnosis can name: every family of the survey (arXiv 2604.07941, Tables 3, 4 and 6), as data.

This module only names; `posttrain.trainers.recipes` builds each of them. "Do nothing" and "collect references" are stages too, because they
are often the right advice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from posttrain.diagnose.types import Behavior, Bottleneck, Role, Split, StageAdvice

NO_TRAINING = "no training"
"""The family of advice."""
OFF, ON, MIXED, NO_DATA = "off_policy", "on_policy", "mixed", "none"
"""Provenance: where the trajectories come from."""


class Need(StrEnum):
    """What a stage must be given."""

    REFERENCES = "references"
    VERIFIER = "verifier"
    PAIRS = "pairs"
    TEACHER = "teacher"
    EARLIER_CHECKPOINT = "earlier_checkpoint"
    STEP_FEEDBACK = "step_feedback"
    REPLAY = "replay"


@dataclass(frozen=True, kw_only=True, slots=True)
class StageDescription:
    """One post-training stage."""

    name: str
    family: str
    provenance: str
    interface: str
    """How the signal is attached: token targets, preferences, reward, verifier, process feedback, teacher targets."""
    role: Role | None
    """What it usually does to the policy; None for what leaves the weights alone."""
    needs: tuple[Need, ...]
    right_when: str
    no_signal_when: str
    """When it gives no signal, or the wrong one."""
    paper: str
    """arXiv number."""

    @property
    def trains(self) -> bool:
        """Whether `posttrain train` runs it; else it is advice."""
        return self.family != NO_TRAINING


_EXPAND, _RESHAPE, _CONSOLIDATE = Role.SUPPORT_EXPANSION, Role.POLICY_RESHAPING, Role.BEHAVIORAL_CONSOLIDATION
_R, _V, _P, _T = (Need.REFERENCES,), (Need.VERIFIER,), (Need.PAIRS,), (Need.TEACHER,)


def _family(
    family: str,
    provenance: str,
    interface: str,
    role: Role | None,
    needs: tuple[Need, ...],
    right: str,
    vanishes: str,
    members: dict[str, str],
) -> list[StageDescription]:
    """The stages of one family; `members` maps a name to its paper."""
    return [
        StageDescription(
            name=name,
            family=family,
            provenance=provenance,
            interface=interface,
            role=role,
            needs=needs,
            right_when=right,
            no_signal_when=vanishes,
            paper=paper,
        )
        for name, paper in members.items()
    ]


_ALL = [
    *_family(
        "supervised fine-tuning", OFF, "token targets", _EXPAND, _R,
        "good trajectories are never reached and references show them", "references are few, or already likely (then it reshapes and forgets)",
        {"sft": "2203.02155", "dft": "2508.05629"},
    ),
    *_family(
        "offline preference optimisation", OFF, "preferences", _RESHAPE, _P,
        "only pairs are at hand and the chosen ones are reachable", "both sides of a pair are far from what the policy writes",
        {"dpo": "2305.18290", "ipo": "2310.12036", "kto": "2402.01306", "simpo": "2405.14734", "orpo": "2403.07691", "cpo": "2401.08417"},
    ),
    *_family(
        "off-policy teacher transfer", OFF, "teacher targets", _CONSOLIDATE, _T,
        "a teacher has the behavior and the policy never reaches it", "the teacher's paths are out of the student's reach at every length",
        {"seq_kd": "1606.07947"},
    ),
    *_family(
        "off-policy teacher transfer", OFF, "teacher targets", _CONSOLIDATE, (Need.TEACHER, Need.REFERENCES),
        "a teacher with the same tokens is at hand and given paths are what should be written", "the student never goes where the paths go",
        {"logit_kd": "1503.02531"},
    ),
    *_family(
        "on-policy reinforcement learning", ON, "verifier", _RESHAPE, _V,
        "the behavior is reachable but unreliable and a verifier can tell", "every sample of a group earns the same reward",
        {
            "grpo": "2402.03300", "rloo": "2402.14740", "dr_grpo": "2503.20783", "dapo": "2503.14476", "gspo": "2507.18071", "cispo": "2506.13585",
            "ppo": "1707.06347",
        },
    ),
    *_family(
        "online preference optimisation", MIXED, "preferences", _RESHAPE, _V,
        "as for reinforcement learning, with a ranking in place of a reward", "the learner generates no better answer than it has",
        {"online_dpo": "2402.04792"},
    ),
    *_family(
        "process supervision", ON, "process feedback", _RESHAPE, (Need.VERIFIER, Need.STEP_FEEDBACK),
        "errors are local to a step that is reached", "the step before the error is never reached, or the step verifier can be fooled",
        {"process": "2305.20050"},
    ),
    *_family(
        "iterative refinement", ON, "verifier", _RESHAPE, _V,
        "the behavior is reachable and a few verified samples per problem can be had", "nothing passes the filter, or only easy problems do",
        {"rft": "2308.01825"},
    ),
    *_family(
        "on-policy teacher transfer", ON, "teacher targets", _RESHAPE, _T,
        "a teacher scores what the student writes better than a verifier could", "the teacher finds the student's prefixes as odd as the student does",
        {"opd": "2306.13649", "gkd": "2306.13649", "minillm": "2306.08543"},
    ),
    *_family(
        "guided on-policy", ON, "verifier", _EXPAND, (Need.REFERENCES, Need.VERIFIER),
        "the behavior is reached from a reference prefix only", "no prefix short of the answer helps, or the hint is never taken away",
        {"guided_grpo": "2601.18779"},
    ),
    *_family(
        "interleaved SFT and RL", MIXED, "verifier", _EXPAND, (Need.REFERENCES, Need.VERIFIER),
        "some problems need support and others reliability at the same time", "the two gradients pull against each other",
        {"luffy": "2504.14945", "chord": "2508.11408", "hpt": "2509.04419"},
    ),
    *_family(
        "consolidation", OFF, "token targets", _CONSOLIDATE, (Need.EARLIER_CHECKPOINT,),
        "what was there before is being lost", "the earlier checkpoint did not have it either",
        {"replay": "2403.08763"},
    ),
    *_family(
        "consolidation", OFF, "none", _CONSOLIDATE, (Need.EARLIER_CHECKPOINT,),
        "two checkpoints of one start each have something the other lacks", "they are far apart; it does not reliably undo forgetting",
        {"merge": "2203.05482"},
    ),
    *_family(
        "consolidation", OFF, "teacher targets", _CONSOLIDATE, _V,
        "a gain hangs on a scaffold: a hint, worked examples, best-of-n", "the scaffold changes nothing",
        {"self_distill": "2209.15189"},
    ),
    *_family(
        "reward models", OFF, "preferences", None, _P,
        "nothing can tell right from wrong but pairs can", "the pairs are told apart already, or what is asked lies outside them",
        {"reward_model": "2203.02155"},
    ),
    *_family(
        "reward models", OFF, "process feedback", None, (Need.STEP_FEEDBACK,),
        "steps must be judged and labels of steps, or continuations behind them, can be had", "all steps have one label",
        {"process_reward_model": "2305.20050"},
    ),
]  # fmt: skip

_ACTIONS = [
    StageDescription(
        name=name,
        family=NO_TRAINING,
        provenance=NO_DATA,
        interface="none",
        role=None,
        needs=(),
        right_when=right,
        no_signal_when="",
        paper="",
    )
    for name, right in {
        "none": "the behavior is mastered: training can only cost",
        "collect_references": "the behavior is out of reach and nothing that shows it is at hand",
        "collect_verifier": "the behavior is reachable but nothing can tell right from wrong",
        "change_decoding": "the behavior is mastered under greedy or cooler decoding",
        "fix_setup": "the numbers cannot be believed until prompt, verifier or sampler is repaired",
        "sample_more": "the samples do not decide yet",
    }.items()
]

STAGES: dict[str, StageDescription] = {stage.name: stage for stage in [*_ALL, *_ACTIONS]}

_ROUTES: dict[Bottleneck, tuple[str, ...]] = {
    # In order of preference; the first one whose needs are met is named, the rest are alternatives.
    Bottleneck.MISSING_SUPPORT: ("sft", "seq_kd", "guided_grpo", "luffy", "collect_references"),
    Bottleneck.GUIDED_ONLY: ("guided_grpo", "luffy", "sft", "collect_references"),
    Bottleneck.POOR_CHOICE: ("grpo", "rft", "opd", "dpo", "sft", "collect_verifier"),
    Bottleneck.ATTRITION: ("replay", "merge", "opd", "rft", "sft", "collect_references"),
    Bottleneck.SCAFFOLD_BOUND: ("self_distill", "rft", "sft", "collect_references"),
    Bottleneck.FORMAT: ("rft", "sft", "grpo", "collect_references"),
    Bottleneck.DECODING: ("change_decoding", "grpo", "rft"),
    Bottleneck.MASTERED: ("none",),
    Bottleneck.INVALID: ("fix_setup",),
    Bottleneck.INCONCLUSIVE: ("sample_more",),
}

ROLE_OF: dict[Bottleneck, Role | None] = {
    Bottleneck.MISSING_SUPPORT: _EXPAND,
    Bottleneck.GUIDED_ONLY: _EXPAND,
    Bottleneck.POOR_CHOICE: _RESHAPE,
    Bottleneck.FORMAT: _RESHAPE,
    Bottleneck.ATTRITION: _CONSOLIDATE,
    Bottleneck.SCAFFOLD_BOUND: _CONSOLIDATE,
    Bottleneck.DECODING: None,
    Bottleneck.MASTERED: None,
    Bottleneck.INVALID: None,
    Bottleneck.INCONCLUSIVE: None,
}


def available_needs(behavior: Behavior, *, teacher: bool = False, earlier: bool = False) -> frozenset[Need]:
    """What a behavior's train split, and the models at hand, can feed."""
    train = behavior.split(Split.TRAIN)
    found = {Need.TEACHER} if teacher else set()
    found |= {Need.EARLIER_CHECKPOINT} if earlier else set()
    found |= {Need.VERIFIER} if train else set()
    # References count when at least half of the train problems have one: a handful teaches next to nothing.
    found |= {Need.REFERENCES} if train and sum(bool(p.references) for p in train) * 2 >= len(train) else set()
    return frozenset(found)


def name_stage(
    bottleneck: Bottleneck, available: frozenset[Need], measured: Mapping[str, str] = MappingProxyType({})
) -> StageAdvice:
    """The stage for a bottleneck, given what is at hand; the alternatives say what they would need.

    Args:
        bottleneck: What binds.
        available: What stages can be given.
        measured: StageDescription → what a probe found out about it.
    """
    stages = [STAGES[name] for name in _ROUTES[bottleneck]]
    why = {s.name: s.right_when + (f"; measured: {measured[s.name]}" if s.name in measured else "") for s in stages}
    possible = [s for s in stages if set(s.needs) <= available]
    chosen = possible[0] if possible else stages[-1]
    alternatives = []
    for stage in stages:
        if stage is chosen or (not stage.trains and stage is not stages[0]):
            continue
        missing = [need.value for need in stage.needs if need not in available]
        caveat = f"; needs {', '.join(missing)}" if missing else ""
        alternatives.append((stage.name, f"right when {why[stage.name]}{caveat}"))
    return StageAdvice(
        name=chosen.name,
        provenance=chosen.provenance,
        interface=chosen.interface,
        why=why[chosen.name],
        needs=tuple(need.value for need in chosen.needs),
        predicted_gain=None,
        alternatives=tuple(alternatives),
    )


def to_markdown() -> str:
    """The table of all stages, as `posttrain stages --markdown` prints it and reports/STAGES.md holds it."""
    lines = [
        "# The stages",
        "",
        "Made by `posttrain stages --markdown`. Each runs as `posttrain train STAGE MODEL BEHAVIOR... --out CKPT`; the first lines of its file in",
        "`trainers/recipes/` say what is sampled, what earns credit and what the loss is, and its config class documents every knob.",
        "",
        "| stage | family | provenance | interface | usual role | needs | right when | no learning signal when | paper |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for stage in STAGES.values():
        if stage.trains:
            cells = [
                f"`{stage.name}`",
                stage.family,
                stage.provenance.replace("_", "-"),
                stage.interface,
                stage.role.value.replace("_", " ") if stage.role else "none",
                ", ".join(need.value.replace("_", " ") for need in stage.needs),
                stage.right_when,
                stage.no_signal_when,
                f"[{stage.paper}](https://arxiv.org/abs/{stage.paper})",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "Advice that trains nothing:", ""]
    lines += [f"- `{stage.name}`: {stage.right_when}" for stage in STAGES.values() if not stage.trains]
    return "\n".join(lines) + "\n"
