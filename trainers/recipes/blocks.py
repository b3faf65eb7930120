"""What recipes are built from: where rows come from, terms of the loss that recipes share, and stages that differ in one term only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from posttrain.diagnose.engines.limits import context_length
from posttrain.diagnose.errors import SettingsError
from posttrain.diagnose.types import Reference
from posttrain.trainers.config import ClippedConfig, PairConfig, ReferenceConfig, RolloutConfig, StudentConfig, TracesConfig
from posttrain.trainers.credit.group import GroupCredit
from posttrain.trainers.objectives.divergences import KlToReference, TeacherDivergence
from posttrain.trainers.objectives.imitation import Nll
from posttrain.trainers.objectives.policy_gradient import PolicyGradient
from posttrain.trainers.objectives.reductions import row_mean, sequence_mean, token_mean
from posttrain.trainers.sources.demonstrations import encode_references
from posttrain.trainers.sources.mixed import MixedSource
from posttrain.trainers.sources.policy import PolicySource, PromptBuilder, RolloutSampler, RowBuilder, sampler_of
from posttrain.trainers.sources.prepared import Made, PreparedRows, change_rows, fixed
from posttrain.trainers.sources.verified import make_pairs, sample_pairs, sample_verified, successes
from posttrain.trainers.stage import Component, Credit, FrozenModel, Reduction, Source, Stage, Stateful, Term, TrainingInputs
from posttrain.trainers.training_types import RowRole, TrainingProblem, TrainingRow

REDUCTIONS: dict[str, Reduction] = {"sequence_mean": sequence_mean, "token_mean": token_mean}
SAMPLES = frozenset({RowRole.SAMPLE})
DEMONSTRATIONS = frozenset({RowRole.DEMONSTRATION})
CHOSEN = frozenset({RowRole.CHOSEN})


# ------------------------------------------------------------------------------------------------------------ on-policy rows


def require_live_engine(inputs: TrainingInputs, stage: str) -> None:
    """Refuse an engine that does not sample the model in training.

    Raises:
        SettingsError: It samples frozen weights.
    """
    if not inputs.engine.is_live:
        raise SettingsError(
            f"{stage} samples the model in training, and engine {inputs.engine.info.name} cannot be refreshed; use transformers or vllm",
            code="engine_is_frozen",
        )


def policy_rollouts(
    inputs: TrainingInputs,
    config: RolloutConfig,
    stage: str,
    *,
    max_resamples: int = 0,
    build_prompts: PromptBuilder | None = None,
    build_rows: RowBuilder | None = None,
    memory: Stateful | None = None,
) -> PolicySource:
    """Return fresh graded samples of the model in training for every batch; see `PolicySource`."""
    require_live_engine(inputs, stage)
    return PolicySource(
        sampler=sampler_of(inputs),
        items=inputs.training_set.train,
        config=config,
        num_updates=config.updates_per_batch,
        max_resamples=max_resamples,
        build_prompts=build_prompts,
        build_rows=build_rows,
        memory=memory,
    )


def student_rollouts(
    inputs: TrainingInputs, config: StudentConfig, stage: str, build_rows: RowBuilder | None = None
) -> PolicySource:
    """Return fresh ungraded samples of the model in training, on the prompts of a data set where one is given."""
    require_live_engine(inputs, stage)
    items = inputs.prompts or inputs.training_set.train
    return PolicySource(sampler=sampler_of(inputs, graded=False), items=items, config=config, build_rows=build_rows)


# ---------------------------------------------------------------------------------------------------------------- given rows


def reference_rows(inputs: TrainingInputs, max_references: int | None = None) -> list[TrainingRow]:
    """Return the rows of `--data`, else the reference paths of the train problems."""
    return list(inputs.data) or inputs.lengths.fit(encode_references(inputs.engine, inputs.training_set.train, max_references))


def given_rows(inputs: TrainingInputs, config: ReferenceConfig) -> PreparedRows:
    """Return the rows of `reference_rows`, in epochs."""
    return PreparedRows(fixed(reference_rows(inputs, config.max_references)), config)


def preference_pairs(inputs: TrainingInputs, config: PairConfig) -> Callable[[], Made]:
    """Return what makes pairs, from `--data`, from a run's train rollouts, or from samples of the model before training."""
    references = inputs.lengths.fit(encode_references(inputs.engine, inputs.training_set.train)) if config.use_references else []
    if inputs.data and inputs.data[0].role is RowRole.SAMPLE:
        return fixed(make_pairs([*inputs.data, *references], successes(inputs.training_set), config.max_per_problem))
    if inputs.data:
        return fixed(inputs.data)
    return sample_pairs(sampler_of(inputs), inputs.training_set, references, config)


# ------------------------------------------------------------------------------------------------------------------- teacher


def require_teacher(inputs: TrainingInputs, stage: str, *, same_tokens: bool = True) -> FrozenModel:
    """Return the teacher of a stage, or the earlier checkpoint where no teacher is given.

    Args:
        inputs: What the stage is given.
        stage: Its name, for the message.
        same_tokens: Whether student and teacher must have the same tokens; they are then compared over the ids that both have.

    Raises:
        SettingsError: It is the policy itself, or its vocabulary differs.
    """
    teacher = inputs.teacher or inputs.earlier
    assert teacher is not None, "build_stage refuses a stage without one"
    if inputs.fingerprint and teacher.fingerprint == inputs.fingerprint:
        raise SettingsError(
            f"{stage}: the teacher {teacher.source} is the policy itself, which has nothing to teach; give another model, or use self_distill, "
            "where the teacher sees a hint or worked examples",
            code="teacher_is_policy",
        )
    if same_tokens:
        mine, other = inputs.tokenizer.get_vocab(), teacher.tokenizer.get_vocab()
        shared = min(len(model.get_output_embeddings().weight) for model in (inputs.model, teacher.model))
        if (
            mine != other or max(mine.values()) >= shared
        ):  # rows beyond the tokens are padding, of which models of a family have more or fewer
            raise SettingsError(
                f"{stage} compares next-token distributions, and the teacher {teacher.source} has other tokens ({len(other)}, here {len(mine)}); "
                "use seq_kd, which learns from its texts",
                code="teacher_vocabulary_differs",
            )
    return teacher


def frozen_sampler(inputs: TrainingInputs, other: FrozenModel) -> RolloutSampler:
    """Return what samples a model beside the one in training and grades with the verifiers of the inputs."""
    return RolloutSampler(
        engine=other.engine, graders=inputs.graders, processes=inputs.processes, context=context_length(other.model.config)
    )


def as_student(inputs: TrainingInputs, items: Sequence[TrainingProblem]) -> Callable[[TrainingRow], TrainingRow]:
    """Return what makes a demonstration of another model's sample on one of these problems, tokenised as the model in training would."""
    by_name = {(item.behavior.name, item.problem.id): item for item in items}

    def change(row: TrainingRow) -> TrainingRow:
        item = by_name[row.behavior, row.problem_id]
        prompt = inputs.engine.codec.encode_prompt(item.problem.prompt, item.behavior.prompt)
        ids = row.completion_ids
        if prompt.token_ids != row.prompt_ids:
            ids = inputs.engine.codec.encode_path(prompt, Reference(steps=(row.text,))).token_ids
        return replace(row, prompt_ids=prompt.token_ids, completion_ids=ids, sampler_logprobs=None, role=RowRole.DEMONSTRATION)

    return change


def teacher_traces(inputs: TrainingInputs, config: TracesConfig, stage: str, *, same_tokens: bool) -> Callable[[], Made]:
    """Return what makes rows of the teacher's verified samples, tokenised as the student's.

    Raises:
        SettingsError: The teacher cannot be used.
    """
    teacher = require_teacher(inputs, stage, same_tokens=same_tokens)
    sample = sample_verified(frozen_sampler(inputs, teacher), inputs.training_set, config, seed=f"teacher|{config.seed}")
    traces = change_rows(sample, as_student(inputs, inputs.training_set.train))

    def make() -> Made:
        rows, metrics = traces()
        return inputs.lengths.fit(rows, generated=True), metrics

    return make


def student_or_given(inputs: TrainingInputs, config: StudentConfig, stage: str) -> Source:
    """Return the student's samples, mixed with reference paths or the teacher's samples; with prompts alone, the student's only.

    Raises:
        SettingsError: There are rows that no batch would hold.
    """
    own = student_rollouts(inputs, config, stage)
    if config.on_policy == 1.0 and inputs.data:
        raise SettingsError(
            f"{stage}: got answers to imitate and on_policy=1, which samples every batch; lower on_policy, or give prompts alone",
            code="data_would_be_unused",
        )
    if config.on_policy == 1.0 or inputs.prompts:
        return own
    rows = reference_rows(inputs)
    given = fixed(rows) if rows else teacher_traces(inputs, config, stage, same_tokens=True)
    return MixedSource(own, PreparedRows(given, config), on_policy=config.on_policy, seed=config.seed)


# --------------------------------------------------------------------------------------------------------- terms of the loss


def clipped_policy_gradient(config: ClippedConfig, ratio: str = "token") -> PolicyGradient:
    """Return the clipped policy gradient of a config."""
    return PolicyGradient(eps_low=config.eps_low, eps_high=config.eps_high, ratio=ratio, importance_cap=config.importance_cap)


def with_kl(config: RolloutConfig, reduction: Reduction, *components: Component) -> tuple[Component, ...]:
    """Return the components, and a divergence to the model before training where `kl_weight` is positive."""
    if config.kl_weight == 0:
        return components
    return (*components, Component(term=KlToReference(), reduction=reduction, weight=config.kl_weight, roles=SAMPLES))


# -------------------------------------------------------------------------------------------------------------- whole stages


def imitation_stage(source: Source, term: Nll | None = None) -> Stage:
    """Return a stage that imitates the rows of a source, all tokens alike unless the term weighs them."""
    return Stage(source=source, components=(Component(term=term or Nll(), reduction=token_mean),))


def policy_gradient_stage(
    source: Source, config: RolloutConfig, term: PolicyGradient, reduction: Reduction, credit: Credit | None = None
) -> Stage:
    """Return a stage that reinforces the rows of a source, compared within their groups unless another credit is given."""
    components = with_kl(config, reduction, Component(term=term, reduction=reduction))
    return Stage(source=source, components=components, credit=credit or GroupCredit())


def interleaved_stage(
    source: Source, config: ClippedConfig, imitated: Component, weight: float | Callable[[int], float] = 1.0
) -> Stage:
    """Return a stage that reinforces the samples of a source with a weight, and imitates the demonstrations among them."""
    term = clipped_policy_gradient(config)
    own = Component(term=term, reduction=sequence_mean, weight=weight, roles=SAMPLES, whole_batch=imitated.whole_batch)
    return Stage(source=source, credit=GroupCredit(), components=with_kl(config, sequence_mean, own, imitated))


def pair_stage(inputs: TrainingInputs, config: PairConfig, term: Term, nll_weight: float) -> Stage:
    """Return a stage with a term on pairs, and the NLL of their chosen answers where it has a weight."""
    components = [Component(term=term, reduction=row_mean)]
    if nll_weight > 0:
        components.append(Component(term=Nll(), reduction=token_mean, weight=nll_weight, roles=CHOSEN))
    return Stage(
        source=PreparedRows(preference_pairs(inputs, config), config, rows_per_item=2),
        components=tuple(components),
    )


def distillation_stage(inputs: TrainingInputs, config: StudentConfig, stage: str) -> Stage:
    """Return a stage with the divergence to the teacher, on the student's own samples and in part on given paths.

    Raises:
        SettingsError: The teacher cannot be used.
    """
    require_teacher(inputs, stage)
    return Stage(
        source=student_or_given(inputs, config, stage),
        components=(Component(term=TeacherDivergence(beta=config.beta), reduction=token_mean),),
    )


def repeat_last_token(row: TrainingRow) -> TrainingRow:
    """Return the row with its last token once more: a token is read only to predict the next, and a head stands behind the last one."""
    weights = None if row.token_weights is None else np.append(row.token_weights, row.token_weights[-1:])
    return replace(
        row, completion_ids=(*row.completion_ids, row.completion_ids[-1]), sampler_logprobs=None, token_weights=weights
    )
