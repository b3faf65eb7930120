"""The pilot: eight greedy samples that show within seconds whether the settings of a behavior fit the model.

They are the first of the behavior's greedy samples, so that nothing is sampled twice. Where most of them run into `max_tokens` or cannot be read, or the
prompt is broken, the behavior is not sampled further: its diagnosis is `invalid`, with the lines of YAML that repair it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress

from posttrain.diagnose.engines.base import Engine
from posttrain.diagnose.errors import RunError, SettingsError
from posttrain.diagnose.measure.validity_checks import check_prompt
from posttrain.diagnose.storage.diagnosed_run import DiagnosedRun
from posttrain.diagnose.storage.diagnosis_json import PilotCode, PilotEntry
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Behavior, Check, Estimate, GradeStatus, Problem, Rollout, check_estimate, reaches

PILOT_STOPPED = "pilot_stopped"
"""`ended_code` of a behavior that was not sampled beyond its pilot."""
GO_ON = "--pilot off samples all the same"
_FEWEST = 4
"""Samples below which nothing is stopped."""
_NUM_TEXTS = 3
_BLANK_LINE = "\n\n"


def check_setup(behavior: Behavior, engine: Engine) -> PilotEntry:
    """Check the prompt, before anything is sampled."""
    prompt = engine.codec.encode_prompt(behavior.problems[0].prompt, behavior.prompt)
    _, broken = check_prompt(behavior, engine, prompt)
    if not broken:
        return PilotEntry()
    repair = "repair the chat template, or write the prompt without it: `prompt: {format: completion}`"
    return PilotEntry(codes=(PilotCode.BROKEN_TEMPLATE,), failures=tuple(f"{one}; {repair}" for one in broken))


def judge_pilot(behavior: Behavior, engine: Engine, rollouts: Sequence[Rollout], thresholds: Thresholds) -> PilotEntry:
    """Say what the samples of a pilot show.

    Args:
        behavior: Whose settings are tried.
        engine: With what.
        rollouts: One greedy sample of each of some problems.
        thresholds: Their share that is too much.
    """
    truncated = [one for one in rollouts if one.truncated]
    unread = [one for one in rollouts if _is_unread(one, behavior.measure.success)]
    num, most = len(rollouts), thresholds.max_pilot * len(rollouts)
    codes, failures = [], []
    if num >= _FEWEST and len(truncated) > most:
        code, why = _why_truncated(behavior, engine, truncated)
        codes.append(code)
        failures.append(f"{len(truncated)} of {num} pilot samples ran into max_tokens={behavior.sampling.max_tokens}; {why}")
    if num >= _FEWEST and len(unread) > most:
        codes.append(PilotCode.UNREAD)
        failures.append(_why_unread(behavior, unread, num))
    return PilotEntry(
        num_samples=num, num_truncated=len(truncated), num_unread=len(unread), codes=tuple(codes), failures=tuple(failures)
    )


def needs_longer(behavior: Behavior, engine: Engine, rollouts: Sequence[Rollout], most: float) -> bool:
    """Return whether a share of samples above `most` ran into the limit, and would come to an end with a higher one.

    Those that repeat themselves, or go on with a question of their own, would not; a thought that was cut off would.
    """
    truncated = [one for one in rollouts if one.truncated and not is_looping(one.token_ids)]
    return len(truncated) > most * len(rollouts) and _why_truncated(behavior, engine, truncated)[0] is PilotCode.TRUNCATED


def pilot_check(pilot: PilotEntry) -> Check:
    """Return the check that a pilot shows no fault, for one that shows some."""
    value = Estimate(estimate=0.0, low=0.0, high=0.0, method="counted")
    what = "the first greedy samples show no fault of the settings"
    return check_estimate("validity: pilot", ">=", value, 1.0, n=pilot.num_samples, what=what, unit="samples")


def reopen_stopped(directory: RunDirectory, behavior: str) -> None:
    """Take the mark of a finished measurement from a behavior that was left after its pilot; its samples stay."""
    with suppress(RunError):  # a damaged mark is set aside, and the behavior measured again, before anything is sampled
        if directory.is_done(behavior) and directory.read_part("done", behavior).get("ended_code") == PILOT_STOPPED:
            directory.part("done", behavior).unlink()


def refuse_stopped(run: DiagnosedRun) -> None:
    """Say that a run was stopped by its pilot; its files are written.

    Raises:
        SettingsError: Code `pilot_stopped`.
    """
    stopped = [f"{one.behavior.name}: {'; '.join(one.plan.pilot.failures)}" for one in run.behaviors if one.plan.pilot.codes]
    if stopped:
        raise SettingsError(f"stopped after the pilot: {'; '.join(stopped)}; or {GO_ON}", code=PILOT_STOPPED)


def _is_unread(rollout: Rollout, success: float) -> bool:
    """Return whether a sample that came to its end could not be read, not even leniently as a success."""
    grade = rollout.grade
    return grade.status is GradeStatus.UNPARSED and not rollout.truncated and not reaches(grade.lenient_score or 0.0, success)


def _why_truncated(behavior: Behavior, engine: Engine, truncated: Sequence[Rollout]) -> tuple[PilotCode, str]:
    """Return what keeps most samples from ending, and the repair."""
    template, tokenizer = behavior.prompt.template, engine.codec.tokenizer
    has_chat = tokenizer is not None and bool(getattr(tokenizer, "chat_template", None))
    asks = template.partition("{question}")[0].strip().splitlines()[:1]
    again = [text for text in (*asks, *_prompt_starts(behavior)) if text]
    repeated = next((text for text in again if 2 * sum(text in one.text for one in truncated) > len(truncated)), None)
    if repeated is not None:
        return (
            PilotCode.NO_END,
            f"the model goes on with a question of its own, so add `sampling: {{stop: [{json.dumps(repeated)}]}}`",
        )
    if 2 * sum(is_looping(one.token_ids) for one in truncated) > len(truncated):
        if has_chat and behavior.prompt.format == "completion":
            return PilotCode.NO_END, "they repeat themselves; the model has a chat template, so use `prompt: {format: chat}`"
        if 2 * sum(_BLANK_LINE in one.text for one in truncated) > len(truncated):
            return PilotCode.NO_END, 'they repeat themselves after a blank line, so add `sampling: {stop: ["\\n\\n"]}`'
        ends = 'add what ends an answer, such as `sampling: {stop: ["\\n"]}`, or show one with `prompt: {examples: [...]}`'
        return PilotCode.NO_END, f"they repeat themselves and the model ends none, so {ends}"
    limit = 4 * behavior.sampling.max_tokens
    if engine.info.context is not None:
        longest = max(len(engine.codec.encode_prompt(one.prompt, behavior.prompt).token_ids) for one in behavior.problems[:64])
        limit = max(behavior.sampling.max_tokens, min(limit, engine.info.context - longest))
    return PilotCode.TRUNCATED, f"raise it: `sampling: {{max_tokens: {limit}}}`"


def _prompt_starts(behavior: Behavior) -> tuple[str, ...]:
    """Return the words that several questions begin with, such as `Question:`."""
    heads = {" ".join(problem.question.split()[:1]) for problem in behavior.problems[:16]}
    return tuple(heads) if len(heads) == 1 and next(iter(heads)).endswith(":") else ()


def is_looping(token_ids: Sequence[int]) -> bool:
    """Return whether the second half of a sample is one sequence of at most 32 tokens, again and again, three times at least."""
    half = token_ids[len(token_ids) // 2 :]
    return any(
        all(half[i] == half[i - period] for i in range(period, len(half))) for period in range(1, min(32, len(half) // 3) + 1)
    )


def _why_unread(behavior: Behavior, unread: Sequence[Rollout], num: int) -> str:
    problems: dict[str, Problem] = {problem.id: problem for problem in behavior.problems}
    shown = "; ".join(
        f"{_shorten(one.text)} where {_shorten(problems[one.problem_id].answer)} is expected" for one in unread[:_NUM_TEXTS]
    )
    return (
        f"no answer could be read in {len(unread)} of {num} pilot samples ({shown}); say in `prompt: {{template: ...}}` how to answer, or read what "
        f"the model writes with another verifier than {behavior.verifier.kind}, such as `verifier: {{kind: regex, pattern: ...}}`"
    )


def _shorten(text: str, limit: int = 60) -> str:
    line = json.dumps(" ".join(text.split()), ensure_ascii=False)
    return line if len(line) <= limit else f'{line[: limit - 2]}…"'
