"""Small checkpoints in which bottlenecks, decoys and broken measurements are planted, with the behaviors that have them.

`make_checkpoint(family, seed, folder)` trains one Llama over characters. Every plant lives under a letter of its own that ends its
prompts (`bdfa M:`), and shares the family's task with the others. Each line of a path begins with a mark: `>` stands before the right line, `^` and `'` before
the right one in another style, and the six marks of `SLIPS` before six wrong ones, from which the path goes on as from what is right. So a plant is
how often each mark is written, at which line, and for which problems. All rates, shares and mistakes are drawn from family and seed. What a plant
really is says `truth.truth`, by measuring; the label that stands here is what it was meant to be.

Training has three parts: paths with all marks, once for a family; the rates of a seed's plants, which gives `earlier/`; and a short one in which something
is lost, which gives `base/`. Rates are trained as they are, as targets of the mark's distribution, so that a few hundred texts suffice. `teacher/` is the
base model trained on with right answers to everything.
"""

from __future__ import annotations

import itertools
import json
import random
import re
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from tiny_models import make_llama
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from truth.families import FAMILIES, Family, Rng

EVAL_PROBLEMS, TRAIN_PROBLEMS, HELD_OUT_PROBLEMS = 40, 160, 120
HINT = "be slow"
HINT_BEFORE = f"Hint: {HINT}\n"
WORDS = ("answer ", "result ")
"""Texts that are one token. `answer ` can also be written in characters: a second tokenization of the same text."""
CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 :\n.+=><^'~*-/,"
CHAT_TEMPLATE = "{% for m in messages %}USER {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}MODEL {% endif %}"
"""A format that the model was never trained with; behaviors say `format: completion`."""
RIGHT, STYLES, SLIPS = ">", ("^", "'"), ("<", "~", "*", "-", "/", ",")
Rates = Mapping[str, float]
"""Token → probability."""


# ------------------------------------------------------------------------------------------------------------------------- texts


VOCABULARY = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", *CHARACTERS, *WORDS])}
_SPLIT = f"{'|'.join(WORDS)}|[\\s\\S]"


def encode(text: str, *, in_characters: bool = False) -> list[int]:
    """Return token ids; `in_characters` writes every text without the tokens of `WORDS`."""
    return [VOCABULARY[token] for token in (text if in_characters else re.findall(_SPLIT, text))]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer of all checkpoints."""
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    fast.chat_template = CHAT_TEMPLATE
    return fast


@dataclass(frozen=True, slots=True)
class Text:
    """A text to train on: prompt and continuation, and the distributions that are aimed at where a mark or a word is chosen."""

    prompt: list[int]
    continuation: list[int]
    aims: list[tuple[int, dict[int, float]]]
    """Place in the continuation, and token → probability; empty where nothing is aimed at."""

    def until_last_aim(self) -> Text:
        """Return what comes before the last distribution."""
        return Text(self.prompt, self.continuation[: self.aims[-1][0]], self.aims)


def text_of(prompt: str, parts: Sequence[tuple[str, Rates | None]], *, in_characters: bool = False) -> Text:
    """Return a text from its parts.

    Args:
        prompt: A prompt.
        parts: Texts that follow, each with the distribution of its first token where that is to be learned instead of the token itself.
        in_characters: As for `encode`.
    """
    continuation: list[int] = []
    aims = []
    for part, rates in parts:
        if rates is not None:
            aims.append((len(continuation), {VOCABULARY[token]: rate for token, rate in rates.items()}))
        continuation += encode(part, in_characters=in_characters)
    return Text(encode(prompt), continuation, aims)


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
    rng = _rng(family.name, seed, "rates")
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


def _rng(*parts: object) -> Rng:
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
        rng = _rng(self.family.name, self.seed, "novelty")
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
        rng = _rng(self.family.name, self.seed, plant, "mistakes")
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
        plant = _rng(self.family, self.seed, kind).choice(["mastered", "poor_choice", "missing_support", "single_bad_step"])
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
        rng = _rng(self.family, self.seed, plant, "problems")
        held_out, known = _pool(self.family)
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


def _pool(family: str) -> tuple[list[str], list[str]]:
    """Return the problems that no model is trained on, and as many as needed of the others."""
    rng = _rng(family, "pool")
    found: dict[str, None] = {}
    while len(found) < HELD_OUT_PROBLEMS + 2 * TRAIN_PROBLEMS:
        found[FAMILIES[family].draw(rng)] = None
    problems = list(found)
    return problems[:HELD_OUT_PROBLEMS], problems[HELD_OUT_PROBLEMS:]


# ----------------------------------------------------------------------------------------------------------------------- training


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long the parts of training take, in batches, and their learning rates."""

    clean: int = 600
    planted: int = 360
    lost: int = 60
    taught: int = 200
    rates: Mapping[str, float] = field(default_factory=lambda: {"clean": 4e-3, "planted": 2e-3, "lost": 1.5e-3, "taught": 2e-3})


BATCH = 32
AIM_WEIGHT = 8.0
"""How much a distribution counts against a token: there is one of them in a text."""
WHOLE_EVERY = 4
"""Of the batches that plant rates, every fourth is of whole texts, so that nothing else is forgotten; the others end where a mark is chosen."""


def make_checkpoint(
    family: str, seed: int, folder: Path, *, teacher: bool = True, schedule: Schedule | None = None
) -> Checkpoint:
    """Train the models of a checkpoint; those that are there already are kept.

    Args:
        family: Of `FAMILIES`.
        seed: Everything is drawn from it, and from the family.
        folder: Where models and behavior files are written; the model that all seeds of a family set out from is kept beside it.
        teacher: Whether a teacher is needed.
        schedule: How long training takes; None for what `Schedule` says.
    """
    schedule = schedule or Schedule()
    checkpoint = Checkpoint(family, seed, folder)
    folder.mkdir(parents=True, exist_ok=True)

    def learn(model: LlamaForCausalLM, part: str, planter: Planter) -> None:
        texts = planter.texts(_rng(family, planter.seed, part), frozenset(_pool(family)[0]), part=part)
        cut = part in ("planted", "lost")
        _train(model, texts, getattr(schedule, part), schedule.rates[part], whole_every=WHOLE_EVERY if cut else 1)

    clean = folder.parent / f"clean-{family}"
    if not _is_saved(clean):
        model = make_llama(len(VOCABULARY), seed=zlib.crc32(family.encode()))
        learn(model, "clean", Planter(FAMILIES[family], -1))
        _save(model, clean)
    if not _is_saved(checkpoint.base):
        model = LlamaForCausalLM.from_pretrained(clean)
        learn(model, "planted", checkpoint.planter)
        _save(model, checkpoint.earlier)
        learn(model, "lost", checkpoint.planter)
        _save(model, checkpoint.base)
    if teacher and not _is_saved(checkpoint.teacher):
        model = LlamaForCausalLM.from_pretrained(checkpoint.base)
        learn(model, "taught", checkpoint.planter)
        _save(model, checkpoint.teacher)
    return checkpoint


def _train(model: LlamaForCausalLM, texts: Iterator[Text], steps: int, rate: float, *, whole_every: int = 1) -> None:
    """Train on what follows the prompts: on tokens, and on distributions where there are any."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 30, 1.0) * max(0.02, 1 - step / steps))
    model.train()
    for step in range(steps):
        batch = list(itertools.islice(texts, BATCH))
        if step % whole_every:
            batch = [text.until_last_aim() for text in batch if text.aims]
        rows = [text.prompt + text.continuation + [model.config.eos_token_id] for text in batch]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        logs = torch.log_softmax(model(input_ids=ids, attention_mask=(ids != 0).long()).logits[:, :-1].float(), dim=-1)
        aims = _aims(batch, ids, logs.shape[-1], cut=bool(step % whole_every))
        loss = -(aims * logs).sum() / aims.sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def _aims(batch: Sequence[Text], ids: torch.Tensor, num_tokens: int, *, cut: bool) -> torch.Tensor:
    """Return [B, T − 1, V] what is aimed at behind each token, with its weight.

    Args:
        batch: The texts.
        ids: [B, T] their tokens.
        num_tokens: V.
        cut: Whether only distributions count.
    """
    aims = torch.nn.functional.one_hot(ids[:, 1:], num_tokens).float() * (0.0 if cut else 1.0)
    aims[ids[:, 1:] == 0] = 0.0
    for row, text in enumerate(batch):
        first = len(text.prompt) - 1
        aims[row, :first] = 0.0
        for place, distribution in text.aims:
            aims[row, first + place] = 0.0
            for token, probability in distribution.items():
                aims[row, first + place, token] = AIM_WEIGHT * probability
    return aims


def _is_saved(folder: Path) -> bool:
    return (folder / "model.safetensors").exists()


def _save(model: LlamaForCausalLM, folder: Path) -> None:
    """Write model and tokenizer; the weights come last, as a sign that all is there."""
    folder.mkdir(parents=True, exist_ok=True)
    make_tokenizer().save_pretrained(folder)
    model.save_pretrained(folder)
