"""Check a model or an adapter before any sample is taken: its template, how it ends a right answer, and whether an adapter does anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from posttrain.diagnose.behaviors import load_behavior
from posttrain.diagnose.engines import open_engine
from posttrain.diagnose.engines.base import Engine, ScoreRequest, TokenScores
from posttrain.diagnose.engines.codec import TextCodec
from posttrain.diagnose.engines.models.adapter_folder import is_adapter
from posttrain.diagnose.engines.models.model_source import resolve_model
from posttrain.diagnose.errors import BehaviorError, SettingsError
from posttrain.diagnose.measure.setup_checks import check_prompt
from posttrain.diagnose.report.model_check_words import model_warning_words
from posttrain.diagnose.storage.model_check_json import (
    AdapterEntry,
    CheckedAnswer,
    EndTokenEntry,
    ModelCheckFile,
    ModelWarning,
    ModelWarningEntry,
    ServedEntry,
)
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Behavior, MeasureSettings, Problem, PromptFormat, Reference, Split, VerifierSpec

MOST_ANSWERS = 8
NO_EFFECT = 1e-6
"""Largest change of a log-probability, nats, up to which an adapter does nothing."""
SAME_MODEL, SAME_SHARE = 1e-3, 0.1
"""Mean divergence, nats per token, and share of the adapter's own effect, up to which merged and unmerged are one model."""
SERVED_GAP = 0.5
"""Mean difference of the log-probability of a whole answer, nats, up to which a server with another precision serves the same model."""
_QUESTIONS = (
    ("What is the capital of France?", "The capital of France is Paris."),
    ("What is 2 plus 3?", "2 plus 3 is 5."),
    ("Which color do you get when you mix blue and yellow?", "You get green."),
    ("How many days are in a week?", "There are seven days in a week."),
    ("What is the opposite of hot?", "The opposite of hot is cold."),
    ("Is the sun a star? Answer yes or no.", "Yes."),
)


def inspect_model(model: str | Path, *, behavior: str | Path | None = None, served: str | None = None) -> ModelCheckFile:
    """Check a model before any sample is taken.

    Args:
        model: A Hugging Face directory or id, an adapter's folder, a GGUF file, or `demo`.
        behavior: Whose questions and right answers are asked; a few everyday ones without it.
        served: An engine that serves the same model, such as `openai:http://localhost:8000/v1`; it must give probabilities of prompts.

    Raises:
        ModelError: The model cannot be found or loaded.
        BehaviorError: The behavior cannot be read, or has no right answer to show (`no_answers`).
        SettingsError: The server does not score (`served_cannot_score`).
    """
    asked = _questions(behavior)
    with ExitStack() as opened:
        engine = open_engine("transformers", str(model), [asked])
        opened.callback(engine.close)
        codec = engine.codec
        assert isinstance(codec, TextCodec)
        requests = _requests(engine, asked)
        ends = _end_tokens(codec)
        scores, probabilities = _score(engine, requests, ends)
        adapter = _adapter(Path(str(resolve_model(model))), requests) if _names_adapter(model) else None
        other = None if served is None else _served(served, str(model), asked, requests, scores)
        prompt = codec.encode_prompt(asked.problems[0].prompt, asked.prompt)
        tokens = codec.tokenizer
        totals = probabilities.sum(axis=1)
        return ModelCheckFile(
            model=str(model),
            prompt=prompt.text,
            has_template=codec.template is not None,
            begin=tokens.bos_token,
            pad=tokens.pad_token,
            ends=[
                EndTokenEntry(
                    token=str(tokens.convert_ids_to_tokens(token)),
                    id=token,
                    ends_turns=codec.template is not None and token == codec.template.turn_end_id,
                    probability=float(np.median(probabilities[:, place])),
                )
                for place, token in enumerate(ends)
            ],
            end_probability=float(np.median(totals)),
            answers=[
                CheckedAnswer(
                    question=problem.question,
                    answer=problem.references[0].text,
                    nats_per_token=-float(np.mean(one.logprobs[:-1])) if len(one.logprobs) > 1 else float("nan"),
                    end_probability=float(total),
                )
                for problem, one, total in zip(asked.problems, scores, totals, strict=True)
            ],
            adapter=adapter,
            served=other,
            warnings=list(_warnings(asked, engine, ends, probabilities, adapter, other)),
        )


def _questions(behavior: str | Path | None) -> Behavior:
    """Return a behavior of questions with one right answer each.

    Raises:
        BehaviorError: Code `no_answers`.
    """
    if behavior is None:
        problems = [
            Problem(
                id=f"q{i}",
                prompt=question,
                answer=answer,
                references=(Reference(steps=(answer,)),),
                key=question,
                split=Split.EVAL,
            )
            for i, (question, answer) in enumerate(_QUESTIONS)
        ]
        return Behavior(
            name="everyday", problems=tuple(problems), verifier=VerifierSpec(kind="exact"), measure=MeasureSettings(epsilon=0.01)
        )
    loaded = load_behavior(behavior)
    known = [problem for problem in loaded.problems if problem.references or problem.answer.strip()][:MOST_ANSWERS]
    if not known:
        raise BehaviorError(
            f"{behavior}: no problem has an answer or a reference; give one that has, or leave --behavior out", code="no_answers"
        )
    problems = [_with_reference(problem) for problem in known]
    return replace(loaded, problems=tuple(problems))


def _with_reference(problem: Problem) -> Problem:
    return replace(problem, references=problem.references[:1] or (Reference(steps=(problem.answer,)),))


def _requests(engine: Engine, asked: Behavior) -> list[ScoreRequest]:
    """Return each question with its answer and the end token."""
    found = []
    for problem in asked.problems:
        prompt = engine.codec.encode_prompt(problem.prompt, asked.prompt)
        path = engine.codec.encode_path(prompt, problem.references[0])
        found.append(ScoreRequest(prompt_ids=prompt.token_ids, path_ids=path.token_ids))
    return found


def _end_tokens(codec: TextCodec) -> list[int]:
    """Return the ids that end an answer, that of the chat template first."""
    return sorted(codec.eos_ids, key=lambda token: (token != codec.end_id, token))


def _score(
    engine: Engine, requests: Sequence[ScoreRequest], ends: Sequence[int]
) -> tuple[list[TokenScores], np.ndarray[tuple[int, int], np.dtype[np.float64]]]:
    """Return the scores of each answer with its end token, and [A, E] the probability of each end token behind it."""
    ended = [ScoreRequest(prompt_ids=one.prompt_ids, path_ids=(*one.path_ids[:-1], token)) for one in requests for token in ends]
    scores = engine.score([*requests, *ended])
    last = np.array([np.exp(float(one.logprobs[-1])) for one in scores[len(requests) :]], dtype=np.float64)
    return scores[: len(requests)], last.reshape(len(requests), len(ends))


def _names_adapter(model: str | Path) -> bool:
    resolved = resolve_model(model)
    return isinstance(resolved, Path) and resolved.is_dir() and is_adapter(resolved)


def _adapter(folder: Path, requests: Sequence[ScoreRequest]) -> AdapterEntry:
    from posttrain.diagnose.engines.hf.adapter_effect import measure_adapter

    return AdapterEntry(**asdict(measure_adapter(folder, requests)))


def _served(
    engine_name: str, model: str, asked: Behavior, requests: Sequence[ScoreRequest], local: Sequence[TokenScores]
) -> ServedEntry:
    """Score the same answers on a server.

    Raises:
        SettingsError: It does not score (`served_cannot_score`).
    """
    engine = open_engine(engine_name, model, [asked])
    try:
        if not engine.info.can_score:
            raise SettingsError(
                f"--engine {engine_name}: gives no probabilities of texts that it did not write, so it cannot be compared; use a server that does, such as "
                "vLLM",
                code="served_cannot_score",
            )
        scores = engine.score(requests)
    finally:
        engine.close()
    gaps = [abs(float(np.sum(a.logprobs)) - float(np.sum(b.logprobs))) for a, b in zip(scores, local, strict=True)]
    return ServedEntry(engine=engine_name, mean_gap=float(np.mean(gaps)), largest_gap=max(gaps))


def _warnings(
    asked: Behavior,
    engine: Engine,
    ends: Sequence[int],
    probabilities: np.ndarray[tuple[int, int], np.dtype[np.float64]],
    adapter: AdapterEntry | None,
    served: ServedEntry | None,
) -> Iterator[ModelWarningEntry]:
    """Yield what may be wrong."""
    codec = engine.codec
    assert isinstance(codec, TextCodec)
    _, failures = check_prompt(asked, engine, asked.problems, codec.encode_prompt(asked.problems[0].prompt, asked.prompt))
    yield from (ModelWarningEntry(code=failure.code.value, words=failure.words) for failure in failures)
    yield from (_warning(code, example) for code, example in _template_warnings(codec))
    yield from (_warning(code, example) for code, example in _end_warnings(codec, ends, probabilities))
    if adapter is not None:
        if adapter.num_unused:
            yield _warning(ModelWarning.ADAPTER_UNUSED, f"{adapter.num_unused} of {adapter.num_tensors}")
        if adapter.largest_change <= NO_EFFECT:
            yield _warning(ModelWarning.ADAPTER_NO_EFFECT)
        if adapter.merged_gap > max(SAME_MODEL, SAME_SHARE * adapter.kl):
            yield _warning(ModelWarning.MERGED_DIFFERS, f"{adapter.merged_gap:.2g}")
    if served is not None and served.mean_gap > SERVED_GAP:
        yield _warning(ModelWarning.SERVED_DIFFERS, f"{served.mean_gap:.2g}")


def _template_warnings(codec: TextCodec) -> Iterator[tuple[ModelWarning, str]]:
    tokens, template = codec.tokenizer, codec.template
    if template is None:
        yield ModelWarning.NO_TEMPLATE, ""
    else:
        written = codec.encode_prompt(_QUESTIONS[0][0], PromptFormat()).text
        added = tokens(written)["input_ids"]
        if tokens.bos_token_id is not None and list(added[:2]) == [tokens.bos_token_id] * 2:
            yield ModelWarning.BEGIN_TWICE, repr(tokens.bos_token)
        if template.turn_end_id is None:
            yield ModelWarning.NO_TURN_END, repr(tokens.eos_token)
        elif template.turn_end_id not in codec.known_eos_ids:
            yield ModelWarning.TURN_END_UNKNOWN, repr(str(tokens.convert_ids_to_tokens(template.turn_end_id)))
    if tokens.pad_token_id is not None and tokens.pad_token_id in codec.eos_ids:
        yield ModelWarning.PAD_ENDS, repr(tokens.pad_token)


def _end_warnings(
    codec: TextCodec, ends: Sequence[int], probabilities: np.ndarray[tuple[int, int], np.dtype[np.float64]]
) -> Iterator[tuple[ModelWarning, str]]:
    """Yield whether right answers are ended, and by the right token."""
    limits = Thresholds()
    medians = np.median(probabilities, axis=0)
    total = float(np.median(probabilities.sum(axis=1)))
    if total < limits.never_ends:
        yield ModelWarning.END_UNLIKELY, f"{total:.1g}"
    turn_end = None if codec.template is None else codec.template.turn_end_id
    if turn_end is not None and turn_end in ends and medians[list(ends).index(turn_end)] < limits.never_ends:
        others = [place for place, token in enumerate(ends) if token != turn_end]
        if others and medians[best := max(others, key=lambda place: medians[place])] >= limits.ends:
            yield ModelWarning.OTHER_END, repr(str(codec.tokenizer.convert_ids_to_tokens(ends[best])))


def _warning(code: ModelWarning, example: str = "") -> ModelWarningEntry:
    return ModelWarningEntry(code=code.value, words=model_warning_words(code, example))
