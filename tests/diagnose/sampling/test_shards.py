"""Samples of a model whose chat template opens the thought."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from helpers.character_engine import CHATML, OPENS_THINKING, CharacterEngine

from posttrain.diagnose.engines.base import Completion, SampleRequest
from posttrain.diagnose.sampling.shards import Portion, grade_samples
from posttrain.diagnose.types import Behavior, GradeStatus, MeasureSettings, Problem, Sampling, Split, StopReason, VerifierSpec
from posttrain.diagnose.verifiers.grader import Grader
from posttrain.trainers.sources.policy import RolloutSampler
from posttrain.trainers.training_types import TrainingProblem

TEXTS = ("12? no.\n</think>\n15", "it is 15")
PROBLEM = Problem(id="p", prompt="3 * 5?", answer="15", key="p", split=Split.TRAIN)
BEHAVIOR = Behavior(name="b", problems=(PROBLEM,), verifier=VerifierSpec(kind="number"), measure=MeasureSettings(epsilon=0.01))


class WritesTexts(CharacterEngine):
    """Its samples are these texts."""

    def sample(self, requests: Sequence[SampleRequest], sampling: Sampling, **_: Any) -> list[list[Completion]]:
        return [[self._completion(text) for text in TEXTS] for _ in requests]

    def _completion(self, text: str) -> Completion:
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"] + [3]
        values = np.zeros(len(ids), dtype=np.float32)
        return Completion(token_ids=tuple(ids), policy_logprobs=values, sampler_logprobs=values, stop=StopReason.EOS, text=text)


@pytest.mark.parametrize(("template", "second"), [(OPENS_THINKING, GradeStatus.UNFINISHED_THOUGHT), (CHATML, GradeStatus.SCORED)])
def test_what_the_template_opens_is_a_thought(template: str, second: GradeStatus) -> None:
    engine = WritesTexts(template)
    with Grader(BEHAVIOR) as grader:
        sampled = engine.sample([SampleRequest(key="p", prompt_ids=(1,), num_samples=2)], BEHAVIOR.sampling)
        one, two = grade_samples(engine, grader.grade, BEHAVIOR, "sampled", [Portion(PROBLEM, 0, 2)], sampled)
        item = TrainingProblem(behavior=BEHAVIOR, problem=PROBLEM)
        rows = RolloutSampler(engine=engine, graders={"b": grader.grade}).sample_problems([item], num_samples=2, seed="0")
    assert (one.grade.score, one.grade.answer_start) == (1.0, len(TEXTS[0]) - 2)
    assert (one.num_thought_tokens, len(one.token_ids)) == (len(TEXTS[0]) - 2, len(TEXTS[0]) + 1)  # a token a character
    assert two.grade.status is second
    assert two.num_thought_tokens == (len(TEXTS[1]) if second is GradeStatus.UNFINISHED_THOUGHT else 0)
    assert [row.reward for row in rows] == [1.0, float(second is GradeStatus.SCORED)]
