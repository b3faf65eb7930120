"""Whose grade changed between a run and the same samples graded again."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from posttrain.analysis.stats import paired_delta_interval
from posttrain.diagnose.errors import RunError
from posttrain.diagnose.measure.success_counts import count_successes
from posttrain.diagnose.pipeline.assemble import assemble
from posttrain.diagnose.pipeline.diagnosis_file import diagnosis_file
from posttrain.diagnose.storage.diagnosed_run import DiagnosedBehavior, DiagnosedRun
from posttrain.diagnose.storage.diagnosis_json import BehaviorEntry, DiagnosisFile, EstimateEntry
from posttrain.diagnose.storage.json_model import read_model
from posttrain.diagnose.storage.regrade_json import (
    ChangedSampleEntry,
    GradeEntry,
    GradeOutcome,
    RegradedBehaviorEntry,
    RegradedProblemEntry,
    RegradeFile,
    ShortVerdictEntry,
)
from posttrain.diagnose.storage.rollout_table import RolloutTable
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.types import Rollout, SamplingMeasurement

NUM_EXAMPLES = 24
MOST_TEXT = 20_000
"""Characters of a text that are kept."""
_OUTCOMES = tuple(GradeOutcome)


def regrade_file(source: RunDirectory, finished: DiagnosedRun, chosen: Sequence[str]) -> RegradeFile:
    """Compare a run with the same samples graded again.

    Args:
        source: The run of before.
        finished: The new one.
        chosen: Behaviors that were graded again.

    Raises:
        RunError: A file is damaged, or the two runs do not hold the same samples (`other_samples`).
    """
    # What was decided before is read, not decided again: the verifier of before may be no more.
    written = source.diagnosis_json
    before = read_model(written, DiagnosisFile) if written.exists() else diagnosis_file(assemble(source.path))
    after = diagnosis_file(finished)
    return RegradeFile(
        run=str(source.path),
        out=str(finished.path),
        settings=dict(finished.settings.get("regraded", {})),
        behaviors=[
            _compare(measured, source.rollout_table(name), before[name], after[name], regraded=name in chosen)
            for measured in finished.behaviors
            for name in (measured.behavior.name,)
        ],
    )


def _compare(
    measured: DiagnosedBehavior, old: RolloutTable, before: BehaviorEntry, after: BehaviorEntry, *, regraded: bool
) -> RegradedBehaviorEntry:
    new, success = measured.table, measured.behavior.measure.success
    same = len(old) == len(new) and bool(np.array_equal(old.sample_index, new.sample_index))
    if not same or [old.problem_ids[i] for i in old.problem] != [new.problem_ids[i] for i in new.problem]:
        raise RunError(
            f"{measured.behavior.name}: the two runs hold other samples; grade into a new folder", code="other_samples"
        )
    sides = [_outcomes(table, success) for table in (old, new)]
    names = [f"{_OUTCOMES[a]}_to_{_OUTCOMES[b]}" for a, b in zip(*sides, strict=True)]
    changed = np.flatnonzero(sides[0] != sides[1])
    counts = [count_successes(measured.behavior, measured.problems, table) for table in (old, new)]
    rates = [one.num_correct / np.where(one.num_samples > 0, one.num_samples, np.nan) for one in counts]
    delta = paired_delta_interval(rates[0], rates[1], measured.sampling.groups)
    return RegradedBehaviorEntry(
        name=measured.behavior.name,
        regraded=regraded,
        verifier_before=before.verifier,
        verifier_after=after.verifier,
        num_samples=len(new),
        changes=dict(sorted(Counter(names).items())),
        num_changed=len(changed),
        problems=list(_changed_problems(counts[0], counts[1])),
        examples=list(_examples(measured, old, _spread(changed, names, new), sides)),
        pass_at_1_delta=EstimateEntry(estimate=delta.estimate, low=delta.low, high=delta.high, method=delta.method),
        before=_short(before),
        after=_short(after),
    )


def _outcomes(table: RolloutTable, success: float) -> npt.NDArray[np.int64]:
    """Return [R] index into `GradeOutcome`."""
    right, unread = table.succeeded(success), table.unparsed | table.unfinished_thought
    order = [_OUTCOMES.index(one) for one in (GradeOutcome.MISSING, GradeOutcome.RIGHT, GradeOutcome.UNREAD)]
    return np.select([table.missing, right, unread], order, _OUTCOMES.index(GradeOutcome.WRONG)).astype(np.int64)


def _spread(changed: npt.NDArray[np.int64], names: Sequence[str], table: RolloutTable) -> list[int]:
    """Return rows to show: of each kind of change in turn, each of another problem while there are some."""
    kinds: dict[str, list[int]] = defaultdict(list)
    seen: set[tuple[str, int]] = set()
    later: dict[str, list[int]] = defaultdict(list)
    for row in changed.tolist():
        key = (names[row], int(table.problem[row]))
        (later if key in seen else kinds)[names[row]].append(row)
        seen.add(key)
    queues = [[*rows, *later[name]] for name, rows in kinds.items()]
    longest = max(map(len, queues), default=0)
    return [queue[turn] for turn in range(longest) for queue in queues if turn < len(queue)][:NUM_EXAMPLES]


def _examples(
    measured: DiagnosedBehavior, old: RolloutTable, rows: Sequence[int], sides: Sequence[npt.NDArray[np.int64]]
) -> Iterator[ChangedSampleEntry]:
    known = {problem.id: problem for problem in measured.problems}
    for row, first, second in zip(rows, old.rows(rows), measured.table.rows(rows), strict=True):
        problem = known.get(second.problem_id)
        yield ChangedSampleEntry(
            problem_id=second.problem_id,
            sample_index=second.sample_index,
            greedy=bool(measured.table.greedy[row]),
            prompt=problem.question if problem else "",
            answer=problem.answer if problem else "",
            text=second.text[:MOST_TEXT],
            before=_grade(first, _OUTCOMES[int(sides[0][row])]),
            after=_grade(second, _OUTCOMES[int(sides[1][row])]),
        )


def _grade(rollout: Rollout, outcome: GradeOutcome) -> GradeEntry:
    grade = rollout.grade
    return GradeEntry(
        outcome=outcome, status=grade.status, score=grade.score, extracted=grade.extracted, detail=grade.detail or ""
    )


def _changed_problems(before: SamplingMeasurement, after: SamplingMeasurement) -> Iterator[RegradedProblemEntry]:
    """Yield the problems whose counts differ, largest change of successes first."""
    change = np.abs(after.num_correct - before.num_correct)
    differs = (change > 0) | (before.num_samples != after.num_samples)
    for place in np.argsort(-change, kind="stable"):
        if differs[place]:
            yield RegradedProblemEntry(
                id=after.problem_ids[place],
                num_samples_before=int(before.num_samples[place]),
                num_correct_before=int(before.num_correct[place]),
                num_samples_after=int(after.num_samples[place]),
                num_correct_after=int(after.num_correct[place]),
            )


def _short(entry: BehaviorEntry) -> ShortVerdictEntry:
    first = next((point for point in entry.pass_at_k if point.k == 1), None)
    nan = float("nan")
    rate = EstimateEntry(estimate=nan, low=nan, high=nan) if first is None else EstimateEntry.model_validate(first)
    return ShortVerdictEntry(bottleneck=entry.bottleneck, confidence=entry.confidence, sentence=entry.sentence, pass_at_1=rate)
