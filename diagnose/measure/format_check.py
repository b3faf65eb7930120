"""Is the prompt written as the model knows it? Where it is not, reference paths are far likelier behind the prompt in another format.

An answer in a terse style is often likelier in completion format, whatever the model was trained with. So formats in plain words count only where the model
does not end the references either; one whose marker is a token of its own is the format of some training, and counts alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from posttrain.diagnose.engines.base import EncodedPrompt, Engine, OnTokens
from posttrain.diagnose.engines.codec import TextCodec
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.measure.check_values import Checked, Failure, counted
from posttrain.diagnose.measure.reference_likelihood import score_paths
from posttrain.diagnose.measure.truncation import ending_probability
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Behavior, Outcome, PathScore, Problem, ValidityCode, check_estimate

_MOST_SCORED = 6
"""Reference paths that are scored in each format."""
_AS_GIVEN, _COMPLETION, _CHAT = "as given", "prompt.format: completion", "prompt.format: chat"
_TEMPLATES = {
    "ChatML": "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n",
    "Llama 3": "<|start_header_id|>user<|end_header_id|>\n\n{question}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "Gemma": "<start_of_turn>user\n{question}<end_of_turn>\n<start_of_turn>model\n",
    "Mistral": "[INST] {question} [/INST]",
    "Zephyr": "<|user|>\n{question}</s>\n<|assistant|>\n",
    "Alpaca": "### Instruction:\n{question}\n\n### Response:\n",
    "user and assistant in words": "User: {question}\nAssistant: ",
}
"""Ways to write a question that models are often trained with."""
_MARKERS = {
    "ChatML": "<|im_start|>",
    "Llama 3": "<|start_header_id|>",
    "Gemma": "<start_of_turn>",
    "Mistral": "[INST]",
    "Zephyr": "<|user|>",
}
_FORMATS = (_AS_GIVEN, _COMPLETION, _CHAT, *_TEMPLATES)


def can_try_formats(behavior: Behavior, engine: Engine) -> bool:
    """Return whether there are references that can be scored behind prompts in other formats."""
    known = isinstance(engine.codec, TextCodec) and engine.info.can_score
    return known and any(problem.references and isinstance(problem.prompt, str) for problem in behavior.problems)


def score_formats(engine: Engine, behavior: Behavior, problems: Sequence[Problem], *, on_tokens: OnTokens) -> list[PathScore]:
    """Score a few references in each format; `reference_index` is the place of the format, 0 that of the prompt as it is.

    Args:
        engine: An engine that can score, with a tokenizer.
        behavior: What is measured.
        problems: The measured problems.
        on_tokens: Called with the number of tokens just scored.
    """
    chosen = [problem for problem in problems if problem.references and isinstance(problem.prompt, str)][:_MOST_SCORED]
    todo = [
        (problem, place, prompt, engine.codec.encode_path(prompt, problem.references[0]))
        for problem in chosen
        for place, name in enumerate(_FORMATS)
        if (prompt := _encode(engine, behavior, problem, name)) is not None
    ]
    if engine.info.score_context is not None:
        todo = [one for one in todo if len(one[2].token_ids) + len(one[3].token_ids) <= engine.info.score_context]
    return score_paths(engine, behavior, todo, on_tokens=on_tokens)


def as_given(scored: Sequence[PathScore]) -> list[PathScore]:
    """Return those references of `score_formats` that were scored behind the prompt as it is."""
    return [path for path in scored if path.reference_index == 0]


def check_format(engine: Engine, behavior: Behavior, thresholds: Thresholds, scored: Sequence[PathScore]) -> Checked | None:
    """Check that no other format makes the references far likelier; None where none was scored.

    The end token is left out, because formats end answers differently.

    Args:
        engine: What scored.
        behavior: What is measured.
        thresholds: Of the verdict.
        scored: What `score_formats` returned.
    """
    sums: dict[str, list[np.floating]] = {}
    for path in scored:
        if len(path.policy_logprobs) > 1 and path.reference_index < len(_FORMATS):
            sums.setdefault(_FORMATS[path.reference_index], []).append(path.policy_logprobs[:-1].astype(np.float64).mean())
    means = {name: float(np.mean(values)) for name, values in sums.items()}
    given = means.pop(_AS_GIVEN, np.nan)
    never_ends = ending_probability(as_given(scored)) < thresholds.never_ends
    means = {name: mean for name, mean in means.items() if never_ends or _has_marker(engine, name)}
    if not means or not np.isfinite(given):
        return None
    best = max(means, key=lambda name: means[name])
    gain = means[best] - given
    what = "how much likelier the references are in the best other format of the prompt, nats per token"
    name, n = "validity: likelier in another format", len({path.problem_id for path in scored})
    check = check_estimate(name, "<=", counted(gain), thresholds.max_format_gain, n=n, what=what, unit="paths")
    if check.outcome is not Outcome.NOT_MET:
        return check, []
    repair = {_COMPLETION: "use `prompt: {format: completion}`", _CHAT: "use `prompt: {format: chat}`"}.get(
        best, f"give the tokenizer the chat template of its training ({best})"
    )
    text = f"the references are {gain:.1f} nats per token likelier with the prompt in another format, so this one is not the model's: {repair}"
    assert isinstance(engine.codec, TextCodec)
    code = ValidityCode.WRONG_TEMPLATE if engine.codec.writes_chat(behavior.prompt) else ValidityCode.NO_TEMPLATE
    return check, [Failure(code, text)]


def _has_marker(engine: Engine, name: str) -> bool:
    """Return whether the marker of a format is a token of its own, so that the model may have been trained with it."""
    codec, marker = engine.codec, _MARKERS.get(name)
    assert isinstance(codec, TextCodec)
    return marker is not None and marker in codec.tokenizer.get_added_vocab()


def _encode(engine: Engine, behavior: Behavior, problem: Problem, name: str) -> EncodedPrompt | None:
    """Return a prompt in a format; None where the model has no such format."""
    codec, given = engine.codec, behavior.prompt
    assert isinstance(codec, TextCodec)
    if name == _AS_GIVEN:
        return codec.encode_prompt(problem.prompt, given)
    if name in _TEMPLATES:
        text = _TEMPLATES[name].replace("{question}", given.ask(problem.question))
        return EncodedPrompt(token_ids=codec.encode_texts([text])[0], text=text, format="completion")
    wanted = name.rpartition(" ")[2]
    if (wanted == "chat") == codec.writes_chat(given) or (wanted == "chat" and codec.template is None):
        return None
    try:
        return codec.encode_prompt(problem.prompt, replace(given, format=wanted))
    except BehaviorError:
        return None
