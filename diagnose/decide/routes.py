"""Which stage a bottleneck is sent to, given what is available."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from posttrain.diagnose.stage_catalogue import STAGES, Need
from posttrain.diagnose.types import Bottleneck, Role, StageAdvice

_ROUTES: dict[Bottleneck, tuple[str, ...]] = {
    # In order of preference; the first one whose needs are met is named, the others are alternatives.
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
    Bottleneck.MISSING_SUPPORT: Role.SUPPORT_EXPANSION,
    Bottleneck.GUIDED_ONLY: Role.SUPPORT_EXPANSION,
    Bottleneck.POOR_CHOICE: Role.POLICY_RESHAPING,
    Bottleneck.FORMAT: Role.POLICY_RESHAPING,
    Bottleneck.ATTRITION: Role.BEHAVIORAL_CONSOLIDATION,
    Bottleneck.SCAFFOLD_BOUND: Role.BEHAVIORAL_CONSOLIDATION,
    Bottleneck.DECODING: None,
    Bottleneck.MASTERED: None,
    Bottleneck.INVALID: None,
    Bottleneck.INCONCLUSIVE: None,
}


def name_stage(
    bottleneck: Bottleneck, available: frozenset[Need], measured: Mapping[str, str] = MappingProxyType({})
) -> StageAdvice:
    """Return the stage for a bottleneck, given what is available; the alternatives say what they would need.

    Args:
        bottleneck: What binds.
        available: What stages can be given.
        measured: Stage → what a probe found out about it.
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
        alternatives=tuple(alternatives),
    )
