"""The embedded engine: any Hugging Face causal language model, on a processor or one GPU.

Llama-like models are computed by hand-written layers on the model's weights: what several sequences begin with is read once, in sampling and
in scoring. Every other model runs its own forward function.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from transformers import __version__ as transformers_version

from posttrain.diagnose.engines import base
from posttrain.diagnose.engines.base import Completion, OnTokens, SampleRequest, ScoreRequest, TokenScores, ignore_tokens
from posttrain.diagnose.engines.codec import TextCodec
from posttrain.diagnose.engines.hardware import LOGPROB_TOLERANCE, pick_dtype
from posttrain.diagnose.engines.hf.cached_decoder import CachedDecoder, require_cached_decoding
from posttrain.diagnose.engines.hf.path_scoring import score_packed, score_padded
from posttrain.diagnose.engines.hf.sampling_loop import Decoder, SamplingLoop
from posttrain.diagnose.engines.limits import check_sample_room, check_score_room, context_length, known_ids, short_hash
from posttrain.diagnose.engines.llama.layers import LlamaLayers, is_llama_like
from posttrain.diagnose.engines.llama.open_decoder import open_decoder
from posttrain.diagnose.engines.models.loading import fingerprint_model, load_model, load_tokenizer
from posttrain.diagnose.engines.token_sampling import PickTokens, pick_tokens
from posttrain.diagnose.errors import SettingsError
from posttrain.diagnose.types import Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_LARGE_MODEL = 2 * 10**9
# Models with more weights have no second copy of them in float32.
_PACKED_TWICE = 10**9


class TransformersEngine(base.BaseEngine):
    """Samples and scores with Hugging Face transformers."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str,
        model_fingerprint: str,
        sample_dtype: str = "auto",
        score_dtype: str = "auto",
    ):
        """Wrap loaded weights; use `open` or `from_model`.

        Args:
            model: The weights; they are used as they are for scoring, and copied where sampling wants another precision.
            tokenizer: A fast tokenizer.
            name: Of the model, for people.
            model_fingerprint: Hash of the weights and the tokenizer.
            sample_dtype: Precision of sampling; auto is bfloat16 where the hardware has units for it.
            score_dtype: Precision of scoring; auto is the weights' own. bfloat16 is faster and moves a summed log-probability of some
                hundred nats by about one.
        """
        self.model = model
        self.device = model.device
        score = model.dtype if score_dtype == "auto" else pick_dtype(score_dtype, self.device)
        sample = pick_dtype(sample_dtype, self.device)
        context = context_length(model.config)
        self._sampling_model = model
        self._sampling_layers = self._scoring_layers = None
        self._decodes = False
        """Whether the model was seen to decode as it runs in one pass."""
        if is_llama_like(model):
            packed = self._packed_dtypes(sample)
            made = {dtype: LlamaLayers(model, dtype, packed=dtype in packed) for dtype in {sample, score}}
            self._sampling_layers, self._scoring_layers = made[sample], made[score]
        else:
            if score != model.dtype:
                raise SettingsError(
                    f"score_dtype: got {score_dtype} for weights in {model.dtype}; allowed for {type(model).__name__} is auto",
                    code="score_dtype",
                )
            self._sampling_model = model if sample == model.dtype else copy.deepcopy(model).to(sample).eval()
        slower = () if self._sampling_layers is None else self._sampling_layers.notes
        eos_ids = known_ids(tokenizer.eos_token_id, getattr(model.generation_config, "eos_token_id", None))
        self.codec = TextCodec(tokenizer, eos_ids)
        self.info = base.EngineInfo(
            name="transformers",
            model=name,
            model_fingerprint=model_fingerprint,
            fingerprint=short_hash(f"transformers:{model_fingerprint}:{sample}:{score}"),
            sample_dtype=str(sample).removeprefix("torch."),
            score_dtype=str(score).removeprefix("torch."),
            device=str(self.device),
            versions={"torch": torch.__version__, "transformers": transformers_version},
            context=context,
            score_context=context,
            notes=tuple(f"slower sampling: {note}" for note in slower),
            logprob_tolerance=max(LOGPROB_TOLERANCE.get(sample, 1e-3), LOGPROB_TOLERANCE.get(score, 1e-3)),
        )

    def _packed_dtypes(self, sample: torch.dtype) -> set[torch.dtype]:
        """Return in which precisions weights are packed: on a processor what is sampled with, and bfloat16, of which there is a copy anyway."""
        if self.device.type != "cpu":
            return set()
        num_weights = sum(p.numel() for p in self.model.parameters())
        return {torch.bfloat16, sample} if num_weights <= _PACKED_TWICE else {torch.bfloat16}

    @classmethod
    def open(
        cls, source: str, *, sample_dtype: str = "auto", score_dtype: str = "auto", device: str = "auto"
    ) -> TransformersEngine:
        """Load a MODEL: a directory, a GGUF file or a hub id. Scores in fp32 up to two billion weights, in bf16 above."""
        fingerprint = fingerprint_model(source)
        model = load_model(source, dtype=torch.float32)
        place = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        if sum(p.numel() for p in model.parameters()) > _LARGE_MODEL:
            model = model.to(torch.bfloat16)
        return cls(
            model.to(place),
            load_tokenizer(source),
            name=source,
            model_fingerprint=fingerprint,
            sample_dtype=sample_dtype,
            score_dtype=score_dtype,
        )

    @classmethod
    def from_model(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        sample_dtype: str = "auto",
        name: str = "live",
        model_fingerprint: str = "live",
    ) -> TransformersEngine:
        """Share live weights with a trainer; call `refresh` after every update."""
        engine = cls(model, tokenizer, name=name, model_fingerprint=model_fingerprint, sample_dtype=sample_dtype)
        engine.is_live = True
        return engine

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the live weights into what was copied of them."""
        for layers in (self._sampling_layers, self._scoring_layers):
            if layers is not None:
                layers.refresh()
        if self._sampling_model is not self.model:
            for mine, live in zip(self._sampling_model.parameters(), self.model.parameters(), strict=True):
                mine.copy_(live)
            for mine, live in zip(self._sampling_model.buffers(), self.model.buffers(), strict=True):
                mine.copy_(live)

    @torch.no_grad()
    def sample(
        self, requests: Sequence[SampleRequest], sampling: Sampling, *, seed: str, on_tokens: OnTokens = ignore_tokens
    ) -> list[list[Completion]]:
        """See `Engine`. What is batched together depends on the requests alone."""
        check_sample_room(requests, sampling.max_tokens, self.info.context)
        decoder: Decoder
        if self._sampling_layers is not None:
            decoder = open_decoder(self._sampling_layers, max_tokens=sampling.max_tokens)
            pick: PickTokens = self._sampling_layers.kernels.pick_tokens
        else:
            decoder, pick = CachedDecoder(self._sampling_model, max_tokens=sampling.max_tokens), pick_tokens
        with _evaluating(self._sampling_model):
            if self._sampling_layers is None and not self._decodes:
                require_cached_decoding(self._sampling_model)
                self._decodes = True
            return SamplingLoop(decoder, self.codec, self.device, pick).run(requests, sampling, seed=seed, on_tokens=on_tokens)

    @torch.no_grad()
    def score(self, requests: Sequence[ScoreRequest], *, on_tokens: OnTokens = ignore_tokens) -> list[TokenScores]:
        """See `Engine`."""
        check_score_room(requests, self.info.score_context)
        if self._scoring_layers is not None:
            return score_packed(self._scoring_layers, requests, on_tokens)
        with _evaluating(self.model):
            return score_padded(self.model, requests, on_tokens)


@contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Switch dropout off for a while."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
