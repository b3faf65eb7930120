"""The behaviors that come with the package. Reads their YAML and nothing else, so that listing them is quick."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

BUNDLED = Path(__file__).with_name("bundled")


@dataclass(frozen=True, kw_only=True, slots=True)
class BundledBehavior:
    """Hold what a bundled behavior's file says of it."""

    name: str
    verifier: str
    num_problems: int
    """Of all splits together."""
    purpose: str
    """"target" or "retention"."""
    question: str
    """The template of its questions, with the generator's fields in braces."""


def bundled_behaviors() -> dict[str, Path]:
    """Return the files of the bundled behaviors, by name."""
    return {path.stem: path for path in sorted(BUNDLED.glob("*.yaml"))}


def describe_bundled() -> list[BundledBehavior]:
    """Describe every bundled behavior without generating its problems."""
    described = []
    for name, path in bundled_behaviors().items():
        content = yaml.safe_load(path.read_text())
        problems = content["reasoning_gym"]
        described.append(
            BundledBehavior(
                name=name, verifier=content["verifier"]["kind"], num_problems=problems["size"],
                purpose=content.get("purpose", "target"), question=problems["question"],
            )
        )  # fmt: skip
    return described
