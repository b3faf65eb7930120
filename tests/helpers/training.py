"""A tiny random Llama, training rows for it, a behavior of sums, and an engine that samples the tiny model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from posttrain.diagnose.engines.base import (
    BaseEngine,
    Completion,
    EncodedPath,
    EncodedPrompt,
    EngineInfo,
    OnTokens,
    SampleRequest,
    ScoreRequest,
    TokenScores,
    ignore_tokens,
)
from posttrain.diagnose.types import (
    Behavior,
    Grade,
    GradeStatus,
    MeasureSettings,
    Message,
    Problem,
    PromptFormat,
    Reference,
    Sampling,
    Split,
    StopReason,
    VerifierSpec,
)
from posttrain.trainers.recipes import registry
from posttrain.trainers.recipes.registry import find_recipe
from posttrain.trainers.stage import FrozenModel, Stage, TrainingInputs
from posttrain.trainers.step.optimizer_step import Stepper
from posttrain.trainers.training.preparation import make_stepper
from posttrain.trainers.training_types import RowRole, TrainingRow, TrainingSet

VOCAB = 32
EOS = 31
ENDS = 22
"""Tokens from here on end a sample of the tiny engine, so that a random model ends within a few tokens."""


class WideNorm(LlamaRMSNorm):
    """Llama's own norm goes through float32, which would spoil comparisons in float64."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.rms_norm(hidden_states, (hidden_states.shape[-1],), self.weight, self.variance_epsilon)


def tiny_llama(*, seed: int = 0, dtype: torch.dtype = torch.float32, **settings: object) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=EOS,
        initializer_range=0.3,
        **settings,
    )
    model = LlamaForCausalLM(config).to(dtype).eval()
    if dtype is torch.float64:
        for module in model.modules():
            if isinstance(module, LlamaRMSNorm):
                module.__class__ = WideNorm
    return model


def random_rows(
    *, num_groups: int = 3, group_size: int = 3, seed: int = 0, longest: int = 6, advantages: bool = False
) -> list[TrainingRow]:
    rng = np.random.default_rng(seed)
    rows = []
    for group in range(num_groups):
        prompt = tuple(int(i) for i in rng.integers(1, VOCAB, rng.integers(3, 9)))
        for _ in range(group_size):
            length = int(rng.integers(1, longest + 1))
            completion = tuple(int(i) for i in rng.integers(1, VOCAB, length))
            rows.append(
                TrainingRow(
                    behavior="b",
                    problem_id=f"p{group}",
                    split=Split.TRAIN,
                    group_id=f"g{group}",
                    prompt_ids=prompt,
                    completion_ids=completion,
                    sampler_logprobs=np.full(length, -1.0, dtype=np.float32),
                    reward=float(rng.integers(0, 2)),
                    advantages=np.full(length, rng.normal(), dtype=np.float32) if advantages else None,
                )
            )
    return rows


def random_pairs(num: int = 5, *, prompt_length: int | None = None, seed: int = 0) -> list[TrainingRow]:
    """Pairs of one prompt each, chosen before rejected, of different lengths."""
    rng = np.random.default_rng(seed)

    def draw(length: int) -> tuple[int, ...]:
        return tuple(int(token) for token in rng.integers(1, VOCAB, length))

    rows = []
    for pair in range(num):
        prompt = draw(prompt_length or int(rng.integers(2, 8)))
        for role in (RowRole.CHOSEN, RowRole.REJECTED):
            row = TrainingRow(
                behavior="data",
                problem_id=f"p{pair}",
                split=Split.TRAIN,
                group_id=f"g{pair}",
                prompt_ids=prompt,
                completion_ids=draw(int(rng.integers(1, 9))),
                role=role,
            )
            rows.append(row)
    return rows


def move_weights(model: torch.nn.Module, *, seed: int = 5, size: float = 0.05) -> None:
    """Change all weights a little, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator)


def plain_logprobs(model: LlamaForCausalLM, row: TrainingRow) -> torch.Tensor:
    """[T] one row alone, nothing clever."""
    ids = torch.tensor([row.prompt_ids + row.completion_ids])
    logits = model(input_ids=ids).logits[0, len(row.prompt_ids) - 1 : -1]
    return torch.log_softmax(logits, -1).gather(1, torch.tensor(row.completion_ids)[:, None])[:, 0]


def gradient(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


class TinyCodec:
    """One token per character of prompts `a+b`."""

    tokenizer = None
    eos_ids = frozenset({EOS})

    def encode_prompt(self, prompt: str | tuple[Message, ...], prompt_format: PromptFormat) -> EncodedPrompt:
        assert isinstance(prompt, str)
        return EncodedPrompt(token_ids=(1, *(2 + ord(c) % 16 for c in prompt)), text=prompt, format="completion")

    def encode_path(self, prompt: EncodedPrompt, reference: Reference) -> EncodedPath:
        ids = (*(18 + int(c) for c in reference.text), EOS)
        return EncodedPath(token_ids=ids, token_texts=("",) * len(ids), token_steps=(0,) * len(ids))


class TinyEngine(BaseEngine):
    """Samples the model it is given, token by token."""

    is_live = True

    info = EngineInfo(
        name="tiny",
        model="tiny",
        model_fingerprint="",
        fingerprint="",
        sample_dtype="float32",
        score_dtype="float32",
        device="cpu",
    )

    def __init__(self, model: LlamaForCausalLM) -> None:
        self.model = model
        self.codec = TinyCodec()
        self.refreshed = 0

    def refresh(self) -> None:
        self.refreshed += 1

    @torch.no_grad()
    def sample(
        self, requests: Sequence[SampleRequest], sampling: Sampling, *, seed: str, on_tokens: OnTokens = ignore_tokens
    ) -> list[list[Completion]]:
        out = []
        for request in requests:
            generators = [
                torch.Generator().manual_seed(hash_text(f"{seed}|{request.key}|{i}")) for i in range(request.num_samples)
            ]
            ids = torch.tensor([request.prompt_ids] * request.num_samples)
            scores = torch.empty(request.num_samples, 0)
            for _ in range(sampling.max_tokens):
                logprobs = torch.log_softmax(self.model(input_ids=ids).logits[:, -1] / sampling.temperature, -1)
                token = torch.cat(
                    [torch.multinomial(one.exp(), 1, generator=rng) for one, rng in zip(logprobs, generators, strict=True)]
                )
                ids = torch.cat([ids, token[:, None]], 1)
                scores = torch.cat([scores, logprobs.gather(1, token[:, None])], 1)
            drawn = []
            for new, values in zip(ids[:, len(request.prompt_ids) :].tolist(), scores.numpy(), strict=True):
                length = next((i + 1 for i, token in enumerate(new) if token >= ENDS), len(new))
                ended = new[length - 1] >= ENDS
                drawn.append(
                    Completion(
                        token_ids=tuple(new[:length]),
                        policy_logprobs=values[:length],
                        sampler_logprobs=values[:length],
                        stop=StopReason.EOS if ended else StopReason.LENGTH,
                        text=" ".join(map(str, new[:length])),
                    )
                )
            out.append(drawn)
        return out

    def score(self, requests: Sequence[ScoreRequest], *, on_tokens: OnTokens = ignore_tokens) -> list[TokenScores]:
        raise NotImplementedError


def build_stage(
    name: str,
    model: LlamaForCausalLM,
    *,
    data: Sequence[TrainingRow] = (),
    teacher: LlamaForCausalLM | None = None,
    **settings: object,
) -> tuple[Stage, Stepper]:
    """Return a recipe on these rows and what takes its steps; the model is its own reference as it is now. Nothing is clipped."""
    other = (
        None
        if teacher is None
        else FrozenModel(source="", fingerprint="", model=teacher, tokenizer=make_tokenizer(), engine=None)
    )
    inputs = TrainingInputs(
        engine=TinyEngine(model),
        training_set=TrainingSet([make_behavior(max_tokens=9)], dev_share=0),
        graders={"sums": grade_parity},
        model=model,
        tokenizer=make_tokenizer(),
        data=tuple(data),
        teacher=other,
    )
    recipe = find_recipe(name)
    config = recipe.config(**{"max_grad_norm": 1e9, "autocast": "float32", "micro_batch_tokens": 60, **settings})
    stage = registry.build_stage(recipe, inputs, config)
    return stage, make_stepper(stage, inputs, config)


def make_inputs(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast | None = None, *, grade: object = None, **more: object
) -> TrainingInputs:
    """Return what a recipe gets from this model, on the sums unless a training set is given; `grade` grades every behavior."""
    training_set = more.pop("training_set", None) or TrainingSet([make_behavior()])
    graders = {} if grade is None else dict.fromkeys(training_set.behaviors, grade)
    engine = more.pop("engine", None) or TinyEngine(model)
    return TrainingInputs(engine=engine, training_set=training_set, graders=graders, model=model, tokenizer=tokenizer, **more)


def hash_text(text: str) -> int:
    import hashlib

    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def make_problem(index: int, split: Split = Split.TRAIN) -> Problem:
    return Problem(
        id=f"p{index}",
        prompt=f"{index}+{index}",
        answer=str(index % 3),
        references=(Reference(steps=(str(index % 3),)),),
        key=f"k{index}",
        split=split,
    )


def make_behavior(num_train: int = 8, num_eval: int = 4, max_tokens: int = 4) -> Behavior:
    problems = [make_problem(i) for i in range(num_train)]
    problems += [make_problem(num_train + i, Split.EVAL) for i in range(num_eval)]
    return Behavior(
        name="sums",
        problems=tuple(problems),
        verifier=VerifierSpec(kind="exact"),
        sampling=Sampling(max_tokens=max_tokens),
        measure=MeasureSettings(epsilon=0.006),
    )


def grade_parity(problem: Problem, texts: Sequence[str]) -> list[Grade]:
    """Half of all texts are right."""
    return [Grade(status=GradeStatus.SCORED, score=float(hash_text(text) % 2)) for text in texts]


def grade_all(score: float) -> Callable[[Problem, Sequence[str]], list[Grade]]:
    return lambda problem, texts: [Grade(status=GradeStatus.SCORED, score=score) for _ in texts]


def make_tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models

    vocabulary = {f"t{i}": i for i in range(VOCAB)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="t0")), unk_token="t0", eos_token="t31", bos_token="t1"
    )
