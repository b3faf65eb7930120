"""Prompts that end with the beginning of a reference path: the shortest one from which the policy succeeds (POPE, arXiv 2601.18779)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from posttrain.diagnose.behaviors.answer_span import prefix_texts, tokens_before_answer
from posttrain.diagnose.engines.base import Engine
from posttrain.trainers.sources.policy import RolloutRequest, problem_prompts
from posttrain.trainers.training_types import GradeFn, TrainingProblem, TrainingRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Prefix:
    """The part of a problem's reference path that may be given: whole words before the answer appears."""

    ids: tuple[int, ...]
    texts: tuple[str, ...]
    """[len(ids) + 1] the text of the first t tokens."""
    max_tokens: int


def prefix_of(engine: Engine, item: TrainingProblem, grade: GradeFn) -> Prefix | None:
    """Return the prefix of the first reference path of a problem, None where it has none."""
    if not item.problem.references:
        return None
    reference = item.problem.references[0]
    path = engine.codec.encode_path(engine.codec.encode_prompt(item.problem.prompt, item.behavior.prompt), reference)
    texts = prefix_texts(path, reference)
    allowed = tokens_before_answer(item.problem, texts, grade, item.behavior.measure.success)
    return Prefix(ids=path.token_ids, texts=texts, max_tokens=allowed)


@dataclass(kw_only=True, slots=True)
class Guide:
    """Find, problem by problem while training, the shortest prefix that succeeds, and take it away again.

    The first batch starts without help. While no sample of a problem's group succeeds, its next visit gives a further `1 / num_rungs` of
    the allowed prefix; once at least half of them do, its next visit gives one rung less. A problem that is visited for the first time
    starts where those of the batch before have come to, on average: a run often ends before every problem has been visited as often as
    there are rungs. Beside the guided prompt the plain one is sampled as well, so that what is learned behind the prefix is tried without it.
    After `anneal_after` of the steps the largest allowed part falls linearly to nothing at the last step.
    """

    engine: Engine
    graders: Mapping[str, GradeFn]
    """By the behavior's name; they tell where a path gives its answer."""
    num_steps: int
    num_rungs: int = 4
    anneal_after: float = 0.5
    _rung: dict[str, int] = field(default_factory=dict)
    _usual: int = 0
    """Rung at which a problem starts."""
    _prefixes: dict[str, Prefix | None] = field(default_factory=dict)

    def build_prompts(self, items: Sequence[TrainingProblem], step: int) -> list[RolloutRequest]:
        """Return the plain prompts, and behind them the guided ones of the problems that need it."""
        asked = problem_prompts(self.engine, items)
        most = self._most(step)
        for plain in list(asked):
            name = plain.item.name
            if name not in self._prefixes:
                self._prefixes[name] = prefix_of(self.engine, plain.item, self.graders[plain.item.behavior.name])
            prefix = self._prefixes[name]
            tokens = self._tokens(name, prefix, most)
            if prefix is not None and tokens > 0:
                asked.append(
                    RolloutRequest(
                        item=plain.item,
                        prompt_ids=plain.prompt_ids + prefix.ids[:tokens],
                        given=prefix.texts[tokens],
                        name=f"{name}/given{tokens}",
                    )
                )
        return asked

    def learn(self, items: Sequence[TrainingProblem], rows: Sequence[TrainingRow], step: int) -> Sequence[TrainingRow]:
        """Move the rungs by what the samples show; the rows stay as they are."""
        found: dict[str, list[tuple[bool, float]]] = {}
        for row in rows:
            if row.reward is not None:
                name = f"{row.behavior}/{row.problem_id}"
                found.setdefault(name, []).append((row.group_id.rpartition("@")[0] != name, row.reward))
        for name, results in found.items():
            rung = self._rung.setdefault(name, self._usual)
            plain_rewards = [reward for guided, reward in results if not guided]
            guided_rewards = [reward for guided, reward in results if guided]
            last = guided_rewards or plain_rewards
            if plain_rewards and max(plain_rewards) > 0:
                self._rung[name] = max(0, rung - 1)
            elif max(last) == 0:
                self._rung[name] = min(self.num_rungs, rung + 1)
            elif sum(last) >= len(last) / 2:
                self._rung[name] = max(0, rung - 1)
        if found:
            self._usual = round(sum(self._rung[name] for name in found) / len(found))
        return rows

    def state(self) -> dict[str, Any]:
        """See `Stateful`."""
        return {"rungs": dict(self._rung), "usual": self._usual}

    def load(self, state: Mapping[str, Any]) -> None:
        """See `Stateful`."""
        self._rung, self._usual = dict(state["rungs"]), state["usual"]

    @property
    def rungs(self) -> Mapping[str, int]:
        """Problem → how much of its prefix is given now, in rungs."""
        return self._rung

    def _most(self, step: int) -> float:
        start = self.anneal_after * self.num_steps
        if step < start or self.anneal_after >= 1.0:
            return 1.0
        return max(0.0, 1.0 - (step - start + 1) / max(1.0, self.num_steps - start))

    def _tokens(self, name: str, prefix: Prefix | None, most: float) -> int:
        if prefix is None:
            return 0
        share = min(self._rung.get(name, self._usual) / self.num_rungs, most)
        return round(share * prefix.max_tokens)
