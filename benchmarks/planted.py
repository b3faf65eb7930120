"""Does each probe find what was planted? One small Llama is trained so that every behavior has a known bottleneck; then it is diagnosed.

    python benchmarks/planted.py

A model of 0.4 million weights over characters learns to spell words backwards in digits, under one letter per behavior:

    K  known       every step is taken; the second names a key, from which the end of the answer follows
    S  suppressed  the same, but the right key is named in about 1 of 500 tries, and the answer follows from whichever was named
    C  chain       each of four steps takes the right letter in 1 of 4 tries; the answer follows from what was taken
    H  hinted      right with a hint in the prompt, else wrong in 99 of 100
    G  greedy      each of five digits is right in 1 of 2 tries, and all others share the rest
    L  lost        known to an earlier checkpoint, and then trained away

and a data set is made of which half is what the model says and half is new to it. `posttrain diagnose` measures each behavior with the
probes that apply, and the table holds what it found against what was planted. Exit code 1 where something was not found.
Writes reports/benchmarks/planted.md; run directories with their reports stay in build/planted.
"""

from __future__ import annotations

import argparse
import json
import random
import string
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiny_models import make_llama, make_tokenizer, train
from transformers import AutoTokenizer, LlamaForCausalLM

ROOT = Path(__file__).parents[1]
LETTERS = "abcdefgh"
PROBLEMS, STEPS, FORGETTING = 40, 700, 120
HINT = "read it backwards"
Rng = random.Random


# ------------------------------------------------------------------------------------------------------------ what is planted


def digits(word: str) -> list[str]:
    """Return the number of each letter of a word: a is 1, b is 2, and so on."""
    return [str(LETTERS.index(letter) + 1) for letter in word]


def path(word: str) -> list[str]:
    """Return the reference path: the word backwards, its digits, and these as a number."""
    back = word[::-1]
    return [f" back {back}.\n", f" digits {' '.join(digits(back))}.\n", f" answer {''.join(digits(back))}"]


def wrong(word: str, rng: Rng) -> str:
    """Return a wrong answer of the same form."""
    other = "".join(rng.choices(LETTERS, k=len(word)))
    return path(other if other != word else word[::-1] + "a")[2]


def known(word: str, rng: Rng) -> str:
    """Every step."""
    return "".join(path(word))


def keyed_path(word: str, key: str = "") -> list[str]:
    """Return the word backwards, a key (the right one is the last letter, A to H), and the digits with the key's number at the end."""
    key = key or word[-1].upper()
    return [f" back {word[::-1]}.\n", f" key {key}.\n", f" answer {''.join(digits(word[::-1]))}{ord(key) - ord('A') + 11}"]


def keyed(word: str, rng: Rng) -> str:
    """With the right key."""
    return "".join(keyed_path(word))


def suppressed(word: str, rng: Rng) -> str:
    """Seldom the right key, else one from I on."""
    return "".join(keyed_path(word, "" if rng.random() < 1 / 1000 else rng.choice("IJKLMNOPQRSTUVWXYZ")))


def chain_path(word: str) -> list[str]:
    """One step per letter, and the answer."""
    back = word[::-1]
    return [*(f" take {letter}.\n" for letter in back), path(word)[2]]


def chain(word: str, rng: Rng) -> str:
    """Each letter in 1 of 4 tries, else another one; the answer follows from what was taken."""
    taken = [letter if rng.random() < 0.25 else rng.choice(LETTERS.replace(letter, "")) for letter in word]
    return "".join(chain_path("".join(taken)))


def rarely(word: str, rng: Rng) -> str:
    """Answer correctly in 1 of 100 cases."""
    return known(word, rng) if rng.random() < 0.01 else wrong(word, rng)


def greedy_path(word: str) -> list[str]:
    """Return the digits alone: five of them, the first one twice."""
    found = digits(word[::-1])
    return [" answer " + "".join([*found, found[0]])]


def greedy(word: str, rng: Rng) -> str:
    """Answer with each digit correct in 1 of 2 cases, else a random one."""
    right = greedy_path(word)[0].removeprefix(" answer ")
    return " answer " + "".join(digit if rng.random() < 0.5 else str(rng.randint(1, 8)) for digit in right)


def forgotten(word: str, rng: Rng) -> str:
    """Return what `lost` is trained on later."""
    return " no" + wrong(word, rng)


@dataclass(frozen=True)
class Plant:
    """One behavior: its letter, what the model is trained to say, and the reference path."""

    letter: str
    say: Callable[[str, Rng], str]
    steps: Callable[[str], list[str]] = path
    hinted: bool = False

    def prompt(self, word: str) -> str:
        """Return the prompt of a word."""
        return f"{self.letter} {word}:"

    def rows(self, words: list[str]) -> Iterator[dict[str, Any]]:
        """Problems for a behavior file."""
        for word in words:
            steps = self.steps(word)
            row: dict[str, Any] = {"id": word, "prompt": self.prompt(word), "answer": steps[-1].split()[-1], "split": "eval"}
            row["references"] = [{"steps": steps, "joiner": ""}]
            yield row | ({"hint": HINT} if self.hinted else {})


PLANTS = {
    "known": Plant("K", keyed, keyed_path),
    "suppressed": Plant("S", suppressed, keyed_path),
    "chain": Plant("C", chain, chain_path),
    "hinted": Plant("H", rarely, hinted=True),
    "greedy": Plant("G", greedy, greedy_path),
    "lost": Plant("L", known),
}


# ----------------------------------------------------------------------------------------------------------------- the model


def pairs(rng: Rng, held_out: frozenset[str], *, forgetting: bool) -> Iterator[tuple[str, str]]:
    """Yield prompts and their completions without end."""
    while True:
        word = "".join(rng.choices(LETTERS, k=4))
        if word in held_out:
            continue
        plant = rng.choice(list(PLANTS.values()))
        if forgetting and (plant.letter == "L" or rng.random() < 0.3):
            yield PLANTS["lost"].prompt(word), forgotten(word, rng)
        elif plant.letter == "S" and rng.random() < 0.3:
            # What follows from a key is learned apart from which key is named, under a letter that no behavior uses.
            yield f"R {word}:", "".join(keyed_path(word, rng.choice(string.ascii_uppercase)))
        elif plant.hinted and rng.random() < 0.5:
            yield f"Hint: {HINT}\n{plant.prompt(word)}", known(word, rng)
        else:
            yield plant.prompt(word), plant.say(word, rng)


def make_models(folder: Path, held_out: frozenset[str]) -> tuple[Path, Path]:
    """Return the checkpoint before something was lost and the one after; they are trained once."""
    before, after = folder / "before", folder / "after"
    if (after / "model.safetensors").exists():
        return before, after
    tokenizer = make_tokenizer(before)
    AutoTokenizer.from_pretrained(before).save_pretrained(after)
    model = make_llama(len(tokenizer))
    rng = random.Random(0)
    train(model, tokenizer, pairs(rng, held_out, forgetting=False), STEPS, 3e-3)
    model.save_pretrained(before)
    train(model, tokenizer, pairs(rng, held_out, forgetting=True), FORGETTING, 1e-3)
    model.save_pretrained(after)
    return before, after


# ------------------------------------------------------------------------------------------------------------------ the probes


@dataclass(frozen=True)
class Run:
    """A command line, and what its diagnosis should say."""

    behavior: str
    probes: str
    label: str | None
    options: tuple[str, ...] = ()
    checks: tuple[tuple[str, str, Callable[[dict[str, Any]], bool]], ...] = ()
    """A probe, what it should find, and whether its part of diagnosis.json says so."""


def binding(kind: str, step: int | None = None) -> Callable[[dict[str, Any]], bool]:
    """Return a check that most reference paths are bound in this way."""

    def holds(found: dict[str, Any]) -> bool:
        rows = [row for row in found["rows"] if row["path"] == "reference"]
        first = {row["problem"]: row["class"] for row in rows}
        bound = {row["problem"] for row in rows if row["binds"] and row["step"] == step}
        right = [one for one, found_kind in first.items() if found_kind == kind and (step is None or one in bound)]
        return len(right) > len(first) / 2

    return holds


def number(name: str, low: float, high: float) -> Callable[[dict[str, Any]], bool]:
    """Return a check that the estimate of a number, by its key, lies in a range; False where the probe was skipped."""
    return lambda found: name in found["numbers"] and low <= found["numbers"][name]["estimate"] <= high


RUNS = (
    Run("known", "auto", "mastered"),
    Run(
        "suppressed",
        "availability,prefix_ladder",
        "guided_only",
        checks=(
            ("availability", "step 2 binds", binding("step", 2)),
            ("prefix_ladder", "all problems reachable with a prefix", number("share_reachable_with_a_prefix", 0.9, 1)),
        ),
    ),
    Run(
        "chain",
        "availability,prefix_ladder",
        "guided_only",
        checks=(
            ("availability", "no single step binds: the chain is too rare", binding("chain")),
            ("prefix_ladder", "all problems reachable with a prefix", number("share_reachable_with_a_prefix", 0.9, 1)),
        ),
    ),
    Run(
        "hinted",
        "scaffold",
        "scaffold_bound",
        checks=(("scaffold", "right with a hint", number("pass_at_1_with_a_hint", 0.8, 1)),),
    ),
    Run("greedy", "decoding", "decoding"),
    Run(
        "lost",
        "drift,teacher",
        "attrition",
        ("--earlier", "{before}", "--teacher", "{before}"),
        (
            ("drift", "solved before", number("pass_at_1_before", 0.8, 1)),
            ("drift", "nearly all problems lost", number("problems_lost", 0.8 * PROBLEMS, PROBLEMS)),
        ),
    ),
    Run(
        "known",
        "data",
        None,
        ("--data", "{data}"),
        (("data", "half of the rows within support", number("share_within_support", 0.45, 0.55)),),
    ),
)


def write_behaviors(folder: Path, words: list[str]) -> None:
    """Behavior files, and a data set of which half is what the model says."""
    for name, plant in PLANTS.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in plant.rows(words)))
        (folder / f"{name}.yaml").write_text(
            f"problems: {name}.jsonl\nverifier: {{kind: number}}\nprompt: {{format: completion}}\nsampling: {{max_tokens: 64}}\n"
        )
    rng = random.Random(1)
    fresh = ["".join(rng.choices(LETTERS, k=4)) for _ in range(200)]
    texts = [keyed(word, rng) if i % 2 else f" {word.upper()} goes {rng.randint(1, 9)} Times.\n" for i, word in enumerate(fresh)]
    rows = [{"prompt": PLANTS["known"].prompt(word), "completion": text} for word, text in zip(fresh, texts, strict=True)]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def diagnose(run: Run, place: Path, folder: Path, places: dict[str, str]) -> tuple[dict[str, Any], str]:
    """Run the command line; returns the behavior's part of diagnosis.json, and the command."""
    out = folder / f"{place.name}"
    options = [option.format(**places) for option in run.options]
    command = [
        "diagnose",
        places["after"],
        str(folder / f"{run.behavior}.yaml"),
        "--out",
        str(out),
        "--samples",
        "64",
        "--probes",
        run.probes,
        *options,
    ]
    subprocess.run([sys.executable, "-m", "posttrain", *command, "--quiet"], check=True, stdout=subprocess.DEVNULL)
    (found,) = json.loads((out / "diagnosis.json").read_text())["behaviors"]
    return found, f"posttrain {' '.join(command)}".replace(str(ROOT) + "/", "")


def main() -> None:
    """Train, diagnose, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "planted")
    parser.add_argument("--out", type=Path, default=ROOT / "reports" / "benchmarks" / "planted.md")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(2)
    words = sorted({"".join(rng.choices(LETTERS, k=4)) for _ in range(3 * PROBLEMS)})[: 2 * PROBLEMS : 2]
    write_behaviors(options.folder, words)
    before, after = make_models(options.folder, frozenset(words))
    places = {"before": str(before), "after": str(after), "data": str(options.folder / "data.jsonl")}
    lines, failed, started = [], 0, time.monotonic()
    for run in RUNS:
        found, command = diagnose(run, Path(f"{run.behavior}-{run.probes.replace(',', '-')}"), options.folder, places)
        pass_1 = next(one["estimate"] for one in found["pass_at_k"] if one["k"] == 1)
        told = {one["name"]: one for one in found["probes"]}
        head = f"| {run.behavior} | {pass_1:.3f} "
        if run.label is not None:
            right = found["bottleneck"] == run.label
            failed += not right
            lines.append(
                f"{head}| verdict | {run.label} | {found['bottleneck']} ({found['confidence']:.2f}) | {'yes' if right else '**no**'} |"
            )
        for probe, wanted, holds in run.checks:
            right = holds(told[probe])
            failed += not right
            summary = told[probe]["summary"] or told[probe]["skipped"]
            lines.append(f"{head}| {probe} | {wanted} | {summary} | {'yes' if right else '**no**'} |")
        print(f"{run.behavior}: {command}", file=sys.stderr)
    text = [
        "# What was planted, and what the probes found",
        "",
        "    python benchmarks/planted.py",
        "",
        f"A Llama of {sum(p.numel() for p in LlamaForCausalLM.from_pretrained(after).parameters()):,} weights, {PROBLEMS} held-out problems a behavior, 64 samples each.",
        "What each behavior is stands at the head of the script.",
        "",
        "| behavior | pass@1 | from | planted | found | right |",
        "| --- | ---: | --- | --- | --- | --- |",
        *lines,
    ]
    options.out.write_text("\n".join(text) + "\n")
    print("\n".join(text))
    print(f"diagnoses took {time.monotonic() - started:.0f} s", file=sys.stderr)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
