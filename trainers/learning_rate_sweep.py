"""A short sweep before training: a few steps at three learning rates from the same start, of which the dev slice chooses one."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from posttrain.diagnose.engines.models.loading import fingerprint_model
from posttrain.diagnose.errors import NonFiniteError, SettingsError, UserError
from posttrain.diagnose.progress import Reporter
from posttrain.diagnose.storage.files import read_json, write_json
from posttrain.trainers.learning_rate import RateKind
from posttrain.trainers.train_request import TrainRequest
from posttrain.trainers.training.result import TrainingResult

FACTORS = (1.0, 0.25, 4.0)
"""The learning rates of a sweep over the one that is set, or the default; where nothing tells them apart the first is taken."""
SWEEP_FILE = "learning_rate_sweep.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepTrial:
    """What the dev slice said after a few steps at one learning rate."""

    learning_rate: float
    pass_at_1: float | None
    """None where nothing was graded, no step was taken, or numbers were not finite."""
    reference_logprob: float | None
    """Nats per token; None without references."""


def sweep_learning_rate(
    request: TrainRequest, train: Callable[[TrainRequest], TrainingResult], reporter: Reporter
) -> TrainRequest:
    """Return the request with the learning rate that a sweep chooses; trials that an earlier call finished are not run again.

    Args:
        request: Its config has `sweep_steps`.
        train: Trains a trial, in a folder beside `out`.
        reporter: Is told what came of each trial.

    Raises:
        SettingsError: There is no dev slice to choose by.
    """
    num_dev = len(request.make_training_set().dev)
    if not num_dev:
        raise SettingsError(
            "sweep_steps chooses the learning rate on a dev slice, and this training set has none; raise dev_share, or leave sweep_steps out",
            code="empty_dev_slice",
        )
    file, identity = sweep_folder(request.out) / "trials.json", _identity(request)
    record = read_json(file, remedy="remove it to sweep again") if file.exists() else {}
    if record.get("identity") != identity:
        shutil.rmtree(file.parent, ignore_errors=True)
        file.parent.mkdir(parents=True)
    trials = [SweepTrial(**trial) for trial in record.get("trials", ())] if record.get("identity") == identity else []
    for factor in FACTORS[len(trials) :]:
        rate = request.config.learning_rate if factor == 1.0 else factor * trials[0].learning_rate
        try:
            trials.append(_run_trial(request, rate, file.parent / f"trial-{len(trials)}", train))
        except UserError:
            if not trials:  # what was refused leaves nothing behind
                shutil.rmtree(file.parent, ignore_errors=True)
            raise
        write_json(file, {"schema": 1, "identity": identity, "trials": [asdict(trial) for trial in trials]})
        reporter.say(f"{request.stage}: sweep {len(trials)} of {len(FACTORS)}: {_describe(trials[-1])}")
    chosen = choose_trial(trials, num_dev * request.config.eval_samples, request.config.rate_kind)
    reporter.say(f"{request.stage}: the sweep chooses learning rate {chosen.learning_rate:g}")
    return replace(request, config=request.config.model_copy(update={"learning_rate": chosen.learning_rate, "sweep_steps": None}))


def choose_trial(trials: Sequence[SweepTrial], num_samples: int, kind: RateKind) -> SweepTrial:
    """Return the best trial by pass@1; where sampling noise explains its differences, by the references that a stage imitates, else the first.

    Args:
        trials: In the order of `FACTORS`.
        num_samples: Graded samples behind each pass@1. Differences up to two standard errors of a difference count as noise.
        kind: Only imitation is judged by its references.
    """
    graded = [trial for trial in trials if trial.pass_at_1 is not None]
    passed = [trial.pass_at_1 for trial in graded if trial.pass_at_1 is not None]
    mean = sum(passed) / len(passed) if passed else 0.0
    noise = 2 * math.sqrt(2 * mean * (1 - mean) / num_samples)
    if passed and max(passed) - min(passed) > noise:
        return graded[passed.index(max(passed))]
    scored = [trial for trial in trials if trial.reference_logprob is not None]
    if kind is RateKind.IMITATION and scored:
        return max(scored, key=lambda trial: trial.reference_logprob or 0.0)
    return trials[0]


def sweep_folder(out: Path) -> Path:
    """Return the folder of the trials, beside the checkpoint's."""
    return out.parent / f".{out.name}.sweep"


def close_sweep(out: Path) -> None:
    """Put what the trials said beside the finished checkpoint, and remove their folder."""
    folder = sweep_folder(out)
    if (folder / "trials.json").exists():
        (folder / "trials.json").replace(out / SWEEP_FILE)
    shutil.rmtree(folder, ignore_errors=True)


def _run_trial(
    request: TrainRequest, rate: float | None, out: Path, train: Callable[[TrainRequest], TrainingResult]
) -> SweepTrial:
    steps = request.config.sweep_steps
    settings = {"learning_rate": rate, "num_steps": steps, "eval_every": steps, "sweep_steps": None}
    unused = dict.fromkeys(("patience", "target", "max_dev_loss", "save_every"))
    shutil.rmtree(out, ignore_errors=True)  # finished, but stopped before that was written down
    trial = replace(request, config=request.config.model_copy(update=settings | unused), out=out)
    try:
        result = train(trial)
    except NonFiniteError:
        if rate is None:
            raise
        return SweepTrial(learning_rate=rate, pass_at_1=None, reference_logprob=None)
    assert result.learning_rate is not None
    records = [json.loads(line) for line in result.log.read_text(encoding="utf-8").splitlines()]
    dev = [record for record in records if record["event"] == "dev"][-1] if result.num_steps else {}
    shutil.rmtree(out, ignore_errors=True)
    return SweepTrial(
        learning_rate=result.learning_rate,
        pass_at_1=_finite(dev.get("pass_at_1")),
        reference_logprob=_finite(dev.get("reference_logprob")),
    )


def _finite(value: Any) -> float | None:
    """Return a number of the log, which holds those that are not finite as texts."""
    return float(value) if isinstance(value, int | float) else None


def _describe(trial: SweepTrial) -> str:
    said = {"pass@1": trial.pass_at_1, "log-probability of references": trial.reference_logprob}
    found = ", ".join(f"{name} {value:.3g}" for name, value in said.items() if value is not None)
    return f"learning rate {trial.learning_rate:g}: {found or 'nothing was learned'}"


def _identity(request: TrainRequest) -> Mapping[str, Any]:
    """Return what trials of an earlier call must share."""
    others = {name: str(getattr(request, name) or "") for name in ("data", "from_run", "teacher", "earlier")}
    return {
        "stage": request.stage,
        "model": fingerprint_model(request.model),
        "behaviors": {behavior.name: behavior.fingerprint for behavior in (*request.behaviors, *request.retain)},
        **others,
        **request.config.model_dump(mode="json"),
    }
