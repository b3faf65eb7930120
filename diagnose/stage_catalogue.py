"""What is known of each stage that a diagnosis can name: every family of the survey (arXiv 2604.07941, Tables 3, 4 and 6), as data.

This module only describes; `posttrain.trainers.recipes` builds each stage. "Do nothing" and "collect references" are stages too, because
they are often the right advice. Provenance and interface are decided by what the code does, roles by the survey.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from posttrain.diagnose.types import Behavior, Role, Split

NO_TRAINING = "no training"
"""The family of advice."""


class Provenance(StrEnum):
    """Where the trajectories come from."""

    OFF_POLICY = "off_policy"
    ON_POLICY = "on_policy"
    MIXED = "mixed"
    NONE = "none"


class Interface(StrEnum):
    """How the learning signal is attached."""

    TOKEN_TARGETS = "token targets"
    PREFERENCES = "preferences"
    VERIFIER = "verifier"
    PROCESS_FEEDBACK = "process feedback"
    TEACHER_TARGETS = "teacher targets"
    TOKEN_TARGETS_AND_VERIFIER = "token targets and verifier"
    NONE = "none"


class Need(StrEnum):
    """What a stage must be given."""

    REFERENCES = "references"
    VERIFIER = "verifier"
    PAIRS = "pairs"
    TEACHER = "teacher"
    EARLIER_CHECKPOINT = "earlier_checkpoint"
    STEP_FEEDBACK = "step_feedback"
    RETENTION = "retention_behavior"
    """Of no stage; of an advice whose stage is worth its cost only where rows of a retention behavior are mixed in."""


HOW_TO_GIVE: Mapping[Need, str] = {
    Need.REFERENCES: "the train problems need `references`, or rows are needed with --data",
    Need.VERIFIER: "a verifier and problems of the train split are needed",
    Need.PAIRS: "pairs are needed: rows with prompt, chosen and rejected with --data, or train problems with a verifier",
    Need.TEACHER: "a teacher is needed (--teacher, or --earlier)",
    Need.EARLIER_CHECKPOINT: "an earlier checkpoint is needed (--earlier)",
    Need.STEP_FEEDBACK: "labelled steps are needed with --data, or train problems with a verifier",
    Need.RETENTION: "a behavior that must not be lost is needed (--retain)",
}
"""What to tell a user whose stage lacks something."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageDescription:
    """One post-training stage; by default advice, which trains nothing."""

    name: str
    family: str = NO_TRAINING
    provenance: Provenance = Provenance.NONE
    interface: Interface = Interface.NONE
    role: Role | None = None
    """What it usually does to the policy; None for what leaves the weights alone."""
    further_role: Role | None = None
    """What it does to the policy beside or in place of that, in some conditions."""
    needs: tuple[Need, ...] = ()
    right_when: str
    no_signal_when: str = ""
    """When it gives no learning signal, or the wrong one."""
    paper: str = ""
    """arXiv number."""

    @property
    def trains(self) -> bool:
        """Whether `posttrain train` runs it; else it is advice."""
        return self.family != NO_TRAINING

    @property
    def learns_from_successes(self) -> bool:
        """Whether its learning signal is the policy's own successes beside its own failures, so that it needs both."""
        return self.family in _FROM_SUCCESSES

    @property
    def roles(self) -> str:
        """Its roles in words."""
        if self.role is None:
            return "none"
        words = self.role.value.replace("_", " ")
        return words if self.further_role is None else f"{words}, at times {self.further_role.value.replace('_', ' ')}"


def _family(papers: Mapping[str, str], **shared: Any) -> list[StageDescription]:
    """Describe stages that differ in name and paper only; `papers` maps one to the other."""
    return [StageDescription(name=name, paper=paper, **shared) for name, paper in papers.items()]


_FROM_SUCCESSES = ("on-policy reinforcement learning", "online preference optimisation", "iterative refinement")
_EXPAND, _RESHAPE, _CONSOLIDATE = Role.SUPPORT_EXPANSION, Role.POLICY_RESHAPING, Role.BEHAVIORAL_CONSOLIDATION

_TRAINING: list[StageDescription] = [
    *_family(
        {"sft": "2203.02155"}, family="supervised fine-tuning", provenance=Provenance.OFF_POLICY,
        interface=Interface.TOKEN_TARGETS, role=_EXPAND, further_role=_RESHAPE, needs=(Need.REFERENCES,),
        right_when="good trajectories are never reached and references show them",
        no_signal_when="references are few, or already likely (then it reshapes and forgets)",
    ),
    *_family(
        {"dft": "2508.05629"}, family="supervised fine-tuning", provenance=Provenance.OFF_POLICY,
        interface=Interface.TOKEN_TARGETS, role=_RESHAPE, needs=(Need.REFERENCES,),
        right_when="references show what the policy reaches with low probability",
        no_signal_when="references are outside the support: tokens of probability 0 have no weight",
    ),
    *_family(
        {"dpo": "2305.18290", "ipo": "2310.12036", "kto": "2402.01306", "simpo": "2405.14734", "orpo": "2403.07691", "cpo": "2401.08417"},
        family="offline preference optimisation", provenance=Provenance.OFF_POLICY, interface=Interface.PREFERENCES,
        role=_RESHAPE, needs=(Need.PAIRS,),
        right_when="only pairs are available and the chosen ones are reachable",
        no_signal_when="both sides of a pair are far from what the policy writes",
    ),
    *_family(
        {"seq_kd": "1606.07947"}, family="off-policy teacher transfer", provenance=Provenance.OFF_POLICY,
        interface=Interface.TEACHER_TARGETS, role=_CONSOLIDATE, further_role=_EXPAND, needs=(Need.TEACHER, Need.VERIFIER),
        right_when="a teacher has the behavior and the policy never reaches it",
        no_signal_when="the teacher's paths are out of the student's reach at every length",
    ),
    *_family(
        {"logit_kd": "1503.02531"}, family="off-policy teacher transfer", provenance=Provenance.OFF_POLICY,
        interface=Interface.TEACHER_TARGETS, role=_CONSOLIDATE, needs=(Need.TEACHER, Need.REFERENCES),
        right_when="a teacher with the same tokens is available and given paths are what should be written",
        no_signal_when="the student never goes where the paths go",
    ),
    *_family(
        {"grpo": "2402.03300", "rloo": "2402.14740", "dr_grpo": "2503.20783", "dapo": "2503.14476", "gspo": "2507.18071", "cispo": "2506.13585", "ppo": "1707.06347"},
        family="on-policy reinforcement learning", provenance=Provenance.ON_POLICY, interface=Interface.VERIFIER,
        role=_RESHAPE, needs=(Need.VERIFIER,),
        right_when="the behavior is reachable but unreliable and a verifier can tell",
        no_signal_when="every sample of a group earns the same reward",
    ),
    *_family(
        {"online_dpo": "2402.04792"}, family="online preference optimisation", provenance=Provenance.ON_POLICY,
        interface=Interface.PREFERENCES, role=_RESHAPE, needs=(Need.VERIFIER,),
        right_when="as for reinforcement learning, with a ranking in place of a reward",
        no_signal_when="every sample of a group earns the same reward",
    ),
    *_family(
        {"process": "2504.15275"}, family="process supervision", provenance=Provenance.ON_POLICY,
        interface=Interface.PROCESS_FEEDBACK, role=_RESHAPE, needs=(Need.VERIFIER, Need.STEP_FEEDBACK),
        right_when="errors are local to a step that is reached",
        no_signal_when="the step before the error is never reached, or the step verifier can be fooled",
    ),
    *_family(
        {"rft": "2308.01825"}, family="iterative refinement", provenance=Provenance.ON_POLICY, interface=Interface.VERIFIER,
        role=_RESHAPE, needs=(Need.VERIFIER,),
        right_when="the behavior is reachable and a few verified samples per problem can be had",
        no_signal_when="nothing passes the filter, or only easy problems do",
    ),
    *_family(
        {"opd": "2306.13649", "gkd": "2306.13649", "minillm": "2306.08543"}, family="on-policy teacher transfer",
        provenance=Provenance.ON_POLICY, interface=Interface.TEACHER_TARGETS, role=_RESHAPE, further_role=_CONSOLIDATE,
        needs=(Need.TEACHER,),
        right_when="a teacher scores what the student writes better than a verifier could",
        no_signal_when="the teacher finds the student's prefixes as unlikely as the student does",
    ),
    *_family(
        {"guided_grpo": "2601.18779"}, family="guided on-policy", provenance=Provenance.ON_POLICY,
        interface=Interface.VERIFIER, role=_RESHAPE, further_role=_EXPAND, needs=(Need.REFERENCES, Need.VERIFIER),
        right_when="the behavior is reached from a reference prefix only",
        no_signal_when="no prefix short of the answer helps, or the hint is never taken away",
    ),
    *_family(
        {"luffy": "2504.14945", "chord": "2508.11408", "hpt": "2509.04419"}, family="interleaved SFT and RL",
        provenance=Provenance.MIXED, interface=Interface.TOKEN_TARGETS_AND_VERIFIER, role=_EXPAND, further_role=_RESHAPE,
        needs=(Need.REFERENCES, Need.VERIFIER),
        right_when="some problems need support and others reliability at the same time",
        no_signal_when="the two gradients pull against each other",
    ),
    *_family(
        {"replay": "2403.08763"}, family="consolidation", provenance=Provenance.OFF_POLICY,
        interface=Interface.TOKEN_TARGETS, role=_CONSOLIDATE, needs=(Need.EARLIER_CHECKPOINT, Need.VERIFIER),
        right_when="what was there before is being lost",
        no_signal_when="the earlier checkpoint did not have it either",
    ),
    *_family(
        {"merge": "2203.05482"}, family="consolidation", provenance=Provenance.OFF_POLICY, interface=Interface.NONE,
        role=_CONSOLIDATE, needs=(Need.EARLIER_CHECKPOINT,),
        right_when="two checkpoints of one start each have something the other lacks",
        no_signal_when="they are far apart; it does not reliably undo forgetting",
    ),
    *_family(
        {"self_distill": "2209.15189"}, family="consolidation", provenance=Provenance.OFF_POLICY,
        interface=Interface.TEACHER_TARGETS, role=_CONSOLIDATE, needs=(Need.VERIFIER,),
        right_when="a gain depends on a scaffold: a hint, worked examples, best-of-n",
        no_signal_when="the scaffold changes nothing",
    ),
    *_family(
        {"reward_model": "2203.02155"}, family="reward models", provenance=Provenance.OFF_POLICY,
        interface=Interface.PREFERENCES, role=None, needs=(Need.PAIRS,),
        right_when="nothing can tell right from wrong but pairs can",
        no_signal_when="the pairs are told apart already, or what is asked lies outside them",
    ),
    *_family(
        {"process_reward_model": "2305.20050"}, family="reward models", provenance=Provenance.OFF_POLICY,
        interface=Interface.PROCESS_FEEDBACK, role=None, needs=(Need.STEP_FEEDBACK,),
        right_when="steps must be judged and labels of steps, or continuations behind them, can be had",
        no_signal_when="all steps have one label",
    ),
]  # fmt: skip

_ADVICE = [
    StageDescription(name=name, right_when=right)
    for name, right in {
        "none": "the behavior is mastered: training can only cost",
        "collect_references": "the behavior is out of reach and too little that shows it is available",
        "collect_verifier": "the behavior is reachable but nothing can tell right from wrong",
        "change_decoding": "the behavior is mastered under greedy or cooler decoding",
        "fix_setup": "the numbers cannot be believed until prompt, verifier or sampler is repaired",
        "sample_more": "the samples do not decide yet",
    }.items()
]

STAGES: dict[str, StageDescription] = {stage.name: stage for stage in [*_TRAINING, *_ADVICE]}


def available_needs(behavior: Behavior, *, teacher: bool = False, earlier: bool = False) -> frozenset[Need]:
    """Return what a behavior's train split and the available models offer to a stage.

    One reference is enough to run a stage that needs them; what a handful is worth is measured (`decide.stage_effects`).
    """
    train = behavior.split(Split.TRAIN)
    found = {Need.TEACHER} if teacher else set()
    found |= {Need.EARLIER_CHECKPOINT} if earlier else set()
    found |= {Need.VERIFIER} if train else set()
    found |= {Need.REFERENCES} if any(p.references for p in train) else set()
    return frozenset(found)


def trainable_needs(offered: frozenset[Need], *, data: bool) -> frozenset[Need]:
    """Return what a stage can learn from, of what is offered and, with `data`, of a data set.

    Samples that a verifier calls right and wrong are pairs, and its rollouts behind a step judge the step. A teacher and an earlier
    checkpoint stand in for each other. Data may be of any kind: the stage itself refuses the wrong one.
    """
    found = set(offered)
    if data:
        found.add(Need.REFERENCES)
    if data or Need.VERIFIER in offered:
        found |= {Need.PAIRS, Need.STEP_FEEDBACK}
    if offered & {Need.TEACHER, Need.EARLIER_CHECKPOINT}:
        found |= {Need.TEACHER, Need.EARLIER_CHECKPOINT}
    return frozenset(found)


def to_markdown() -> str:
    """Return the table of all stages, as `posttrain stages --markdown` prints it and reports/STAGES.md holds it."""
    lines = [
        "# The stages",
        "",
        "Made by `posttrain stages --markdown`. Each runs as `posttrain train STAGE MODEL BEHAVIOR... --out CKPT`; the first lines of its file in",
        "`trainers/recipes/` say what is sampled, what earns credit and what the loss is, and its config class documents every setting.",
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
                stage.roles,
                ", ".join(need.value.replace("_", " ") for need in stage.needs),
                stage.right_when,
                stage.no_signal_when,
                f"[{stage.paper}](https://arxiv.org/abs/{stage.paper})",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "Advice that trains nothing:", ""]
    lines += [f"- `{stage.name}`: {stage.right_when}" for stage in STAGES.values() if not stage.trains]
    return "\n".join(lines) + "\n"
