"""What every reader ends with: a sampler that is told wrongly is not believed."""

from __future__ import annotations

from helpers.imported_runs import sample

from posttrain.diagnose.importing.finish_import import Told, finish
from posttrain.diagnose.importing.imported import ImportedSample, ReadOptions, Untold
from posttrain.diagnose.types import Sampling

GREEDY = Sampling(temperature=0.0, max_tokens=0)


def texts(*of_problems: tuple[str, ...]) -> list[ImportedSample]:
    return [sample(f"p{i}", text=text) for i, said in enumerate(of_problems) for text in said]


def told_of(samples: list[ImportedSample], sampling: Sampling | None = GREEDY) -> tuple[Sampling | None, set[str], bool]:
    source = finish(samples, Told(format="table", sampling=sampling), ReadOptions()).source
    return source.sampling, {note.code for note in source.notes}, Untold.SAMPLING in source.untold


def test_temperature_0_is_not_believed_where_samples_of_most_problems_differ() -> None:
    differ = texts(("a", "b"), ("c", "d", "d"), ("e", "e"))
    assert told_of(differ) == (None, {"not_at_temperature_0"}, True)
    sampled = Sampling(max_tokens=0)
    assert told_of(differ, sampled) == (sampled, set(), False)


def test_it_is_where_rounding_changed_a_text_or_there_is_one_of_each() -> None:
    assert told_of(texts(("a", "a"), ("b", "b"), ("c", "d"))) == (GREEDY, set(), False)
    assert told_of(texts(("a",), ("b",))) == (GREEDY, set(), False)
    of_two_steps = [sample("p", text="a", policy="1"), sample("p", text="b", policy="2")]
    assert told_of(of_two_steps) == (GREEDY, set(), False)
