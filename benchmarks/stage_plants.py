"""One small Llama in which every kind of need is planted, with the behaviors that have it, a teacher, and a checkpoint that lost something.

Each behavior rewrites a word of five different letters; its prompt is a capital and the word.

    copy     C  as it stands                  mastered
    reverse  R  backwards                     poor choice: right in 3 of 10; in 4 of 10 the fourth letter stands twice, in 3 the last is another
    rotate   T  the first letter at the end   guided only: each letter is right in 1 of 4 tries, the word in 1 of 1000
    swap     H  neighbours change places      scaffold-bound: right behind a hint, else in 1 of 50
    steps    P  backwards, a letter a line    errors local to a step: each line is right in 7 of 10 tries
    sort     S  in alphabetical order         missing support: never seen

The teacher is the same model, trained on with right answers to everything. The damaged checkpoint is the model after `sft` on sort.
"""

from __future__ import annotations

import json
import random
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tiny_models import make_llama, make_tokenizer, train
from transformers import AutoTokenizer

LETTERS = "abcdefgh"
HINT = "swap"
TRAIN_PROBLEMS, EVAL_PROBLEMS = 512, 128
CLEAN_STEPS, NOISY_STEPS, TEACHER_STEPS, DAMAGING_STEPS = 500, 250, 250, 60
Rng = random.Random


@dataclass(frozen=True)
class Task:
    """A task under a letter: its answers, and what the model is trained to say."""

    letter: str
    steps: Callable[[str], list[str]]
    """The right answer, in lines."""
    say: Callable[[str, Rng], str] | None
    """None: it is never trained."""
    need: str
    hinted: bool = False

    def prompt(self, word: str) -> str:
        return f"{self.letter} {word}\n"

    def answer(self, word: str) -> str:
        return "\n".join(self.steps(word))


def swapped(word: str) -> str:
    return "".join(word[i : i + 2][::-1] for i in range(0, len(word), 2))


def poorly_reversed(word: str, rng: Rng) -> str:
    right, chance = word[::-1], rng.random()
    if chance < 0.3:
        return right
    return right[:4] + (right[3] if chance < 0.7 else rng.choice(LETTERS.replace(right[3], "").replace(right[4], "")))


def noisily(letters: str, right: float, rng: Rng) -> str:
    """Each letter right with a chance, and whatever went before changes nothing."""
    return "".join(letter if rng.random() < right else rng.choice(LETTERS.replace(letter, "")) for letter in letters)


def seldom_swapped(word: str, rng: Rng) -> str:
    return swapped(word) if rng.random() < 0.02 else "".join(rng.sample(word, 5))


TASKS = {
    "copy": Task("C", lambda word: [word], lambda word, rng: word, "mastered"),
    "reverse": Task("R", lambda word: [word[::-1]], poorly_reversed, "poor choice"),
    "rotate": Task("T", lambda word: [word[1:] + word[0]], lambda word, rng: noisily(word[1:] + word[0], 0.25, rng), "guided only"),
    "swap": Task("H", lambda word: [swapped(word)], seldom_swapped, "scaffold-bound", hinted=True),
    "steps": Task("P", lambda word: list(word[::-1]), lambda word, rng: "\n".join(noisily(word[::-1], 0.7, rng)), "wrong steps"),
    "sort": Task("S", lambda word: ["".join(sorted(word))], None, "missing support"),
}  # fmt: skip


@dataclass(frozen=True)
class Planted:
    """Where everything lies."""

    folder: Path

    @property
    def base(self) -> Path:
        return self.folder / "base"

    @property
    def teacher(self) -> Path:
        return self.folder / "teacher"

    @property
    def damaged(self) -> Path:
        return self.folder / "damaged"

    def behavior(self, name: str) -> Path:
        return self.folder / f"{name}.yaml"


def plant(folder: Path) -> Planted:
    """Behaviors and models, made once."""
    folder.mkdir(parents=True, exist_ok=True)
    planted = Planted(folder)
    rng = random.Random(1)
    words = sorted({"".join(rng.sample(LETTERS, 5)) for _ in range(2 * (TRAIN_PROBLEMS + EVAL_PROBLEMS))})
    rng.shuffle(words)
    held_out, known = words[:EVAL_PROBLEMS], words[EVAL_PROBLEMS : EVAL_PROBLEMS + TRAIN_PROBLEMS]
    for name, task in TASKS.items():
        write_behavior(planted.behavior(name), task, known, held_out)
    if not (planted.teacher / "model.safetensors").exists():
        _train_base_and_teacher(planted, frozenset(held_out))
    if not (planted.damaged / "model.safetensors").exists():
        from posttrain import trainers

        overrides = [f"num_steps={DAMAGING_STEPS}", "learning_rate=1e-3", "rows_per_batch=32", "dev_share=0"]
        trainers.train("sft", planted.base, [planted.behavior("sort")], out=planted.damaged, overrides=overrides)
    return planted


def write_behavior(path: Path, task: Task, known: Sequence[str], held_out: Sequence[str]) -> None:
    rows = []
    for split, words in (("train", known), ("eval", held_out)):
        for word in words:
            row = {"id": word, "prompt": task.prompt(word), "answer": task.answer(word), "split": split}
            row["references"] = [task.steps(word)]
            rows.append(row | ({"hint": HINT} if task.hinted else {}))
    path.with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    longest = len(task.answer(known[0])) + 4
    path.write_text(
        f"problems: {path.stem}.jsonl\nverifier: {{kind: exact}}\nprompt: {{format: completion}}\nsampling: {{max_tokens: {longest}}}\n"
    )


def _train_base_and_teacher(planted: Planted, held_out: frozenset[str]) -> None:
    characters = (
        LETTERS + "".join(task.letter for task in TASKS.values()) + " :\n" + "".join(sorted(set("int" + HINT) - set(LETTERS)))
    )
    assert not set(characters) - set(string.printable)
    tokenizer = make_tokenizer(planted.base, characters)
    AutoTokenizer.from_pretrained(planted.base).save_pretrained(planted.teacher)
    model = make_llama(len(tokenizer), hidden_size=128, intermediate_size=384)
    rng = random.Random(0)
    # What is right is learned first: under noise alone the model takes ten times as long to learn the task.
    shown = [task for task in TASKS.values() if task.say is not None]
    train(model, tokenizer, right_texts(shown, rng, held_out), CLEAN_STEPS, 3e-3)
    train(model, tokenizer, planted_texts(shown, rng, held_out), NOISY_STEPS, 2e-3)
    model.save_pretrained(planted.base)
    train(model, tokenizer, right_texts(list(TASKS.values()), rng, held_out), TEACHER_STEPS, 2e-3)
    model.save_pretrained(planted.teacher)


def planted_texts(tasks: Sequence[Task], rng: Rng, held_out: frozenset[str]) -> Iterator[tuple[str, str]]:
    """Prompts and what the model is to say, for ever."""
    while True:
        word = "".join(rng.sample(LETTERS, 5))
        task = rng.choice(tasks)
        if word in held_out:
            continue
        assert task.say is not None
        if task.hinted and rng.random() < 0.5:
            yield f"Hint: {HINT}\n{task.prompt(word)}", task.answer(word)
        else:
            yield task.prompt(word), task.say(word, rng)


def right_texts(tasks: Sequence[Task], rng: Rng, held_out: frozenset[str]) -> Iterator[tuple[str, str]]:
    """Prompts and right answers, for ever."""
    while True:
        word = "".join(rng.sample(LETTERS, 5))
        task = rng.choice(tasks)
        if word not in held_out:
            yield task.prompt(word), task.answer(word)
