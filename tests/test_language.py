"""One language: words that this project once used in a sense of its own are gone from code, pages and messages.

The glossary is docs/concepts.md. Each entry below is a word or phrase that must not come back, with what to write instead; patterns are
narrow where the word has a common meaning too (figures are drawn, a dictionary has a `_lines`).
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (".py", ".md", ".toml", ".yaml", ".yml", ".ipynb", ".j2", ".css", ".c", ".h", ".cff")
EXEMPT = ("tests/test_language.py", "reports/demo/")
"""This list itself, and what a command of an earlier version printed."""


@dataclass(frozen=True)
class Retired:
    """A retired word: what finds it, what to write instead, and the folders in which it is looked for."""

    pattern: str
    instead: str
    folders: tuple[str, ...] = ("",)


NOT_FIGURES = ("posttrain/", "diagnose/", "trainers/", "docs/", "README", "CONTRIBUTING", "reports/")
RETIRED = (
    Retired(r"(?<![\"'`])plumbing", "validity checks, setup"),
    Retired(r"(?<![a-z])(?<!scaling )(?<!power )laws?(?![a-z])|(?-i:(?<![A-Za-z])Law(?=[A-Z]))", "distribution of per-problem success rates"),
    Retired(r"(?<![a-z])heap(s|ed)?(?![a-z])", "point mass"),
    Retired(r"pretended", "pseudo-observation"),
    Retired(r"by a hair|label[ _]ties", "borderline"),
    Retired(r"by looking|(?<![a-z])(a|an|one|each|every|next|last|first|many|more|further|per|num|dev)[ _]looks?(?![a-z])", "interim analysis, evaluation"),
    Retired(r"looks at the dev", "evaluates on the dev slice"),
    Retired(r"names the draw", "random seed for sampling"),
    Retired(r"samples?,? (is|are|was|were|be|been|being) drawn|drawn samples|draws? (in rounds|samples|rollouts|completions|anew)|drawn (twice|anew|again|in rounds|from the model)|second draw|two draws of|redrawn|draw anew", "sample"),
    Retired(r"(?<![a-z])class Drawing|sampling\w* import .*Drawing", "SamplingRun", NOT_FIGURES),
    Retired(r"(?<![a-z])purse(?![a-z])|\.spend\(|def spend", "TokenBudget, record"),
    Retired(r"whose turn|tak(e|es|ing) turns|(?<![a-z])class Turns", "scheduling, priority"),
    Retired(r"(?-i:(?<![A-Za-z])Bench(?![a-z]))", "ProbeContext"),
    Retired(r"(?-i:(?<![A-Za-z])(Asked|Asking)(?=[\](,|:.\[])|class Ask\b)", "PromptRequest"),
    Retired(r"(?<![a-z])argue[sd]?(?![a-z])|has been heard|(?-i:class Argument\b)", "evidence, LabelEvidence"),
    Retired(r"(?-i:(?<![A-Za-z])Sight(?![a-z]))|designs? can(not)? see", "power analysis, minimum detectable effect"),
    Retired(r"a state of its own|states? of (a|the|each|every|single) problems?|problem_states?|(?<![a-z])(un)?settled (problem|label|state|behavior)s?|is_settled", "problem label; labelled, decided"),
    Retired(r"(?<![a-z])bare[ _](samples?|rates?|counts?|successe?s?)(?![a-z])", "baseline, without scaffold"),
    Retired(r"(?-i:DevLook|(?<![A-Za-z])class Look)", "DevEvaluation"),
    Retired(r"(?<![a-z])(praise|blame)s?(?![a-z])|(silent|loud) groups?", "credit; zero-variance groups, groups with signal"),
    Retired(r"speaks?[ _]of(?![a-z])|acts_on(?![a-z])|class Part\b", "applies to, row role"),
    Retired(r"(?-i:(?<![A-Za-z])class (Beside|Given)\b|(?<![A-Za-z])(Beside|Given)\(|OtherModel|AtHand)|at[_ ]hand(?![a-z])", "TrainingInputs, FrozenModel, available"),
    Retired(r"(?-i:(?<![A-Za-z])Remembers(?![a-z]))", "Stateful"),
    Retired(r"(?<![a-z])shares(?![a-z])", "token weights", ("trainers/objectives/",)),
    Retired(r"(?<![a-z])addends?(?![a-z])", "LoRA weights, adapter"),
    Retired(r"recomputation", "gradient checkpointing"),
    Retired(r"matrix units?", "AMX tiles"),
    Retired(r"(?<![a-z])(wide|narrow|ahead)(?![a-z])|num_lines", "fp32, bf16, forward, rows", ("diagnose/engines/llama/",)),
    Retired(r"speaks\(|led_by_first|(?-i:def (frame|fill)\b)", "is_rank_zero, rank_zero_first, empty_like, load_weights"),
    Retired(r"read(s|ing)?( of)?( the| a| its| their)? prompts?(?![a-z])", "prefill", ("diagnose/engines/", "trainers/", "docs/", "README", "CHANGELOG")),
    Retired(r"in vain|signal vanishes|vanishes_when", "fails when, no learning signal when"),
    Retired(r"(?<![a-z])strange(r|st)?(?![a-z])|(?<![a-z])lets? in(?![a-z])", "low-probability, out-of-support; admits"),
    Retired(r"held it back|came of it", "Diagnosis report, Training report"),
    Retired(r"(?<![a-z])(somebody|nobody)(?![a-z])|the same again|(?<![a-z])so many(?![a-z])", "say who, how many, which"),
)  # fmt: skip


def texts() -> list[tuple[str, str]]:
    """Return name and content of every tracked text file."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    names = [name for name in listed if (name.endswith(TEXT) or name == "Makefile") and not name.startswith(EXEMPT)]
    return [(name, (ROOT / name).read_text()) for name in names if (ROOT / name).is_file() and not (ROOT / name).is_symlink()]


def found(retired: Retired) -> list[str]:
    """Return `file:line: text` of every use of a retired word."""
    pattern = re.compile(retired.pattern, re.IGNORECASE)
    return [
        f"{name}:{number}: {line.strip()[:110]}"
        for name, text in texts()
        if name.startswith(retired.folders)
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


@pytest.mark.parametrize("retired", RETIRED, ids=lambda retired: retired.instead)
def test_retired_words_are_gone(retired: Retired) -> None:
    assert found(retired) == []


@pytest.mark.parametrize(
    "sentence",
    [
        "the plumbing is broken",
        "law_intervals",
        "LawInterval",
        "a look at the data",
        "samples are drawn",
        "it hangs by a hair",
        "is at hand",
    ],
)
def test_the_list_finds_them(sentence: str) -> None:
    assert any(re.search(retired.pattern, sentence, re.IGNORECASE) for retired in RETIRED)


@pytest.mark.parametrize(
    "sentence",
    ["a scaling law", "the figure is drawn", "heapq.heappush", "drawn from a beta distribution", "it looks right", "by default"],
)
def test_common_words_pass(sentence: str) -> None:
    assert not any(re.search(retired.pattern, sentence, re.IGNORECASE) for retired in RETIRED if retired.folders == ("",))
