"""How much of a reference path is given, problem by problem."""

from __future__ import annotations

from dataclasses import replace

from helpers.training import EOS, TinyCodec, TinyEngine, grade_all, make_behavior, make_problem

from posttrain.diagnose.engines.base import EncodedPath, EncodedPrompt
from posttrain.diagnose.types import Grade, GradeStatus, Reference
from posttrain.trainers.sources.guided import Guide
from posttrain.trainers.training_types import TrainingProblem, TrainingRow


def items_of(count: int, answer: str = "12345", path: str = "is: 12345") -> list[TrainingProblem]:
    behavior = make_behavior()
    problems = [replace(make_problem(i), answer=answer, references=(Reference(steps=(path,)),)) for i in range(count)]
    return [TrainingProblem(behavior=behavior, problem=problem) for problem in problems]


class SpellingCodec(TinyCodec):
    """One token per character of a path."""

    def encode_path(self, prompt: EncodedPrompt, reference: Reference) -> EncodedPath:
        num_tokens = len(reference.text) + 1
        return EncodedPath(
            token_ids=(*(2,) * (num_tokens - 1), EOS), token_texts=(*reference.text, ""), token_steps=(0,) * num_tokens
        )


def guide_of(model, grade=None) -> Guide:
    engine = TinyEngine(model)
    engine.codec = SpellingCodec()
    return Guide(engine=engine, graders={"sums": grade or grade_all(0.0)}, num_steps=100, num_rungs=4)


def visit(guide: Guide, items, step: int, reward: float) -> list[int]:
    """Sample some problems, all samples alike; return how many tokens were given, problem by problem."""
    requests = guide.build_prompts(items, step)
    rows = [
        TrainingRow(
            behavior=request.item.behavior.name,
            problem_id=request.item.problem.id,
            split=request.item.problem.split,
            group_id=f"{request.name or request.item.name}@{step}",
            prompt_ids=request.prompt_ids,
            completion_ids=(1,),
            reward=reward if request.given else 0.0,
        )
        for request in requests
    ]
    guide.learn(items, rows, step)
    return [len(request.given) for request in requests if request.given]


def test_more_is_given_until_something_succeeds_and_then_less(model) -> None:
    guide, items = guide_of(model), items_of(2)
    assert [visit(guide, items, step, 0.0) for step in range(4)] == [[], [1, 1], [2, 2], [3, 3]]
    assert visit(guide, items, 4, 1.0) == [4, 4]  # no part of the answer
    assert visit(guide, items, 5, 1.0) == [3, 3]


def test_a_new_problem_starts_where_the_others_have_come_to(model) -> None:
    guide, items = guide_of(model), items_of(6)
    given = [visit(guide, items[2 * step : 2 * step + 2], step, 0.0) for step in range(3)]
    assert given == [[], [1, 1], [2, 2]]


def test_a_resumed_guide_starts_new_problems_where_it_would_have(model) -> None:
    guide, again, items = guide_of(model), guide_of(model), items_of(4)
    for step in range(2):
        visit(guide, items[:2], step, 0.0)
    again.load(guide.state())
    assert visit(guide, items[2:], 2, 0.0) == visit(again, items[2:], 2, 0.0) == [2, 2]


def given_texts(guide: Guide, items) -> list[str]:
    """Return what is given to the first problem while nothing succeeds, from visit to visit."""
    texts = []
    for step in range(6):
        texts += [request.given for request in guide.build_prompts(items, step) if request.given]
        visit(guide, items, step, 0.0)
    return texts


def test_a_letter_that_answers_a_multiple_choice_is_not_given(model) -> None:
    texts = given_texts(guide_of(model), items_of(1, answer="B", path="a fact: The answer is B, as water boils."))
    assert texts
    assert max(texts, key=len) == "a fact: The answer is "


def test_what_the_verifier_reads_as_the_answer_is_not_given(model) -> None:
    def grade(problem, texts):
        return [Grade(status=GradeStatus.SCORED, score=float("twelve" in text)) for text in texts]

    texts = given_texts(guide_of(model, grade), items_of(1, answer="12", path="3 times 4 is twelve, that is 12"))
    assert max(texts, key=len) == "3 times 4 is "
