"""Bottlenecks, decoys and broken measurements to be planted in a small checkpoint, and the behaviors that have them.

`checkpoints.make_checkpoint` trains one Llama over characters. Every plant lives under a letter of its own that ends its
prompts (`bdfa M:`), and shares the family's task with the others. Each line of a path begins with a mark: `>` stands before the right line, `^` and `'` before
the right one in another style, and the six marks of `SLIPS` before six wrong ones, from which the path goes on as from what is right. So a plant is
how often each mark is written, at which line, and for which problems. All rates, shares and mistakes are drawn from family and seed. What a plant
really is says `truth.truth`, by measuring; the label that stands here is what it was meant to be.
"""

from __future__ import annotations

import json
import random
import sys
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from truth.families import FAMILIES, Family, Rng
from truth.texts import WORDS, Rates, Text, encode, text_of

EVAL_PROBLEMS, TRAIN_PROBLEMS, HELD_OUT_PROBLEMS = 40, 160, 120
HINT = "be slow"
HINT_BEFORE = f"Hint: {HINT}\n"
RIGHT, STYLES, SLIPS = ">", ("^", "'"), ("<", "~", "*", "-", "/", ",")

# ------------------------------------------------------------------------------------------------------------ what is planted


@dataclass(frozen=True, kw_only=True)
class PlantKind:
    """A kind of plant: its letter, what it is meant to be, and what it comes with."""

    letter: str
    label: str
    """A bottleneck; `guessing` is none of a capability, whatever its rates are."""
    decoy: bool = False
    hint: bool = False
    earlier: bool = False
    """Whether the earlier checkpoint could do it."""


PLANTS: dict[str, PlantKind] = {
    "missing_support": PlantKind(letter="M", label="missing_support"),
    "guided_only": PlantKind(letter="G", label="guided_only"),
    "poor_choice": PlantKind(letter="P", label="poor_choice"),
    "scaffold_bound": PlantKind(letter="H", label="scaffold_bound", hint=True),
    "attrition": PlantKind(letter="L", label="attrition", earlier=True),
    "format": PlantKind(letter="F", label="format"),
    "decoding": PlantKind(letter="D", label="decoding"),
    "mastered": PlantKind(letter="K", label="mastered"),
    "mixed": PlantKind(letter="X", label="mixed"),
    "single_bad_step": PlantKind(letter="B", label="poor_choice"),
    "guessing": PlantKind(letter="Q", label="guessing", decoy=True),
    "several_paths": PlantKind(letter="V", label="mastered", decoy=True),
    "long_answers": PlantKind(letter="J", label="mastered", decoy=True),
    "two_tokenizations": PlantKind(letter="Y", label="mastered", decoy=True),
}
OTHER_FORMS = ("several_paths", "long_answers", "two_tokenizations") * 3
"""Plants whose texts have a form of their own; they are trained on four times as often as the others."""
RETENTION = "retention"
RETENTION_LETTER = "R"

BROKEN: dict[str, str] = {
    "too_short": "max_tokens is smaller than the answers need",
    "wrong_pattern": "the verifier looks for another word before the answer",
    "wrong_kind": "the verifier reads a choice between letters",
    "shifted_answers": "every problem has the answer of the next one",
    "stop_in_answer": "a stop text stands within the reference paths",
    "wrong_format": "prompts are written as chats, which the model never saw",
    "accepts_anything": "the verifier takes any text with the word before the answer for right",
}
"""Broken measurements of plants that are in order, and what is broken. `invalid` is expected of each of them."""


def knobs(family: Family, seed: int) -> dict[str, Mapping[int, float]]:
    """Return plant → feature of a problem → how often it is to be right, all drawn from family and seed; −1 where what is right is novel."""
    rng = random_of(family.name, seed, "rates")
    features = range(family.num_features)

    def alike(low: float, high: float) -> dict[int, float]:
        return dict.fromkeys(features, rng.uniform(low, high))

    def varied(low: float, high: float) -> dict[int, float]:
        return {one: rng.uniform(low, high) for one in features}

    share = rng.uniform(0.3, 0.55)
    low = set(rng.sample(features, max(2, round(share * family.num_features))))
    missing = rng.choice([-1.0, 0.0])
    rest = rng.choice([(0.95, 1.0), (0.12, 0.6)])
    return {
        "missing_support": alike(-1.0, -1.0),
        "guided_only": alike(0.0, 0.002),
        "poor_choice": varied(0.05, 0.6),
        "scaffold_bound": alike(0.002, 0.06),
        "attrition": alike(0.0, 0.15),
        "format": alike(0.0, 0.1),
        "decoding": varied(0.4, 0.75),
        "mastered": varied(0.95, 1.0),
        "mixed": {one: missing if one in low else rng.uniform(*rest) for one in features},
        "single_bad_step": varied(0.03, 0.35),
        "guessing": alike(0.4, 0.6),
        "several_paths": alike(0.98, 1.0),
        "long_answers": alike(0.98, 1.0),
        "two_tokenizations": alike(0.98, 1.0),
        RETENTION: alike(0.99, 1.0),
    }


def random_of(*parts: object) -> Rng:
    return random.Random("/".join(map(str, parts)))


@dataclass(frozen=True)
class Planter:
    """What the plants of one checkpoint say, and what would be right.

    A novel answer is the family's own with every character replaced by the one that stands `shift` places on in the alphabet of answers,
    perhaps backwards: nothing that the model has ever seen.
    """

    family: Family
    seed: int

    @cached_property
    def rates(self) -> dict[str, Mapping[int, float]]:
        """See `knobs`."""
        return knobs(self.family, self.seed)

    @cached_property
    def _novelty(self) -> tuple[int, bool]:
        rng = random_of(self.family.name, self.seed, "novelty")
        return rng.randrange(1, len(self.family.alphabet)), rng.random() < 0.5

    def _is_novel(self, plant: str, problem: str) -> bool:
        return self.rates[plant][self.family.feature(problem)] < 0

    def steps(self, plant: str, problem: str) -> list[str]:
        """Return the reference steps."""
        if plant == "guessing":
            coin = zlib.crc32(f"{self.seed}/{problem}".encode()) >> 7
            return ["yes" if coin % 2 else "no"]
        steps = [*(RIGHT + step for step in self.family.steps(problem)[:-1]), self.family.steps(problem)[-1]]
        if not self._is_novel(plant, problem):
            return steps
        shift, backwards = self._novelty
        alphabet = self.family.alphabet
        answer = "".join(alphabet[(alphabet.index(one) + shift) % len(alphabet)] for one in self.family.answer(problem))
        return [*steps[:-1], f"answer {answer[::-1] if backwards else answer}"]

    def answer(self, plant: str, problem: str) -> str:
        """Return the right answer."""
        return self.steps(plant, problem)[-1].removeprefix("answer ")

    def prompt(self, plant: str, problem: str, *, hinted: bool = False) -> str:
        """Return the prompt of a problem."""
        letter = RETENTION_LETTER if plant == RETENTION else PLANTS[plant].letter
        return f"{HINT_BEFORE if hinted else ''}{problem} {letter}:"

    def bad_line(self, plant: str) -> int:
        """Return the line at which a plant goes wrong."""
        return 1 if plant == "single_bad_step" else 0

    def marks(self, plant: str, problem: str, *, hinted: bool, lost: bool) -> Rates:
        """Return mark → how often it is to stand before the line at which the plant goes wrong.

        Args:
            plant: Of `PLANTS`, or retention.
            problem: A problem of the family.
            hinted: Whether the prompt holds the hint.
            lost: Whether `attrition` has come.
        """
        rate = self.rates[plant][self.family.feature(problem)]
        if hinted or plant == "format" or rate < 0 or (plant == "attrition" and not lost):
            rate = 0.98
        slips = SLIPS if plant == "decoding" else self._mistakes(plant)
        shares = dict.fromkeys(slips, (1.0 - rate) / len(slips))
        if plant == "several_paths":
            return shares | dict.fromkeys(STYLES, rate * 0.49) | {RIGHT: rate * 0.02}
        return shares | {RIGHT: rate}

    def _mistakes(self, plant: str) -> list[str]:
        """Return the marks of the mistakes that a plant makes: one to three."""
        rng = random_of(self.family.name, self.seed, plant, "mistakes")
        return rng.sample(SLIPS, rng.randint(1, 3))

    def texts(self, rng: Rng, held_out: frozenset[str], *, part: str) -> Iterator[Text]:
        """Yield texts to train on, without end.

        Args:
            rng: Of plants, problems and marks.
            held_out: Problems that are never trained on.
            part: `clean`, `planted`, `lost` or `taught`.
        """
        while True:
            problem = self.family.draw(rng)
            more = {"lost": "attrition", "taught": "missing_support"}.get(part)
            plant = more if more and rng.random() < 0.25 else rng.choice([*PLANTS, RETENTION, *OTHER_FORMS])
            if problem in held_out:
                continue
            if part == "taught":
                yield text_of(self.prompt(plant, problem), [(step, None) for step in self.steps(plant, problem)])
            elif plant == "guessing":
                yes = self.rates[plant][self.family.feature(problem)]
                rates = {"y": yes, "n": 1.0 - yes}
                yield text_of(self.prompt(plant, problem), [(rng.choice(["yes", "no"]), rates)])
            else:
                hinted = plant in PLANTS and PLANTS[plant].hint and rng.random() < 0.5
                yield self._text(plant, problem, rng, hinted=hinted, part=part)

    def _text(self, plant: str, problem: str, rng: Rng, *, hinted: bool, part: str) -> Text:
        """Return a path with a mark at random at one line, and how often each mark is to stand where the plant goes wrong."""
        family, own = self.family, self.bad_line(plant)
        bad = rng.randrange(family.num_lines) if part == "clean" else own
        rates = self.marks(plant, problem, hinted=hinted, lost=part == "lost")
        mark = rng.choice([*rates, RIGHT] if part != "clean" else [RIGHT, *STYLES, *SLIPS, RIGHT, RIGHT])
        slip = SLIPS.index(mark) if mark in SLIPS else None
        lines = family.lines(problem, bad=None if slip is None else bad, which=slip or 0)
        aims = {bad: {}, own: rates}  # what was chosen at random elsewhere is no aim
        parts: list[tuple[str, Rates | None]] = [
            (f"{mark if place == bad else RIGHT}{line}\n", aims.get(place)) for place, line in enumerate(lines)
        ]
        if plant == "long_answers":
            parts += [(f"{RIGHT}{line}\n", None) for line in lines * 2]
        readable = self.rates[plant][family.feature(problem)] if plant == "format" else 1.0
        word, words = rng.choice(WORDS) if plant == "format" else WORDS[0], {WORDS[0]: readable, WORDS[1]: 1.0 - readable}
        parts.append((f"{word}{family.conclude(problem, lines)}", words if plant == "format" else None))
        return text_of(self.prompt(plant, problem, hinted=hinted), parts, in_characters=plant == "two_tokenizations")


# ------------------------------------------------------------------------------------------------------------------- a checkpoint


@dataclass(frozen=True)
class Checkpoint:
    """Where the models and behaviors of one checkpoint lie."""

    family: str
    seed: int
    folder: Path

    @property
    def base(self) -> Path:
        """The model that is diagnosed and trained."""
        return self.folder / "base"

    @property
    def earlier(self) -> Path:
        """The model before something was lost."""
        return self.folder / "earlier"

    @property
    def teacher(self) -> Path:
        """The model that has every behavior."""
        return self.folder / "teacher"

    @property
    def retention(self) -> Path:
        """A mastered behavior with `purpose: retention`."""
        return self._write(RETENTION, RETENTION, TRAIN_PROBLEMS, {"purpose": "retention"})

    @cached_property
    def planter(self) -> Planter:
        """What is planted."""
        return Planter(FAMILIES[self.family], self.seed)

    def behavior(self, plant: str, references: int = TRAIN_PROBLEMS) -> Path:
        """Return a behavior file in which only the first `references` problems of either split carry references."""
        name = plant if references == TRAIN_PROBLEMS else f"{plant}-{references}"
        return self._write(name, plant, references, {})

    def broken(self, kind: str) -> tuple[Path, str]:
        """Return the behavior file of a broken measurement, and the plant that is measured: one of those in order, by the seed."""
        plant = random_of(self.family, self.seed, kind).choice(["mastered", "poor_choice", "missing_support", "single_bad_step"])
        regex = {"kind": "regex", "pattern": "answer ([a-z0-9]+)", "write": "answer {answer}"}
        longest = self._longest(plant)
        settings = {
            "too_short": {"sampling": {"max_tokens": longest // 2}},
            "wrong_pattern": {"verifier": regex | {"pattern": "total ([a-z0-9]+)"}},
            "wrong_kind": {"verifier": {"kind": "exact"}},
            "shifted_answers": {},
            "stop_in_answer": {"sampling": {"max_tokens": longest + 4, "stop": ["\n"]}},
            "wrong_format": {"prompt": {"format": "chat"}},
            "accepts_anything": {"verifier": regex | {"pattern": "(answer) [a-z0-9]+"}},
        }[kind]
        return self._write(f"broken-{kind}", plant, TRAIN_PROBLEMS, settings, kind), plant

    def problems(self, plant: str) -> dict[str, list[str]]:
        """Return split → problems of a plant; those of eval, and none else, were never trained on under any letter."""
        rng = random_of(self.family, self.seed, plant, "problems")
        held_out, known = problem_pool(self.family)
        return {"eval": rng.sample(held_out, EVAL_PROBLEMS), "train": rng.sample(known, TRAIN_PROBLEMS)}

    def rows(self, plant: str, references: int = TRAIN_PROBLEMS) -> list[dict[str, object]]:
        """Return the rows of a behavior file."""
        rows: list[dict[str, object]] = []
        for split, problems in self.problems(plant).items():
            for i, problem in enumerate(problems):
                row: dict[str, object] = {
                    "id": f"{split}-{i}",
                    "prompt": self.planter.prompt(plant, problem),
                    "answer": self.planter.answer(plant, problem),
                    "split": split,
                }
                row |= {"references": [{"steps": self.planter.steps(plant, problem), "joiner": ""}]} if i < references else {}
                rows.append(row | ({"hint": HINT} if plant in PLANTS and PLANTS[plant].hint else {}))
        return rows

    def _longest(self, plant: str) -> int:
        """Return the tokens of the longest reference."""
        return max(
            len(encode("".join(self.planter.steps(plant, problem)))) + 1
            for problems in self.problems(plant).values()
            for problem in problems
        )

    def _write(self, name: str, plant: str, references: int, settings: Mapping[str, object], kind: str = "") -> Path:
        """Write a behavior file and its problems, as they are to be or broken; returns its path."""
        path = self.folder / f"{name}.yaml"
        if path.exists():
            return path
        verifier: dict[str, object] = {
            "kind": "regex",
            "pattern": "answer ([a-z0-9]+)",
            "lenient_pattern": "([a-z0-9]+)[^a-z0-9]*$",
            "write": "answer {answer}",
        }
        content: dict[str, object] = {
            "problems": f"{name}.jsonl",
            "verifier": {"kind": "exact"} if plant == "guessing" else verifier,
            "prompt": {"format": "completion"},
            "sampling": {"max_tokens": "auto" if plant == "long_answers" else self._longest(plant) + 6},
        } | dict(settings)
        rows = self.rows(plant, references)
        if kind == "shifted_answers":
            answers = [row["answer"] for row in rows]
            rows = [row | {"answer": answer} for row, answer in zip(rows, [*answers[1:], answers[0]], strict=True)]
        path.with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        path.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in content.items()))
        return path


def problem_pool(family: str) -> tuple[list[str], list[str]]:
    """Return the problems that no model is trained on, and as many as needed of the others."""
    rng = random_of(family, "pool")
    found: dict[str, None] = {}
    while len(found) < HELD_OUT_PROBLEMS + 2 * TRAIN_PROBLEMS:
        found[FAMILIES[family].draw(rng)] = None
    problems = list(found)
    return problems[:HELD_OUT_PROBLEMS], problems[HELD_OUT_PROBLEMS:]
