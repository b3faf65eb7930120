"""Whether two imported runs hold samples of the same problems, taken and graded alike; their files differ where only one has some problem."""

from __future__ import annotations

from dataclasses import replace

from posttrain.diagnose.errors import RunError
from posttrain.diagnose.importing.source_facts import SourceFacts
from posttrain.diagnose.storage.diagnosed_run import DiagnosedBehavior, DiagnosedRun
from posttrain.diagnose.types import Problem


def are_imported(before: DiagnosedRun, after: DiagnosedRun, name: str) -> bool:
    """Return whether a behavior of both runs is of samples that other tools stored."""
    return all(SourceFacts.of_run(run.settings, name) is not None for run in (before, after))


def check_imported_alike(before: DiagnosedRun, after: DiagnosedRun, name: str) -> None:
    """Refuse imported samples of other problems, or such that were sampled or graded otherwise.

    Raises:
        RunError: Codes `no_shared_problem`, `other_problems`, `other_sampling`, `other_grades`.
    """
    first, second = before[name].behavior, after[name].behavior
    shared = shared_problems(before[name], after[name])
    if not shared:
        ids = [", ".join(problem.id for problem in one.problems[:2]) for one in (first, second)]
        raise RunError(
            f"compare: {name} has no problem with one id in {before.path} (such as {ids[0]}) and {after.path} (such as {ids[1]}); import both "
            "from files with the same ids",
            code="no_shared_problem",
        )
    if unlike := [pair for pair in shared if _are_other(*pair)]:
        mine, other = unlike[0]
        raise RunError(
            f"compare: problem {mine.id} of {name} is another one in {before.path} (answer {mine.answer[:40]!r}) than in {after.path} (answer "
            f"{other.answer[:40]!r}), as are {len(unlike) - 1} more of {len(shared)}; import both with ids that name the same problems",
            code="other_problems",
        )
    settings = [replace(one.sampling, max_tokens=1) for one in (first, second)]
    if all(one.known for one in settings) and settings[0] != settings[1]:
        told = [f"temperature {one.temperature:g}, top_p {one.top_p:g}, top_k {one.top_k}" for one in settings]
        raise RunError(
            f"compare: {name} was sampled with {told[0]} in {before.path} and with {told[1]} in {after.path}, or with other stop texts; compare runs "
            "that were sampled alike",
            code="other_sampling",
        )
    if first.measure.success != second.measure.success or first.verifier != second.verifier:
        sides = [f"{one.verifier.kind}, success from {one.measure.success:g}" for one in (first, second)]
        raise RunError(
            f"compare: {name} was graded by {sides[0]} in {before.path} and by {sides[1]} in {after.path}; import both with one --success, or grade "
            "both with one verifier",
            code="other_grades",
        )


def shared_problems(before: DiagnosedBehavior, after: DiagnosedBehavior) -> list[tuple[Problem, Problem]]:
    """Return the measured problems with one id in both runs."""
    known = {problem.id: problem for problem in after.problems}
    return [(problem, known[problem.id]) for problem in before.problems if problem.id in known]


def have_other_prompts(before: DiagnosedBehavior, after: DiagnosedBehavior) -> bool:
    """Return whether a shared problem was asked otherwise in one of the runs."""
    return any(
        mine.prompt != other.prompt for mine, other in shared_problems(before, after) if _is_told(mine) and _is_told(other)
    )


def _are_other(mine: Problem, other: Problem) -> bool:
    """Return whether two problems of one id are not the same: other answers, or other prompts where no answer is known."""
    if mine.answer and other.answer:
        return mine.answer != other.answer
    return not (mine.answer or other.answer) and _is_told(mine) and _is_told(other) and mine.prompt != other.prompt


def _is_told(problem: Problem) -> bool:
    """Return whether the source told the prompt; its id stands in its place else."""
    return problem.prompt != problem.id
