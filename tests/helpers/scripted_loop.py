"""A loop whose models are tables of success rates: training changes a table, and the scripted engine samples from it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain import diagnose
from posttrain.diagnose.storage.diagnosed_run import DiagnosedRun
from posttrain.diagnose.types import Behavior
from posttrain.trainers.diagnose_and_train.loop_steps import LoopSteps
from posttrain.trainers.train_request import TrainRequest
from posttrain.trainers.training.result import Ending, TrainingResult

NUM_EVAL = 20
TABLE = "config.json"
"""The file of a checkpoint that holds its rates; its name is one that a fingerprint reads."""
Rates = Mapping[str, float]
"""Behavior → success rate of each of its problems."""
Effect = Callable[[Rates, TrainRequest], Rates]
"""From the rates of the model that a stage starts from to those of its checkpoint."""


def write_behavior(folder: Path, name: str, *, purpose: str = "target", num_train: int = 8, references: bool = True) -> Path:
    """Write a behavior whose problem ids begin with its name."""
    rows = [
        {"id": f"{name}-{split}{i}", "prompt": f"{name} {split} {i} =", "answer": str(2 * i + 1), "split": split}
        | ({"references": [f"{2 * i + 1}"]} if references else {})
        for split, num in (("eval", NUM_EVAL), ("train", num_train))
        for i in range(num)
    ]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / f"{name}.yaml"
    path.write_text(
        f"problems: {name}.jsonl\nverifier: {{kind: number}}\nprompt: {{format: completion}}\nsampling: {{max_tokens: 20}}\n"
        f"measure: {{primary_k: 4}}\npurpose: {purpose}\n"
    )
    return path


class ScriptedSteps:
    """Steps of a loop without a model, with a record of what was trained."""

    def __init__(self, folder: Path, start: Rates, effects: Mapping[str, Effect], *, tokens: int = 100, samples: int = 16):
        """Take what training does to success rates.

        Args:
            folder: For the tables that the engine reads.
            start: Rates of the model that the loop starts with.
            effects: By stage.
            tokens: Trained by each stage.
            samples: Of each problem in a diagnosis.
        """
        self._folder, self._start, self._effects = folder, start, effects
        self._tokens, self._samples = tokens, samples
        self.trained: list[TrainRequest] = []
        self.hardly_moves: set[str] = set()
        """Stages that make no step."""

    @property
    def steps(self) -> LoopSteps:
        """Return them as a loop takes them."""
        return LoopSteps(measure=self.measure, train=self.train)

    def measure(
        self, model: str | Path, behaviors: Sequence[Behavior], /, *, out: Path, pilot: bool, **options: Any
    ) -> DiagnosedRun:
        """Sample from the table of a model."""
        rates = self._rates(model)
        table = self._folder / f"{out.name}.yaml"
        success = {problem.id: rates[b.name] for b in behaviors for problem in b.problems}
        table.write_text(json.dumps({"success": success}))
        return diagnose.run(
            table, behaviors, out=out, engine="scripted", samples=self._samples, probes=["none"], pilot=False, seed=len(out.name)
        )

    def train(self, request: TrainRequest) -> TrainingResult:
        """Write the table of the checkpoint."""
        self.trained.append(request)
        moved = request.stage not in self.hardly_moves
        rates = self._rates(request.model)
        after = {**rates, **self._effects[request.stage](rates, request)} if moved else rates
        request.out.mkdir(parents=True)
        (request.out / TABLE).write_text(json.dumps({**after, "_of": request.out.name}))
        return TrainingResult(
            recipe=request.stage,
            ending=Ending.FINISHED if moved else Ending.NOTHING_TO_LEARN,
            num_steps=1 if moved else 0,
            trained_tokens=self._tokens,
            generated_tokens=0,
            retained_rows=5 * len(request.retained),
            retained_tokens=70 * len(request.retained),
            seconds=0.0,
            log=request.out / "training_log.jsonl",
            checkpoint=request.out,
        )

    def _rates(self, model: str | Path) -> Rates:
        table = Path(model) / TABLE
        stored = json.loads(table.read_text()) if table.exists() else {}
        return stored if "_of" in stored else self._start


def cut_after(loop: Path, number: int) -> None:
    """Leave a loop as it is when it is killed after the training of a round: no later files, and no comparison."""
    for path in loop.iterdir():
        stem = path.stem.removeprefix(".")
        later = stem.startswith(("stage-", "diagnosis-")) and int(stem.split("-")[1]) > number
        if later or path.name in (f"diagnosis-{number}", "compare.json", "loop.json", "report.html", "report.md", "figures"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
