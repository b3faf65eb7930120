"""The OpenAI-compatible engine: samples from a server by its completions endpoint, and scores where the server is vLLM.

**What the server can do is found out when it is opened** (`OpenAIEngine.capabilities`), and what it lacks is said (`notes`): without
log-probabilities there are samples all the same, and their log-probabilities are NaN; a server that cannot score refuses to.

**Tokens.** Where MODEL is also a folder or hub id with the tokenizer, prompts are sent as the exact token ids that every other engine sends.
Else vLLM's /tokenize writes them; else they are sent as text. vLLM gives the sampled ids back; other servers give texts, which are tokenised
here again, and log-probabilities count only where those tokens are the server's.

**Seeds.** Sample i of a prompt has the seed h + i, with h hashed from (seed, key) into 52 bits, which every JSON reader keeps. vLLM gives the
j-th of n samples the seed plus j, so one request gives many samples that do not depend on how they are asked for; other servers promise
nothing about n, and are asked for one sample at a time. What a seed means beyond that is up to the server: vLLM promises what it promises to
the vLLM engine, on the batches that its other users make too. (On a processor start vLLM 0.32 with --no-enable-chunked-prefill: seeds end it
otherwise, as soon as a prompt is read in parts.)

**Fingerprints** are those of the files where MODEL is a folder, else of the names: what a server has under a name may change unseen.

**Failures.** What is refused (4xx) is an error of this project. What fails in spite of repeated tries, or is answered by another model than the
first reply, is a sample with `StopReason.ERROR`, which counts as missing, not as wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from posttrain.diagnose.engines import base
from posttrain.diagnose.engines.base import Completion, OnTokens, SampleRequest, ScoreRequest, TokenScores, ignore_tokens
from posttrain.diagnose.engines.codec import TextCodec
from posttrain.diagnose.engines.limits import (
    check_sample_room,
    check_score_room,
    cut_at_stop,
    end_ids,
    hashed_seed,
    read_stop_reason,
    short_hash,
)
from posttrain.diagnose.engines.models.loading import fingerprint_model
from posttrain.diagnose.engines.openai import server_capabilities
from posttrain.diagnose.engines.openai.server_codecs import BytesCodec, ServerCodec
from posttrain.diagnose.engines.openai.transport import REQUEST_SECONDS, Reply, Transport
from posttrain.diagnose.errors import SettingsError
from posttrain.diagnose.types import Floats, PromptFormat, Sampling, StopReason

_MOST_PER_REQUEST = 32
_MOST_STOPS = 4
"""OpenAI's own limit."""
_UNKNOWN_TOKEN = -1


class OpenAIEngine(base.BaseEngine):
    """Samples and scores with a server that speaks OpenAI's completions interface."""

    def __init__(self, transport: Transport, base_url: str, served: str, *, codec: base.Codec, capabilities: server_capabilities.Capabilities, info: base.EngineInfo):  # fmt: skip
        """Take what `open` found out."""
        self._transport, self._completions, self._served = transport, f"{base_url}/completions", served
        self.codec, self.capabilities, self.info = codec, capabilities, info
        self._answers_as: str | None = None
        """The model that the first reply names; a gateway may fall back to another one under the same name."""

    @classmethod
    def open(cls, url: str, model: str, *, concurrency: int = 64, timeout: float = REQUEST_SECONDS, retries: int = 5, first_wait: float = 0.5) -> OpenAIEngine:  # fmt: skip
        """Ask a server what it is.

        Args:
            url: Its base address, the part before /completions; /v1 is added where it has no path.
            model: The name of the served model; where it is a folder or hub id too, its tokenizer is used.
            concurrency: Requests under way at a time.
            timeout: Seconds until an answer counts as lost, all tries together.
            retries: Tries after the first one.
            first_wait: Seconds before the second try; see `Transport`.

        Raises:
            SettingsError: the address is none, or the server does not answer, or refuses.
            ModelError: the model is not served there.
        """
        address = server_capabilities.base_address(url)
        transport = Transport(concurrency=concurrency, timeout=timeout, retries=retries, first_wait=first_wait)
        cards = server_capabilities.served_models(transport, address)
        tokenizer = server_capabilities.find_tokenizer(model, cards)
        card = server_capabilities.find_card(model, tokenizer, cards, address)
        served, is_vllm = str(card["id"]), card.get("owned_by") == "vllm"
        root = address.removesuffix("/v1")
        codec: base.Codec
        if tokenizer is not None:
            codec = TextCodec(tokenizer, end_ids(tokenizer.name_or_path, tokenizer))
        elif is_vllm:
            codec = ServerCodec(transport, root, served)
        else:
            codec = BytesCodec()
        context = stated if isinstance(stated := card.get("max_model_len"), int) else None
        probe = codec.encode_prompt(server_capabilities.PROBE, PromptFormat(format="completion")).token_ids
        capabilities = server_capabilities.probe_server(
            transport, address, served, is_vllm, None if isinstance(codec, BytesCodec) else probe, context
        )
        version = transport.ask("GET", f"{root}/version") if is_vllm else None
        of_server = f"vLLM {version.get('version', 'unknown')}" if version else "unknown"
        here = tokenizer is not None and Path(tokenizer.name_or_path).is_dir()
        fingerprint = fingerprint_model(tokenizer.name_or_path) if here and tokenizer is not None else short_hash(served)
        info = base.EngineInfo(
            name="openai",
            model=served,
            model_fingerprint=fingerprint,
            fingerprint=short_hash(f"openai:{address}:{served}:{of_server}:{fingerprint}"),
            sample_dtype="unknown",
            score_dtype="unknown",
            device=address,
            versions={"server": of_server},
            logprob_tolerance=0.08,  # the server may well run in bfloat16
            can_score=capabilities.scores and tokenizer is not None,
            context=None if isinstance(codec, BytesCodec) else context,
            score_context=None if context is None else context - 1,  # vLLM samples one token behind what it scores
            notes=capabilities.notes,
        )
        return cls(transport, address, served, codec=codec, capabilities=capabilities, info=info)

    # ------------------------------------------------------------------------------------------------------------ sampling

    def sample(
        self, requests: Sequence[SampleRequest], sampling: Sampling, *, seed: str, on_tokens: OnTokens = ignore_tokens
    ) -> list[list[Completion]]:
        """See `Engine`.

        Raises:
            SettingsError: a prompt leaves no room for `max_tokens`, the server has no such setting, or it refuses a request.
        """
        self.check_sampling(sampling)
        if not isinstance(self.codec, BytesCodec):
            check_sample_room(requests, sampling.max_tokens, self.capabilities.context)
        most = _MOST_PER_REQUEST if self.capabilities.is_vllm else 1
        parts = [
            (r, first, min(most, request.num_samples - first))
            for r, request in enumerate(requests)
            for first in range(0, request.num_samples, most)
        ]
        bodies = [self._body(requests[r], first, num, sampling, seed) for r, first, num in parts]
        results: list[list[Completion | None]] = [[None] * request.num_samples for request in requests]

        def on_reply(number: int, reply: Reply | None) -> None:
            r, first, num = parts[number]
            sampled = self._completions_of(reply, num, sampling)
            results[r][first : first + num] = sampled
            on_tokens(sum(len(completion.token_ids) for completion in sampled))

        self._transport.post_all(self._completions, bodies, on_reply)
        return [[completion for completion in row if completion is not None] for row in results]

    def check_sampling(self, sampling: Sampling) -> None:
        """See `Engine`."""
        if self.capabilities.is_vllm:
            return
        if (sampling.top_k, sampling.min_p, sampling.repetition_penalty) != (0, 0.0, 1.0):
            raise SettingsError(
                f"sampling: got top_k {sampling.top_k}, min_p {sampling.min_p:g}, repetition_penalty {sampling.repetition_penalty:g}; servers "
                "other than vLLM are asked for temperature and top_p only, set the others to 0, 0 and 1",
                code="truncation_unsupported",
            )
        if len(sampling.stop) > _MOST_STOPS:
            raise SettingsError(
                f"sampling.stop: got {len(sampling.stop)} texts; servers other than vLLM take {_MOST_STOPS} at most, leave some out",
                code="too_many_stops",
            )

    def _body(self, request: SampleRequest, first: int, num: int, sampling: Sampling, seed: str) -> Reply:
        body: Reply = {
            "model": self._served,
            "prompt": self._prompt(request.prompt_ids),
            "n": num,
            "seed": hashed_seed(seed, request.key, bits=52) + request.first_sample + first,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
        }
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if self.capabilities.logprobs != "none":
            body["logprobs"] = 0 if self.capabilities.is_vllm else 1
        if self.capabilities.is_vllm:  # every setting is named, so that none is inherited from the model's generation settings
            body |= {
                "top_k": sampling.top_k,
                "min_p": sampling.min_p,
                "repetition_penalty": sampling.repetition_penalty,
                "presence_penalty": 0.0,
                "frequency_penalty": 0.0,
                "stop_token_ids": sorted(self.codec.eos_ids),
                "return_token_ids": True,
                "skip_special_tokens": False,
                "spaces_between_special_tokens": False,
            }
        return body

    def _prompt(self, prompt_ids: tuple[int, ...]) -> list[int] | str:
        if self.capabilities.takes_token_ids:
            return list(prompt_ids)
        if isinstance(self.codec, TextCodec):
            tokenizer = self.codec.tokenizer
            if prompt_ids[:1] == (tokenizer.bos_token_id,) and tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]:
                prompt_ids = prompt_ids[1:]  # the server, which tokenises as the tokenizer does, puts it before every text
            return str(tokenizer.decode(list(prompt_ids), clean_up_tokenization_spaces=False))
        return bytes(prompt_ids).decode()

    def _completions_of(self, reply: Reply | None, num: int, sampling: Sampling) -> list[Completion]:
        """One completion per sample asked for; what did not come, or came from another model, is an error."""
        if reply is not None:
            self._answers_as = self._answers_as or reply.get("model")
            if reply.get("model") not in (None, self._answers_as):
                return [_missing()] * num
        choices = server_capabilities.dicts_of(reply, "choices")
        choices = sorted(choices, key=lambda choice: index if isinstance(index := choice.get("index"), int) else 0)[:num]
        usage = server_capabilities.dict_of(reply, "usage")
        sampled = [
            self._completion_or_error(choice, usage.get("completion_tokens") if num == 1 else None, sampling)
            for choice in choices
        ]
        return sampled + [_missing()] * (num - len(sampled))

    def _completion_or_error(self, choice: Reply, num_tokens: int | None, sampling: Sampling) -> Completion:
        """Read one choice; what has another form than it should is an error, as if nothing had come."""
        try:
            return self._completion(choice, num_tokens, sampling)
        except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError):
            return _missing()

    def _completion(self, choice: Reply, num_tokens: int | None, sampling: Sampling) -> Completion:
        stop, text = read_stop_reason(choice.get("finish_reason"), choice.get("stop_reason")), str(choice.get("text") or "")
        if stop is StopReason.ERROR:
            return _missing()
        logprobs = choice.get("logprobs") or {}
        values = np.array([math.nan if v is None else v for v in logprobs.get("token_logprobs") or []], dtype=np.float32)
        ids = choice.get("token_ids")
        if ids is None:
            ids, exact = self._ids_of(text, stop, logprobs.get("tokens"), num_tokens)
        else:
            exact = True
            if isinstance(self.codec, TextCodec):  # the text of the ids, as in every other engine
                text = self.codec.decode(ids)
        if not exact or len(values) != len(ids):
            values = np.full(len(ids), np.nan, dtype=np.float32)
        policy, sampler = self._both(values, sampling)
        return Completion(
            token_ids=tuple(ids),
            policy_logprobs=policy,
            sampler_logprobs=sampler,
            stop=stop,
            text=cut_at_stop(text, sampling.stop) if stop is StopReason.STOP else text,
        )

    def _ids_of(self, text: str, stop: StopReason, tokens: list[str] | None, num_tokens: int | None) -> tuple[list[int], bool]:
        """Return ids for a text, and whether they are certainly those that were sampled: their texts are the server's."""
        if not isinstance(self.codec, TextCodec):
            return [_UNKNOWN_TOKEN] * (len(tokens) if tokens else num_tokens or 0), bool(tokens)
        ids = list(self.codec.tokenizer(text, add_special_tokens=False)["input_ids"])
        if stop is StopReason.EOS and tokens is not None and len(tokens) == len(ids) + 1:
            return [*ids, self.codec.end_id], [self.codec.decode([i]) for i in ids] == tokens[:-1]
        return ids, tokens is not None and [self.codec.decode([i]) for i in ids] == tokens

    def _both(self, values: Floats, sampling: Sampling) -> tuple[Floats, Floats]:
        """Return log-probabilities under the policy and under the sampler, NaN where the server's kind says nothing of them."""
        unknown = np.full_like(values, np.nan)
        if sampling.greedy:
            plain = sampling.repetition_penalty == 1.0
            return values if plain or self.capabilities.logprobs == "policy" else unknown, np.zeros_like(values)
        if sampling.samples_the_policy:
            return values, values
        return (values, unknown) if self.capabilities.logprobs == "policy" else (unknown, values)

    # ------------------------------------------------------------------------------------------------------------- scoring

    def score(self, requests: Sequence[ScoreRequest], *, on_tokens: OnTokens = ignore_tokens) -> list[TokenScores]:
        """See `Engine`.

        Raises:
            SettingsError: the server cannot score, a path does not fit into its context, or it gave no answer.
        """
        if not self.capabilities.scores:
            raise SettingsError(
                f"engine openai: {self.info.device} cannot score, it gives no log-probabilities of prompt tokens with their ranks; use a vLLM "
                "server, or --engine vllm or transformers",
                code="server_cannot_score",
            )
        check_score_room(requests, self.info.score_context)
        bodies = [
            {
                "model": self._served,
                "prompt": [*request.prompt_ids, *request.path_ids],
                "max_tokens": 1,
                "temperature": 0.0,
                "prompt_logprobs": 1,
            }
            for request in requests
        ]
        replies = self._transport.post_all(self._completions, bodies, lambda number, _: on_tokens(len(requests[number].path_ids)))
        return [
            _read_scores(self._transport.require(reply, self._completions), request)
            for reply, request in zip(replies, requests, strict=True)
        ]


def _read_scores(reply: Reply, request: ScoreRequest) -> TokenScores:
    try:
        return _path_scores(reply, request)
    except (AttributeError, KeyError, TypeError) as error:
        raise SettingsError(
            f"engine openai: got log-probabilities in another form than vLLM's ({type(error).__name__} {error}); use a vLLM server, or "
            "--engine vllm or transformers",
            code="server_cannot_score",
        ) from error


def _path_scores(reply: Reply, request: ScoreRequest) -> TokenScores:
    """Cut the path's part out of vLLM's prompt log-probabilities: per position a table of token id → log-probability and rank (from 1)."""
    rows = server_capabilities.list_of(next(iter(server_capabilities.dicts_of(reply, "choices")), {}), "prompt_logprobs")[
        len(request.prompt_ids) :
    ]
    if len(rows) != len(request.path_ids):
        raise SettingsError(
            f"engine openai: got log-probabilities of {len(rows)} tokens for a path of {len(request.path_ids)}; this server cannot score, use "
            "--engine vllm or transformers",
            code="server_cannot_score",
        )
    own = [row[str(token)] for row, token in zip(rows, request.path_ids, strict=True)]
    return TokenScores(
        logprobs=np.array([one["logprob"] for one in own], dtype=np.float32),
        ranks=np.array([one["rank"] - 1 for one in own], dtype=np.int32),
        top_logprobs=np.array([max(one["logprob"] for one in row.values()) for row in rows], dtype=np.float32),
    )


def _missing() -> Completion:
    nothing = np.zeros(0, dtype=np.float32)
    return Completion(token_ids=(), policy_logprobs=nothing, sampler_logprobs=nothing, stop=StopReason.ERROR, text="")
