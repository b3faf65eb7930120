"""References behind prompts in completion format: with a space where the model writes one, without where it does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from helpers.character_engine import CHATML, CharacterEngine

from posttrain.diagnose.engines.base import EngineInfo, OnTokens, ScoreRequest, TokenScores, ignore_tokens
from posttrain.diagnose.measure.reference_spacing import write_as_the_model
from posttrain.diagnose.types import Behavior, MeasureSettings, Problem, PromptFormat, Reference, Split, VerifierSpec


class SpacingEngine(CharacterEngine):
    """A model that writes a space before its answers, or none."""

    def __init__(self, template: str | None, *, spaced: bool) -> None:
        super().__init__(template)
        self._spaced = spaced
        self.num_scored = 0

    @property
    def info(self) -> EngineInfo:
        return replace(super().info, name="spacing", can_score=True)

    def score(self, requests: Sequence[ScoreRequest], *, on_tokens: OnTokens = ignore_tokens) -> list[TokenScores]:
        self.num_scored += len(requests)
        return [self._score(request.path_ids) for request in requests]

    def _score(self, path: Sequence[int]) -> TokenScores:
        likely = self.text(path[:1]).isspace() == self._spaced
        logprobs = np.full(len(path), -0.1, dtype=np.float32)
        logprobs[0] = -0.1 if likely else -10.4
        return TokenScores(logprobs=logprobs, ranks=np.zeros(len(path), dtype=np.int32))


def behavior(template: str = "{question}", prompt_format: str = "auto", reference: str = "5") -> Behavior:
    return Behavior(
        name="sums",
        problems=(
            Problem(
                id="p", prompt="2 + 3 =", answer="5", key="p", split=Split.EVAL, references=(Reference(steps=(reference, "!")),)
            ),
        ),
        verifier=VerifierSpec(kind="exact"),
        prompt=PromptFormat(template=template, format=prompt_format),
        measure=MeasureSettings(epsilon=0.006),
    )


def first_steps(of: Behavior) -> list[str]:
    return [reference.steps[0] for problem in of.problems for reference in problem.references]


@pytest.mark.parametrize(("spaced", "expected"), [(False, "5"), (True, " 5")])
def test_references_begin_as_the_models_answers_do(spaced: bool, expected: str) -> None:
    engine = SpacingEngine(None, spaced=spaced)
    written = write_as_the_model(engine, behavior())  # type: ignore[arg-type]
    assert first_steps(written) == [expected]
    prompt = engine.codec.encode_prompt("2 + 3 =", written.prompt)
    path = engine.codec.encode_path(prompt, written.problems[0].references[0])
    assert "".join(path.token_texts[:-1]) == expected + "!"


@pytest.mark.parametrize(
    ("template", "given"),
    [(None, behavior("{question} ")), (None, behavior("{question}\n")), (None, behavior(reference="\n5")), (CHATML, behavior())],
)
def test_where_no_space_is_at_issue_nothing_is_scored(template: str | None, given: Behavior) -> None:
    engine = SpacingEngine(template, spaced=True)
    assert write_as_the_model(engine, given) is given  # type: ignore[arg-type]
    assert engine.num_scored == 0


def test_an_engine_that_cannot_score_leaves_references_as_they_are() -> None:
    given = behavior()
    assert write_as_the_model(CharacterEngine(None), given) is given  # type: ignore[arg-type]
