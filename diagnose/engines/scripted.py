"""An engine with known success probabilities, for tests and for trying the tool without a model.

Each prompt has a script: a few whole answers with probabilities. Text is bytes, and token 256 ends an answer, so the probability of a
token given a prefix is exact: the mass of the answers that go on with it over the mass of those that reach the prefix. What the
sampler says of a token is therefore what the scorer says of it, to rounding.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from posttrain.diagnose.engines import base
from posttrain.diagnose.engines.base import Completion, OnTokens, SampleRequest, ScoreRequest, TokenScores, ignore_tokens
from posttrain.diagnose.engines.codec import completion_text
from posttrain.diagnose.engines.limits import cut_at_stop, short_hash
from posttrain.diagnose.engines.token_sampling import uniforms
from posttrain.diagnose.errors import ModelError, SettingsError
from posttrain.diagnose.types import Behavior, Message, Problem, PromptFormat, Reference, Sampling, StopReason
from posttrain.diagnose.yaml_text import parse_yaml

END = 256
_LEAK = 1e-9
"""Mass left to texts outside the script, spread evenly over tokens, so that every path has a finite score."""

Script = tuple[tuple[bytes, float], ...]
Distribution = npt.NDArray[np.float64]


class ScriptedCodec:
    """Text as its bytes; token 256 ends an answer."""

    tokenizer = None
    eos_ids = frozenset({END})

    def encode_prompt(self, prompt: str | tuple[Message, ...], prompt_format: PromptFormat) -> base.EncodedPrompt:
        """Write a prompt as its bytes."""
        text = _prompt_text(prompt, prompt_format)
        return base.EncodedPrompt(token_ids=tuple(text.encode()), text=text, format="completion")

    def encode_path(self, prompt: base.EncodedPrompt, reference: Reference) -> base.EncodedPath:
        """Write a path as its bytes and the end token."""
        parts = [step.encode() for step in reference.steps]
        ids = [byte for part in parts for byte in part]
        steps = [i for i, part in enumerate(parts) for _ in part]
        texts = [bytes([byte]).decode("latin-1") for byte in ids]
        return base.EncodedPath(token_ids=(*ids, END), token_texts=(*texts, "<end>"), token_steps=(*steps, len(parts) - 1))

    def decode(self, token_ids: list[int]) -> str:
        """Return the text of generated ids, without the end token."""
        return bytes(token for token in token_ids if token != END).decode(errors="replace")


class ScriptedEngine(base.BaseEngine):
    """An engine with scripts: prompt text → ((answer, probability), …), the probabilities of a prompt summing to one."""

    def __init__(self, scripts: Mapping[str, Sequence[tuple[str, float]]], *, name: str = "scripted"):
        """Take the scripts.

        Raises:
            ModelError: probabilities are negative or do not sum to one.
        """
        self.codec: base.Codec = ScriptedCodec()
        self._scripts: dict[bytes, Script] = {}
        for prompt, answers in scripts.items():
            if any(p < 0 for _, p in answers) or abs(sum(p for _, p in answers) - 1) > 1e-9:
                raise ModelError(
                    f"scripted model: got probabilities {[p for _, p in answers]} for one prompt; they must be ≥ 0 and sum to 1",
                    code="script_probabilities",
                )
            self._scripts[prompt.encode()] = tuple((text.encode(), p) for text, p in answers)
        digest = short_hash(json.dumps([sorted((k, list(map(list, v))) for k, v in scripts.items())]))
        self.info = base.EngineInfo(
            name="scripted",
            model=name,
            model_fingerprint=digest,
            fingerprint=digest,
            sample_dtype="exact",
            score_dtype="exact",
            device="none",
            logprob_tolerance=1e-5,
        )

    @classmethod
    def for_behaviors(
        cls,
        behaviors: Sequence[Behavior],
        success: float | Mapping[str, float],
        *,
        wrong: str | None = None,
        name: str = "scripted",
    ) -> ScriptedEngine:
        """Script right answers with a given probability, and wrong ones else.

        Args:
            behaviors: Whose problems to answer, all splits.
            success: One probability for all, or one per problem id (`default` for the rest).
            wrong: The text of a wrong answer; by default one that parses and differs from the right one.
            name: What to call the model.
        """
        scripts: dict[str, list[tuple[str, float]]] = {}
        for behavior in behaviors:
            for problem in behavior.problems:
                p = success if isinstance(success, float | int) else success.get(problem.id, success.get("default", 0.0))
                right = problem.references[0].text if problem.references else problem.answer
                scripts[_prompt_text(problem.prompt, behavior.prompt)] = [
                    (right, float(p)),
                    (wrong or _wrong_answer(problem), 1 - float(p)),
                ]
        return cls(scripts, name=name)

    @classmethod
    def open(cls, source: str, behaviors: Sequence[Behavior]) -> ScriptedEngine:
        """Read a YAML or JSON file: `{success: 0.3}`, or `{success: {p1: 0.3, default: 0.1}}`, and optionally `wrong: text`."""
        path = Path(source)
        if not path.is_file():
            raise ModelError(
                f"model {source}: no such file; the scripted engine reads a YAML file such as `success: 0.3`",
                code="model_not_found",
            )
        try:
            raw = parse_yaml(path.read_text(encoding="utf-8"))
            if not isinstance(raw, dict):
                raise TypeError(f"got a {type(raw).__name__}, not a mapping")
            success: Any = raw["success"]
            success = {str(k): float(v) for k, v in success.items()} if isinstance(success, dict) else float(success)
            if set(raw) - {"success", "wrong"}:
                raise ValueError(f"unknown keys {sorted(set(raw) - {'success', 'wrong'})}")
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"model {source}: cannot be read ({' '.join(str(error).split())[:80]}); the scripted engine reads `success: 0.3` or "
                "`success: {p1: 0.3, default: 0}`, and `wrong: text`",
                code="script_unreadable",
            ) from error
        return cls.for_behaviors(behaviors, success, wrong=raw.get("wrong"), name=str(source))

    def sample(
        self, requests: Sequence[SampleRequest], sampling: Sampling, *, seed: str, on_tokens: OnTokens = ignore_tokens
    ) -> list[list[Completion]]:
        """Sample; see `Sampler`. Any temperature, without truncation."""
        self.check_sampling(sampling)
        results = []
        for request in requests:
            script = self._script(request.prompt_ids)
            indices = range(request.first_sample, request.first_sample + request.num_samples)
            results.append([self._one(script, sampling, seed, request.key, i) for i in indices])
            on_tokens(sum(len(completion.token_ids) for completion in results[-1]))
        return results

    def check_sampling(self, sampling: Sampling) -> None:
        """See `Engine`."""
        if (sampling.top_p, sampling.top_k, sampling.min_p, sampling.repetition_penalty) != (1.0, 0, 0.0, 1.0):
            raise SettingsError(
                "sampling: the scripted engine samples without truncation (top_p 1, top_k 0, min_p 0, repetition_penalty 1)",
                code="truncation_unsupported",
            )

    def _one(self, script: Script, sampling: Sampling, seed: str, key: str, index: int) -> Completion:
        if sampling.samples_the_policy:  # the same as token by token, and a whole text at a time
            cumulated = np.cumsum([p for _, p in script])
            u = uniforms(seed, key, index, 1)[0]
            path = (*script[min(int(np.searchsorted(cumulated, u, side="right")), len(script) - 1)][0], END)
        else:
            path = self._sample_path(script, sampling, uniforms(seed, key, index, sampling.max_tokens))
        cut = path[: sampling.max_tokens]
        text = bytes(byte for byte in cut if byte != END).decode(errors="replace")
        stop = StopReason.EOS if cut[-1] == END else StopReason.LENGTH
        # Token by token, the stop text that is complete first ends the sample.
        if ends := [text.index(mark) + len(mark) for mark in sampling.stop if mark in text]:
            cut, stop = cut[: len(text[: min(ends)].encode())], StopReason.STOP
            text = cut_at_stop(text[: min(ends)], sampling.stop)
        steps = [_next(script, cut[:t]) for t in range(len(cut))]
        policy = np.log([step[token] for step, token in zip(steps, cut, strict=True)]).astype(np.float32)
        sampled = [_at_temperature(step, sampling.temperature)[token] for step, token in zip(steps, cut, strict=True)]
        return Completion(
            token_ids=cut, policy_logprobs=policy, sampler_logprobs=np.log(sampled).astype(np.float32), stop=stop, text=text
        )

    def _sample_path(self, script: Script, sampling: Sampling, u: Distribution) -> tuple[int, ...]:
        path: list[int] = []
        while len(path) < sampling.max_tokens and (not path or path[-1] != END):
            cumulated = np.cumsum(_at_temperature(_next(script, tuple(path)), sampling.temperature))
            path.append(min(int(np.searchsorted(cumulated, u[len(path)] * cumulated[-1], side="right")), END))
        return tuple(path)

    def score(self, requests: Sequence[ScoreRequest], *, on_tokens: OnTokens = ignore_tokens) -> list[TokenScores]:
        """Score; see `Scorer`."""
        results = []
        for request in requests:
            script = self._script(request.prompt_ids)
            steps = [_next(script, request.path_ids[:t]) for t in range(len(request.path_ids))]
            above = [step > step[token] for step, token in zip(steps, request.path_ids, strict=True)]
            results.append(
                TokenScores(
                    logprobs=np.log([step[token] for step, token in zip(steps, request.path_ids, strict=True)]).astype(
                        np.float32
                    ),
                    ranks=np.array([which.sum() for which in above], dtype=np.int32),
                    mass_above=np.array([step[which].sum() for step, which in zip(steps, above, strict=True)], dtype=np.float32),
                    top_logprobs=np.log([step.max() for step in steps]).astype(np.float32),
                )
            )
            on_tokens(len(request.path_ids))
        return results

    def _script(self, prompt_ids: tuple[int, ...]) -> Script:
        """Return the answers to a prompt that are still possible, where the ids are a known prompt and perhaps a part of an answer to it."""
        for length in range(len(prompt_ids), 0, -1):
            script = self._scripts.get(bytes(prompt_ids[:length])) if max(prompt_ids[:length]) < END else None
            if script is not None:
                given = prompt_ids[length:]
                fitting = [(text[len(given) :], p) for text, p in script if tuple(text[: len(given)]) == given]
                total = sum(p for _, p in fitting)
                return tuple((text, p / total) for text, p in fitting) if total > 0 else ((b"", 1.0),)
        raise ModelError(
            f"scripted model: no script for the prompt {bytes(i for i in prompt_ids if i < END)[:60]!r}",
            code="prompt_not_scripted",
        )


def _next(script: Script, prefix: tuple[int, ...]) -> Distribution:
    """Return [257], the probability of each next token after a prefix; what no answer starts with ends at once."""
    distribution = np.zeros(257)
    for text, p in script:
        whole = (*text, END)
        if len(whole) > len(prefix) and whole[: len(prefix)] == prefix:
            distribution[whole[len(prefix)]] += p
    total = distribution.sum()
    if total == 0:
        distribution[END], total = 1.0, 1.0
    return (1 - _LEAK) * distribution / total + _LEAK / 257


def _at_temperature(distribution: Distribution, temperature: float) -> Distribution:
    """Return [257], the distribution at another temperature; all on the most likely token at 0."""
    if temperature == 0.0:
        return (np.arange(257) == distribution.argmax()).astype(np.float64)
    if temperature == 1.0:
        return distribution
    powered = (distribution / distribution.max()) ** (1.0 / temperature)
    return np.asarray(powered / powered.sum())


def _prompt_text(prompt: str | tuple[Message, ...], prompt_format: PromptFormat) -> str:
    if not isinstance(prompt, str):
        return "".join(f"{message.role}: {message.content}\n" for message in prompt)
    return completion_text(prompt, prompt_format)


def _wrong_answer(problem: Problem) -> str:
    """Write an answer that looks like the right one and is wrong."""
    try:
        return str(int(problem.answer) + 1)
    except ValueError:
        if problem.answer in "ABCDEFGHIJ" and len(problem.answer) == 1:
            return "B" if problem.answer == "A" else "A"
        return f"not {problem.answer[::-1]}"
