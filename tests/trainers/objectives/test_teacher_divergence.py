"""Divergences to a teacher against formulas written out here, in float64."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.closed_forms import check, stepper_of
from helpers.training import build_stage, move_weights, random_rows, tiny_llama
from torch import Tensor

from posttrain.diagnose.errors import SettingsError
from posttrain.trainers.objectives.divergences import TeacherDivergence
from posttrain.trainers.objectives.reductions import token_mean
from posttrain.trainers.stage import Component, Score
from posttrain.trainers.step.chunked_divergence import divergence
from posttrain.trainers.step.forward_scores import NO_TOKEN
from posttrain.trainers.step.logprobs import States


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_teacher_that_is_the_policy_has_nothing_to_say(model64, beta: float, temperature: float) -> None:
    rows = random_rows()
    term = TeacherDivergence(beta=beta, temperature=temperature)
    stepper = stepper_of(model64, Component(term=term, reduction=token_mean), teacher=copy.deepcopy(model64))
    outcome = stepper.accumulate(rows, {})
    assert abs(outcome.loss) < 1e-14
    assert outcome.grad_norm < 1e-14
    move_weights(model64)
    assert stepper.accumulate(rows, {}).grad_norm > 1e-3


def test_a_teacher_may_read_another_prompt(model64) -> None:
    """Self-distillation: the teacher's distribution behind its own prompt, at the same completion tokens."""
    teacher = tiny_llama(seed=3, dtype=torch.float64)
    rows = [replace(row, teacher_prompt_ids=(9, *row.prompt_ids, 8, 7) if i % 2 else None) for i, row in enumerate(random_rows())]
    losses = []
    for row in rows:
        own = _distributions(model64, row.prompt_ids, row.completion_ids)
        other = _distributions(teacher, row.teacher_prompt_ids or row.prompt_ids, row.completion_ids).detach()
        losses.append((own.exp() * (own - other)).sum(-1))
    stepper = stepper_of(model64, Component(term=TeacherDivergence(beta=1.0), reduction=token_mean), teacher=teacher)
    check(stepper, rows, torch.cat(losses).mean())


def _distributions(model: Any, prompt: Sequence[int], completion: Sequence[int]) -> Tensor:
    logits = model(input_ids=torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits, -1)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("width", "its_width"), [(32, 40), (40, 32)])
def test_a_vocabulary_that_is_padded_wider_is_compared_over_the_ids_of_both(width: int, its_width: int, beta: float) -> None:
    """Models of one family have one tokenizer, and rows without tokens that differ in number."""
    model, teacher = widened(tiny_llama(dtype=torch.float64), width), widened(tiny_llama(seed=3, dtype=torch.float64), its_width)
    rows, losses = random_rows(), []
    for row in rows:
        logits = [
            each(input_ids=torch.tensor([[*row.prompt_ids, *row.completion_ids]])).logits[0, len(row.prompt_ids) - 1 : -1, :32]
            for each in (model, teacher)
        ]
        p, t = torch.softmax(logits[0], -1), torch.softmax(logits[1], -1).detach()
        m = beta * t + (1 - beta) * p
        forward, reverse = (t * (t / m).log()).sum(-1), (p * (p / m).log()).sum(-1)
        losses.append(
            {0.0: (t * (t / p).log()).sum(-1), 1.0: (p * (p / t).log()).sum(-1)}.get(beta, beta * forward + (1 - beta) * reverse)
        )
    stepper = stepper_of(model, Component(term=TeacherDivergence(beta=beta), reduction=token_mean), teacher=teacher)
    check(stepper, rows, torch.cat(losses).mean())


def test_a_teacher_scores_tokens_over_the_ids_of_both() -> None:
    model, teacher = widened(tiny_llama(), 40), tiny_llama(seed=3)
    component = Component(term=TeacherDivergence(beta=1.0), reduction=token_mean)
    rows = [
        replace(row, completion_ids=(*row.completion_ids, 35), sampler_logprobs=None) for row in random_rows()
    ]  # an id that the teacher does not have
    for student, other in ((model, teacher), (teacher, model)):
        scored = rows if student is model else random_rows()
        found = stepper_of(student, component, teacher=other).scorer.score_rows(scored, Score.TEACHER)
        for row, values in zip(scored, found, strict=True):
            known = [token for token in row.completion_ids if token < 32]
            expected = other(input_ids=torch.tensor([[*row.prompt_ids, *known]])).logits[0, len(row.prompt_ids) - 1 : -1, :32]
            expected = torch.log_softmax(expected, -1).gather(1, torch.tensor(known)[:, None])[:, 0].detach()
            torch.testing.assert_close(torch.from_numpy(values[: len(known)]), expected, atol=1e-4, rtol=0)
            assert np.all(values[len(known) :] == NO_TOKEN)


@pytest.mark.parametrize("stage", ["opd", "logit_kd", "gkd", "minillm"])
def test_a_teacher_with_the_same_tokens_in_a_wider_vocabulary_is_taken(stage: str) -> None:
    widened_teacher, narrow_teacher = widened(tiny_llama(seed=3), 40), tiny_llama(seed=3)
    build_stage(stage, tiny_llama(), teacher=widened_teacher)
    narrow_teacher.resize_token_embeddings(31)  # one token has no row
    with pytest.raises(SettingsError) as refused:
        build_stage(stage, tiny_llama(), teacher=narrow_teacher)
    assert refused.value.code == "teacher_vocabulary_differs"


def widened(model: Any, width: int) -> Any:
    """Add rows without tokens to the vocabulary, as large as those of tokens."""
    model.resize_token_embeddings(width, mean_resizing=False)
    with torch.no_grad():
        model.get_input_embeddings().weight[32:] = model.get_input_embeddings().weight[: width - 32].flip(0)
    return model


def made_states(width: int, *, seed: int, bias: bool, num: int = 7, vocabulary: int = 13) -> States:
    """Hidden states and a head of this width."""
    generator = torch.Generator().manual_seed(seed)
    head = torch.nn.Linear(width, vocabulary, bias=bias, dtype=torch.float64)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    hidden = torch.randn(num, width, generator=generator, dtype=torch.float64, requires_grad=True)
    return States(hidden=hidden, logits=None, model=SimpleNamespace(get_output_embeddings=lambda: head), dtype=torch.float64)


def whole_divergence(policy: States, teacher: States, beta: float, temperature: float) -> Tensor:
    """[N] with both distributions in full."""
    p, t = (torch.softmax(torch.nn.functional.linear(each.hidden, *each.head) / temperature, -1) for each in (policy, teacher))
    t = t.detach()
    if beta == 0.0:
        return (t * torch.log(t / p)).sum(-1)
    if beta == 1.0:
        return (p * torch.log(p / t)).sum(-1)
    m = beta * t + (1 - beta) * p
    return beta * (t * torch.log(t / m)).sum(-1) + (1 - beta) * (p * torch.log(p / m)).sum(-1)


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize(("temperature", "chunk_bytes"), [(1.0, 1), (1.0, 2**20), (0.7, 3 * 13 * 8), (2.5, 13 * 8)])
@pytest.mark.parametrize(("bias", "teacher_width"), [(False, 5), (True, 5), (True, 9)])
@pytest.mark.parametrize("how", ["chunked", "policy in full", "teacher in full"])
def test_divergence_is_that_of_the_whole_vocabulary(
    beta: float, temperature: float, chunk_bytes: int, bias: bool, teacher_width: int, how: str
) -> None:
    """Value and gradients, in chunks of any size, and where one of the two models does not allow chunks."""
    policy, teacher = made_states(5, seed=1, bias=bias), made_states(teacher_width, seed=2, bias=bias)
    leaves = [policy.hidden, *(each for each in policy.head if each is not None)]
    slopes = torch.linspace(-1, 2, len(policy.hidden), dtype=torch.float64)
    wanted = whole_divergence(policy, teacher, beta, temperature)
    gradient = torch.autograd.grad((wanted * slopes).sum(), leaves)
    if how == "policy in full":
        policy = replace(policy, logits=torch.nn.functional.linear(policy.hidden, *policy.head))
    elif how == "teacher in full":
        teacher = replace(teacher, logits=torch.nn.functional.linear(teacher.hidden, *teacher.head))
    found = divergence(policy, teacher, beta=beta, temperature=temperature, chunk_bytes=chunk_bytes)
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-13)
    assert (found > 0).all()
    for got, value in zip(torch.autograd.grad((found * slopes).sum(), leaves), gradient, strict=True):
        torch.testing.assert_close(got, value, rtol=1e-9, atol=1e-12)
