"""A reward model scores answers.

A reward model is a sequence classifier with one label: prompt and answer in, one number out, read behind the last token. `posttrain train
reward_model` writes one. A model trained on pairs has no natural zero, so a behavior names the threshold at which an answer is as good as
not:

    verifier: {kind: reward_model, model: runs/reward, threshold: 0.0}

The score is σ(reward − threshold), and a score of .5 is a success unless the behavior says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from weakref import WeakValueDictionary

from pydantic import Field, StringConstraints

from posttrain.diagnose.strict_settings import StrictModel
from posttrain.diagnose.types import Grade, GradeStatus, Problem, PromptFormat, Reference
from posttrain.diagnose.verifiers.base import ModelVerifier

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from posttrain.diagnose.engines.codec import TextCodec


class RewardModelOptions(StrictModel):
    """Options of `reward_model`."""

    model: Annotated[str, StringConstraints(min_length=1)]
    """A Hugging Face directory or id: a sequence classifier with one label, and its tokenizer."""
    threshold: float = Field(default=0.0)
    """The reward at which the score is ½."""


@dataclass(frozen=True, eq=False)
class _Loaded:
    model: PreTrainedModel
    codec: TextCodec


_LOADED: WeakValueDictionary[str, _Loaded] = WeakValueDictionary()
"""What some verifier holds, by the name it was given: behaviors sampled in alternation share one copy."""


class RewardModelVerifier(ModelVerifier):
    """Scores answers with a reward model, which is loaded with the first of them.

    The prompt is written with the reward model's own tokenizer and chat template, and the answer with its end token, as the rows were
    that taught it.
    """

    Options = RewardModelOptions
    needs_answer = False

    def __init__(self, options: RewardModelOptions, *, batch_tokens: int = 2**14) -> None:
        """Take the options, and about how many padded tokens are read at a time."""
        self._options, self._batch_tokens = options, batch_tokens
        self._loaded: _Loaded | None = None

    def identity(self) -> str:
        """Return the fingerprint of weights and tokenizer.

        Raises:
            ModelError: There is no model of that name.
        """
        from posttrain.diagnose.engines.models.loading import fingerprint_model

        return fingerprint_model(self._options.model)

    def close(self) -> None:
        """Let the model go."""
        self._loaded = None

    def rate(self, problem: Problem, texts: Sequence[str], prompt_format: PromptFormat) -> list[Grade]:
        """Return σ(reward − threshold) of each text; an answer that does not fit into the model is missing."""
        from posttrain.diagnose.engines.limits import context_length

        loaded = self._load()
        model, codec = loaded.model, loaded.codec
        prompt = codec.encode_prompt(problem.prompt, prompt_format)
        ids = []
        for text in texts:
            readable = text.encode("utf-8", "replace").decode()  # tokenizers refuse halves of surrogate pairs
            ids.append(prompt.token_ids + codec.encode_path(prompt, Reference(steps=(readable,))).token_ids)
        longest = context_length(model.config) or max(map(len, ids))
        fitting = [number for number, each in enumerate(ids) if len(each) <= longest]
        batches = _batches([ids[number] for number in fitting], self._batch_tokens)
        scores = dict(zip(fitting, _scores(model, batches, self._options.threshold), strict=True))
        too_long = f"prompt and answer are longer than the {longest} tokens that the reward model reads"
        return [
            Grade(
                status=GradeStatus.SCORED, score=scores[number], extracted=f"{scores[number]:.4f}", lenient_score=scores[number]
            )
            if number in scores
            else Grade(status=GradeStatus.ERROR, score=None, detail=too_long)
            for number in range(len(texts))
        ]

    def _load(self) -> _Loaded:
        if self._loaded is None:
            self._loaded = _LOADED.get(self._options.model)
        if self._loaded is None:
            import torch  # only here: whoever reads a behavior needs no torch

            from posttrain.diagnose.engines.codec import TextCodec
            from posttrain.diagnose.engines.limits import end_ids
            from posttrain.diagnose.engines.models.loading import load_reward_model, load_tokenizer

            model = load_reward_model(self._options.model)
            tokenizer = load_tokenizer(self._options.model)
            folder = str(Path(self._options.model).expanduser()) if Path(self._options.model).exists() else self._options.model
            device = "cuda" if torch.cuda.is_available() else "cpu"
            codec = TextCodec(tokenizer, end_ids(folder, tokenizer))
            self._loaded = _LOADED[self._options.model] = _Loaded(model.to(device), codec)
        return self._loaded


def _scores(model: Any, batches: Iterable[list[tuple[int, ...]]], threshold: float) -> list[float]:
    """Return σ(reward − threshold) behind the last token of each sequence."""
    import torch

    scores: list[float] = []
    settings = model.config.get_text_config()
    for batch in batches:
        width = max(map(len, batch))
        # Classifiers look for the last token that is not padding, and many models pad with the end token: pad with what stands nowhere here.
        used = {token for each in batch for token in each}
        padding = next(token for token in range(len(used) + 1) if token not in used)
        settings.pad_token_id = padding if padding < settings.vocab_size else None
        rows = torch.tensor([[*each, *[padding] * (width - len(each))] for each in batch], device=model.device)
        mask = torch.tensor([[1] * len(each) + [0] * (width - len(each)) for each in batch], device=model.device)
        with torch.no_grad():
            rewards = model(input_ids=rows, attention_mask=mask).logits[:, 0].double()
        scores += torch.sigmoid(rewards - threshold).tolist()
    return scores


def _batches(ids: Sequence[tuple[int, ...]], max_tokens: int) -> Iterator[list[tuple[int, ...]]]:
    """Yield neighbours that fill about `max_tokens` once padded."""
    batch: list[tuple[int, ...]] = []
    for each in ids:
        if batch and (len(batch) + 1) * max(len(each), *map(len, batch)) > max_tokens:
            yield batch
            batch = []
        batch.append(each)
    if batch:
        yield batch
