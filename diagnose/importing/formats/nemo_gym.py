"""Rollouts of NeMo Gym: a row per rollout, with request and response of OpenAI's Responses API and what the verifier said.

A row has `responses_create_params` {input, temperature, ...}, `response` {model, output, usage, incomplete_details, ...}, `reward`, and fields of its
verifier, such as `expected_answer`; newer rows have `_ng_task_index` and `_ng_rollout_index`, which tell problems and samples apart, and `agent_ref`
{name}. The output holds all turns of the model, its calls of tools and what those returned; rows of tau2 keep the whole conversation with the simulated
user in `result`, and the request is that of the last turns alone. Rollouts that failed stand in `rollouts_failures.jsonl` beside them, one row per
attempt, with `_ng_failure_class`: they are samples without a grade.

Source: NVIDIA-NeMo/Gym, `nemo_gym/rollout_collection.py`, and the `example_rollouts.jsonl` of its environments.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.diagnose.errors import SourceError
from posttrain.diagnose.importing.chat_messages import ASSISTANT, read_items, read_messages, said_last, several_turns
from posttrain.diagnose.importing.finish_import import ProblemIds, Told, as_answer, as_answers, finish, refuse_unused
from posttrain.diagnose.importing.imported import Format, ImportedSample, ImportedSamples, ReadOptions
from posttrain.diagnose.importing.sampler_settings import read_sampling
from posttrain.diagnose.importing.source_rows import RepeatedRows, RowReader, SourceRow, find_files
from posttrain.diagnose.strict_settings import shorten
from posttrain.diagnose.types import Message, Note, Sampling, StopReason

_WANTED = "rollouts.jsonl that NeMo Gym wrote"
_REQUEST, _RESPONSE = "responses_create_params", "response"
_TASK, _ROLLOUT, _AGENT = "_ng_task_index", "_ng_rollout_index", "agent_ref"
_FAILURE, _FAILURES = "_ng_failure_class", "_failures"
Chat = tuple[Message, ...]
_ANSWERS = ("expected_answer", "expected_output", "answer", "ground_truth", "target")


def read_nemo_gym(paths: Sequence[Path], options: ReadOptions) -> ImportedSamples:
    """Return the rollouts of these files, as `Reader` says it; `options.score` names a number of the verifier that counts instead of the reward."""
    refuse_unused(options, "nemo-gym", "score")
    rows, ids, repeated = RowReader(), ProblemIds(varying_prompts=True), RepeatedRows()
    samples: list[ImportedSample] = []
    samplings: list[Sampling | None] = []
    failures: Counter[str] = Counter()
    files = find_files(paths, _WANTED, "**/*rollouts.jsonl")
    for path in files:
        known = set()
        for row in rows.json_lines(path):
            known.add(_rollout(row))
            if repeated.is_again(row, *_telling(row, path)):
                continue
            samples.append(_read_row(row, path, ids, options))
            samplings.append(read_sampling({**_told(row.mapping(_REQUEST)), **_told(row.mapping(_RESPONSE))}))
        beside = path.with_name(f"{path.name.partition('.')[0]}{_FAILURES}.jsonl")
        for row in _failed(rows, beside, known) if beside.is_file() and beside not in files else ():
            if repeated.is_again(row, path, _rollout(row)):
                continue
            samples.append(_read_row(row, path, ids, options))
            failures[str(row.get(_FAILURE))] += 1
    notes = [*rows.notes, *ids.notes, *repeated.notes]
    if failures:
        kinds = ", ".join(f"{kind}: {number}" for kind, number in failures.most_common())
        notes.append(Note("failed_samples", f"Rollouts that failed ({kinds}): they have no grade, and count as missing."))
    told = Told(
        format="nemo-gym",
        sampling=samplings[0] if samplings and all(one == samplings[0] for one in samplings) else None,
        untold=ids.untold,
        notes=notes,
    )
    return finish(samples, told, options)


def _rollout(row: SourceRow) -> tuple[str, ...] | None:
    """Return what tells a rollout from others of its collection; None in files of before."""
    told = row.get(_TASK), row.get(_ROLLOUT)
    return None if None in told else (str(row.mapping(_AGENT).get("name")), *map(str, told))


def _telling(row: SourceRow, path: Path) -> tuple[Any, ...]:
    """Return what tells a sample from all others: the id of its response, else its place in the collection that a file is of."""
    name = row.mapping(_RESPONSE).get("id")
    return (name,) if name else (path, _rollout(row))


def _failed(rows: RowReader, path: Path, known: Collection[tuple[str, ...] | None]) -> Iterable[SourceRow]:
    """Return the last attempt of each rollout that never succeeded."""
    return {rollout: row for row in rows.json_lines(path) if (rollout := _rollout(row)) and rollout not in known}.values()


def _told(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if value is not None}


def _read_row(row: SourceRow, path: Path, ids: ProblemIds, options: ReadOptions) -> ImportedSample:
    if not (failed := row.get(_FAILURE) is not None):
        row.require(_REQUEST, wanted=_WANTED)
    response = row.mapping(_RESPONSE)
    if not response and "reward" not in row.values and not failed:
        raise SourceError(
            f"{row.where}: got a request without a response; these are inputs, give {_WANTED}", code="not_this_format"
        )
    prompt = read_items(row.mapping(_REQUEST).get("input") or [], f"{row.where}: {_REQUEST}: input")
    prompt, chat = _parted(prompt, read_items(_last_step(response.get("output") or []), f"{row.where}: {_RESPONSE}: output"))
    result = row.get("result")
    simulated = result if isinstance(result, dict) else {}
    if isinstance(simulated.get("messages"), list):
        prompt, chat = _of_simulation(prompt, read_messages(simulated["messages"], f"{row.where}: result: messages"))
    truth = next((row.get(key) for key in _ANSWERS if row.get(key) is not None), None)
    answers = as_answers(truth)
    agent = row.mapping(_AGENT).get("name")
    behavior = str(agent) if agent else path.stem
    failed = failed or not response or bool(response.get("error"))
    return ImportedSample(
        behavior=behavior,
        problem=ids.name(row.get(_TASK), behavior, json.dumps(row.get("task")) if simulated else prompt, as_answer(truth), path),
        score=None if failed else row.number(_score_key(row, options)),
        text=said_last(chat) if chat else None if failed else "",
        prompt=prompt or None,
        answer=answers[0] if answers else "",
        answers=answers[1:],
        stop=StopReason.ERROR if failed else _stop(row.inside(_RESPONSE), simulated),
        num_tokens=row.inside(_RESPONSE).inside("usage").count("output_tokens"),
        turns=several_turns(chat),
        policy=str(response.get("model") or ""),
    )


def _score_key(row: SourceRow, options: ReadOptions) -> str:
    key = options.score or "reward"
    if key not in row.values:
        numbers = [
            name for name, value in row.values.items() if isinstance(value, bool | int | float) and not name.startswith("_")
        ]
        raise SourceError(
            f"{row.where}: got no {shorten(key)}; allowed with --score are {', '.join(numbers) or 'none here'}",
            code="unknown_score",
        )
    return key


def _last_step(output: Any) -> Any:
    """Return the items of an output; where there is a list for each step, which holds those of the steps before too, the last one."""
    return output[-1] if isinstance(output, list) and output and isinstance(output[-1], list) else output


def _parted(prompt: Chat, chat: Chat) -> tuple[Chat, Chat]:
    """Return the prompt, and what was said from the first word of the model on: some environments store their first messages in the output."""
    first = next((i for i, message in enumerate(chat) if message.role == ASSISTANT), len(chat))
    lead = chat[:first]
    return (prompt if lead == prompt else (*prompt, *lead)), chat[first:]


def _of_simulation(request: Chat, chat: Chat) -> tuple[Chat, Chat]:
    """Return a conversation with a simulated user as prompt, which ends with the first word of the user, and what followed."""
    first = next((i for i, message in enumerate(chat) if message.role == "user"), -1)
    system = tuple(message for message in request if message.role == "system")
    return (*system, *chat[: first + 1]), chat[first + 1 :]


def _stop(response: SourceRow, simulated: Mapping[str, Any]) -> StopReason:
    reason = response.mapping("incomplete_details").get("reason")
    if reason == "max_output_tokens" or simulated.get("termination_reason") == "max_steps":
        return StopReason.LENGTH
    return StopReason.EOS if response.get("status") == "completed" else StopReason.UNKNOWN


NEMO_GYM = Format(name="nemo-gym", title="NeMo Gym", files="rollouts.jsonl", read=read_nemo_gym)
