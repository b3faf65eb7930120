"""How much of a reference path is given, problem by problem."""

from __future__ import annotations

from dataclasses import replace

from helpers.training import EOS, TinyEngine, make_behavior, make_problem

from posttrain.diagnose.engines.base import EncodedPath
from posttrain.diagnose.types import Reference
from posttrain.trainers.sources.guided import Guide
from posttrain.trainers.training_types import TrainingProblem, TrainingRow


def items_of(count: int) -> list[TrainingProblem]:
    behavior = make_behavior()
    problems = [replace(make_problem(i), answer="12345", references=(Reference(steps=("12345",)),)) for i in range(count)]
    return [TrainingProblem(behavior=behavior, problem=problem) for problem in problems]


def guide_of(model) -> Guide:
    engine = TinyEngine(model)
    whole = EncodedPath(token_ids=(19, 20, 21, 22, 23, EOS), token_texts=(*"12345", ""), token_steps=(0,) * 6)
    engine.encode_path = lambda prompt, reference: whole
    return Guide(engine=engine, num_steps=100, num_rungs=4)


def visit(guide: Guide, items, step: int, reward: float) -> list[int]:
    """Draw from some problems, all samples alike; gives how many tokens were given away, problem by problem."""
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
    assert visit(guide, items, 4, 1.0) == [4, 4]  # never the token that completes the answer
    assert visit(guide, items, 5, 1.0) == [3, 3]


def test_a_new_problem_starts_where_the_others_have_come_to(model) -> None:
    guide, items = guide_of(model), items_of(6)
    given = [visit(guide, items[2 * step : 2 * step + 2], step, 0.0) for step in range(3)]
    assert given == [[], [1, 1], [2, 2]]
