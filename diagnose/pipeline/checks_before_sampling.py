"""What is checked before the first token of a diagnosis: first without a model, then with the engines open.

Whatever can be known to be wrong is refused here, before the run directory is touched, so that neither tokens nor earlier samples are lost.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from posttrain.diagnose.behaviors.data_sets import DataRow
from posttrain.diagnose.engines import check_model
from posttrain.diagnose.engines.base import EncodedPrompt, Engine, SampleRequest, ScoreRequest
from posttrain.diagnose.engines.codec import TextCodec
from posttrain.diagnose.engines.limits import check_sample_room, check_score_room
from posttrain.diagnose.errors import BehaviorError, SettingsError, UserError
from posttrain.diagnose.pipeline.request import DiagnoseRequest
from posttrain.diagnose.probes.earlier_run import earlier_rollouts
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.storage.writable import check_writable
from posttrain.diagnose.types import Behavior, Problem


def check_without_models(request: DiagnoseRequest) -> None:
    """Check which models there are.

    Raises:
        UserError: Anything given is wrong.
    """
    kind = request.engine if isinstance(request.engine, str) else "transformers"
    models = [request.model] if isinstance(request.engine, str) else []
    for model in (*models, request.teacher, request.earlier):
        if isinstance(model, str | Path):
            check_model(kind, str(model))


def check_folders(request: DiagnoseRequest) -> None:
    """Check where results go, and the earlier run.

    Raises:
        UserError: The folder cannot be written or holds something else, or there is no such earlier run.
    """
    RunDirectory(Path(request.out)).check("diagnose", request.settings())
    check_writable(Path(request.out))
    if request.before is not None:
        check_earlier_run(Path(request.before), request)


def check_earlier_run(path: Path, request: DiagnoseRequest) -> None:
    """Refuse an earlier run that is none, is not finished, is the one to be made, or measured other behaviors.

    Raises:
        SettingsError: It is the one to be made (`before_is_out`), or as for `earlier_rollouts`.
        RunError: As for `earlier_rollouts`.
    """
    if os.path.realpath(path) == os.path.realpath(request.out):
        raise SettingsError(f"--before {path}: is the folder of --out; give an earlier run", code="before_is_out")
    for behavior in request.loaded:
        earlier_rollouts(path, behavior)


def check_with_models(
    request: DiagnoseRequest, policy: Engine, others: Iterable[tuple[str, Engine | None]], data: Sequence[DataRow] | None
) -> None:
    """Check what the models have to say: every prompt and path is written once and fits, and every setting can be sampled with.

    Args:
        request: What is asked for.
        policy: The engine of the model.
        others: The option and the engine of each further model; None where it is not given.
        data: Rows of --data.

    Raises:
        UserError: A prompt cannot be written, or does not fit into the context beside `max_tokens`; or a setting cannot be sampled with.
    """
    for behavior in request.loaded:
        problems = behavior.split(request.split)
        prompts = check_prompts(policy, behavior, problems)
        check_template_arguments(policy, behavior)
        if policy.info.can_score:
            _check_paths(policy, behavior, problems, prompts)
        for option, other in others:
            if other is not None:
                try:
                    check_prompts(other, behavior, problems)
                except UserError as error:
                    raise type(error)(f"{option} {other.info.model}: {error}", code=error.code) from error
    if data is not None:
        _check_rows(policy, request.loaded[0], data)


def check_prompts(engine: Engine, behavior: Behavior, problems: Sequence[Problem]) -> list[EncodedPrompt]:
    """Write every prompt once, and check that a sample fits behind it.

    Returns:
        The prompts, in the order of the problems.

    Raises:
        BehaviorError: One cannot be written, or all are written alike.
        SettingsError: One leaves no room for `max_tokens`, or the engine lacks a sampling setting.
    """
    engine.check_sampling(behavior.sampling)
    prompts = []
    for problem in problems:
        try:
            prompts.append(engine.codec.encode_prompt(problem.prompt, behavior.prompt))
        except BehaviorError as error:
            raise BehaviorError(f"behavior {behavior.name}, problem {problem.id}: {error}", code=error.code) from error
    requests = [
        SampleRequest(key=f"{behavior.name}/{problem.id}", prompt_ids=prompt.token_ids, num_samples=1)
        for problem, prompt in zip(problems, prompts, strict=True)
    ]
    check_sample_room(requests, behavior.sampling.max_tokens, engine.info.context)
    if len({problem.prompt for problem in problems}) > 1 and len({request.prompt_ids for request in requests}) == 1:
        raise BehaviorError(
            f"behavior {behavior.name}: all {len(problems)} prompts become the same tokens, so the model would not see the questions; repair the chat "
            "template or the tokenizer, or use format: completion",
            code="prompts_all_alike",
        )
    return prompts


def check_template_arguments(engine: Engine, behavior: Behavior) -> None:
    """Refuse variables that the chat template does not read: they would change nothing.

    Raises:
        BehaviorError: There is one, or there is no chat template (`template_arguments_unread`).
    """
    codec, names = engine.codec, sorted(behavior.prompt.template_variables)
    if not names or (codec.tokenizer is None and engine.info.name == "openai"):  # a server's template is not known here
        return
    template = codec.template if isinstance(codec, TextCodec) and codec.writes_chat(behavior.prompt) else None
    unread = [name for name in names if template is None or not template.reads(name)]
    if unread:
        where = (
            "the prompts are written without a chat template"
            if template is None
            else "the model's chat template does not read it"
        )
        raise BehaviorError(
            f"behavior {behavior.name}: prompt.template_arguments: got {unread[0]!r}, but {where}; allowed: variables that the template names; remove it, "
            "or spell it as the template does",
            code="template_arguments_unread",
        )


def _check_paths(engine: Engine, behavior: Behavior, problems: Sequence[Problem], prompts: Sequence[EncodedPrompt]) -> None:
    for problem, prompt in zip(problems, prompts, strict=True):
        for reference in problem.references:
            path = engine.codec.encode_path(prompt, reference).token_ids
            try:
                check_score_room([ScoreRequest(prompt_ids=prompt.token_ids, path_ids=path)], engine.info.score_context)
            except SettingsError as error:
                raise SettingsError(f"behavior {behavior.name}, problem {problem.id}: {error}", code=error.code) from error


def _check_rows(engine: Engine, behavior: Behavior, rows: Sequence[DataRow]) -> None:
    """Write one data row of each shape: a template may refuse the roles of some."""
    seen: set[tuple[object, ...]] = set()
    for row in rows:
        if row.prompt is None or isinstance(row.prompt, str):
            continue
        shape = tuple(message.role for message in row.prompt)
        if shape in seen:
            continue
        seen.add(shape)
        try:
            engine.codec.encode_prompt(row.prompt, row.format_of_prompt(behavior.prompt))
        except BehaviorError as error:
            raise BehaviorError(f"--data: row {row.index} (from 0): {error}", code=error.code) from error
