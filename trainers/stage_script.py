"""The stage that a verdict names, as a script for another trainer: its settings, its data and the behavior's own verifier as the reward.

What stands in a script comes from files of users, so every value is written as a literal and every comment on one line.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posttrain.diagnose.behaviors import BehaviorOptions, load_behavior
from posttrain.diagnose.errors import RunError, SettingsError
from posttrain.diagnose.exporting.export_formats import EXPORTS
from posttrain.diagnose.exporting.export_rows import ExportOptions, chosen_behaviors
from posttrain.diagnose.exporting.write_export import write_rows
from posttrain.diagnose.stage_catalogue import STAGES
from posttrain.diagnose.storage.diagnosed_run import DiagnosedBehavior, DiagnosedRun
from posttrain.diagnose.storage.files import write_text
from posttrain.diagnose.storage.writable import check_writable
from posttrain.diagnose.strict_settings import unknown
from posttrain.diagnose.types import Purpose, Split
from posttrain.diagnose.verifiers.imported_grades import KIND
from posttrain.trainers.learning_rate import RateKind, default_learning_rate

_USUAL_WIDTH = 4096
"""Of a model whose width is not known here."""
_PROBLEMS_PER_STEP = 8
_NUM_STEPS = 100
_DEMO, _DEMO_WIDTH = "HuggingFaceTB/SmolLM2-135M-Instruct", 576


@dataclass(frozen=True, kw_only=True, slots=True)
class Counterpart:
    """What a stage is called elsewhere."""

    trainer: str
    """Class of TRL without `Trainer`; `PPO` for verl."""
    data: str
    """The export that it learns from."""
    kind: RateKind
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What tells it from other stages of that trainer."""


_GRPO_OF_TRL: dict[str, dict[str, Any]] = {
    "grpo": {"loss_type": "grpo"},
    "dr_grpo": {"loss_type": "dr_grpo", "scale_rewards": "none"},
    "dapo": {"loss_type": "dapo", "epsilon_high": 0.28},
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence"},
    "cispo": {"loss_type": "cispo"},
}
TRL: dict[str, Counterpart] = {
    "sft": Counterpart(trainer="SFT", data="trl-references", kind=RateKind.IMITATION),
    "dft": Counterpart(trainer="SFT", data="trl-references", kind=RateKind.IMITATION, settings={"loss_type": "dft"}),
    "rft": Counterpart(trainer="SFT", data="trl-sft", kind=RateKind.IMITATION),
    "dpo": Counterpart(trainer="DPO", data="trl-pairs", kind=RateKind.PAIRS),
    "ipo": Counterpart(trainer="DPO", data="trl-pairs", kind=RateKind.PAIRS, settings={"loss_type": "ipo"}),
    "rloo": Counterpart(trainer="RLOO", data="trl-prompts", kind=RateKind.POLICY_GRADIENT, settings={"beta": 0.0}),
    **{
        name: Counterpart(trainer="GRPO", data="trl-prompts", kind=RateKind.POLICY_GRADIENT, settings=settings)
        for name, settings in _GRPO_OF_TRL.items()
    },
}
"""Stages that TRL has."""

_ACTOR = "actor_rollout_ref.actor"
_GRPO = {"algorithm.adv_estimator": "grpo"}
_SETTINGS_OF_VERL: dict[str, dict[str, Any]] = {
    "grpo": {**_GRPO, f"{_ACTOR}.loss_agg_mode": "seq-mean-token-mean"},
    "dr_grpo": {**_GRPO, "algorithm.norm_adv_by_std_in_grpo": False, f"{_ACTOR}.loss_agg_mode": "seq-mean-token-sum-norm"},
    "dapo": {**_GRPO, f"{_ACTOR}.loss_agg_mode": "token-mean", f"{_ACTOR}.clip_ratio_high": 0.28},
    "gspo": {**_GRPO, f"{_ACTOR}.policy_loss.loss_mode": "gspo", f"{_ACTOR}.loss_agg_mode": "seq-mean-token-mean"},
    "rloo": {"algorithm.adv_estimator": "rloo", f"{_ACTOR}.loss_agg_mode": "token-mean"},
}
VERL: dict[str, Counterpart] = {
    name: Counterpart(trainer="PPO", data="verl", kind=RateKind.POLICY_GRADIENT, settings=settings)
    for name, settings in _SETTINGS_OF_VERL.items()
}
"""Stages that verl has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Script:
    """What a script is made of."""

    stage: str
    why: str
    counterpart: Counterpart
    model: str
    behaviors: tuple[DiagnosedBehavior, ...]
    learning_rate: float
    width: int | None
    """Of the model; None where it is not known here."""

    @property
    def group_size(self) -> int:
        """Return the samples per problem."""
        return max(2, *(one.behavior.measure.group_size for one in self.behaviors))

    @property
    def max_tokens(self) -> int:
        """Return the longest sample of any of the behaviors, as it was measured."""
        return max(one.behavior.sampling.max_tokens for one in self.behaviors)

    @property
    def comments(self) -> list[str]:
        """Return what the script is and why its settings are as they are, a line each."""
        names = ", ".join(one.behavior.name for one in self.behaviors)
        rate = (
            f"learning rate {self.learning_rate:g}: what fits {self.counterpart.kind} at width {self.width}"
            if self.width
            else f"learning rate {self.learning_rate:g}: what fits {self.counterpart.kind} at width {_USUAL_WIDTH}; the width of this model is not known here"
        )
        samples = f"{self.group_size} samples per problem: the group size of the behavior; at most {self.max_tokens} tokens, as it was measured"
        trained = f"{self.stage} on {names}: made by `posttrain export`"
        return [trained, f"why: {self.why}", rate, *([samples] if self.counterpart.trainer in ("GRPO", "RLOO", "PPO") else [])]


def export_stage(
    run: DiagnosedRun, target: str, out: str | Path, *, stage: str | None = None, options: ExportOptions | None = None
) -> list[Path]:
    """Write the stage that a verdict names as a folder with a script, its data, and its reward function where it samples.

    Args:
        run: Its verdict names the stage; of its train problems come the data.
        target: `trl-config` or `verl-config`.
        out: The folder, which must not exist.
        stage: In place of the one that the verdict names.
        options: Which behaviors and problems.

    Returns:
        The files, the script first.

    Raises:
        SettingsError: The target is unknown, or it has no such stage (`stage_elsewhere`), or the verdicts name several stages or none that trains.
        RunError: The folder exists, or the run lacks what the stage learns from; as the export of its data.
    """
    makers: dict[str, tuple[dict[str, Counterpart], Callable[[Script], dict[str, str]], str]] = {
        "trl-config": (TRL, _trl_files, "data.jsonl"),
        "verl-config": (VERL, _verl_files, "train.parquet"),
    }
    if target not in makers:
        raise SettingsError(f"--to: {unknown('format', target, [*EXPORTS, *makers])}", code="unknown_format")
    known, make, data = makers[target]
    folder, options = Path(out), options or ExportOptions()
    check_writable(folder)
    if os.path.lexists(folder):
        raise RunError(f"--out {folder}: it exists, and an export writes over nothing; give a new folder", code="file_exists")
    script = _script(run, known, target, stage, options)
    files = make(script)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        names = ExportOptions(
            behaviors=[one.behavior.name for one in script.behaviors], split=options.split, least_rate=options.least_rate,
            most_rate=options.most_rate, per_problem=options.per_problem,
        )  # fmt: skip
        write_rows(temporary / data, EXPORTS[script.counterpart.data].rows(run, names))
        written = [*files, data]
        if target == "verl-config":
            splits = {problem.split for one in script.behaviors for problem in one.behavior.problems}
            validation = ExportOptions(behaviors=names.behaviors, split=Split.EVAL if Split.EVAL in splits else options.split)
            write_rows(temporary / "eval.parquet", EXPORTS["verl"].rows(run, validation))
            written.append("eval.parquet")
        for name, text in files.items():
            write_text(temporary / name, text)
        temporary.chmod(0o755)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return [folder / name for name in written]


def _script(
    run: DiagnosedRun, known: Mapping[str, Counterpart], target: str, stage: str | None, options: ExportOptions
) -> Script:
    """Choose the stage and its settings."""
    chosen = chosen_behaviors(run, options)
    if not options.behaviors:
        chosen = [one for one in chosen if one.behavior.purpose is Purpose.TARGET] or chosen
    advised = {one.behavior.name: one.diagnosis.stage for one in chosen}
    name = stage or _one_stage(run, {key: None if one is None else one.name for key, one in advised.items()})
    if name not in known:
        raise SettingsError(
            f"--to {target}: {name} has no counterpart there, which has {', '.join(known)}; train it with `posttrain train {name}`, or name one of these "
            "with --stage",
            code="stage_elsewhere",
        )
    counterpart, why = (
        known[name],
        next((one.why for one in advised.values() if one is not None and one.name == name), "named by --stage"),
    )
    if counterpart.data in ("trl-prompts", "verl"):
        _check_verifiers(run, chosen, name)
    model = _DEMO if run.model["source"] == "demo" else _source(str(run.model["source"]))
    width = _DEMO_WIDTH if model == _DEMO else _width(model)
    return Script(
        stage=name, why=why, counterpart=counterpart, model=model, behaviors=tuple(chosen), width=width,
        learning_rate=default_learning_rate(counterpart.kind, width or _USUAL_WIDTH),
    )  # fmt: skip


def _check_verifiers(run: DiagnosedRun, chosen: Sequence[DiagnosedBehavior], stage: str) -> None:
    """Refuse behaviors whose new samples a script could not grade as the run did.

    Raises:
        RunError: Their grades were imported (`no_verifier`), or their file says something else than the run did (`other_behavior`).
    """
    for one in chosen:
        behavior = one.behavior
        if behavior.verifier.kind == KIND:
            raise RunError(
                f"export {run.path}: the grades of {behavior.name} were imported, and {stage} grades new samples; give the stored texts a verifier with posttrain "
                f"regrade {run.path} --verifier KIND --out NEW, and export that run",
                code="no_verifier",
            )
        now = load_behavior(
            behavior.source, BehaviorOptions.model_validate(behavior.options), measured=Split(run.settings["split"])
        )
        if now.fingerprint != run.settings["behaviors"][behavior.name]:
            raise RunError(
                f"export {run.path}: {behavior.source} has changed since; measure again, and export that run",
                code="other_behavior",
            )


def _one_stage(run: DiagnosedRun, named: Mapping[str, str | None]) -> str:
    """Return the stage that all verdicts name.

    Raises:
        SettingsError: They name several (`several_stages`), or none (`no_stage`).
    """
    stages = sorted({stage for stage in named.values() if stage is not None and STAGES[stage].trains})
    if not stages:
        advice = ", ".join(sorted({str(stage) for stage in named.values()}))
        raise SettingsError(
            f"export {run.path}: its verdict names no stage that trains ({advice}); name one with --stage, or sample more until the label is decided",
            code="no_stage",
        )
    if len(stages) > 1:
        listed = ", ".join(f"{name}: {stage}" for name, stage in named.items())
        raise SettingsError(
            f"export {run.path}: the verdicts name several stages ({listed}); choose behaviors with --behavior, or a stage with --stage",
            code="several_stages",
        )
    return stages[0]


def _width(model: str) -> int | None:
    """Return the hidden size of a model on this machine; None where it is not known."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(model, local_files_only=True).get_text_config()
    except (OSError, ValueError, KeyError):
        return None
    width = getattr(config, "hidden_size", None)
    return width if isinstance(width, int) and width > 0 else None


# ------------------------------------------------------------------------------------------------------------------- scripts


def _trl_files(script: Script) -> dict[str, str]:
    """Return train.py, and reward.py where the stage samples."""
    part, samples = script.counterpart, script.counterpart.trainer in ("GRPO", "RLOO")
    settings: dict[str, Any] = {
        "learning_rate": script.learning_rate,
        "max_steps": _NUM_STEPS,
        "lr_scheduler_type": "constant",
        **part.settings,
    }
    if samples:
        per_step = _PROBLEMS_PER_STEP * script.group_size
        settings |= {
            "num_generations": script.group_size,
            "max_completion_length": script.max_tokens,
            "temperature": 1.0,
            "per_device_train_batch_size": script.group_size,
            "gradient_accumulation_steps": per_step // script.group_size,
        }
        if variables := script.behaviors[0].behavior.prompt.template_variables:
            settings["chat_template_kwargs"] = variables
    else:
        settings |= {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4}
    lines = [
        *(f"# {_one_line(comment)}" for comment in script.comments),
        "from pathlib import Path",
        "",
        "import torch",
        "from datasets import load_dataset",
        *(["from reward import reward"] if samples else []),
        f"from trl import {part.trainer}Config, {part.trainer}Trainer",
        "",
        "FOLDER = Path(__file__).resolve().parent",
        'if __name__ == "__main__":',
        f"    config = {part.trainer}Config(",
        '        output_dir=str(FOLDER / "checkpoints"),',
        *(f"        {name}={value!r}," for name, value in settings.items()),
        "        bf16=torch.cuda.is_available(),",
        "        use_cpu=not torch.cuda.is_available(),",
        '        report_to="none",',
        "    )",
        f"    trainer = {part.trainer}Trainer(",
        f"        model={script.model!r},",
        "        args=config,",
        '        train_dataset=load_dataset("json", data_files=str(FOLDER / "data.jsonl"), split="train"),',
        *(["        reward_funcs=reward,"] if samples else []),
        "    )",
        "    trainer.train()",
        '    trainer.save_model(str(FOLDER / "trained"))',
    ]
    files = {"train.py": "\n".join(lines) + "\n"}
    return files | ({"reward.py": _reward(script, _TRL_REWARD)} if samples else {})


def _verl_files(script: Script) -> dict[str, str]:
    """Return train.sh and reward.py."""
    settings: dict[str, Any] = {
        **script.counterpart.settings,
        "data.max_response_length": script.max_tokens,
        "data.train_batch_size": _PROBLEMS_PER_STEP,
        "actor_rollout_ref.model.path": script.model,
        f"{_ACTOR}.optim.lr": script.learning_rate,
        f"{_ACTOR}.ppo_mini_batch_size": _PROBLEMS_PER_STEP,
        f"{_ACTOR}.ppo_micro_batch_size_per_gpu": 1,
        f"{_ACTOR}.use_kl_loss": False,
        "actor_rollout_ref.rollout.name": "vllm",
        "actor_rollout_ref.rollout.n": script.group_size,
        "actor_rollout_ref.rollout.temperature": 1.0,
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu": 1,
        "trainer.total_training_steps": _NUM_STEPS,
        "trainer.n_gpus_per_node": 1,
        "trainer.project_name": "posttrain",
        "trainer.experiment_name": script.stage,
    }
    places = {
        "data.train_files": "train.parquet",
        "data.val_files": "eval.parquet",
        "reward.custom_reward_function.path": "reward.py",
    }
    lines = [
        "#!/usr/bin/env bash",
        *(f"# {_one_line(comment)}" for comment in script.comments),
        "set -euo pipefail",
        'FOLDER="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"',
        "python -m verl.trainer.main_ppo \\",
        *(f'  {name}="$FOLDER/{file}" \\' for name, file in places.items()),
        *(f"  {name}={shlex.quote(_hydra(value))} \\" for name, value in settings.items()),
        '  "$@"',
    ]
    return {"train.sh": "\n".join(lines) + "\n", "reward.py": _reward(script, _VERL_REWARD)}


_TRL_REWARD = '''

def reward(completions, behavior, problem_id, **_):
    """Return the grade of each completion, 0 where it could not be graded."""
    texts = [one if isinstance(one, str) else one[-1]["content"] for one in completions]
    return [grade(*each) for each in zip(behavior, problem_id, texts, strict=True)]
'''
_VERL_REWARD = '''

def compute_score(data_source, solution_str, ground_truth, extra_info=None, **_):
    """Return the grade of a completion, 0 where it could not be graded."""
    return grade(data_source, extra_info["problem_id"], solution_str)
'''


def _reward(script: Script, function: str) -> str:
    """Return reward.py: the behavior's own verifier, which reads texts in a process of its own."""
    sources = {one.behavior.name: _source(one.behavior.source) for one in script.behaviors}
    options = {one.behavior.name: dict(one.behavior.options) for one in script.behaviors if one.behavior.options}
    splits = [{problem.split for problem in one.behavior.problems} for one in script.behaviors]
    measured = next((one for one in Split if all(one in found for found in splits)), Split.EVAL)
    return f'''"""The reward: what the verifier of the behavior says, as posttrain measured it."""

from functools import cache

from posttrain.diagnose import load_behavior
from posttrain.diagnose.behaviors import BehaviorOptions
from posttrain.diagnose.types import Split
from posttrain.diagnose.verifiers.grader import Grader

BEHAVIORS = {json.dumps(sources, indent=4)}
OPTIONS = {options!r}
"""Settings that the run was given beside these files."""


@cache
def behavior_of(name):
    """Return a grader and the problems of a behavior."""
    behavior = load_behavior(BEHAVIORS[name], BehaviorOptions(**OPTIONS.get(name, {{}})), measured=Split.{measured.name})
    return Grader(behavior), {{problem.id: problem for problem in behavior.problems}}


def grade(name, problem_id, text):
    """Return the score of a text in [0, 1]; 0 where it could not be graded."""
    grader, problems = behavior_of(name)
    return grader.grade(problems[problem_id], [text])[0].score or 0.0
{function}'''


def _source(source: str) -> str:
    """Return where a behavior is read from, wherever the script is run."""
    return str(Path(source).resolve()) if Path(source).exists() else source


def _one_line(text: str) -> str:
    """Return a comment that cannot end before its line does."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())


def _hydra(value: Any) -> str:
    """Return a value as hydra reads it behind `name=`."""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else "null"
    if isinstance(value, int):
        return str(value)
    text = str(value)
    plain = all(sign.isalnum() or sign in "/_-." for sign in text)
    return text if plain else json.dumps(text, ensure_ascii=False)
