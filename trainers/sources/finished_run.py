"""Rows from what a run directory already holds: the train-split rollouts of a diagnosis, graded, without sampling again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posttrain.diagnose.behaviors.behavior_options import option_words
from posttrain.diagnose.engines.base import Engine
from posttrain.diagnose.engines.codec import TextCodec
from posttrain.diagnose.errors import RunError
from posttrain.diagnose.storage.diagnosis_json import DiagnosisFile
from posttrain.diagnose.storage.json_model import read_model
from posttrain.diagnose.storage.run_check import checked_table
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.types import Rollout, Split, StopReason
from posttrain.trainers.sources.policy import reward
from posttrain.trainers.training_types import TrainingRow, TrainingSet


def read_run(path: str | Path, engine: Engine, training_set: TrainingSet) -> list[TrainingRow]:
    """Return the sampled rollouts of a run on the train problems of these behaviors, as `RowRole.SAMPLE` rows.

    Args:
        path: Folder of a `posttrain diagnose --split train` (or `posttrain.diagnose.run(..., split=Split.TRAIN)`).
        engine: Its tokenizer writes the prompts.
        training_set: What may be trained on: rollouts of eval, final and dev problems are refused or left out.

    Raises:
        RunError: The folder holds no finished run of the train split, none of these behaviors, a behavior that has changed since, or samples of a
            model with other tokens.
        MeasuredProblemError: A rollout says that it stems from the train split, and the behavior says now that its problem is measured.
    """
    directory = RunDirectory(Path(path))
    record = directory.read_json()
    if record["kind"] != "diagnose" or not directory.diagnosis_json.exists():
        raise RunError(
            f"--from {path}: got a {record['kind']} run that holds no finished diagnosis; give the folder of a `posttrain diagnose`",
            code="run_not_finished",
        )
    named = {one.name for one in read_model(directory.diagnosis_json, DiagnosisFile).behaviors}
    if record["settings"].get("split") != Split.TRAIN:
        raise RunError(
            f"--from {path}: the run measured the {record['settings'].get('split')} split, and measured problems are never trained on; sample train problems "
            "with `posttrain diagnose --split train`",
            code="run_measured_split",
        )
    wanted = [name for name in training_set.behaviors if name in named]
    if not wanted:
        raise RunError(
            f"--from {path}: the run measured {', '.join(sorted(named))}, and the stage is to be trained on {', '.join(training_set.behaviors)}",
            code="run_of_other_behaviors",
        )
    dev = {(item.behavior.name, item.problem.id) for item in training_set.dev}
    rows: list[TrainingRow] = []
    for name in wanted:
        behavior = training_set.behaviors[name]
        if behavior.fingerprint != record["settings"]["behaviors"].get(name):
            sampled = record.get("behavior_options", {}).get(name, {})
            if sampled != behavior.options:
                raise RunError(
                    f"--from {path}: {name} was sampled {_with(sampled)}, and this is {_with(behavior.options)}; give the same options here",
                    code="other_behavior_options",
                )
            raise RunError(
                f"--from {path}: the behavior {name} ({behavior.source}) has changed since; bring back the file, or sample again into a new folder",
                code="behavior_changed",
            )
        problems = {problem.id: problem for problem in behavior.problems}
        for rollout in checked_table(directory, name).all_rows():
            if (name, rollout.problem_id) in dev or not _usable(rollout):
                continue
            training_set.require_train([rollout])
            if not _has_tokens_of(engine, rollout):
                raise RunError(
                    f"--from {path}: sample {rollout.sample_index} of {name}/{rollout.problem_id} does not read the same in the tokens of the model in "
                    "training; give a run of that model, or of one with its tokenizer",
                    code="run_of_other_tokens",
                )
            prompt = engine.codec.encode_prompt(problems[rollout.problem_id].prompt, behavior.prompt)
            rows.append(_row(rollout, prompt.token_ids))
    if not rows:
        raise RunError(
            f"--from {path}: it holds no sample that could be trained on: all lie in the dev slice or have unknown tokens, or its measurement is invalid; look "
            "at its report, and sample the train split again",
            code="run_without_rows",
        )
    return rows


def _with(options: Mapping[str, Any]) -> str:
    return f"with {' '.join(option_words(options))}" if options else "without options of behaviors"


def _usable(rollout: Rollout) -> bool:
    """Return whether a rollout was sampled, not greedily decoded, and has known tokens."""
    return (
        rollout.decoding == "sampled"
        and rollout.stop is not StopReason.ERROR
        and len(rollout.token_ids) > 0
        and all(token >= 0 for token in rollout.token_ids)
    )


def _has_tokens_of(engine: Engine, rollout: Rollout) -> bool:
    """Return whether the tokens give the text, which a stop text may have cut short; True where the engine has no tokenizer of ours."""
    codec = engine.codec
    if not isinstance(codec, TextCodec):
        return True
    if max(rollout.token_ids) >= len(codec.tokenizer):
        return False
    return codec.decode(list(rollout.token_ids)).strip().startswith(rollout.text.strip())


def _row(rollout: Rollout, prompt_ids: tuple[int, ...]) -> TrainingRow:
    return TrainingRow(
        behavior=rollout.behavior,
        problem_id=rollout.problem_id,
        split=rollout.split,
        group_id=f"{rollout.behavior}/{rollout.problem_id}",
        prompt_ids=prompt_ids,
        completion_ids=tuple(rollout.token_ids),
        sampler_logprobs=rollout.sampler_logprobs,
        reward=reward(rollout.stop, rollout.grade),
        truncated=rollout.stop is StopReason.LENGTH,
        text=rollout.text,
    )
