"""The true label of a planted behavior: measured on its eval problems, by exact probabilities, and never by what was intended.

Rates come from `truth.sampler`: the probability of every text that is likelier than 1 in 2,048, and below that an unbiased estimate worth at least
2,048 samples a problem (512 of the conditions that explain a label). Texts are read by the verifier of the behavior file. A text that runs into the length limit is a failure.

**Of one problem**, with p the probability that one sample at temperature 1 is right: `missing_support` p < epsilon (of the behavior, .0064 for groups of
eight), `mastered` p ≥ .9, `poor_choice` between.

**Of the behavior**, from its 40 problems (`label_of_rates`):

* `mastered`: the mean of p is at least .9;
* else `mixed`: two of the three states hold at least a fifth of the problems each;
* else `missing_support` or `poor_choice`, whichever holds more problems.

**Why it is so**, each by measuring the condition itself; the first one that holds replaces a label that is not `mastered` (`label_of`):

* `format`: the lenient reading finds more than half of what fails right, or gives a better label than the strict one, in the order missing support, mixed, poor choice, mastered;
* `decoding`: greedy decoding, or sampling at temperature .6 or .3, is right on a mean of at least .9;
* `attrition`, where an earlier checkpoint is given: of the problems with p < .9 more than half had at least epsilon before and have less than half of
  their rate left;
* `scaffold_bound`, where there are hints: the mean of p with the hint is at least .5 and at least twice that without, which is below .5 (read leniently);
* `guided_only`, of `missing_support` alone: of the problems below epsilon more than half are solved at a rate of at least .25 from some prefix
  of the reference path that ends with a step before the answer; and with another problem's prefix of the same number of steps the gain is less than half of that.

Worked examples are no scaffold here: the models were never shown a second problem in a prompt.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from transformers import LlamaForCausalLM

from posttrain.diagnose.behaviors import load_behavior
from posttrain.diagnose.types import Behavior
from posttrain.diagnose.verifiers.grader import Grader
from truth.plants import HINT_BEFORE, PLANTS, Checkpoint
from truth.sampler import N, continuations
from truth.texts import VOCABULARY, encode

Floats = npt.NDArray[np.float64]
MASTERED, MIXED_SHARE, REACHABLE, TIMES = 0.9, 0.2, 0.5, 2.0
KEPT, SHARE_LOST = 0.5, 0.5
SUFFICIENT, PLACEBO_GAIN = 0.25, 0.5
COOLER = (0.6, 0.3)
NUM_EXPLAINING = 512
"""What the precision under the conditions that explain a label is worth, in samples a problem."""
NO_LIMIT = 160
"""Tokens of a sample where the behavior finds its limit by itself; the longest texts that plants say have about a hundred."""
ORDER = ("missing_support", "mixed", "poor_choice", "mastered")
"""From what is furthest from success to what is there."""
_TOKENS = {i: token for token, i in VOCABULARY.items() if not token.startswith("<")}


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Success of the eval problems, read strictly and leniently."""

    strict: Floats
    lenient: Floats


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Rates of the eval problems under all conditions that were measured; None for those that do not exist or cannot matter."""

    plain: Rates
    greedy: Rates
    cooler: Mapping[float, Floats] = field(default_factory=dict)
    before: Floats | None = None
    hinted: Rates | None = None
    prefixed: Floats | None = None
    """[P] the best rate from a prefix; NaN for problems in support."""
    placebo: Floats | None = None
    """[P] the rate from another problem's prefix of the same number of steps; NaN for problems in support."""


def label_of_rates(p: Floats, epsilon: float) -> str:
    """Return the label that success rates of problems give, as the module says."""
    counts = [int((p < epsilon).sum()), int(((p >= epsilon) & (p < MASTERED)).sum()), int((p >= MASTERED).sum())]
    if p.mean() >= MASTERED:
        return "mastered"
    if sorted(counts)[1] >= MIXED_SHARE * len(p):
        return "mixed"
    return "missing_support" if counts[0] > counts[1] else "poor_choice"


def is_format(plain: Rates, epsilon: float) -> bool:
    """Return whether format binds: the lenient reading gives a better label, or finds more than half of what fails right."""
    strict, lenient = (ORDER.index(label_of_rates(one, epsilon)) for one in (plain.strict, plain.lenient))
    return lenient > strict or bool((plain.lenient - plain.strict).mean() > (1.0 - plain.lenient).mean())


def label_of(found: Conditions, epsilon: float) -> str:
    """Return the true label, as the module says."""
    plain = label_of_rates(found.plain.strict, epsilon)
    if plain == "mastered":
        return plain
    if is_format(found.plain, epsilon):
        return "format"
    if max(found.greedy.strict.mean(), *(rate.mean() for rate in found.cooler.values()), 0.0) >= MASTERED:
        return "decoding"
    if found.before is not None and _lost(found.plain.strict, found.before, epsilon):
        return "attrition"
    if found.hinted is not None:
        baseline, helped = found.plain.lenient.mean(), found.hinted.strict.mean()
        if baseline < REACHABLE <= helped and helped >= TIMES * baseline:
            return "scaffold_bound"
    return "guided_only" if plain == "missing_support" and _reached(found, epsilon) else plain


def _lost(now: Floats, before: Floats, epsilon: float) -> bool:
    held = now < MASTERED
    lost = held & (before >= epsilon) & (now < KEPT * before)
    return bool(lost.sum() > SHARE_LOST * held.sum())


def _reached(found: Conditions, epsilon: float) -> bool:
    if found.prefixed is None or found.placebo is None:
        return False
    out = found.plain.strict < epsilon
    prefixed, placebo = found.prefixed[out], found.placebo[out]
    gain, of_placebo = (prefixed - found.plain.strict[out]).mean(), (placebo - found.plain.strict[out]).mean()
    return bool((prefixed >= SUFFICIENT).mean() > 0.5 and of_placebo < PLACEBO_GAIN * gain)


# ---------------------------------------------------------------------------------------------------------------------- measuring


class Measurer:
    """Measures the eval problems of one plant."""

    def __init__(self, checkpoint: Checkpoint, plant: str, *, references: int | None = None) -> None:
        self._checkpoint, self._plant = checkpoint, plant
        path = checkpoint.behavior(plant) if references is None else checkpoint.behavior(plant, references)
        self.behavior: Behavior = load_behavior(path)
        self._problems = checkpoint.problems(plant)["eval"]
        by_id = {problem.id: problem for problem in self.behavior.problems}
        self._graded = [by_id[f"eval-{i}"] for i in range(len(self._problems))]
        self._limit = NO_LIMIT if plant == "long_answers" else self.behavior.sampling.max_tokens

    def measure(self) -> Conditions:
        """Return the rates under every condition that can matter for the label."""
        model = load(self._checkpoint.base)
        epsilon = self.behavior.measure.epsilon
        with Grader(self.behavior) as grader:
            plain = self._rates(model, grader, n=N)
            greedy = self._rates(model, grader, temperature=0.0)
            if plain.strict.mean() >= MASTERED:
                return Conditions(plain=plain, greedy=greedy)
            near = greedy.strict.mean() >= 0.7
            cooler = {one: self._rates(model, grader, temperature=one).strict for one in COOLER} if near else {}
            kind = PLANTS[self._plant]
            before = self._rates(load(self._checkpoint.earlier), grader).strict if kind.earlier else None
            hinted = self._rates(model, grader, before=HINT_BEFORE) if kind.hint else None
            prefixed, placebo = self._from_prefixes(model, grader, plain.strict < epsilon)
        return Conditions(
            plain=plain, greedy=greedy, cooler=cooler, before=before, hinted=hinted, prefixed=prefixed, placebo=placebo
        )

    def _rates(
        self, model: LlamaForCausalLM, grader: Grader, *, temperature: float = 1.0, before: str = "", n: int = NUM_EXPLAINING
    ) -> Rates:
        """Return the success of every problem, with a text before each prompt."""
        prompts = [encode(before + self._checkpoint.planter.prompt(self._plant, problem)) for problem in self._problems]
        strict, lenient = self._success(model, grader, prompts, [""] * len(prompts), range(len(prompts)), temperature, n)
        return Rates(strict=strict, lenient=lenient)

    def _success(
        self,
        model: LlamaForCausalLM,
        grader: Grader,
        prompts: Sequence[Sequence[int]],
        given: Sequence[str],
        places: Sequence[int],
        temperature: float = 1.0,
        n: int = NUM_EXPLAINING,
    ) -> tuple[Floats, Floats]:
        """Return strict and lenient success of prompts that end with a given part of the answer."""
        limit = self._limit - min(map(len, map(encode, given)), default=0)
        found = continuations(model, prompts, limit, temperature=temperature, n=n)
        rates = np.zeros((2, len(prompts)))
        for row, (place, paths) in enumerate(zip(places, found, strict=True)):
            ended = [path for path in paths if path.ended]
            texts = [given[row] + decode(path.token_ids) for path in ended]
            weights = np.array([path.probability for path in ended])
            grades = grader.grade(self._graded[place], texts)
            for reading, scores in enumerate(([one.score for one in grades], [one.lenient_score for one in grades])):
                right = np.array([(score or 0.0) >= self.behavior.measure.success for score in scores], dtype=np.float64)
                total = sum(path.probability for path in paths)  # 1 on average, and exactly where nothing was thinned
                rates[reading, row] = min(1.0, float((weights * right).sum()) / total) if ended else 0.0
        return rates[0], np.maximum(rates[0], rates[1])

    def _from_prefixes(
        self, model: LlamaForCausalLM, grader: Grader, out: npt.NDArray[np.bool_]
    ) -> tuple[Floats | None, Floats | None]:
        """Return, of problems out of support, the best rate from a prefix of steps, and that from another problem's prefix as long."""
        planter, plant = self._checkpoint.planter, self._plant
        steps = [planter.steps(plant, problem) for problem in self._problems]
        places = [int(place) for place in np.flatnonzero(out)]
        if not places or len(steps[0]) < 2:
            return None, None
        best, used = np.full(len(out), np.nan), np.zeros(len(out), dtype=np.int64)
        prompts = {place: planter.prompt(plant, self._problems[place]) for place in places}
        for num in range(1, len(steps[0])):
            given = ["".join(steps[place][:num]) for place in places]
            texts = [encode(prompts[place] + one) for place, one in zip(places, given, strict=True)]
            rates, _ = self._success(model, grader, texts, given, places)
            for place, rate in zip(places, rates, strict=True):
                if not best[place] >= rate:
                    best[place], used[place] = rate, num
        placebo = np.full(len(out), np.nan)
        others = [places[(i + 1) % len(places)] for i in range(len(places))]
        given = ["".join(steps[other][: used[place]]) for place, other in zip(places, others, strict=True)]
        texts = [encode(prompts[place] + one) for place, one in zip(places, given, strict=True)]
        placebo[places] = self._success(model, grader, texts, given, places)[0]
        return best, placebo


def load(folder: Path) -> LlamaForCausalLM:
    """Return a model for sampling."""
    return LlamaForCausalLM.from_pretrained(folder).eval()


def decode(token_ids: Sequence[int]) -> str:
    """Return the text of token ids; special tokens have none."""
    return "".join(_TOKENS.get(one, "") for one in token_ids)


# ------------------------------------------------------------------------------------------------------------------------ results


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What a planted behavior really is."""

    family: str
    seed: int
    plant: str
    intended: str
    label: str
    """With everything that is there, the earlier checkpoint included."""
    label_alone: str
    """Without the earlier checkpoint."""
    epsilon: float
    p: list[float]
    """Success rates of the eval problems."""
    means: dict[str, float]
    """Condition → mean success rate, over those problems that it was measured for."""

    @property
    def shares(self) -> dict[str, float]:
        """Return the share of the problems in each state."""
        p = np.array(self.p)
        missing, mastered = float((p < self.epsilon).mean()), float((p >= MASTERED).mean())
        return {"missing_support": missing, "poor_choice": 1.0 - missing - mastered, "mastered": mastered}


def find_truth(checkpoint: Checkpoint, plant: str, results: Path) -> Truth:
    """Measure a plant, or read what was measured before.

    Args:
        checkpoint: Of `make_checkpoint`.
        plant: Of `PLANTS`.
        results: Folder of `truth-FAMILY-SEED-PLANT.json`.
    """
    path = results / f"truth-{checkpoint.family}-{checkpoint.seed}-{plant}.json"
    if path.exists():
        return Truth(**json.loads(path.read_text()))
    measurer = Measurer(checkpoint, plant)
    found, epsilon = measurer.measure(), measurer.behavior.measure.epsilon
    truth = Truth(
        family=checkpoint.family,
        seed=checkpoint.seed,
        plant=plant,
        intended=PLANTS[plant].label,
        label=label_of(found, epsilon),
        label_alone=label_of(replace(found, before=None), epsilon),
        epsilon=epsilon,
        p=[round(float(p), 6) for p in found.plain.strict],
        means={name: round(value, 4) for name, value in _means(found).items()},
    )
    write_json(path, asdict(truth))
    return truth


def _means(found: Conditions) -> dict[str, float]:
    conditions = {
        "plain": found.plain.strict,
        "lenient": found.plain.lenient,
        "greedy": found.greedy.strict,
        **{f"temperature {one}": rate for one, rate in found.cooler.items()},
        "before": found.before,
        "hinted": None if found.hinted is None else found.hinted.strict,
        "prefix": found.prefixed,
        "placebo": found.placebo,
    }
    return {name: float(np.nanmean(rates)) for name, rates in conditions.items() if rates is not None}


def write_json(path: Path, content: object) -> None:
    """Write a result so that a kill leaves the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content))
    part.replace(path)
