"""`posttrain probes`: what `diagnose --probes` takes."""

from __future__ import annotations

EXAMPLES = ("posttrain probes",)


def probes() -> None:
    """List the probes of `diagnose --probes` with their questions."""
    from posttrain.diagnose.probes import QUESTIONS

    for name, question in QUESTIONS.items():
        print(f"{name:16} {question}")
