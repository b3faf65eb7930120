"""Whether a model writes a space between a prompt in completion format and its answer, and references written as it does.

A behavior's file says what is asked and what is right, not whether "2 + 2 =" is followed by "4" or by " 4": that is the model's habit. A
reference in the other form is scored as something the model never says (1 in 31,000 for a right answer), and would be learned in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from posttrain.diagnose.engines.base import EncodedPrompt, Engine, ScoreRequest
from posttrain.diagnose.engines.codec import TextCodec, completion_text
from posttrain.diagnose.types import Behavior, Problem, Reference

_NUM_COMPARED = 16
"""Problems whose first references are scored in both forms, the first ones of the file."""


def write_as_the_model(engine: Engine, behavior: Behavior) -> Behavior:
    """Return a behavior whose references begin with a space where the model writes one.

    Decided for the behavior as a whole, by which form of some references is more likely: with a space before them or without. References behind
    a prompt that ends with a blank, behind a chat, or that begin with a blank or a mark themselves are left as they are.

    Args:
        engine: Scores both forms; where it cannot score, or knows no tokens, nothing is changed.
        behavior: Its prompts and references.
    """
    codec = engine.codec
    if not isinstance(codec, TextCodec) or not engine.info.can_score or codec.writes_chat(behavior.prompt):
        return behavior
    compared = [
        (codec.encode_prompt(problem.prompt, behavior.prompt), problem.references[0])
        for problem in [problem for problem in behavior.problems if any(map(_begins_a_word, problem.references))][:_NUM_COMPARED]
        if isinstance(problem.prompt, str)
    ]
    compared = [(prompt, reference) for prompt, reference in compared if not prompt.text[-1:].isspace()]
    if not compared or _likelihood(engine, compared, spaced=True) <= _likelihood(engine, compared, spaced=False):
        return behavior
    return replace(behavior, problems=tuple(_with_spaces(problem, behavior) for problem in behavior.problems))


def _begins_a_word(reference: Reference) -> bool:
    return reference.text[:1].isalnum()


def _spaced(reference: Reference) -> Reference:
    first, *others = reference.steps
    return Reference(steps=(" " + first, *others)) if _begins_a_word(reference) else reference


def _with_spaces(problem: Problem, behavior: Behavior) -> Problem:
    if not isinstance(problem.prompt, str) or completion_text(problem.prompt, behavior.prompt)[-1:].isspace():
        return problem
    return replace(problem, references=tuple(map(_spaced, problem.references)))


def _likelihood(engine: Engine, compared: Sequence[tuple[EncodedPrompt, Reference]], *, spaced: bool) -> float:
    """Return the log-probability of references, in nats, all of them together."""
    paths = [
        (prompt, engine.codec.encode_path(prompt, _spaced(reference) if spaced else reference)) for prompt, reference in compared
    ]
    requests = [ScoreRequest(prompt_ids=prompt.token_ids, path_ids=path.token_ids) for prompt, path in paths]
    return sum(float(scores.logprobs.sum(dtype=float)) for scores in engine.score(requests))
